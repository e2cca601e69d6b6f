package e2e_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"novu-slack-redirect/upstream/upstreamtest"
)

// metricsAddr returns where a program serves its metrics, in either log format.
func metricsAddr(t testing.TB, program *program) string {
	t.Helper()
	m := regexp.MustCompile(`"addr":"([^"]+)"[^\n]*"message":"serving metrics"|metrics addr=(\S+)`).FindStringSubmatch(program.text())
	if m == nil {
		t.Fatal("the program has no metrics listener")
	}
	return m[1] + m[2]
}

// metricsText returns the metrics that a program serves.
func metricsText(t testing.TB, program *program) string {
	t.Helper()
	return operatorText(t, program, "/metrics")
}

// operatorText returns what a program answers to GET at METRICS_ADDR.
func operatorText(t testing.TB, program *program, path string) string {
	t.Helper()
	res, err := http.Get("http://" + metricsAddr(t, program) + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return string(must(io.ReadAll(res.Body)))
}

// gauge reads one of a program's metrics. What the store counts is not among them while that
// is too slow.
func gauge(t testing.TB, program *program, name string) float64 {
	t.Helper()
	var m []string
	waitFor(t, "there is a metric "+name, func() bool {
		m = regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(metricsText(t, program))
		return m != nil
	})
	return must(strconv.ParseFloat(m[1], 64))
}

// metricNames returns the names of all metrics, and of their buckets.
func metricNames(text string) map[string]bool {
	names := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)`).FindAllStringSubmatch(text, -1) {
		names[line[1]] = true
		if line[2] == "histogram" {
			names[line[1]+"_bucket"] = true
		}
	}
	return names
}

// A key that is revoked counts as such with the first person who connects, whether the
// link names an integration or not, so that an alert rings before they have left the page.
func TestRevokedKeyCountsAtOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]claims{"an integration by name": {"sub": "ada", "integrationIdentifier": "slack-main"}, "no integration": {"sub": "ada"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "METRICS_ADDR=127.0.0.1:0", "NOVU_API_KEY=revoked")
			program, person := start(t, w.env...), w.person(t)
			refusals := func() float64 { return gauge(t, program, `slack_redirect_saves_total\{result="bad_api_key"\}`) }
			if got := refusals(); got != 0 {
				t.Fatalf("got %v refusals before anyone connects, want the counter at 0: Prometheus sees no increase in a new one", got)
			}
			person.wantConnect(program, w.link(c), textPending)
			if got := refusals(); got != 1 {
				t.Errorf("got %v refusals, want 1: %s", got, regexp.MustCompile(`slack_redirect_saves_total.*`).FindAllString(metricsText(t, program), -1))
			}
		})
	}
}

// What Slack's consent page says comes in a query that anyone who holds a link can write,
// any number of times: no such refusal counts as the end of a flow, which alerts watch.
func TestRefusalsInTheQueryEndNoFlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "METRICS_ADDR=127.0.0.1:0")
	program, person := start(t, w.env...), w.person(t)
	consent := must(url.Parse(must(person.get(program, w.linkTo("ada"))).location))
	for _, code := range []string{"access_denied", "invalid_scope", "invalid_client_id", "service_unavailable", "ratelimited"} {
		person.get(program, "/slack/callback?error="+code+"&state="+url.QueryEscape(consent.Query().Get("state")))
	}
	text := metricsText(t, program)
	if m := regexp.MustCompile(`slack_redirect_flows_finished_total.* [1-9].*`).FindAllString(text, -1); m != nil {
		t.Errorf("the metrics say that flows ended: %v", m)
	}
	if !strings.Contains(text, `slack_redirect_problems_total{code="access_denied"} 1`) {
		t.Error("the refusals did not reach the flow")
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	// Each client may send one request, and the next one after 17 minutes.
	w := newWorld(t, "METRICS_ADDR=127.0.0.1:0", "RATE_LIMIT=0.001", "TRUSTED_PROXIES=127.0.0.0/8")
	program, person := start(t, w.env...), w.person(t)
	person.client.Transport = &fromEverywhere{}
	link := w.linkTo("canary-subscriber@example.com")
	person.wantConnect(program, link, textConnected)
	w.novu.BreakAll(upstreamtest.JSON(http.StatusUnauthorized, `{"message":"nope"}`))
	person.wantConnect(program, link, textPending)
	w.slack.BreakAll(upstreamtest.JSON(http.StatusOK, `{"ok":false,"error":"canary_new_code"}`))
	person.wantConnect(program, link, "Slack said no")
	flood := w.person(t)
	flood.client.Transport = from("203.0.113.66")
	for _, want := range []int{http.StatusForbidden, http.StatusTooManyRequests, http.StatusTooManyRequests} {
		if got := flood.status(program, "/slack/install?token=canary"); got != want {
			t.Errorf("one client's requests: got %d, want %d", got, want)
		}
	}
	text := metricsText(t, program)
	for _, want := range []string{
		"slack_redirect_flows_begun_total 3\n", `slack_redirect_flows_finished_total{code="connected"} 1`, `slack_redirect_flows_finished_total{code="pending"} 1`,
		`slack_redirect_flows_finished_total{code="slack_unknown"} 1`, `slack_redirect_problems_total{code="slack_unknown"} 1`, `slack_redirect_problems_total{code="slack_setup"} 0`,
		"slack_redirect_exchange_seconds_count 3\n", `slack_redirect_saves_total{result="saved"} 1`, `slack_redirect_saves_total{result="bad_api_key"} 0`,
		`slack_redirect_problems_total{code="rate_limited"} 2`, "slack_redirect_outbox_entries 1\n", "slack_redirect_outbox_oldest_seconds ", "slack_redirect_store_errors_total 0\n", `slack_redirect_build_info{version=`, "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics do not say %q", want)
		}
	}
	if oldest := gauge(t, program, "slack_redirect_outbox_oldest_seconds"); oldest <= 0 || oldest > patience.Seconds() {
		t.Errorf("the oldest entry is %v s old, want its age", oldest)
	}
	for _, secret := range []string{"canary", w.novu.APIKey, w.slack.ClientSecret, "hooks.slack.com", "#alerts", "Acme", "T01ACME"} {
		if strings.Contains(text, secret) {
			t.Errorf("the metrics hold %q", secret)
		}
	}
	if status := person.status(program, "/metrics"); status != http.StatusNotFound {
		t.Errorf("the public listener answers /metrics with %d, want 404", status)
	}

	// The dashboard and the alerts use metrics that exist, and the alerts' codes do.
	names := metricNames(text)
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(must(os.ReadFile("../deploy/grafana.json")), &dashboard); err != nil || len(dashboard.Panels) < 8 {
		t.Fatalf("the dashboard: %d panels, %v", len(dashboard.Panels), err)
	}
	var exprs []string
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	walk(documents(t, "../deploy/alerts.yaml")[0], func(m map[string]any) {
		if expr, ok := m["expr"].(string); ok {
			exprs = append(exprs, expr)
		}
	})
	codes := string(must(os.ReadFile("../docs/errors.md")))
	used := map[string]bool{}
	for _, expr := range exprs {
		for _, name := range regexp.MustCompile(`\b(slack_redirect|go|process)_[a-z_]+`).FindAllString(expr, -1) {
			used[name] = true
			if !names[name] {
				t.Errorf("there is no metric %s: %s", name, expr)
			}
		}
		for _, list := range regexp.MustCompile(`code[=!]~?"([^"]+)"`).FindAllStringSubmatch(expr, -1) {
			for code := range strings.SplitSeq(list[1], "|") {
				if !strings.Contains(codes, "`"+code+"`") {
					t.Errorf("there is no code %s: %s", code, expr)
				}
			}
		}
	}
	// Each reason of Novu's is in the alert on refusals, but for those that pass by themselves
	// and the one that a link can cause that outlives its subscriber.
	alerts := string(must(os.ReadFile("../deploy/alerts.yaml")))
	for _, m := range regexp.MustCompile(`saves_total\{result="([a-z_]+)"\}`).FindAllStringSubmatch(text, -1) {
		rings := regexp.MustCompile(`saves_total\{result=~"[^"]*\b` + m[1] + `\b`).MatchString(alerts)
		if want := !slices.Contains([]string{"saved", "unavailable", "not_novu", "unknown_subscriber"}, m[1]); rings != want {
			t.Errorf("an alert rings for saves that end as %s: %v, want %v", m[1], rings, want)
		}
	}
	for name := range names {
		if strings.HasPrefix(name, "slack_redirect_") && !used[name] && !used[name+"_bucket"] && !strings.HasSuffix(name, "_bucket") {
			t.Errorf("no panel and no alert uses %s: %v", name, slices.Sorted(maps.Keys(used)))
		}
	}
}
