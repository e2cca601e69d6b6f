package main

import (
	"context"
	"io"

	"novu-slack-redirect/demo"
	"novu-slack-redirect/service"
)

const demoHelp = `Runs the service between a simulated Slack and a simulated Novu, all on this machine,
and prints the address of a page to click on. It needs no settings.
`

func runDemo(ctx context.Context, _ []string, stdout io.Writer, stderr *service.LogWriter) error {
	return demo.Run(ctx, stdout, stderr)
}
