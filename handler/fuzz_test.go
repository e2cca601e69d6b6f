package handler

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"novu-slack-redirect/metrics"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// A callback's query is refused, or is exactly one state of our form with one code
// or one error, and the answer is a page in any case.
func FuzzCallback(f *testing.F) {
	st := state.NewState(time.Unix(1_800_000_000, 0)).Reveal()
	for _, seed := range []string{"code=1.2.3&state=" + st, "error=access_denied&state=" + st, "code=x", "error=access_denied", "code=x&error=y&state=" + st, "code=x&state=" + st + "&state=" + st, "code=%00&state=" + st, "code=%zz", "state=" + st, ";", "code=x&state=../" + st, "code=x&state=x&flow=" + strings.Repeat("x", 24)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := &request{Context: echo.New().NewContext(&http.Request{URL: &url.URL{RawQuery: query}}, nil)}
		r.query, r.queryErr = url.ParseQuery(query)
		if code, refusal, err := parseAnswer(r); err == nil {
			id, ok := state.FlowID(secret.New(r.query.Get("state")))
			if !ok || r.flowID != id || code.Empty() == (refusal == nil) || len(code.Reveal()) > maxCode || strings.ContainsAny(code.Reveal(), "\x00\r\n ") {
				t.Errorf("%q passes as %q of %q, %v", query, code.Reveal(), r.flowID, refusal)
			}
		}
		if strings.ContainsAny(query, " \x00\x7f\r\n\t") {
			return // no server reads such a request line
		}
		w := httptest.NewRecorder()
		fuzzRoutes.ServeHTTP(w, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/slack/callback", RawQuery: query}, Header: http.Header{}, RemoteAddr: "192.0.2.1:1"})
		if w.Code < 400 || w.Code >= 500 {
			t.Errorf("%q: got %d", query, w.Code)
		}
	})
}

var fuzzRoutes = New(Config{RedirectURL: &url.URL{Scheme: "https", Host: "slack.example.com", Path: "/slack/callback"}, StateTTL: 15 * time.Minute, Metrics: metrics.New(), Store: &state.Store{}})
