package main

import (
	"context"
	"errors"
	"io"

	"novu-slack-redirect/service"
)

const serveHelp = `Runs the service until SIGTERM or Ctrl-C. All settings come from the environment. If
any are wrong or missing, it prints one line for each and exits with code 2. To check
them first, run: novu-slack-redirect check
`

// serve runs the service, and logs the error that stops it.
func serve(ctx context.Context, _ []string, _ io.Writer, stderr *service.LogWriter) error {
	c, err := loadSettings()
	if err != nil {
		return err
	}
	s, err := service.New(c, stderr)
	if err == nil {
		defer s.Close()
		err = s.Run(ctx)
	}
	if err != nil {
		log, cause := service.NewLogger(c, stderr), &service.Error{Err: err}
		errors.As(err, &cause)
		log.Error().Err(cause.Err).Str("remedy", cause.Remedy).Msg("stopped")
		return errReported
	}
	return nil
}
