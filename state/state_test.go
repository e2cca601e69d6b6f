package state

import (
	"strings"
	"testing"
	"time"

	"novu-slack-redirect/secret"
)

func TestFormats(t *testing.T) {
	good := NewOwner()
	for _, bad := range []string{"", good[1:], good + "A", good[1:] + "+", good[1:] + "\n", good + "\n", good[1:] + "é", strings.Repeat("A", 10_000), "../" + good[3:]} {
		if _, ok := FlowID(secret.New(bad)); ok {
			t.Errorf("FlowID(%.40q): got ok, want refused", bad)
		}
		if ValidFlowID(bad) {
			t.Errorf("ValidFlowID(%.40q): got true, want false", bad)
		}
	}
	a, _ := FlowID(secret.New(good))
	b, _ := FlowID(NewState(time.Now()))
	if a == b || strings.Contains(good, a) {
		t.Errorf("flow IDs %q and %q: want different ones that do not show the state", a, b)
	}
	if _, ok := NewKey(a, secret.New(good[1:])); ok {
		t.Error("NewKey took a browser half of another length")
	}
	one, _ := NewKey(a, secret.New(good))
	two, _ := NewKey(a, NewBrowserHalf())
	three, _ := NewKey(b, secret.New(good))
	if one == two || one == three {
		t.Error("one half alone makes the key")
	}
}

func TestStateSaysWhenItWasMade(t *testing.T) {
	at := time.Unix(1_790_000_000, 0)
	a, b := NewState(at), NewState(at)
	if !MadeAt(a).Equal(at) || !MadeAt(b).Equal(at) {
		t.Errorf("got %v and %v, want %v", MadeAt(a), MadeAt(b), at)
	}
	if a.Reveal()[8:] == b.Reveal()[8:] { // 4 bytes of time are less than 6 of its 32 characters
		t.Errorf("two states are alike: %s, %s", a, b)
	}
	if _, ok := FlowID(a); !ok {
		t.Errorf("%s has not the form of a state", a)
	}
	for _, junk := range []string{"", "AAA", "!"} {
		if got := MadeAt(secret.New(junk)); !got.IsZero() {
			t.Errorf("MadeAt(%q): got %v, want the zero time", junk, got)
		}
	}
}

func TestDeployments(t *testing.T) {
	seen := map[Deployment][3]string{}
	for _, of := range [][3]string{
		{"https://slack.example.com", "1.2", ""}, {"https://slack.example.com", "1.2", "env"}, {"https://slack.example.com", "1.3", ""},
		{"https://dev.example.com", "1.2", ""}, {"https://slack.example.com1.2", "", ""},
	} {
		d := NewDeployment(of[0], of[1], of[2])
		if other, found := seen[d]; found || d != NewDeployment(of[0], of[1], of[2]) || strings.ContainsAny(string(d), "{}: ") {
			t.Errorf("%v and %v are both %s", of, other, d)
		}
		seen[d] = of
	}
}
