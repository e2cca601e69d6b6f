package e2e_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
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

	"novu-slack-redirect/state/redistest"
)

// documents parses a file of the repository for a host.
func documents(t *testing.T, path string) (all []any) {
	t.Helper()
	text := must(os.ReadFile(path))
	switch filepath.Ext(path) {
	case ".service":
		unit := unitSettings(text)
		env := map[string]any{}
		for pair := range strings.FieldsSeq(unit["Environment"]) {
			name, value, _ := strings.Cut(pair, "=")
			env[name] = value
		}
		return []any{map[string]any{"env": env, "kill_timeout": unit["TimeoutStopSec"]}}
	case "": // the Caddyfile
		return []any{map[string]any{"internal_port": regexp.MustCompile(`reverse_proxy 127\.0\.0\.1:(\d+)`).FindStringSubmatch(string(text))[1]}}
	case ".toml":
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

// unitSettings returns the last value of each setting of a systemd unit.
func unitSettings(text []byte) map[string]string {
	values := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^([A-Za-z]+)=(.*)$`).FindAllSubmatch(text, -1) {
		values[string(m[1])] = string(m[2])
	}
	return values
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

// drainTimeout is how long the program takes at most to end: docs/operating.md says so.
const drainTimeout = 20 * time.Second

// settingsOfSetup returns the names of the settings that docs/setup.md writes into
// slack.env.
func settingsOfSetup(t *testing.T) (names []string) {
	t.Helper()
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(must(os.ReadFile("../docs/setup.md"))), -1) {
		for _, m := range regexp.MustCompile(`(?m)^([A-Z_]+)=`).FindAllStringSubmatch(block[1], -1) {
			names = append(names, m[1])
		}
	}
	return names
}

// Every file for a host parses, sets only what the program knows and everything that it
// requires, sets it right, asks paths and ports that are there, and leaves the drain its
// time.
func TestHostFiles(t *testing.T) {
	t.Parallel()
	known := listedSettings(t)
	settingName := regexp.MustCompile(`^[A-Z][A-Z0-9_]+$`)
	proxied := regexp.MustCompile(`slack:(\d+)$`)
	required := []string{"APP_NAME", "LINK_SECRET"} // LINK_SECRET is only required for signed links
	for name, text := range known {
		if text == "required" && !slices.Contains(required, name) {
			required = append(required, name)
		}
	}
	if len(required) < 6 {
		t.Fatalf("got %v, want what is required", required)
	}
	for _, paths := range []string{"fly.toml", "deploy/cloudrun.yaml deploy/cloudrun-job.yaml", "deploy/compose.yaml", "deploy/kubernetes.yaml", "deploy/novu-slack-redirect.service deploy/Caddyfile"} {
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
				if path, ok := m["path"].(string); ok && path != "../slack.env" && path != "/healthz" && path != "/readyz" && path != "/metrics" {
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
			// Settings that the file does not name arrive as well: it reads slack.env as it is, or says where they go.
			for path := range strings.FieldsSeq(paths) {
				text := string(must(os.ReadFile(filepath.Join("..", path))))
				readsAll := regexp.MustCompile(`(?m)^(EnvironmentFile=/\S+/slack\.env|\s+env_file:)$`).MatchString(text)
				saysWhere := regexp.MustCompile(`(?m)^\s*# Any (other )?setting of docs/settings\.md.* NOVU_API_URL|every NOVU_ setting`).MatchString(text)
				if path != "deploy/Caddyfile" && !readsAll && !saysWhere {
					t.Errorf("%s: an EU customer's NOVU_API_URL does not arrive, and nothing says where to set it", path)
				}
			}
			// Comments say how to set secrets; files that read slack.env get what docs/setup.md writes into it.
			for path := range strings.FieldsSeq(paths) {
				text := string(must(os.ReadFile(filepath.Join("..", path))))
				if regexp.MustCompile(`(?m)^[^#]*/slack\.env$`).MatchString(text) {
					text += strings.Join(settingsOfSetup(t), " ")
				}
				for _, name := range required {
					if !regexp.MustCompile(`\b`+name+`\b`).MatchString(text) && path != "deploy/Caddyfile" {
						t.Errorf("%s: %s is required, and not set", path, name)
					}
				}
			}
			// What the file leaves to secrets is set here; the rest must be right.
			env := []string{
				"REDIRECT_URL=https://slack.example.com/slack/callback", "SLACK_CLIENT_ID=2222.3333", "SLACK_CLIENT_SECRET=x", "NOVU_API_KEY=x",
				"LINK_SECRET=" + linkSecret, "APP_NAME=Example Inc.",
			}
			for name, value := range set {
				if value != "" && !strings.Contains(value, "${") {
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

// Compose gives the service every setting of the file that README.md and docs/setup.md
// name, but for the four that belong to the other containers, and the proxy the host name.
func TestComposePassesSettings(t *testing.T) {
	t.Parallel()
	services := documents(t, "../deploy/compose.yaml")[0].(map[string]any)["services"].(map[string]any)
	slack, proxy := services["slack"].(map[string]any), services["proxy"].(map[string]any)
	files, _ := slack["env_file"].([]any)
	if len(files) != 1 {
		t.Fatalf("got env_file %v, want one file", files)
	}
	file := files[0].(map[string]any)
	path := filepath.Join("deploy", file["path"].(string))
	for _, doc := range []string{"../README.md", "../docs/setup.md"} {
		if !strings.Contains(string(must(os.ReadFile(doc))), "--env-file "+path+" ") {
			t.Errorf("%s names no file %s", doc, path)
		}
	}
	if file["format"] != "raw" {
		t.Error("compose and docker run --env-file read the file in two ways, want format: raw")
	}
	overridden := slices.Sorted(maps.Keys(slack["environment"].(map[string]any)))
	if want := []string{"METRICS_ADDR", "PORT", "REDIS_URL", "TRUSTED_PROXIES"}; !slices.Equal(overridden, want) {
		t.Errorf("got %v set whatever the file says, want %v", overridden, want)
	}

	var command []string
	for _, arg := range proxy["command"].([]any) {
		command = append(command, strings.ReplaceAll(arg.(string), "$$", "$")) // as Compose does
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "caddy"), []byte("#!/bin/sh\necho \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = []string{"PATH=" + bin, "REDIRECT_URL=https://slack.example.com/slack/callback"}
	out, err := cmd.CombinedOutput()
	if got, want := string(out), "reverse-proxy --from slack.example.com --to slack:8080\n"; err != nil || got != want {
		t.Errorf("got caddy %q, %v, want %q", got, err, want)
	}
}

// What is built, run and released is named by what it is, and not by a tag that can move:
// actions by commit, images by digest. golang's digest is in the Dockerfile alone.
func TestEverythingIsPinned(t *testing.T) {
	t.Parallel()
	digest := regexp.MustCompile(`^[a-z./-]+:[\w.-]+@sha256:[0-9a-f]{64}$`)
	commit := regexp.MustCompile(`^[\w./-]+@[0-9a-f]{40}$`)
	golang := ""
	for _, m := range regexp.MustCompile(`(?m)^FROM (?:--platform=\S+ )?(\S+)`).FindAllStringSubmatch(string(must(os.ReadFile("../Dockerfile"))), -1) {
		if m[1] != "scratch" && !digest.MatchString(m[1]) {
			t.Errorf("the Dockerfile builds from %s, want a digest", m[1])
		}
		golang = cmp.Or(golang, m[1])
	}
	for name, service := range documents(t, "../deploy/compose.yaml")[0].(map[string]any)["services"].(map[string]any) {
		if image, ok := service.(map[string]any)["image"].(string); ok && !digest.MatchString(image) {
			t.Errorf("compose runs %s from %s, want a digest", name, image)
		}
	}
	workflows := must(filepath.Glob("../.github/workflows/*.yml"))
	if len(workflows) < 3 {
		t.Fatalf("got workflows %v, want three", workflows)
	}
	reads := 0
	for _, path := range workflows {
		walk(documents(t, path)[0], func(m map[string]any) {
			if uses, ok := m["uses"].(string); ok && !strings.HasPrefix(uses, "./") && !commit.MatchString(uses) {
				t.Errorf("%s uses %s, want a commit", path, uses)
			}
			if container, ok := m["container"].(string); ok && !strings.HasPrefix(container, "${{ needs.") {
				t.Errorf("%s runs in %s, want the Dockerfile's golang", path, container)
			}
			if m["id"] != "dockerfile" {
				return
			}
			reads++
			cmd := exec.Command("sh", "-c", m["run"].(string))
			output := filepath.Join(t.TempDir(), "output")
			cmd.Dir, cmd.Env = "..", append(os.Environ(), "GITHUB_OUTPUT="+output)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", path, err, out)
			} else if got := string(must(os.ReadFile(output))); got != "image="+golang+"\n" {
				t.Errorf("%s reads %s, want %s", path, got, golang)
			}
		})
	}
	if reads < 2 {
		t.Errorf("got %d workflows that read the Dockerfile, want 2", reads)
	}
}

// A release signs its checksums, which name every archive and SBOM, and attests where
// archives and image come from. What it needs for that, GitHub gives to these jobs alone.
func TestReleaseIsSigned(t *testing.T) {
	t.Parallel()
	signs := must(json.Marshal(documents(t, "../.goreleaser.yaml")[0].(map[string]any)["signs"]))
	if want := `[{"args":["sign-blob","--bundle=${signature}","--yes","${artifact}"],"artifacts":"checksum","cmd":"cosign","signature":"${artifact}.sigstore.json"}]`; string(signs) != want {
		t.Errorf("got signs %s, want %s", signs, want)
	}
	jobs := documents(t, "../.github/workflows/release.yml")[0].(map[string]any)["jobs"].(map[string]any)
	for name, subject := range map[string]string{"binaries": "subject-checksums", "image": "subject-digest"} {
		job := jobs[name].(map[string]any)
		permissions := job["permissions"].(map[string]any)
		if permissions["id-token"] != "write" || permissions["attestations"] != "write" {
			t.Errorf("%s may not attest: %v", name, permissions)
		}
		attests := false
		walk(job["steps"], func(step map[string]any) {
			uses, _ := step["uses"].(string)
			with, _ := step["with"].(map[string]any)
			attests = attests || strings.HasPrefix(uses, "actions/attest-build-provenance@") && with[subject] != nil
		})
		if !attests {
			t.Errorf("%s attests no %s", name, subject)
		}
	}
}

// A container that is started as the documents say is there again after a restart of the
// machine.
func TestContainersAreStartedAgain(t *testing.T) {
	t.Parallel()
	found := 0
	for _, path := range []string{"../README.md", "../docs/setup.md", "../docs/operating.md", "../docs/migrating.md"} {
		for line := range strings.Lines(string(must(os.ReadFile(path)))) {
			if strings.Contains(line, "docker run -d") {
				found++
				if !strings.Contains(line, "--restart unless-stopped") {
					t.Errorf("%s: no --restart in %s", path, line)
				}
			}
		}
	}
	if found < 2 {
		t.Errorf("got %d commands that start a container, want those of README.md and docs/setup.md", found)
	}
}

// systemd takes the unit as it is, and has little to say against it.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	analyze := needCommand(t, "systemd-analyze")
	text := must(os.ReadFile("../deploy/novu-slack-redirect.service"))
	settings := unitSettings(text)
	for name, want := range map[string]string{
		"ExecStart": "/usr/local/bin/novu-slack-redirect", "DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict",
		"Restart": "always", "RestartPreventExitStatus": fmt.Sprint(exitUsage), "StateDirectory": "novu-slack-redirect", "WorkingDirectory": "%S/novu-slack-redirect",
	} {
		if settings[name] != want {
			t.Errorf("got %s=%s, want %s", name, settings[name], want)
		}
	}
	unit := filepath.Join(t.TempDir(), "novu-slack-redirect.service")
	text = bytes.Replace(text, []byte("ExecStart=/usr/local/bin/novu-slack-redirect"), []byte("ExecStart="+binary), 1)
	if err := os.WriteFile(unit, text, 0o644); err != nil {
		t.Fatal(err)
	}
	// verify only prints what it does not know, such as a misspelt setting.
	if out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput(); err != nil || bytes.Contains(out, []byte(unit)) {
		t.Errorf("verify: %v: %s", err, out)
	}
	// From 0, which nothing reaches that uses the network, to 100.
	if out, err := exec.Command(analyze, "security", "--no-pager", "--offline=yes", "--threshold=15", unit).CombinedOutput(); err != nil {
		t.Errorf("security: %v: %s", err, lastLines(string(out)))
	}
}

// Caddy with deploy/Caddyfile stands before the program: a flow ends well, the program
// sees people's addresses, and a request during a restart waits instead of failing.
func TestCaddyInFront(t *testing.T) {
	t.Parallel()
	caddy := needCommand(t, "caddy")
	w := newWorld(t, "TRUSTED_PROXIES=127.0.0.1/32")
	port := redistest.FreePort(t)
	service := start(t, append(slices.Clone(w.env), "PORT="+port)...)

	text := string(must(os.ReadFile("../deploy/Caddyfile")))
	front := "127.0.0.1:" + redistest.FreePort(t)
	for old, new := range map[string]string{"slack.example.com {": "http://" + front + " {", "127.0.0.1:8080": "127.0.0.1:" + port} {
		if strings.Count(text, old) != 1 {
			t.Fatalf("the Caddyfile has no %q: %s", old, text)
		}
		text = strings.Replace(text, old, new, 1)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte("{\n\tadmin off\n\tdebug\n}\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(caddy, "run", "--config", file, "--adapter", "caddyfile")
	proxy, _, err := launchUntil(t, cmd, regexp.MustCompile(`"msg":"(serving initial configuration)"`), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if proxy != nil {
		t.Cleanup(proxy.end)
	}
	if err != nil {
		t.Fatal(err)
	}
	proxy.origin = "http://" + front

	person := w.person(t)
	elsewhere := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	transport := &http.Transport{DialContext: elsewhere.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	person.client.Transport = transport
	person.wantConnect(proxy, w.linkTo("ada"), textConnected)
	w.wantSaved(t, "ada", 0)
	if !strings.Contains(service.text(), `"client":"127.0.0.2"`) {
		t.Error("the service takes the proxy's address for the person's")
	}

	service.stop()
	got := make(chan answer, 1)
	go func() {
		a, _ := person.get(proxy, w.linkTo("bob"))
		got <- a
	}()
	waitFor(t, "Caddy has met a service that is away", func() bool { return strings.Contains(proxy.text(), "connection refused") })
	start(t, append(slices.Clone(w.env), "PORT="+port)...)
	if a := <-got; a.status != http.StatusFound {
		t.Errorf("got %d during a restart, want 302", a.status)
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
	person.wantConnect(program, w.link(claims{"sub": "bob", "teamId": "T09OTHER"}), "workspace")
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

// ignored reports whether .dockerignore leaves path, which is relative to the repository,
// out of the build. It knows the two forms of pattern that the file has: a name in the
// root, and a pattern for names in any folder.
func ignored(t *testing.T, path string) bool {
	t.Helper()
	top, _, _ := strings.Cut(filepath.ToSlash(path), "/")
	for line := range strings.Lines(string(must(os.ReadFile("../.dockerignore")))) {
		pattern := strings.TrimSpace(line)
		name, anywhere := strings.CutPrefix(pattern, "**/")
		switch {
		case pattern == "" || pattern[0] == '#':
		case strings.ContainsAny(name, "/!") || !anywhere && strings.ContainsAny(name, "*?["):
			t.Fatalf("this test does not know the form of %q", pattern)
		case anywhere && must(filepath.Match(name, filepath.Base(path))), name == top:
			return true
		}
	}
	return false
}

// A program that was built in a checkout knows its commit, without and within Docker: the
// build stage gets .git, and every tracked file, for Go calls a checkout without one dirty.
// It gets no file with secrets.
func TestBuildsKnowTheirVersion(t *testing.T) {
	t.Parallel()
	needCommand(t, "git")
	dir, out := t.TempDir(), t.TempDir()
	run := func(env []string, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), append([]string{"GOFLAGS=-buildvcs=auto", "CGO_ENABLED=0"}, env...)...)
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, lastLines(string(text)))
		}
		return strings.TrimSpace(string(text))
	}
	// The repository as it is here, committed.
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		to := filepath.Join(dir, strings.TrimPrefix(path, ".."))
		switch {
		case err != nil || path == "..":
			return err
		case d.Name() == ".git" || path == "../screenshots" || path == "../dist":
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir():
			return os.Mkdir(to, 0o755)
		}
		return os.WriteFile(to, must(os.ReadFile(path)), must(d.Info()).Mode())
	})
	if err != nil {
		t.Fatal(err)
	}
	run(nil, "git", "init", "--quiet")
	run(nil, "git", "add", "--all")
	run(nil, "git", "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "--quiet", "--no-verify", "--message=x")
	commit := run(nil, "git", "rev-parse", "--short=12", "HEAD")
	program := filepath.Join(out, "novu-slack-redirect")
	wantVersion := func(how, want string) {
		t.Helper()
		if got := run(nil, program, "version"); !strings.Contains(got, want) || strings.Contains(got, "dirty") {
			t.Errorf("%s: got version %s, want %s and no +dirty", how, got, want)
		}
	}
	run(nil, "go", "build", "-trimpath", "-o", program, ".")
	wantVersion("go build", commit)

	secrets := []string{"slack.env", ".env", "deploy/slack.env", "deploy/.env.local", "novu-slack-redirect.db", "deploy/a.db", "novu-slack-redirect"}
	for _, name := range secrets {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		if !ignored(t, name) {
			t.Errorf("docker build gets %s", name)
		}
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if name := strings.TrimPrefix(path, dir+"/"); err == nil && ignored(t, name) {
			if err = os.RemoveAll(path); d.IsDir() {
				return filepath.SkipDir
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	build := regexp.MustCompile(`CGO_ENABLED=0 .* go build .* -o /out/novu-slack-redirect \.`).FindString(string(must(os.ReadFile("../Dockerfile"))))
	if build == "" {
		t.Fatal("the Dockerfile has no such build")
	}
	build = strings.ReplaceAll(build, "/out/", out+"/")
	run([]string{"VERSION="}, "sh", "-c", build)
	wantVersion("docker build", commit)
	run([]string{"VERSION=1.2.3"}, "sh", "-c", build)
	wantVersion("docker build of a release", "1.2.3")
}
