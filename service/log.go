package service

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"novu-slack-redirect/config"
)

// LogWriter writes lines to a file or pipe whose reader may be slow, stuck or gone. A
// goroutine of its own does that: Write never waits and never fails. Lines are dropped
// and counted while 1,024 of them wait, and when they cannot be written.
type LogWriter struct {
	w       io.Writer
	waiting chan []byte // nil is the last line
	written chan struct{}
	dropped atomic.Int64
}

// Limits of the log. Hosts split lines of more than 16 KiB.
const (
	waitingLines = 1024
	maxLine      = 8 << 10         // bytes of a line of the logger
	flushTimeout = 2 * time.Second // how long Close waits for the reader
)

// NewLogWriter returns a LogWriter to w. Close it to write what waits.
func NewLogWriter(w io.Writer) *LogWriter {
	l := &LogWriter{w: w, waiting: make(chan []byte, waitingLines), written: make(chan struct{})}
	go func() {
		defer close(l.written)
		for line := <-l.waiting; line != nil; line = <-l.waiting {
			if _, err := w.Write(line); err != nil {
				l.dropped.Add(1)
			}
		}
	}()
	return l
}

// Write implements io.Writer.
func (l *LogWriter) Write(line []byte) (int, error) {
	select {
	case l.waiting <- append([]byte{}, line...):
	default:
		l.dropped.Add(1)
	}
	return len(line), nil
}

// Dropped returns how many lines were dropped.
func (l *LogWriter) Dropped() float64 { return float64(l.dropped.Load()) }

// Close writes the lines that wait. It gives up after 2 s, so that a reader that does
// not read cannot keep the program alive.
func (l *LogWriter) Close() {
	timeout := time.After(flushTimeout)
	select {
	case l.waiting <- nil:
	case <-timeout:
		return
	}
	select {
	case <-l.written:
	case <-timeout:
	}
}

// NewLogger returns a logger to w with the level and the format of the settings. Its
// lines have at most 8 KiB: longer texts in them are cut.
func NewLogger(c config.Config, w *LogWriter) zerolog.Logger {
	lines := lineCutter{w}
	if c.LogFormat == config.LogConsole {
		file, isFile := w.w.(*os.File)
		info, err := file.Stat()
		colour := isFile && err == nil && info.Mode()&os.ModeCharDevice != 0
		lines.w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !colour}
	}
	log := zerolog.New(lines).Level(c.LogLevel)
	if c.LogFormat == config.LogGoogle {
		return log.Hook(zerolog.HookFunc(addCloudLoggingFields))
	}
	return log.With().Timestamp().Logger()
}

var severities = map[zerolog.Level]string{
	zerolog.TraceLevel: "DEBUG", zerolog.DebugLevel: "DEBUG", zerolog.InfoLevel: "INFO", zerolog.WarnLevel: "WARNING",
	zerolog.ErrorLevel: "ERROR", zerolog.FatalLevel: "CRITICAL", zerolog.PanicLevel: "CRITICAL", zerolog.NoLevel: "DEFAULT",
}

// addCloudLoggingFields adds what Cloud Logging takes severity and time from.
// https://docs.cloud.google.com/logging/docs/structured-logging
func addCloudLoggingFields(e *zerolog.Event, level zerolog.Level, _ string) {
	e.Str("severity", severities[level]).Str("time", time.Now().UTC().Format(time.RFC3339Nano))
}

// lineCutter passes on zerolog's lines, with their longest texts cut if they have more
// than 8 KiB.
type lineCutter struct{ w io.Writer }

func (c lineCutter) Write(line []byte) (int, error) {
	n := len(line)
	var fields map[string]json.RawMessage
	for limit := maxLine / 2; len(line) > maxLine && limit > 0; limit /= 2 {
		if fields == nil {
			json.Unmarshal(line, &fields) // cannot fail: zerolog has just written it
		}
		for name, value := range fields {
			var text string
			if json.Unmarshal(value, &text) == nil && len(text) > limit {
				fields[name], _ = json.Marshal(strings.ToValidUTF8(text[:limit], "") + "…")
			}
		}
		line, _ = json.Marshal(fields)
		line = append(line, '\n')
	}
	c.w.Write(line)
	return n, nil
}
