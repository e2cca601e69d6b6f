package demo

import "testing"

// A result or an event of an earlier choice never comes after a newer one, and a result
// that is late does not undo what the event said.
func TestStoreKeepsTheNewest(t *testing.T) {
	type news struct {
		account
		isEvent bool
	}
	a, b := account{"connected", "#a", "A"}, account{"connected", "#b", "B"}
	for name, c := range map[string]struct {
		news []news
		want account
	}{
		"events in order":                {[]news{{a, true}, {b, true}}, b},
		"an event twice":                 {[]news{{a, true}, {b, true}, {a, true}}, b},
		"an older result again":          {[]news{{a, false}, {b, false}, {a, false}}, b},
		"an older event, late":           {[]news{{a, false}, {b, false}, {a, true}}, b},
		"pending, then the event":        {[]news{{account{"pending", "#a", "A"}, false}, {a, true}}, a},
		"the event, then pending":        {[]news{{a, true}, {account{"pending", "#a", "A"}, false}}, a},
		"pending, then connected":        {[]news{{account{"pending", "#a", "A"}, false}, {a, false}}, a},
		"disconnected, then an old link": {[]news{{a, true}, {account{"disconnected", "x", "B"}, true}, {a, false}}, account{"none", "", "B"}},
	} {
		app := &backend{accounts: map[string]account{}, heard: map[string]bool{}}
		for _, n := range c.news {
			app.store("ada", n.account, n.isEvent)
		}
		if got := app.accounts["ada"]; got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}
