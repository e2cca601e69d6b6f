package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"

	"novu-slack-redirect/state"
	"novu-slack-redirect/wire"
)

// documents parses a file of the repository for a host.
func documents(t *testing.T, path string) (all []any) {
	t.Helper()
	text := must(os.ReadFile(path))
	if filepath.Ext(path) == ".toml" {
		var doc map[string]any
		if err := toml.Unmarshal(text, &doc); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return []any{doc}
	}
	for from := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var doc any
		if err := from.Decode(&doc); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, doc)
	}
}

// walk calls fn with every map in a document.
func walk(doc any, fn func(map[string]any)) {
	switch d := doc.(type) {
	case map[string]any:
		fn(d)
		for _, v := range d {
			walk(v, fn)
		}
	case []any:
		for _, v := range d {
			walk(v, fn)
		}
	}
}

// Every file for a host parses, sets only what the program knows, sets it right,
// asks paths and ports that are there, and leaves the drain its time.
func TestHostFiles(t *testing.T) {
	known := settingNames()
	settingName := regexp.MustCompile(`^[A-Z][A-Z0-9_]+$`)
	proxied := regexp.MustCompile(`^slack:(\d+)$`)
	for _, paths := range []string{"fly.toml", "deploy/cloudrun.yaml deploy/cloudrun-job.yaml", "deploy/compose.yaml", "deploy/kubernetes.yaml"} {
		t.Run(paths, func(t *testing.T) {
			set := map[string]string{}
			add := func(name string, value any) {
				if _, ok := known[name]; !ok {
					t.Errorf("the program does not know %s", name)
				}
				text, isText := value.(string)
				if old := set[name]; isText && old != "" && old != text {
					t.Errorf("%s is set to %q and to %q", name, old, text)
				}
				set[name] = text
			}
			var asked, images []string
			names := map[string]string{} // of ports
			var stop, sleep time.Duration
			inspect := func(m map[string]any) {
				for _, key := range []string{"env", "environment"} {
					if env, ok := m[key].(map[string]any); ok {
						for name, value := range env {
							add(name, value)
						}
					}
				}
				name, _ := m["name"].(string)
				if settingName.MatchString(name) {
					add(name, m["value"])
				}
				if port, ok := m["containerPort"]; ok {
					names[name] = fmt.Sprint(port)
				}
				for _, key := range []string{"containerPort", "internal_port", "targetPort", "prometheus.io/port"} {
					if port, ok := m[key]; ok {
						asked = append(asked, fmt.Sprint(port))
					}
				}
				for _, key := range []string{"httpGet", "metrics"} {
					if ask, ok := m[key].(map[string]any); ok {
						asked = append(asked, fmt.Sprint(ask["port"]))
					}
				}
				if command, ok := m["command"].([]any); ok {
					if to := proxied.FindStringSubmatch(fmt.Sprint(command[len(command)-1])); to != nil {
						asked = append(asked, to[1])
					}
				}
				if path, ok := m["path"]; ok && path != "/healthz" && path != "/readyz" && path != "/metrics" {
					t.Errorf("there is no route %v", path)
				}
				if image, ok := m["image"].(string); ok && strings.Contains(image, "novu-slack-redirect") {
					images = append(images, image)
				}
				for _, key := range []string{"kill_timeout", "stop_grace_period"} {
					if text, ok := m[key].(string); ok {
						stop = must(time.ParseDuration(text))
					}
				}
				if seconds, ok := m["terminationGracePeriodSeconds"].(int); ok {
					stop = time.Duration(seconds) * time.Second
				}
				if pause, ok := m["sleep"].(map[string]any); ok {
					sleep = time.Duration(pause["seconds"].(int)) * time.Second
				}
			}
			for path := range strings.FieldsSeq(paths) {
				for _, doc := range documents(t, path) {
					walk(doc, inspect)
				}
			}
			if len(set) < 3 {
				t.Fatalf("got settings %v", set)
			}
			// What the file leaves to secrets is set here; the rest must be right.
			pairs := []string{"LINK_SECRET", "x"}
			for name, value := range set {
				if value = strings.ReplaceAll(value, "${DOMAIN:?}", "slack.example.com"); value != "" && !strings.Contains(value, "${") {
					pairs = append(pairs, name, value)
				}
			}
			settings(t, pairs...)
			c, found := loadConfig()
			if len(found) != 0 {
				t.Errorf("got problems %v", found)
			}
			listens := []string{strings.TrimPrefix(c.listen, ":"), strings.TrimPrefix(c.metricsAddr, ":")}
			if !slices.Contains(asked, listens[0]) {
				t.Errorf("PORT is %s, and nobody asks there: %v", listens[0], asked)
			}
			for _, port := range asked {
				if number, ok := names[port]; ok {
					port = number
				}
				if !slices.Contains(listens, port) {
					t.Errorf("nothing listens at %s: PORT and METRICS_ADDR are %v", port, listens)
				}
			}
			for _, image := range images {
				if !strings.HasSuffix(image, "/novu-slack-redirect:VERSION") {
					t.Errorf("got image %s, want a place and a version to fill in", image)
				}
			}
			// Cloud Run's time is fixed, and only for instances without requests.
			if !strings.Contains(paths, "cloudrun") && stop-sleep <= drainTimeout {
				t.Errorf("got %v to stop and %v of it asleep, the drain takes %v", stop, sleep, drainTimeout)
			}
		})
	}
}

// promtool plays through what each alert waits for.
func TestAlerts(t *testing.T) {
	if _, err := exec.LookPath("promtool"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is not installed, and CI=true wants it")
		}
		t.Skip("promtool is not installed")
	}
	if out, err := exec.Command("promtool", "test", "rules", "deploy/alerts_test.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// metricsAddr returns where a program serves its metrics.
func metricsAddr(t *testing.T, program *program) string {
	t.Helper()
	m := regexp.MustCompile(`"addr":"([^"]+)"[^\n]*"message":"metrics"|metrics addr=(\S+)`).FindStringSubmatch(program.text())
	if m == nil {
		t.Fatalf("no metrics listener: %s", program.text())
	}
	return m[1] + m[2]
}

// served returns the metrics of a program, and their names.
func served(t *testing.T, program *program) (text string, names map[string]bool) {
	t.Helper()
	res, err := http.Get("http://" + metricsAddr(t, program) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text = string(must(io.ReadAll(res.Body)))
	names = map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)`).FindAllStringSubmatch(text, -1) {
		names[line[1]] = true
		if line[2] == "histogram" {
			names[line[1]+"_bucket"] = true
		}
	}
	return text, names
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, "METRICS_ADDR=127.0.0.1:0", "RATE_LIMIT=3", "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	program, person := start(t, w.env...), w.person(t)
	const subscriber = "canary-subscriber@example.com"
	wantText(t, person.connect(program, state.Flow{Subscriber: subscriber}), "Slack is connected")
	w.novu.BreakAll(wire.JSON(401, `{"message":"nope"}`))
	wantText(t, person.connect(program, state.Flow{Subscriber: subscriber}), "we are finishing the set-up")
	w.slack.BreakAll(wire.JSON(200, `{"ok":false,"error":"canary_new_code"}`))
	wantText(t, person.connect(program, state.Flow{Subscriber: subscriber}), "Slack said no")
	for range 20 {
		person.get(program, "/slack/install?token=canary")
	}
	text, names := served(t, program)
	for _, want := range []string{
		"slack_redirect_flows_begun_total 3\n", `slack_redirect_flows_finished_total{code="connected"} 1`, `slack_redirect_flows_finished_total{code="pending"} 1`,
		`slack_redirect_flows_finished_total{code="slack_unknown"} 1`, `slack_redirect_problems_total{code="slack_unknown"} 1`, `slack_redirect_problems_total{code="slack_setup"} 0`,
		"slack_redirect_exchange_seconds_count 3\n", `slack_redirect_saves_total{result="saved"} 1`, `slack_redirect_saves_total{result="failed"} `,
		"slack_redirect_outbox_entries 1\n", "slack_redirect_outbox_oldest_seconds 0.", "slack_redirect_store_errors_total 0\n", `slack_redirect_build_info{version=`, "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics do not say %q", want)
		}
	}
	if strings.Contains(text, `slack_redirect_problems_total{code="rate_limited"} 0`) {
		t.Error("refusals of the rate limit are not counted")
	}
	for _, secret := range []string{"canary", w.novu.APIKey, w.slack.ClientSecret, "hooks.slack.com", "#alerts", "Acme", "T01ACME"} {
		if strings.Contains(text, secret) {
			t.Errorf("the metrics hold %q", secret)
		}
	}
	if status, _, _, _ := person.get(program, "/metrics"); status != http.StatusNotFound {
		t.Errorf("the public listener answers /metrics with %d, want 404", status)
	}

	// The dashboard and the alerts use metrics that exist, and the alerts' codes do.
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(must(os.ReadFile("deploy/grafana.json")), &dashboard); err != nil || len(dashboard.Panels) < 8 {
		t.Fatalf("the dashboard: %d panels, %v", len(dashboard.Panels), err)
	}
	var exprs []string
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	walk(documents(t, "deploy/alerts.yaml")[0], func(m map[string]any) {
		if expr, ok := m["expr"].(string); ok {
			exprs = append(exprs, expr)
		}
	})
	codes := string(must(os.ReadFile("docs/errors.md")))
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
	for name := range names {
		if strings.HasPrefix(name, "slack_redirect_") && !used[name] && !used[name+"_bucket"] && !strings.HasSuffix(name, "_bucket") {
			t.Errorf("no panel and no alert uses %s: %v", name, slices.Sorted(maps.Keys(used)))
		}
	}
}

// A completed connection leaves one line of who, where and what.
func TestAuditLine(t *testing.T) {
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	program, person := start(t, w.env...), w.person(t)
	person.connect(program, state.Flow{Subscriber: "ada", Integration: "slack-main"})
	person.connect(program, state.Flow{Subscriber: "bob", TeamID: "T09OTHER"})
	var lines []map[string]any
	for line := range strings.Lines(program.text()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["message"] == "connection" {
			lines = append(lines, fields)
		}
	}
	if len(lines) != 1 {
		t.Fatalf("got %d audit lines, want 1: %s", len(lines), program.text())
	}
	for name, want := range map[string]string{"subscriber": "ada", "integration": "slack-main", "team": "T01ACME", "channel": "C01", "outcome": "connected"} {
		if lines[0][name] != want {
			t.Errorf("got %s %v, want %s", name, lines[0][name], want)
		}
	}
	if flow := fmt.Sprint(lines[0]["flow"]); !state.ValidFlowID(flow) {
		t.Errorf("got flow %s", flow)
	}
}

func TestHealthCommand(t *testing.T) {
	w := newWorld(t, "DATA_FILE="+filepath.Join(t.TempDir(), "data.db"))
	program := start(t, w.env...)
	port := program.origin[strings.LastIndex(program.origin, ":")+1:]
	if exit, out, errs := runCommand(t, []string{"PORT=" + port}, "health"); exit != exitOK || !strings.HasPrefix(out, "200") {
		t.Errorf("got exit code %d: %s%s", exit, out, errs)
	}
	program.kill()
	if exit, _, errs := runCommand(t, []string{"PORT=" + port}, "health"); exit != exitFailed || errs == "" {
		t.Errorf("without a service: got exit code %d: %s", exit, errs)
	}
	if exit, _, errs := runCommand(t, []string{"PORT=x y"}, "health"); exit != exitFailed || errs == "" {
		t.Errorf("with a bad port: got exit code %d: %s", exit, errs)
	}
}
