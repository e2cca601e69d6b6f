package handler

import (
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/text/language"
)

// words are what a person reads about one outcome: {app} and {place} are filled
// in.
type words struct{ Title, Text, Next string }

// dictionary is every word of the pages in one language: a file of pages/, named
// by its BCP 47 tag. To add a language, translate one and put its tag in tags.
type dictionary struct {
	Tag    string `json:"-"`
	Labels map[string]string
	Pages  map[string]words // by code, or by the page's name
}

// The first language is for browsers that ask for none of them.
var (
	tags         = []language.Tag{language.English, language.German}
	dictionaries = readDictionaries()
	matcher      = language.NewMatcher(tags)
)

func readDictionaries() (all []*dictionary) {
	for _, tag := range tags {
		d := &dictionary{Tag: tag.String()}
		data, err := pages.ReadFile("pages/" + d.Tag + ".json")
		if err == nil {
			err = json.Unmarshal(data, d)
		}
		if err != nil {
			panic(fmt.Errorf("embedded dictionary: %w", err))
		}
		all = append(all, d)
	}
	return all
}

// speak returns the dictionary that an Accept-Language header (RFC 9110 section
// 12.5.4) asks for.
func speak(acceptLanguage string) *dictionary {
	_, i := language.MatchStrings(matcher, acceptLanguage)
	return dictionaries[i]
}

// place says where messages go.
func (d *dictionary) place(channel, team string) string {
	if channel == "" {
		channel = d.Labels["some_channel"]
	}
	if team == "" {
		return channel
	}
	return strings.NewReplacer("{channel}", channel, "{team}", team).Replace(d.Labels["place"])
}

func (w words) fill(app, place string) words {
	r := strings.NewReplacer("{app}", app, "{place}", place)
	return words{r.Replace(w.Title), r.Replace(w.Text), r.Replace(w.Next)}
}
