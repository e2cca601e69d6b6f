package e2e_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// No problem of the settings, no finding of check that is not ok, and no warning of the
// service's start is written without a remedy.
func TestEveryWarningIsWrittenWithARemedy(t *testing.T) {
	t.Parallel()
	dependOnSources()
	looked := map[string]int{}
	for folder, reporters := range map[string][]string{"config": {"report", "check"}, "check": {"fail", "warn"}, "service": nil} {
		sources := token.NewFileSet()
		for _, path := range must(filepath.Glob("../" + folder + "/*.go")) {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(sources, path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				selected, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				text := types.ExprString(call)
				warns := selected.Sel.Name == "Msg" && (strings.Contains(text, ".Warn()") || strings.Contains(text, ".Error()"))
				reports := slices.Contains(reporters, selected.Sel.Name)
				if warns || reports {
					looked[folder]++
				}
				if reports && types.ExprString(call.Args[len(call.Args)-1]) == `""` || warns && !strings.Contains(text, `"remedy"`) {
					t.Errorf("%s: no remedy: %s", sources.Position(call.Pos()), text)
				}
				return true
			})
		}
	}
	for folder, atLeast := range map[string]int{"config": 20, "check": 20, "service": 5} {
		if looked[folder] < atLeast {
			t.Errorf("%s: looked at %d places, want at least %d: the test tests nothing", folder, looked[folder], atLeast)
		}
	}
}
