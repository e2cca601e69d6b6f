package e2e_test

import (
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"novu-slack-redirect/config"
)

// allTests returns the text of all files with tests.
func allTests(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			text.Write(must(os.ReadFile(path)))
			text.WriteByte('\n')
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// Each row of the table of failures, and of that of attacks, names tests that exist.
func TestTablesNameTheirTests(t *testing.T) {
	tests := allTests(t)
	for path, heading := range map[string]string{"../docs/failures.md": "## Failures", "../SECURITY.md": "## Attacks, and"} {
		_, table, _ := strings.Cut(string(must(os.ReadFile(path))), heading)
		_, table, _ = strings.Cut(table, "|---|---|---|\n")
		table, _, _ = strings.Cut(table, "\n\n")
		rows := strings.Split(strings.TrimSpace(table), "\n")
		for _, row := range rows {
			names := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z]+)`").FindAllStringSubmatch(row, -1)
			if len(names) == 0 {
				t.Errorf("no test in %s", row)
			}
			for _, name := range names {
				if !strings.Contains(tests, "\nfunc "+name[1]+"(") {
					t.Errorf("there is no test %s", name[1])
				}
			}
		}
		if len(rows) < 15 {
			t.Errorf("%s: got %d rows, want the table", path, len(rows))
		}
	}
}

// listedSettings are the settings of docs/settings.md, with their defaults.
func listedSettings(t *testing.T) map[string]string {
	t.Helper()
	table := string(must(os.ReadFile("../docs/settings.md")))
	listed := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(table, -1) {
		if _, twice := listed[row[1]]; twice {
			t.Errorf("%s is listed twice", row[1])
		}
		listed[row[1]] = strings.Trim(strings.TrimSpace(row[2]), "`")
	}
	return listed
}

// The table has each setting once, with its default.
func TestDocumentListsTheSettings(t *testing.T) {
	listed, defaults := listedSettings(t), config.Defaults()
	if len(defaults) < 20 {
		t.Fatalf("got %d settings, want all", len(defaults))
	}
	for name, want := range defaults {
		got, ok := listed[name]
		switch {
		case !ok:
			t.Errorf("%s is not listed", name)
		case want != "" && got != want:
			t.Errorf("%s: the document says %q, the program %q", name, got, want)
		case want == "" && strings.ContainsAny(got, "0123456789"):
			t.Errorf("%s: the document gives a default that the program has not: %q", name, got)
		}
	}
	for name := range listed {
		if _, ok := defaults[name]; !ok {
			t.Errorf("%s is listed, and no setting", name)
		}
	}
}

// Every link between the documents leads to a file that is there, and to a heading of it.
func TestLinksBetweenDocuments(t *testing.T) {
	t.Parallel()
	documents := append(must(filepath.Glob("../*.md")), must(filepath.Glob("../docs/*.md"))...)
	links := 0
	for _, from := range documents {
		text := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(string(must(os.ReadFile(from))), "")
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			path, heading, _ := strings.Cut(m[1], "#")
			to := filepath.Join(filepath.Dir(from), path)
			if path == "" {
				to = from
			}
			target, err := os.ReadFile(to)
			if err != nil {
				t.Errorf("%s links to %s, which is not there", from, m[1])
			} else if heading != "" && !slices.Contains(anchors(string(target)), heading) {
				t.Errorf("%s links to %s, which has no such heading: %v", from, m[1], anchors(string(target)))
			}
		}
	}
	if links < 60 {
		t.Errorf("got %d links, want those of all documents", links)
	}
}

// anchors returns the names that GitHub gives to the headings of a document.
func anchors(text string) (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		name := strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")
		names = append(names, regexp.MustCompile(`[^\p{L}\p{N}_-]`).ReplaceAllString(name, ""))
	}
	return names
}

// The README is short, and each of its commands does what it says: those that a container
// runs are run here, as the image runs them.
func TestCommandsOfTheREADME(t *testing.T) {
	t.Parallel()
	readme := string(must(os.ReadFile("../README.md")))
	if lines := strings.Count(readme, "\n"); lines >= 150 {
		t.Errorf("got %d lines, want fewer than 150", lines)
	}
	if picture := must(os.Stat("../docs/demo.png")); picture.Size() > 150_000 {
		t.Errorf("the picture has %d bytes, want at most 150000", picture.Size())
	}
	// What else there is: TestDemo… runs the demo, these tests are the second, and a machine
	// with Docker is needed for the third.
	others := []string{"go run . demo", "go test ./...", "docker build -t novu-slack-redirect ."}
	w := newWorld(t)
	ran := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ *\$ ([^#\n]*)`).FindAllStringSubmatch(readme, -1) {
		line := strings.TrimSpace(m[1])
		flags, args, ok := strings.Cut(line+" ", " novu-slack-redirect ")
		if args = strings.TrimSpace(args); !ok || !strings.HasPrefix(flags, "docker run ") {
			if !slices.Contains(others, line) {
				t.Errorf("nothing runs %s", line)
			}
			continue
		}
		ran[args] = true
		switch args {
		case "demo": // TestDemoInTheImage
			if !strings.HasSuffix(flags, " -p 8080:8080") {
				t.Errorf("the demo cannot be reached: %s", line)
			}
		case "":
			program := start(t, w.env...)
			if got := w.person(t).status(program, "/readyz"); got != http.StatusOK {
				t.Errorf("%s: got %d", line, got)
			}
			program.stop()
		default:
			if exit, stdout, stderr := runCommand(t, w.env, strings.Fields(args)...); exit != exitOK || stdout == "" {
				t.Errorf("%s: got exit code %d: %s%s", line, exit, stdout, stderr)
			}
		}
	}
	for _, args := range []string{"demo", "", "check", "link ada@example.com"} {
		if !ran[args] {
			t.Errorf("the README does not run %q", args)
		}
	}
}

// allowedImports are the design's arrows: what each package may import of the others.
// The root, which has the commands, may import any but these tests.
var allowedImports = map[string]string{
	"check":      "service config handler link metrics novuclient outbox secret slackoauth state upstream",
	"demo":       "service config handler link metrics novuclient outbox secret slackoauth state slackoauth/slacktest novuclient/novutest upstream/upstreamtest",
	"service":    "config handler link metrics novuclient outbox secret slackoauth state upstream",
	"config":     "link secret state",
	"handler":    "link metrics novuclient outbox secret slackoauth state",
	"outbox":     "link metrics novuclient secret slackoauth state upstream",
	"state":      "link secret",
	"link":       "novuclient secret",
	"slackoauth": "secret upstream",
	"novuclient": "secret upstream",
	"metrics":    "",
	"upstream":   "",
	"secret":     "",

	"slackoauth/slacktest":  "upstream/upstreamtest",
	"novuclient/novutest":   "upstream/upstreamtest",
	"state/redistest":       "",
	"upstream/upstreamtest": "",

	"bench":       "",
	"bench/floor": "secret state",
}

// These tests know the program from outside: of its packages only the fakes, and
// config for the names of the settings.
var allowedImportsOfE2E = "slackoauth/slacktest novuclient/novutest state/redistest upstream/upstreamtest config"

func TestImportsPointOneWay(t *testing.T) {
	const module = "novu-slack-redirect/"
	check := func(from, to, allowed string) {
		if to, ours := strings.CutPrefix(to, module); ours && !slices.Contains(strings.Fields(allowed), to) {
			t.Errorf("%s imports %s", from, to)
		}
	}
	list := exec.Command("go", "list", "-f", "{{.ImportPath}} {{.Imports}} {{.XTestImports}}", "./...")
	list.Dir = ".."
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, out)
	}
	checked := 0
	for line := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		m := regexp.MustCompile(`^(\S+) \[(.*)\] \[(.*)\]$`).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("go list: got %s", line)
		}
		from, isPart := strings.CutPrefix(m[1], module)
		if !isPart {
			if strings.Contains(m[2], module+"e2e") {
				t.Errorf("the root imports %se2e", module)
			}
			continue
		}
		if _, known := allowedImports[from]; !known && from != "e2e" {
			t.Errorf("%s is not in the list of what packages may import", from)
		}
		for to := range strings.FieldsSeq(m[2]) {
			check(from, to, allowedImports[from])
		}
		if from == "e2e" {
			for to := range strings.FieldsSeq(m[3]) {
				check(from, to, allowedImportsOfE2E)
			}
			checked++
		}
	}
	if checked != 1 {
		t.Error("the imports of these tests were not looked at")
	}
}
