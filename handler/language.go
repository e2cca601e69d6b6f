package handler

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/text/language"
)

// words is the text of one page.
type words struct{ Title, Text, Next string }

// dictionary is the text of all pages in one language, read from the file of pages/ with
// its BCP 47 tag as name. To add a language, translate a file and add its tag to tags.
type dictionary struct {
	Tag    string `json:"-"`
	Labels map[string]string
	Pages  map[string]words // by code, or by the page's name
}

// tags are the languages of the pages. The first one is the default.
var tags = []language.Tag{
	language.English, language.German, language.Spanish, language.French, language.Italian, language.BrazilianPortuguese,
	language.Japanese, language.Korean, language.SimplifiedChinese, language.TraditionalChinese,
}

// The matcher is made, and a dictionary is read, when it is first needed: a start does not
// wait for languages that nobody asks for.
var matcher = sync.OnceValue(func() language.Matcher { return language.NewMatcher(tags) })

// listDictionaries returns the dictionaries of tags, with an app's name for {app}.
func listDictionaries(app string) (all []func() *dictionary) {
	for _, tag := range tags {
		all = append(all, sync.OnceValue(func() *dictionary { return readDictionary(tag.String(), app) }))
	}
	return all
}

func readDictionary(tag, app string) *dictionary {
	d := &dictionary{Tag: tag}
	text, err := pages.ReadFile("pages/" + tag + ".json")
	if err == nil {
		quoted, _ := json.Marshal(app)
		name := string(quoted[1 : len(quoted)-1])
		fill := strings.NewReplacer("{app}.", strings.TrimSuffix(name, ".")+".", "{app}", name) // "Example Inc." ends a sentence
		err = json.Unmarshal([]byte(fill.Replace(string(text))), d)
	}
	if err != nil {
		panic(fmt.Errorf("embedded dictionary: %w", err))
	}
	return d
}

// chooseDictionary returns the dictionary that an Accept-Language header (RFC 9110 section
// 12.5.4) asks for.
func (h *handler) chooseDictionary(acceptLanguage string) *dictionary {
	_, i := language.MatchStrings(matcher(), acceptLanguage)
	return h.dictionaries[i]()
}

// Text returns what the English page of a problem says, for the demo's app. Apps find it in
// pages/en.json.
func Text(code, app string) string {
	w := readDictionary("en", app).Pages[code]
	return w.Title + ". " + w.Text
}
