package main

import (
	"context"
	"io"

	"novu-slack-redirect/service"
)

const serveHelp = `usage: novu-slack-redirect [serve]

Runs the service until SIGTERM or Ctrl-C. All settings come from the environment. If
any are wrong or missing, it prints one line for each and exits with code 2. To check
them first, run: novu-slack-redirect check

example:
  REDIRECT_URL=https://slack.example.com/slack/callback SLACK_CLIENT_ID=... \
  SLACK_CLIENT_SECRET=... NOVU_API_KEY=... LINK_SECRET=... novu-slack-redirect serve
`

// serve runs the service, and logs the error that stops it.
func serve(ctx context.Context, _ []string, _, stderr io.Writer) error {
	c, err := loadSettings()
	if err != nil {
		return err
	}
	log := service.NewLogger(c, stderr)
	s, err := service.New(c, log)
	if err == nil {
		defer s.Close()
		err = s.Run(ctx, programVersion())
	}
	if err != nil {
		log.Error().Err(err).Msg("stopped")
		return errReported
	}
	return nil
}
