package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"

	"novu-slack-redirect/check"
	"novu-slack-redirect/config"
	"novu-slack-redirect/service"
)

const checkHelp = `Checks every setting, the store, Novu and Slack, and prints one line for each
finding: ok, warn or fail, and what to do. Exits with 1 if anything fails. It
saves nothing in Novu, and sends Slack one invalid code on purpose.

  --json            print {"ok":..., "findings":[{"level","check","text","remedy"}]}
  --public          also request REDIRECT_URL from here: does it reach this service,
                    through DNS, TLS and whatever proxy is in front?
  --event           also send a signed event of type ping to EVENTS_URL
  --subscriber ID   also check this subscriber's Slack channels in Novu
`

// runCheck runs every check and prints the findings.
func runCheck(ctx context.Context, args []string, stdout io.Writer, _ *service.LogWriter) error {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	var options check.Options
	flags.Func("subscriber", "", func(id string) error {
		options.Subscriber = &id // an empty ID, such as of an unset variable, is checked too
		return nil
	})
	flags.BoolVar(&options.Event, "event", false, "")
	flags.BoolVar(&options.Public, "public", false, "")
	if _, err := parseArgs(flags, args); err != nil {
		return err
	}
	c, problems := config.Load()
	findings := check.All(ctx, c, problems, options)
	if *asJSON {
		out := json.NewEncoder(stdout)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		if err := out.Encode(map[string]any{"ok": !check.Failed(findings), "findings": findings}); err != nil {
			return err
		}
	} else {
		for _, f := range findings {
			fmt.Fprintln(stdout, f)
		}
	}
	if check.Failed(findings) {
		return errReported
	}
	return nil
}
