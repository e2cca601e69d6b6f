package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"html"
	"io"
	"time"

	"novu-slack-redirect/state"
)

const linkHelp = `usage: novu-slack-redirect link SUBSCRIBER_ID [flags]

Prints an install link for a subscriber, signed with LINK_SECRET. Whoever opens it
can connect a Slack channel to that subscriber until it expires.

  --expires 1h          how long the link works (1h is the default)
  --integration ID      Novu's integration identifier
  --return-url URL      where the person ends
  --team T0123          the only Slack workspace that is accepted
  --context JSON        context of the channel endpoint (NOVU_SAVE_AS=endpoint)
  --html                print the HTML of the Add to Slack button instead

example:
  novu-slack-redirect link ada@example.com --expires 24h --html
`

// button is the one that Slack's page makes.
// https://docs.slack.dev/legacy/legacy-slack-button
const button = `<a href="%s"><img alt="Add to Slack" height="40" width="139" src="https://platform.slack-edge.com/img/add_to_slack.png" srcset="https://platform.slack-edge.com/img/add_to_slack.png 1x, https://platform.slack-edge.com/img/add_to_slack@2x.png 2x"></a>
`

// link prints an install link.
func link(_ context.Context, args []string, stdout, stderr io.Writer) int {
	var flow state.Flow
	flags := flag.NewFlagSet("link", flag.ContinueOnError)
	expires := flags.Duration("expires", time.Hour, "")
	flags.StringVar(&flow.Integration, "integration", "", "")
	flags.StringVar(&flow.ReturnURL, "return-url", "", "")
	flags.StringVar(&flow.TeamID, "team", "", "")
	flags.StringVar(&flow.Context, "context", "", "")
	asHTML := flags.Bool("html", false, "")
	words, ok := parse(flags, args, 1, stderr)
	if !ok {
		return exitUsage
	}
	flow.Subscriber = words[0]
	c, ok := loadConfigOr(stderr)
	if !ok {
		return exitUsage
	}
	flow.Environment = c.novuEnvironment

	var err error
	var object map[string]any
	switch {
	case *expires <= 0:
		err = fmt.Errorf("--expires is not in the future")
	case flow.Context != "" && json.Unmarshal([]byte(flow.Context), &object) != nil:
		err = fmt.Errorf("--context is not a JSON object")
	case flow.Context != "" && !c.novuEndpoints:
		err = fmt.Errorf("--context needs NOVU_SAVE_AS=endpoint")
	}
	url, links := "", newLinks(c)
	if err == nil {
		url, err = links.Sign(flow, time.Now().Add(*expires))
	}
	if err == nil {
		err = links.Accept(url) // what the service would refuse is not printed
	}
	if err != nil {
		fmt.Fprintln(stderr, "novu-slack-redirect link:", err)
		return exitUsage
	}
	if *asHTML {
		fmt.Fprintf(stdout, button, html.EscapeString(url))
	} else {
		fmt.Fprintln(stdout, url)
	}
	return exitOK
}
