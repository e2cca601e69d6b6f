package demo

import "testing"

// A result or an event of an earlier choice never comes after a newer one, a result that
// is late does not undo what the event said, and an event that comes again is not used.
func TestStoreKeepsTheNewest(t *testing.T) {
	type news struct {
		account
		eventID string // of a result, none
	}
	a, b := newAccount("connected", "#a", "A", "A"), newAccount("connected", "#b", "B", "B")
	pending, end := newAccount("pending", "#a", "A", "A"), newAccount("disconnected", "", "", "B")
	for name, c := range map[string]struct {
		news []news
		want account
	}{
		"events in order":                {[]news{{a, "1"}, {b, "2"}}, b},
		"an event twice":                 {[]news{{a, "1"}, {b, "2"}, {a, "1"}}, b},
		"an older result again":          {[]news{{a, ""}, {b, ""}, {a, ""}}, b},
		"an older result after events":   {[]news{{a, "1"}, {b, "2"}, {a, ""}}, b},
		"results, then their events":     {[]news{{a, ""}, {b, ""}, {a, "1"}, {b, "2"}}, b},
		"results in the wrong order":     {[]news{{b, ""}, {a, ""}, {a, "1"}, {b, "2"}}, b},
		"pending, then the event":        {[]news{{pending, ""}, {a, "1"}}, a},
		"the event, then pending":        {[]news{{a, "1"}, {pending, ""}}, a},
		"pending, then connected":        {[]news{{pending, ""}, {a, ""}}, a},
		"disconnected, then an old link": {[]news{{a, "1"}, {end, "2"}, {a, ""}}, account{Status: "none", flow: "B"}},
	} {
		app := &backend{accounts: map[string]account{}, known: map[string]bool{}}
		for _, n := range c.news {
			if n.eventID == "" {
				app.storeResult("ada", n.account)
			} else {
				app.storeEvent(n.eventID, "ada", n.account)
			}
		}
		got := app.accounts["ada"]
		if got.final = false; got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}
