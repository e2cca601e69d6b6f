package e2e_test

import (
	"io/fs"
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

// Each row of the README's table of failures, and of SECURITY.md's of attacks, names
// tests that exist.
func TestTablesNameTheirTests(t *testing.T) {
	tests := allTests(t)
	for path, heading := range map[string]string{"../README.md": "## When something fails", "../SECURITY.md": "## Attacks, and"} {
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

// listedSettings are the settings of the README's table, with their defaults.
func listedSettings(t *testing.T) map[string]string {
	t.Helper()
	_, table, _ := strings.Cut(string(must(os.ReadFile("../README.md"))), "## Settings")
	table, _, _ = strings.Cut(table, "\n## ")
	listed := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(table, -1) {
		if _, twice := listed[row[1]]; twice {
			t.Errorf("%s is listed twice", row[1])
		}
		listed[row[1]] = strings.Trim(strings.TrimSpace(row[2]), "`")
	}
	return listed
}

// The README's table has each setting once, with its default.
func TestREADMEListsTheSettings(t *testing.T) {
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
			t.Errorf("%s: the README says %q, the program %q", name, got, want)
		case want == "" && strings.ContainsAny(got, "0123456789"):
			t.Errorf("%s: the README gives a default that the program has not: %q", name, got)
		}
	}
	for name := range listed {
		if _, ok := defaults[name]; !ok {
			t.Errorf("%s is listed, and no setting", name)
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
	"bench/floor": "",
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
