package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"novu-slack-redirect/upstream"
)

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "1.5": 0, "x": 0, "999999": time.Hour,
		"Thu, 01 Jan 1970 00:00:00 GMT":                                             0,
		time.Now().Add(48 * time.Hour).UTC().Format(http.TimeFormat):                time.Hour,
		time.Now().Add(30*time.Second + 900*time.Millisecond).Format(time.DateTime): 0,
	} {
		if got := upstream.RetryAfter(http.Header{"Retry-After": {text}}); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

func TestCauseQuotesNothingOfTheAnswer(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, c := range []struct{ err, want error }{
		{fmt.Errorf("Post \"https://x/?canary\": %w", refused), refused},
		{fmt.Errorf("canary: %w", context.DeadlineExceeded), context.DeadlineExceeded},
		{fmt.Errorf("canary: %w", io.ErrUnexpectedEOF), io.ErrUnexpectedEOF},
	} {
		if got := upstream.Cause(c.err); got != c.want {
			t.Errorf("got %v, want %v", got, c.want)
		}
	}
	if got := upstream.Cause(errors.New(`malformed MIME header line: "canary"`)).Error(); got != "the connection ended early, or the answer is not HTTP" {
		t.Errorf("got %s", got)
	}
}
