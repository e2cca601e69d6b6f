// Package upstream holds what calls to Slack and to Novu have in common:
// redirects are not followed, connections can be open before they are needed, and
// errors tell what happened on the line without quoting what was sent or answered.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Cause returns the part of a failed request's error that may be logged. The
// whole names the URL, and quotes headers that do not parse.
func Cause(err error) error {
	for _, known := range []error{context.DeadlineExceeded, context.Canceled, io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, known) {
			return known
		}
	}
	var op *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &op):
		return op
	case errors.As(err, &certificate):
		return certificate
	}
	return errors.New("the connection ended early, or the answer is not HTTP")
}

// RetryAfter reads the header of that name, seconds or a date (RFC 9110 section
// 10.2.3), up to an hour. It is 0 without one that makes sense.
func RetryAfter(header http.Header) time.Duration {
	var wait time.Duration
	text := header.Get("Retry-After")
	if text == "" { // nearly always: dates that do not parse are costly
		return 0
	}
	if n, err := strconv.Atoi(text); err == nil {
		wait = time.Duration(min(n, 3600)) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = time.Until(at)
	}
	return min(max(wait, 0), time.Hour)
}
