package config

import (
	"slices"
	"strings"

	"novu-slack-redirect/link"
)

// misnamedVariable is a variable of the environment that is probably meant for a setting.
type misnamedVariable struct{ name, setting string }

// commonNames are settings whose names other programs use too. Only a variable with the
// same letters is meant for one of them.
var commonNames = []string{"APP_NAME", "APP_URL", "DATA_FILE", "LOG_FORMAT", "LOG_LEVEL", "PORT"}

// misnamedVariables returns the variables, each NAME=value, whose names are nearly those of
// settings.
func misnamedVariables(environ []string) (found []misnamedVariable) {
	values := map[string]string{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		values[name] = value
	}
	var known []spelling // with NAME_FILE for secrets
	for _, field := range fields {
		name := field.Tag.Get("envconfig")
		known = append(known, newSpelling(name))
		if isSecret(field) {
			known = append(known, newSpelling(name+"_FILE"))
		}
	}
	for name, value := range values {
		variable := newSpelling(name)
		if value == "" || slices.Contains(known, variable) || !link.ConsistsOf(name, link.Alphanumeric+"_-.") {
			continue
		}
		near := slices.IndexFunc(known, func(setting spelling) bool {
			isSet := values[setting.name] != "" || values[setting.name+"_FILE"] != ""
			return variable.isMeantFor(setting, isSet)
		})
		if near >= 0 {
			found = append(found, misnamedVariable{name, known[near].name})
		}
	}
	slices.SortFunc(found, func(a, b misnamedVariable) int { return strings.Compare(a.name, b.name) })
	return found
}

// spelling is a name, and its letters and digits alone, in lower case.
type spelling struct{ name, bare string }

func newSpelling(name string) spelling { return spelling{name, link.BareName(name)} }

// isMeantFor reports whether s, which is no setting's name, is probably meant for setting: the
// names differ in case and separators alone, or by singular and plural, or s is that of a file
// for a setting that is no secret. Of a setting that is not set, they may also differ by one
// letter, or s may be a long beginning, such as NOVU_INTEGRATION_ID.
func (s spelling) isMeantFor(setting spelling, isSet bool) bool {
	switch {
	case s.bare == setting.bare:
		return true
	case slices.Contains(commonNames, setting.name):
		return false
	case singular(s.bare) == singular(setting.bare) || s.name == setting.name+"_FILE":
		return true
	}
	return !isSet && (link.WithinOneEdit(s.bare, setting.bare) || len(s.bare) >= 12 && strings.HasPrefix(setting.bare, s.bare))
}

func singular(bare string) string {
	if stem, ok := strings.CutSuffix(bare, "ies"); ok {
		return stem + "y"
	}
	return strings.TrimSuffix(bare, "s")
}
