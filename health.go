package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

const healthHelp = `usage: novu-slack-redirect health

Asks the service on this machine's PORT whether its store answers, and exits with 0 or
1: a health check for containers, which have no shell.

example:
  HEALTHCHECK CMD ["/novu-slack-redirect", "health"]
`

// health asks the service beside it for /readyz.
func health(ctx context.Context, _ []string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	url := "http://127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "8080") + "/readyz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		fmt.Fprintln(stderr, "novu-slack-redirect health: PORT is not a port number")
		return exitFailed
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		fmt.Fprintln(stderr, "novu-slack-redirect health:", err)
		return exitFailed
	}
	defer res.Body.Close()
	fmt.Fprintln(stdout, res.Status)
	if res.StatusCode != http.StatusOK {
		return exitFailed
	}
	return exitOK
}
