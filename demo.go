package main

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"novu-slack-redirect/demo"
	"novu-slack-redirect/service"
)

const demoHelp = `Runs the service between a simulated Slack, a simulated Novu and the settings page of an
app, and prints the address of that page. It needs no settings. It listens on this machine
alone, at 8080 if that is free; with PORT, on all addresses at that port. The image sets
PORT:

  docker run --rm -p 8080:8080 IMAGE demo
`

func runDemo(ctx context.Context, _ []string, stdout io.Writer, stderr *service.LogWriter) error {
	dir := "" // the usual place for temporary files
	if path := os.Getenv("DATA_FILE"); path != "" {
		dir = filepath.Dir(path) // the image has no other place to write to
	}
	return demo.Run(ctx, os.Getenv("PORT"), dir, stdout, stderr)
}
