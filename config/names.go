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
// settings. If that setting is set too, a name must have its letters, or its singular's or
// plural's.
func misnamedVariables(environ []string) (found []misnamedVariable) {
	values := map[string]string{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		values[name] = value
	}
	var known, plain []string // with NAME_FILE for secrets; those without
	for _, field := range fields {
		name := field.Tag.Get("envconfig")
		known = append(known, name)
		if isSecret(field) {
			known = append(known, name+"_FILE")
		} else {
			plain = append(plain, name)
		}
	}
	for name, value := range values {
		if value == "" || slices.Contains(known, name) || !link.ConsistsOf(name, link.Alphanumeric+"_-.") {
			continue
		}
		near := slices.IndexFunc(known, func(setting string) bool {
			return sameLetters(name, setting) || values[setting] == "" && values[setting+"_FILE"] == "" && isNearly(name, setting)
		})
		setting, isFile := strings.CutSuffix(name, "_FILE")
		switch {
		case near >= 0:
			found = append(found, misnamedVariable{name, known[near]})
		case isFile && slices.Contains(plain, setting) && !slices.Contains(commonNames, setting): // only secrets are read from files
			found = append(found, misnamedVariable{name, setting})
		}
	}
	slices.SortFunc(found, func(a, b misnamedVariable) int { return strings.Compare(a.name, b.name) })
	return found
}

// sameLetters reports whether two names differ in case and separators alone or, unless the
// setting's name is a common one, by singular and plural.
func sameLetters(name, setting string) bool {
	bareName, bareSetting := link.BareName(name), link.BareName(setting)
	return bareName == bareSetting || !slices.Contains(commonNames, setting) && singular(bareName) == singular(bareSetting)
}

func singular(bare string) string {
	if stem, ok := strings.CutSuffix(bare, "ies"); ok {
		return stem + "y"
	}
	return strings.TrimSuffix(bare, "s")
}

// isNearly reports whether the names differ by one letter, or name is a long beginning of
// setting, such as NOVU_INTEGRATION_ID of NOVU_INTEGRATION_IDENTIFIER.
func isNearly(name, setting string) bool {
	bareName, bareSetting := link.BareName(name), link.BareName(setting)
	return !slices.Contains(commonNames, setting) &&
		(link.WithinOneEdit(bareName, bareSetting) || len(bareName) >= 12 && strings.HasPrefix(bareSetting, bareName))
}
