package handler

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/text/language"
)

// forEachLanguage calls check for each dictionary, as a subtest.
func forEachLanguage(t *testing.T, check func(t *testing.T, d *dictionary)) {
	t.Helper()
	for _, read := range listDictionaries("{app}") {
		d := read()
		t.Run(d.Tag, func(t *testing.T) { check(t, d) })
	}
}

// texts calls check for each text of a dictionary, with the English one.
func (d *dictionary) texts(check func(name, text, english string)) {
	english := readDictionary("en", "{app}")
	for name, text := range d.Labels {
		check("label "+name, text, english.Labels[name])
	}
	for name, w := range d.Pages {
		e := english.Pages[name]
		check(name+"'s title", w.Title, e.Title)
		check(name+"'s text", w.Text, e.Text)
		check(name+"'s next", w.Next, e.Next)
	}
}

// Every language has all words, the same blanks, and nothing else.
func TestDictionariesAreComplete(t *testing.T) {
	blank := regexp.MustCompile(`\{[a-z]+\}`)
	names := slices.AppendSeq([]string{"waiting", "no_cookies", "path_changed", "disconnecting"}, maps.Keys(otherPages))
	names = slices.Sorted(slices.Values(slices.AppendSeq(names, maps.Keys(catalogue))))
	labels := slices.Sorted(maps.Keys(readDictionary("en", "{app}").Labels))
	forEachLanguage(t, func(t *testing.T, d *dictionary) {
		if got := slices.Sorted(maps.Keys(d.Pages)); !slices.Equal(got, names) {
			t.Errorf("got pages %v, want %v", got, names)
		}
		if got := slices.Sorted(maps.Keys(d.Labels)); !slices.Equal(got, labels) {
			t.Errorf("got labels %v, want %v", got, labels)
		}
		d.texts(func(name, text, english string) {
			got, want := blank.FindAllString(text, -1), blank.FindAllString(english, -1)
			slices.Sort(got) // the order of words differs between languages
			slices.Sort(want)
			if text == "" || strings.TrimSpace(text) != text || !slices.Equal(got, want) {
				t.Errorf("%s: %q has blanks %v, want %v", name, text, got, want)
			}
		})
	})
}

// A file of pages/ that no tag names would never be read.
func TestEveryDictionaryHasATag(t *testing.T) {
	files, err := pages.ReadDir("pages")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name, isDictionary := strings.CutSuffix(file.Name(), ".json")
		if isDictionary && !slices.ContainsFunc(tags, func(tag language.Tag) bool { return tag.String() == name }) {
			t.Errorf("pages/%s is not in tags", file.Name())
		}
	}
}

// scripts are those of the languages that Latin letters are not enough for.
var scripts = map[string][]*unicode.RangeTable{
	"ja":      {unicode.Hiragana, unicode.Katakana, unicode.Han},
	"ko":      {unicode.Hangul},
	"zh-Hans": {unicode.Han},
	"zh-Hant": {unicode.Han},
}

func TestNothingIsLeftInEnglish(t *testing.T) {
	english := map[string]bool{}
	readDictionary("en", "{app}").texts(func(_, text, _ string) { english[text] = true })
	forEachLanguage(t, func(t *testing.T, d *dictionary) {
		if d.Tag == "en" {
			return
		}
		script := scripts[d.Tag]
		d.texts(func(name, text, _ string) {
			// Single words such as Code are the same in several languages.
			if english[text] && strings.Contains(text, " ") {
				t.Errorf("%s is an English text: %q", name, text)
			}
			if script != nil && !strings.ContainsFunc(text, func(r rune) bool { return unicode.In(r, script...) }) {
				t.Errorf("%s is not in the language's script: %q", name, text)
			}
		})
	})
}

// Each language addresses people as Slack does in it, on every page.
func TestFormOfAddress(t *testing.T) {
	others := map[string]*regexp.Regexp{
		"de":      regexp.MustCompile(`\b(Ihnen|Ihr|Ihre[mnrs]?)\b|[a-z]en Sie\b`),
		"es":      regexp.MustCompile(`(?i)\b(usted|vosotros|vuestr[oa]s?)\b`),
		"fr":      regexp.MustCompile(`(?i)(?:^|\PL)(tu|toi|ton|tes)(?:\PL|$)`),
		"it":      regexp.MustCompile(`\b(Lei|Suo|Sua|voi)\b`),
		"pt-BR":   regexp.MustCompile(`(?i)\b(tu|teu|tua|vós)\b`),
		"zh-Hans": regexp.MustCompile(`您|妳`),
		"zh-Hant": regexp.MustCompile(`您|妳`),
	}
	forEachLanguage(t, func(t *testing.T, d *dictionary) {
		if other := others[d.Tag]; other != nil {
			d.texts(func(name, text, _ string) {
				if found := other.FindString(text); found != "" {
					t.Errorf("%s has %q, another form of address than the other pages: %q", name, found, text)
				}
			})
		}
	})
}

// width is how wide a text is in Latin letters: those of East Asia are twice as wide.
func width(text string) (sum int) {
	for _, r := range text {
		if sum++; unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana) {
			sum++
		}
	}
	return sum
}

// A title has at most about three lines on a phone that is 320 px wide, and a button two.
func TestTitlesAndButtonsAreShort(t *testing.T) {
	const maxTitle, maxButton = 60, 36
	forEachLanguage(t, func(t *testing.T, d *dictionary) {
		for name, w := range d.Pages {
			if got := width(w.Title); got > maxTitle {
				t.Errorf("%s: the title is %d wide, want at most %d: %q", name, got, maxTitle, w.Title)
			}
		}
		for _, name := range []string{"again", "back", "change", "close", "disconnect", "help", "install", "manage"} {
			if got := width(d.Labels[name]); got > maxButton {
				t.Errorf("label %s is %d wide, want at most %d: %q", name, got, maxButton, d.Labels[name])
			}
		}
	})
}

// An app's name may have any characters, and one that ends in a full stop ends a sentence.
func TestAppNameIsFilledIn(t *testing.T) {
	for _, app := range []string{`"A" \ {B} <c> &`, "Ä\u2028b\t", "Example Inc."} {
		d := readDictionary("en", app)
		if got, want := d.Labels["back"], "Back to "+app; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		text := d.Pages["state_missing"].Next
		if want := "Go to " + app + " and connect Slack from there."; text != want {
			t.Errorf("got %q, want %q", text, want)
		}
		end := d.Pages["front"].Next
		if want := "start in " + strings.TrimSuffix(app, ".") + "."; !strings.HasSuffix(end, want) {
			t.Errorf("got %q, want it to end with %q", end, want)
		}
	}
}
