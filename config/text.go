package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"novu-slack-redirect/link"
)

// unwrap returns the text of a setting without what other readers of the same file or
// secret would strip, and reports what that is: the app that signs links would otherwise
// have another secret than the service. subject is the beginning of the cause: "" or what
// part of the setting text is, such as "entry 2 ". A blank text is an unset one.
func (l *loader) unwrap(name, subject, text string, prose bool) string {
	var found []string
	add := func(what string) {
		if !slices.Contains(found, what) {
			found = append(found, what)
		}
	}
	if strings.TrimSpace(text) == "" {
		return ""
	}
	if !utf8.ValidString(text) {
		l.report(name, subject+"is not UTF-8 text", "write it as UTF-8")
		return strings.ToValidUTF8(text, "?")
	}
	text = strings.Map(func(r rune) rune {
		if isHidden(r, prose) {
			add(nameHidden(r))
			return -1
		}
		return r
	}, text)
	if value, _, hasComment := strings.Cut(text, " #"); hasComment && !prose && strings.Trim(value, ` "'`) != "" { // a color begins with #
		add("a comment after it")
		text = value
	}
	for {
		if trimmed := strings.TrimSpace(text); trimmed != text {
			add("spaces at its ends")
			text = trimmed
		}
		inside, quoted := unquote(text)
		if !quoted {
			break
		}
		add("quotes around it")
		text = inside
	}
	if len(found) > 0 {
		l.report(name, subject+"has "+strings.Join(found, " and "), "leave that out, and write the value alone")
	}
	return text
}

// isHidden reports whether people cannot see r, or take it for a space. Prose may have
// line breaks, and characters that join others, as in some scripts and emoji.
func isHidden(r rune, prose bool) bool {
	if prose {
		return unicode.IsControl(r) && r != '\n' && r != '\t' || strings.ContainsRune("\u200b\u2060\ufeff", r)
	}
	return unicode.IsControl(r) || unicode.IsSpace(r) && r != ' ' || unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

func nameHidden(r rune) string {
	switch r {
	case '\n', '\r':
		return "line breaks in it"
	case '\t':
		return "tabs in it"
	}
	return fmt.Sprintf("invisible characters (%U) in it", r)
}

// unquote returns what is between the quotes that text begins and ends with.
func unquote(text string) (inside string, ok bool) {
	for _, pair := range [][2]string{{`"`, `"`}, {"'", "'"}, {"`", "`"}, {"“", "”"}, {"‘", "’"}} {
		if rest, opened := strings.CutPrefix(text, pair[0]); opened {
			if inside, ok = strings.CutSuffix(rest, pair[1]); ok {
				return inside, true
			}
		}
	}
	return text, false
}

// units are those of a duration. Other forms of a unit are its plural.
var units = map[string]time.Duration{
	"ms": time.Millisecond, "s": time.Second, "sec": time.Second, "second": time.Second, "m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "d": 24 * time.Hour, "day": 24 * time.Hour, "w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour,
}

// ParseDuration parses a duration as people write it: 90s, 15min, 15 minutes, 1h30m, 7d. A
// number needs a unit. Its errors are predicates, and quote nothing.
func ParseDuration(text string) (time.Duration, error) {
	if link.ConsistsOf(text, link.Digits+". ") && text != "" {
		return 0, errors.New("has no unit: add s, m, h or d")
	}
	const longest = 100 * 365 * 24 * time.Hour
	sum := 0.0
	for more := true; more; more = text != "" {
		afterNumber := strings.TrimLeft(text, link.Digits+".")
		number := text[:len(text)-len(afterNumber)]
		afterNumber = strings.TrimLeft(afterNumber, " ")
		afterUnit := strings.TrimLeftFunc(afterNumber, unicode.IsLetter)
		unit := afterNumber[:len(afterNumber)-len(afterUnit)]
		text = strings.TrimLeft(afterUnit, " ")
		if unit != "M" { // which may be months
			unit = strings.ToLower(unit)
		}
		if len(unit) > 2 {
			unit = strings.TrimSuffix(unit, "s")
		}
		count, err := strconv.ParseFloat(number, 64)
		sum += count * float64(units[unit])
		switch {
		case err != nil || strings.HasSuffix(number, ".") || unit == "":
			return 0, errors.New("is not a duration")
		case units[unit] == 0:
			return 0, errors.New("has a unit other than s, m, h or d")
		case sum > float64(longest):
			return 0, errors.New("is longer than 100 years")
		}
	}
	return time.Duration(sum), nil
}
