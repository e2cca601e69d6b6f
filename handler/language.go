package handler

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/text/language"
)

// words is the text of one page. {app} is a placeholder in it, and in labels.
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
var (
	matcher      = sync.OnceValue(func() language.Matcher { return language.NewMatcher(tags) })
	dictionaries = listDictionaries()
)

func listDictionaries() (all []func() *dictionary) {
	for _, tag := range tags {
		all = append(all, sync.OnceValue(func() *dictionary { return readDictionary(tag.String()) }))
	}
	return all
}

func readDictionary(tag string) *dictionary {
	d := &dictionary{Tag: tag}
	data, err := pages.ReadFile("pages/" + tag + ".json")
	if err == nil {
		err = json.Unmarshal(data, d)
	}
	if err != nil {
		panic(fmt.Errorf("embedded dictionary: %w", err))
	}
	return d
}

// chooseDictionary returns the dictionary that an Accept-Language header (RFC 9110 section
// 12.5.4) asks for.
func chooseDictionary(acceptLanguage string) *dictionary {
	_, i := language.MatchStrings(matcher(), acceptLanguage)
	return dictionaries[i]()
}

func (w words) fill(app string) words {
	r := strings.NewReplacer("{app}.", strings.TrimSuffix(app, ".")+".", "{app}", app) // "Example Inc." ends a sentence
	return words{r.Replace(w.Title), r.Replace(w.Text), r.Replace(w.Next)}
}

// Text returns what the English page of a problem says, for the demo's app. Apps find it in
// pages/en.json.
func Text(code, app string) string {
	w := dictionaries[0]().Pages[code].fill(app)
	return w.Title + ". " + w.Text
}
