package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"novu-slack-redirect/config"
	"novu-slack-redirect/link"
	"novu-slack-redirect/service"
)

const disconnectHelp = `Disconnects a subscriber's Slack channel: Novu sends it no more messages. The app
stays installed in Slack. The service on this machine does it, at PORT, as a link to
disconnect would: in order with connections, and told by an event.

  --integration ID      Novu's integration identifier
  --environment ID      Novu's environment ID (NOVU_ENVIRONMENT_ID is the default)
  --context JSON        context of the channel endpoint (NOVU_SAVE_AS=endpoint)
  --return-url URL      where the person is sent at the end, with --link
  --account-name NAME   whose account it is, for the person to see, with --link
  --link                print the link for the person instead, which works for an hour
`

// runDisconnect asks the service to disconnect a subscriber.
func runDisconnect(ctx context.Context, args []string, stdout io.Writer, _ *service.LogWriter) error {
	flags := newLinkFlags("disconnect")
	flags.request.Action = link.Disconnect
	printOnly := flags.Bool("link", false, "")
	c, signed, err := flags.sign(args)
	if err != nil {
		return err
	}
	if *printOnly {
		_, err = fmt.Fprintln(stdout, signed)
		return err
	}
	outcome, err := postDisconnect(ctx, c, signed)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, outcome)
	return err
}

// postDisconnect sends the form of a link to the service on this machine, and returns the
// outcome: disconnected, or pending while Novu does not answer.
func postDisconnect(ctx context.Context, c config.Config, signed string) (outcome string, err error) {
	if problems := checkLocalPort(c); len(problems) > 0 {
		return "", settingsError(problems)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, target, _ := strings.Cut(signed, link.Origin(c.RedirectURL))
	res, err := askService(ctx, http.MethodPost, "127.0.0.1:"+c.Port, c.RedirectURL.Host, target)
	if err != nil {
		return "", &service.Error{Err: fmt.Errorf("the service on this machine does not answer at PORT: %w", err), Remedy: "print a link with --link, and open it"}
	}
	defer res.Body.Close()
	var answer struct{ Outcome, Error string }
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<16)).Decode(&answer); err != nil || answer.Outcome == "" {
		return "", &service.Error{Err: fmt.Errorf("the service answered HTTP %d %s", res.StatusCode, answer.Error), Remedy: "docs/errors.md has the code, and the service's log the cause"}
	}
	return answer.Outcome, nil
}
