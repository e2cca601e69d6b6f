package main

import (
	"context"
	"io"

	"novu-slack-redirect/demo"
)

const demoHelp = `usage: novu-slack-redirect demo

Runs the service between a simulated Slack and a simulated Novu, all on this machine,
and prints the address of a page to click on. It needs no settings.

example:
  novu-slack-redirect demo
`

func runDemo(ctx context.Context, _ []string, stdout, stderr io.Writer) error {
	return demo.Run(ctx, stdout, stderr)
}
