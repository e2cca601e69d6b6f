package bench

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
)

// Settings of the programs, which the fakes check.
const (
	clientID, clientSecret = "1234567890.1234567890", "bench-client-secret-0123456789ab"
	apiKey, linkSecret     = "bench-novu-key-0123456789abcdef", "bench-link-secret-0123456789abcdef"
	origin                 = "https://slack.example.com"
	redirectURL            = origin + "/slack/callback"
	returnURL              = "https://app.example.com/settings/integrations"
	webhook                = "https://hooks.slack.com/services/T0123456789/B0123456789/abcdefghijklmnopqrstuvwx"
)

// Answers of about the size of real ones.
const (
	slackAnswer = `{"ok":true,"app_id":"A0123456789","authed_user":{"id":"U0123456789"},"scope":"incoming-webhook","token_type":"bot",` +
		`"access_token":"xoxb-000000000000-0000000000000-abcdefghijklmnopqrstuvwx","bot_user_id":"U0000000000","team":{"id":"T0123456789","name":"Acme"},` +
		`"enterprise":null,"is_enterprise_install":false,"incoming_webhook":{"channel":"#alerts","channel_id":"C0123456789",` +
		`"configuration_url":"https://acme.slack.com/services/B0123456789","url":"` + webhook + `"}}`
	novuAnswer   = `{"data":{"_id":"0123456789abcdef01234567","subscriberId":"one","channels":[{"providerId":"slack","_integrationId":"0123456789abcdef01234567","credentials":{"webhookUrl":"` + webhook + `"}}]}}`
	integrations = `{"data":[{"_id":"0123456789abcdef01234567","_environmentId":"e1","identifier":"slack-main","providerId":"slack","channel":"chat","active":true}]}`
	environment  = `{"data":{"_id":"e1","name":"Production"}}`
)

// fakes are a Slack and a Novu with fixed answers. They check little, to take little of
// the processors: slacktest and novutest would be most of the load.
type fakes struct {
	slack, novu *httptest.Server
	saved       atomic.Int64
	refuse      atomic.Bool // Novu answers 401 to a webhook: the flow is recorded, and tried again after an hour
}

func newFakes(t *testing.T) *fakes {
	f := &fakes{}
	slackAuth := "Basic " + base64.StdEncoding.EncodeToString([]byte(clientID+":"+clientSecret))
	f.slack = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := slackAnswer
		if r.URL.Path != "/api/oauth.v2.access" || r.Header.Get("Authorization") != slackAuth || !strings.HasPrefix(r.FormValue("code"), "code-") {
			answer = `{"ok":false,"error":"invalid_code"}`
		}
		write(w, http.StatusOK, answer)
	}))
	f.novu = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		status, answer := http.StatusOK, ""
		switch {
		case r.URL.Path == "/v1/integrations/active":
			answer = integrations
		case r.URL.Path == "/v1/environments/me":
			answer = environment
		case r.Method == http.MethodGet && r.URL.Path == "/v1/channel-endpoints":
			answer = `{"data":[],"next":null}`
		case r.Header.Get("Authorization") != "ApiKey "+apiKey || f.refuse.Load():
			status, answer = http.StatusUnauthorized, `{"statusCode":401,"message":"Unauthorized"}`
		case r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/credentials") && strings.Contains(string(body), webhook):
			answer = novuAnswer
			f.saved.Add(1)
		default:
			status, answer = http.StatusNotFound, `{"message":"Cannot do that"}`
		}
		write(w, status, answer)
	}))
	t.Cleanup(f.slack.Close)
	t.Cleanup(f.novu.Close)
	return f
}

func write(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// visitors counts people: each has a subscriber and a code of their own.
var visitors atomic.Int64

var signer = link.Verifier{Origin: origin, Secrets: []secret.String{secret.New(linkSecret)}}

// newLink returns the path and query of an install link for a new subscriber.
func newLink() (string, error) {
	subscriber := fmt.Sprintf("user-%012d", visitors.Add(1))
	signed, err := signer.Sign(link.Request{Subscriber: subscriber, Integration: "slack-main"}, time.Now().Add(time.Hour))
	return strings.TrimPrefix(signed, origin), err
}

var browser = &http.Client{
	Timeout:       time.Minute,
	Transport:     &http.Transport{MaxIdleConnsPerHost: 1000},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// get opens a URL as a browser does, and returns where it is sent and the cookie.
func (p *process) get(path, cookie string, status int) (location *url.URL, setCookie string, err error) {
	r, err := http.NewRequest(http.MethodGet, "http://"+p.addr+path, nil)
	if err != nil {
		return nil, "", err
	}
	r.Host = strings.TrimPrefix(origin, "https://")
	r.Header = http.Header{
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
		"Accept":     {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, "Accept-Language": {"en-US,en;q=0.5"}, "Accept-Encoding": {"gzip, deflate, br"},
		"Sec-Fetch-Dest": {"document"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Site": {"cross-site"},
	}
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	res, err := browser.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != status {
		return nil, "", cmp.Or(err, fmt.Errorf("%s: got %s, want %d", r.URL.Path, res.Status, status))
	}
	location, _ = res.Location()
	setCookie, _, _ = strings.Cut(res.Header.Get("Set-Cookie"), ";")
	return location, setCookie, nil
}

// install opens a new link, and returns the callback that Slack would send the browser to.
func (p *process) install() (callback, cookie string, err error) {
	path, err := newLink()
	if err != nil {
		return "", "", err
	}
	slack, cookie, err := p.get(path, "", http.StatusFound)
	if err != nil {
		return "", "", err
	}
	return "/slack/callback?code=code-" + slack.Query().Get("state") + "&state=" + slack.Query().Get("state"), cookie, nil
}

// flow is an install and its callback, and returns the time that the callback took. It
// must end as outcome: connected or pending.
func (p *process) flow(outcome string) (time.Duration, error) {
	callback, cookie, err := p.install()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	app, _, err := p.get(callback, cookie, http.StatusSeeOther)
	if err == nil && app.Query().Get("slack") != outcome {
		err = errors.New("the flow ended as " + app.Query().Get("slack"))
	}
	return time.Since(start), err
}

func (p *process) connect() error {
	_, err := p.flow("connected")
	return err
}

// repeat calls fn n times, so many at a time, and returns how many it did a second.
func repeat(t *testing.T, n, atATime int, fn func() error) (perSecond float64) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(atATime)
	start := time.Now()
	for range n {
		group.Go(fn)
	}
	must(t, group.Wait())
	return float64(n) / time.Since(start).Seconds()
}

// latency begins flows at a steady rate, whatever becomes of the earlier ones, and
// returns the 50th and the 99th percentile of their callbacks, in milliseconds.
func (p *process) latency(t *testing.T) (p50, p99 float64) {
	t.Helper()
	var group errgroup.Group
	times := make([]time.Duration, min(*flows, 400))
	begin := time.Now()
	for i := range times {
		time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(*rate))))
		group.Go(func() (err error) {
			times[i], err = p.flow("connected")
			return err
		})
	}
	must(t, group.Wait())
	slices.Sort(times)
	return times[len(times)/2].Seconds() * 1000, times[len(times)*99/100].Seconds() * 1000
}
