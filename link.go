package main

import (
	"cmp"
	"context"
	"errors"
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
	flags := newLinkFlags("link")
	flags.Func("expires", "", func(text string) (err error) {
		if flags.life, err = config.ParseDuration(text); err != nil {
			err = fmt.Errorf("%w: use one like 90min, 24h or 7d", err)
		}
		return err
	})
	flags.Func("team", "", func(id string) error {
		flags.request.TeamID = id
		if !strings.HasPrefix(id, "T") || !link.ConsistsOf(id, link.Alphanumeric) {
			return errors.New("is not a workspace's ID, such as T0123ABCD, which is in its address at app.slack.com") // or nobody could connect
		}
		return nil
	})
	asHTML := flags.Bool("html", false, "")
	_, url, err := flags.sign(args)
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

// linkFlags are the flags of a command that signs a link.
type linkFlags struct {
	*flag.FlagSet
	request link.Request
	context string // JSON
	life    time.Duration
}

// newLinkFlags returns the flags that links of both actions have, and a life of an hour.
func newLinkFlags(command string) *linkFlags {
	f := &linkFlags{FlagSet: flag.NewFlagSet(command, flag.ContinueOnError), life: time.Hour}
	f.StringVar(&f.request.Integration, "integration", "", "")
	f.StringVar(&f.request.ReturnURL, "return-url", "", "")
	f.StringVar(&f.request.AccountName, "account-name", "", "")
	f.StringVar(&f.request.Environment, "environment", "", "")
	f.StringVar(&f.context, "context", "", "")
	return f
}

// sign reads the arguments and the settings, and signs the link. It returns a usageError
// for a link that the service would refuse.
func (f *linkFlags) sign(args []string) (c config.Config, signed string, err error) {
	words, err := parseArgs(f.FlagSet, args, "SUBSCRIBER_ID")
	if err != nil {
		return c, "", err
	}
	if c, err = loadSettings(); err != nil {
		return c, "", err
	}
	if f.life < time.Second || f.life > link.MaxLife {
		return c, "", usageError("--expires is not between 1s and 400d")
	}
	if len(c.LinkSecrets) == 0 {
		return c, "", settingsError{{Name: "LINK_SECRET", Cause: "is not set, and signed links need it", Remedy: config.LinkSecretRemedy}}
	}
	r := f.request
	r.Subscriber = words[0]
	r.Environment = cmp.Or(r.Environment, c.NovuEnvironment)
	r.Context, err = novuclient.ParseContext(f.context)
	switch {
	case err != nil:
		return c, "", usageError("--context: " + err.Error())
	case f.context != "" && !c.SaveEndpoints:
		return c, "", usageError("--context needs NOVU_SAVE_AS=endpoint")
	}
	links := service.NewLinks(c)
	if signed, err = links.Sign(r, time.Now().Add(f.life)); err == nil {
		_, token, _ := strings.Cut(signed, "?token=")
		_, err = links.Verify(link.Link{Token: token})
	}
	if err != nil {
		return c, "", usageError(err.Error())
	}
	return c, signed, nil
}
