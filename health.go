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

const healthHelp = `Asks the service on this machine's PORT whether its store answers, and exits with 0 or
1. It is a health check for containers, whose image has neither a shell nor curl:

  HEALTHCHECK CMD ["/novu-slack-redirect", "health"]
`

// checkHealth requests /readyz of the service on this machine.
func checkHealth(ctx context.Context, _ []string, stdout, _ io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	url := "http://127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "8080") + "/readyz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("PORT is not a port number")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	fmt.Fprintln(stdout, res.Status)
	if res.StatusCode != http.StatusOK {
		return errReported
	}
	return nil
}
