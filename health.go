package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"novu-slack-redirect/config"
	"novu-slack-redirect/service"
)

const healthHelp = `Asks the service on this machine's PORT whether its store answers, and exits with 0 or
1. It is a health check for containers, whose image has neither a shell nor curl:

  HEALTHCHECK CMD ["/novu-slack-redirect", "health"]
`

// checkLocalPort returns a problem if PORT does not say where the service on this machine
// listens.
func checkLocalPort(c config.Config) []config.Problem {
	if c.Port != "0" {
		return nil
	}
	return []config.Problem{{Name: "PORT", Cause: "is 0, which is any free port", Remedy: "set the port that the service listens at"}}
}

// askService sends a request for host to the service on this machine, which listens at addr.
// Its errors do not quote the path, which may have a link.
func askService(ctx context.Context, method, addr, host, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, nil)
	if err != nil {
		return nil, errors.New("the address is not valid")
	}
	req.Host = host
	req.Header.Set("Accept", "application/json")
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // HTTP_PROXY does not count for this machine
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return res, err
}

// checkHealth requests /readyz of the service on this machine.
func checkHealth(ctx context.Context, _ []string, stdout io.Writer, stderr *service.LogWriter) error {
	c, problems := config.Load()
	problems = slices.DeleteFunc(problems, func(p config.Problem) bool { return p.Name != "PORT" }) // the service looks after the others
	if len(problems) == 0 {
		problems = checkLocalPort(c)
	}
	if len(problems) > 0 { // exit code 1: Docker gives 2 no meaning
		fmt.Fprintln(stderr, problems[0])
		return errReported
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	res, err := askService(ctx, http.MethodGet, "127.0.0.1:"+c.Port, "localhost", "/readyz")
	if err != nil {
		return &service.Error{Err: err, Remedy: "see that the service runs on this machine, and that PORT is where it listens"}
	}
	defer res.Body.Close()
	fmt.Fprintln(stdout, res.Status)
	if res.StatusCode != http.StatusOK {
		return &service.Error{Err: errors.New("the service is not ready"), Remedy: "its log has the cause, and so has novu-slack-redirect check"}
	}
	return nil
}
