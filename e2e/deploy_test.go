package e2e_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
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

// drainTimeout is how long the program takes at most to end: the README says so.
const drainTimeout = 20 * time.Second

// Every file for a host parses, sets only what the program knows, sets it right,
// asks paths and ports that are there, and leaves the drain its time.
func TestHostFiles(t *testing.T) {
	t.Parallel()
	known := listedSettings(t)
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
				for _, doc := range documents(t, filepath.Join("..", path)) {
					walk(doc, inspect)
				}
			}
			if len(set) < 3 {
				t.Fatalf("got settings %v", set)
			}
			// What the file leaves to secrets is set here; the rest must be right.
			env := []string{
				"REDIRECT_URL=https://slack.example.com/slack/callback", "SLACK_CLIENT_ID=2222.3333", "SLACK_CLIENT_SECRET=x", "NOVU_API_KEY=x",
				"LINK_SECRET=" + linkSecret, "APP_NAME=Example Inc.",
			}
			for name, value := range set {
				if value = strings.ReplaceAll(value, "${DOMAIN:?}", "slack.example.com"); value != "" && !strings.Contains(value, "${") {
					env = append(env, name+"="+value)
				}
			}
			if exit, _, stderr := runCommand(t, env, "link", "ada"); exit != exitOK { // which reads all settings
				t.Errorf("got exit code %d: %s", exit, stderr)
			}
			listens := []string{cmp.Or(set["PORT"], known["PORT"]), strings.TrimPrefix(set["METRICS_ADDR"], ":")}
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
	t.Parallel()
	needCommand(t, "promtool")
	if out, err := exec.Command("promtool", "test", "rules", "../deploy/alerts_test.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// A completed connection leaves one line of who, where and what.
func TestAuditLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program, person := start(t, w.env...), w.person(t)
	a, err := person.get(program, person.approve(program, w.link(claims{"sub": "ada", "integrationIdentifier": "slack-main"})))
	if err != nil {
		t.Fatal(err)
	}
	flow := must(url.Parse(a.location)).Query().Get("flow")
	wantText(t, person.connect(program, w.link(claims{"sub": "bob", "teamId": "T09OTHER"})), "workspace")
	var lines []map[string]any
	for line := range strings.Lines(program.text()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["message"] == "connection" {
			lines = append(lines, fields)
		}
	}
	if len(lines) != 1 {
		t.Fatalf("got %d audit lines, want 1: %v", len(lines), lines)
	}
	for name, want := range map[string]string{"subscriber": "ada", "integration": "slack-main", "team": "T01ACME", "channel": "C01", "outcome": "connected", "flow": flow} {
		if lines[0][name] != want {
			t.Errorf("got %s %v, want %s", name, lines[0][name], want)
		}
	}
}
