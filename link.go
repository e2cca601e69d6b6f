package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"html"
	"io"
	"strings"
	"time"

	"novu-slack-redirect/config"
	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/service"
)

const linkHelp = `Prints an install link for a subscriber, signed with LINK_SECRET. Whoever opens it
can connect a Slack channel to that subscriber until it expires.

  --expires 1h          how long the link works, such as 90min, 24h or 7d (1h is the
                        default, 400d the most)
  --integration ID      Novu's integration identifier
  --return-url URL      where the person is sent at the end
  --team T0123          the only Slack workspace that is accepted
  --account-name NAME   whose account it is, for the person to see
  --environment ID      Novu's environment ID (NOVU_ENVIRONMENT_ID is the default)
  --context JSON        context of the channel endpoint (NOVU_SAVE_AS=endpoint)
  --html                print the HTML of the Add to Slack button instead
`

// button is the HTML of Slack's Add to Slack button.
// https://docs.slack.dev/legacy/legacy-slack-button
const button = `<a href="%s"><img alt="Add to Slack" height="40" width="139" src="https://platform.slack-edge.com/img/add_to_slack.png" srcset="https://platform.slack-edge.com/img/add_to_slack.png 1x, https://platform.slack-edge.com/img/add_to_slack@2x.png 2x"></a>
`

// printLink prints an install link.
func printLink(_ context.Context, args []string, stdout io.Writer, _ *service.LogWriter) error {
	var r link.Request
	flags := flag.NewFlagSet("link", flag.ContinueOnError)
	expires := time.Hour
	flags.Func("expires", "", func(text string) (err error) {
		expires, err = config.ParseDuration(text)
		return err
	})
	flags.StringVar(&r.TeamID, "team", "", "")
	context := addLinkFlags(flags, &r)
	asHTML := flags.Bool("html", false, "")
	words, err := parseArgs(flags, args, "SUBSCRIBER_ID")
	if err != nil {
		return err
	}
	c, err := loadSettings()
	if err != nil {
		return err
	}
	if expires < time.Second || expires > link.MaxLife {
		return usageError("--expires is not between 1s and 400d")
	}
	r.Subscriber = words[0]
	url, err := signLink(c, r, *context, expires)
	if err != nil {
		return err
	}
	if *asHTML {
		_, err = fmt.Fprintf(stdout, button, html.EscapeString(url))
	} else {
		_, err = fmt.Fprintln(stdout, url)
	}
	return err
}

// addLinkFlags adds the flags that links of both actions have, and returns the context's.
func addLinkFlags(flags *flag.FlagSet, r *link.Request) (context *string) {
	flags.StringVar(&r.Integration, "integration", "", "")
	flags.StringVar(&r.ReturnURL, "return-url", "", "")
	flags.StringVar(&r.AccountName, "account-name", "", "")
	flags.StringVar(&r.Environment, "environment", "", "")
	return flags.String("context", "", "")
}

// signLink signs a link, or returns a usageError for one that the service would refuse.
func signLink(c config.Config, r link.Request, context string, life time.Duration) (signed string, err error) {
	if len(c.LinkSecrets) == 0 {
		return "", settingsError{{Name: "LINK_SECRET", Cause: "is not set, and signed links need it", Remedy: config.LinkSecretRemedy}}
	}
	r.Environment = cmp.Or(r.Environment, c.NovuEnvironment)
	r.Context, err = novuclient.ParseContext(context)
	switch {
	case err != nil:
		return "", usageError("--context: " + err.Error())
	case context != "" && !c.SaveEndpoints:
		return "", usageError("--context needs NOVU_SAVE_AS=endpoint")
	}
	links := service.NewLinks(c)
	if signed, err = links.Sign(r, time.Now().Add(life)); err == nil {
		_, query, _ := strings.Cut(signed, "?")
		var l link.Link
		if l, err = link.Read(query, ""); err == nil {
			_, err = links.Verify(l)
		}
	}
	if err != nil {
		return "", usageError(err.Error())
	}
	return signed, nil
}
