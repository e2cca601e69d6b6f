package main

import (
	"context"
	"flag"
	"fmt"
	"html"
	"io"
	"strings"
	"time"

	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/service"
)

const linkHelp = `Prints an install link for a subscriber, signed with LINK_SECRET. Whoever opens it
can connect a Slack channel to that subscriber until it expires.

  --expires 1h          how long the link works (1h is the default)
  --integration ID      Novu's integration identifier
  --return-url URL      where the person is sent at the end
  --team T0123          the only Slack workspace that is accepted
  --context JSON        context of the channel endpoint (NOVU_SAVE_AS=endpoint)
  --html                print the HTML of the Add to Slack button instead
`

// button is the HTML of Slack's Add to Slack button.
// https://docs.slack.dev/legacy/legacy-slack-button
const button = `<a href="%s"><img alt="Add to Slack" height="40" width="139" src="https://platform.slack-edge.com/img/add_to_slack.png" srcset="https://platform.slack-edge.com/img/add_to_slack.png 1x, https://platform.slack-edge.com/img/add_to_slack@2x.png 2x"></a>
`

// printLink prints an install link.
func printLink(_ context.Context, args []string, stdout, _ io.Writer) error {
	var r link.Request
	flags := flag.NewFlagSet("link", flag.ContinueOnError)
	expires := flags.Duration("expires", time.Hour, "")
	flags.StringVar(&r.Integration, "integration", "", "")
	flags.StringVar(&r.ReturnURL, "return-url", "", "")
	flags.StringVar(&r.TeamID, "team", "", "")
	context := flags.String("context", "", "")
	asHTML := flags.Bool("html", false, "")
	words, err := parseArgs(flags, args, 1)
	if err != nil {
		return err
	}
	c, err := loadSettings()
	if err != nil {
		return err
	}
	r.Subscriber, r.Environment = words[0], c.NovuEnvironment

	r.Context, err = novuclient.ParseContext(*context)
	switch {
	case *expires <= 0:
		return usageError("--expires is not in the future")
	case err != nil:
		return usageError("--context: " + err.Error())
	case *context != "" && !c.SaveEndpoints:
		return usageError("--context needs NOVU_SAVE_AS=endpoint")
	}
	links := service.NewLinks(c)
	url, err := links.Sign(r, time.Now().Add(*expires))
	if err == nil { // do not print a link that the service would refuse
		_, query, _ := strings.Cut(url, "?")
		var signed link.Link
		if signed, err = link.Read(query, ""); err == nil {
			_, err = links.Verify(signed)
		}
	}
	if err != nil {
		return usageError(err.Error())
	}
	if *asHTML {
		_, err = fmt.Fprintf(stdout, button, html.EscapeString(url))
	} else {
		_, err = fmt.Fprintln(stdout, url)
	}
	return err
}
