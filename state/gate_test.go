package state

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

const patience = CodeLife - 15*time.Second

// arrive issues and consumes a row as a callback does, and returns its turn.
func (b testBackend) arrive(t *testing.T) (key Key, owner string, turn Turn) {
	t.Helper()
	key, owner = b.issue(t), NewOwner()
	row, err := b.Consume(t.Context(), key, owner, []byte("code\xff"), 30*time.Second, patience)
	must(t, err)
	turn = row.Turn
	turn.Wait = turn.Wait.Round(time.Second)
	return key, owner, turn
}

// refused leaves a row to wait because Slack refused its exchange.
func (b testBackend) refused(t *testing.T, key Key, owner string, retryAfter time.Duration) {
	t.Helper()
	b.move(t, key, Move{Owner: owner, To: Working, Content: []byte("code"), Keep: time.Hour, Close: retryAfter}, Moved)
}

// takeTurn claims the next row of Turns. No key is that none may be exchanged for next.
func (b testBackend) takeTurn(t *testing.T, want Key) (owner string, next time.Duration) {
	t.Helper()
	owner = NewOwner()
	key, row, next, err := b.Claim(t.Context(), Turns, owner, 30*time.Second)
	must(t, err)
	if key != want || key != "" && (row.Owner != owner || row.Phase != Working) {
		t.Fatalf("got %q (next in %v), want %q", key, next, want)
	}
	return owner, next
}

func wantNear(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want-5*time.Second || got > want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestTurns(t *testing.T) {
	t.Parallel()
	cases := map[string]func(*testing.T, testBackend){
		"nobody waits until Slack refuses": func(t *testing.T, b testBackend) {
			key, owner, turn := b.arrive(t)
			if turn != (Turn{}) {
				t.Errorf("got %+v, want no turn", turn)
			}
			if _, next := b.takeTurn(t, ""); next >= 0 {
				t.Errorf("the next turn is in %v, want none", next)
			}
			b.move(t, key, recorded(owner, "ada", ""), Moved)
		},
		"all wait in the order of arrival, and the refused one is the first": func(t *testing.T, b testBackend) {
			first, owner, _ := b.arrive(t)
			second, _, turn := b.arrive(t) // under way while Slack refuses the first
			if turn != (Turn{}) {
				t.Errorf("got %+v, want no turn", turn)
			}
			b.refused(t, first, owner, 20*time.Second)
			var waiting []Key
			for i := range 3 {
				key, _, turn := b.arrive(t)
				if turn.Place != i+2 { // the second one does not wait
					t.Errorf("got place %d, want %d", turn.Place, i+2)
				}
				wantNear(t, "wait", turn.Wait, 20*time.Second)
				waiting = append(waiting, key)
			}
			_, next := b.takeTurn(t, "")
			wantNear(t, "the next turn", next, 20*time.Second)
			b.claim(t, "") // whoever waits is not due elsewhere
			b.wait(21 * time.Second)
			for _, key := range append([]Key{first}, waiting...) {
				b.takeTurn(t, key)
			}
			b.takeTurn(t, "")
			b.wait(10 * time.Second) // all but the second's leases ended
			b.claim(t, second)
		},
		"after the turns the gate stays for a while, and lets through": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Second)
			b.wait(2 * time.Second)
			b.takeTurn(t, key)
			if _, _, turn := b.arrive(t); turn != (Turn{}) {
				t.Errorf("got %+v, want no turn", turn)
			}
			b.wait(gateLife)
			if _, _, turn := b.arrive(t); turn != (Turn{}) {
				t.Errorf("after its life: got %+v, want no turn", turn)
			}
		},
		"as many in a window as Slack allowed, then one at a time": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Second)
			keys := []Key{key}
			for range 17 {
				key, _, _ := b.arrive(t)
				keys = append(keys, key)
			}
			b.wait(2 * time.Second)
			var owners []string
			for _, key := range keys[:7] {
				owner, _ := b.takeTurn(t, key)
				owners = append(owners, owner)
			}
			b.refused(t, keys[5], owners[5], time.Minute) // Slack allowed five, and two were under way
			b.refused(t, keys[6], owners[6], time.Minute)
			_, _, turn := b.arrive(t)
			if turn.Place != 14 {
				t.Errorf("got %+v, want place 14", turn)
			}
			wantNear(t, "the wait of three windows", turn.Wait, 3*time.Minute)
			b.wait(61 * time.Second)
			for _, key := range keys[5:10] {
				b.takeTurn(t, key)
			}
			if _, next := b.takeTurn(t, ""); next <= 0 || next > probePause {
				t.Errorf("beyond what Slack allowed, the next turn is in %v, want at most %v", next, probePause)
			}
			b.wait(probePause)
			b.takeTurn(t, keys[10])
			if _, next := b.takeTurn(t, ""); next <= 0 || next > probePause {
				t.Errorf("the turn after that is in %v, want at most %v", next, probePause)
			}
			b.wait(time.Minute) // Slack refused none: the next window begins, and allows more
			for _, key := range keys[11:17] {
				b.takeTurn(t, key)
			}
			if _, next := b.takeTurn(t, ""); next <= 0 || next > probePause {
				t.Errorf("after six in this window, the next turn is in %v, want at most %v", next, probePause)
			}
		},
		"a short window is no minute": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Second)
			second, _, _ := b.arrive(t)
			b.wait(2 * time.Second)
			b.takeTurn(t, key)
			owner, _ = b.takeTurn(t, second)
			b.refused(t, second, owner, 2*time.Second) // Slack allowed one in four seconds
			var turn Turn
			for range 30 {
				_, _, turn = b.arrive(t)
			}
			if turn.Place != 31 || turn.Wait > 3*time.Minute {
				t.Errorf("got %+v, want place 31, after some windows of four seconds", turn)
			}
		},
		"who cannot be reached in time does not wait": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Second)
			b.wait(2 * time.Second)
			b.takeTurn(t, key)
			second, owner, _ := b.arrive(t)
			b.refused(t, second, owner, time.Minute) // Slack allowed one
			for i := range 7 {
				if _, _, turn := b.arrive(t); turn.Wait > patience {
					t.Errorf("%d: got %+v, want at most %v", i, turn, patience)
				}
			}
			late, owner, turn := b.arrive(t)
			if turn.Wait <= patience {
				t.Errorf("got %+v, want more than %v", turn, patience)
			}
			if n, err := b.Count(t.Context(), Turns); n != 8 || err != nil {
				t.Errorf("got %d, %v, want 8 that wait", n, err)
			}
			b.move(t, late, finished(Move{Owner: owner}), Moved) // the caller owns it
		},
		"the answer to one who cannot be reached in time is lost": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Minute)
			first := b.issue(t)
			for range 2 {
				row, err := b.Consume(t.Context(), first, owner, []byte("code"), 30*time.Second, 20*time.Second)
				must(t, err)
				if row.Turn.Place != 2 || row.Turn.Wait <= 20*time.Second {
					t.Errorf("got %+v, want the second place, which comes too late", row.Turn)
				}
			}
			if n, err := b.Count(t.Context(), Turns); n != 1 || err != nil {
				t.Errorf("got %d, %v, want one that waits", n, err)
			}
		},
		"whoever waits goes on waiting when the wait grows, and the answer was lost": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			under, another, _ := b.arrive(t)
			b.refused(t, key, owner, 10*time.Second)
			key, owner, _ = b.arrive(t)
			b.refused(t, under, another, time.Minute)
			row, err := b.Consume(t.Context(), key, owner, []byte("code"), 30*time.Second, 20*time.Second)
			must(t, err)
			if row.Turn.Place == 0 || row.Turn.Wait > 20*time.Second {
				t.Errorf("got %+v, want a turn: the caller has no lease", row.Turn)
			}
		},
		"whoever waits is due nowhere else": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Minute)
			b.arrive(t)
			b.wait(40 * time.Second) // their leases would have ended
			b.claim(t, "")
			b.takeTurn(t, "")
		},
		"those who do not wait take no place": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Minute)
			_, _, first := b.arrive(t)
			for range 10 {
				b.consume(t) // a disconnect, or one who was told at once
			}
			last, _, turn := b.arrive(t)
			if first.Place != 2 || turn.Place != 3 {
				t.Errorf("got %+v, and then %+v, want places 2 and 3", first, turn)
			}
			row, err := b.Look(t.Context(), last)
			must(t, err)
			if turn, err := b.Turn(t.Context(), row.Number); turn.Place != 3 || err != nil {
				t.Errorf("got %+v, %v, want place 3", turn, err)
			}
			if turn, err := b.Turn(t.Context(), row.Number-1); turn != (Turn{}) || err != nil {
				t.Errorf("got %+v, %v, want no turn of one who does not wait", turn, err)
			}
		},
		"a refusal that is repeated counts once": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Second)
			keys := []Key{key}
			for range 6 {
				key, _, _ := b.arrive(t)
				keys = append(keys, key)
			}
			b.wait(2 * time.Second)
			for _, key := range keys[:3] {
				owner, _ = b.takeTurn(t, key)
			}
			for range 3 { // Slack allowed two
				b.refused(t, keys[2], owner, 10*time.Second)
			}
			b.wait(11 * time.Second)
			b.takeTurn(t, keys[2])
			b.takeTurn(t, keys[3])
			if _, next := b.takeTurn(t, ""); next <= 0 || next > probePause {
				t.Errorf("after the two that Slack allows, the next turn is in %v, want at most %v", next, probePause)
			}
		},
		"a flow that needs no turn takes none": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Minute)
			key, owner = b.consume(t)
			b.move(t, key, recorded(owner, "ada", ""), Moved)
		},
		"a code that is too old is claimed while the gate is closed": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Minute)
			b.wait(CodeLife - 30*time.Second)
			owner, _ = b.takeTurn(t, key)
			b.arrive(t)
			b.refused(t, key, owner, time.Minute)
			_, wait := b.takeTurn(t, "")
			wantNear(t, "the end of the oldest code", wait, 30*time.Second)
			b.wait(31 * time.Second)
			_, row, _, err := b.Claim(t.Context(), Turns, NewOwner(), time.Minute)
			must(t, err)
			if row.Age < CodeLife {
				t.Errorf("got a row of age %v, want at least %v", row.Age, CodeLife)
			}
			b.takeTurn(t, "")
		},
		"whose instance died is claimed by the others' queue": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Second)
			b.wait(2 * time.Second)
			b.takeTurn(t, key)
			b.takeTurn(t, "")
			b.claim(t, "")
			b.wait(31 * time.Second)
			_, owner, _ = b.claim(t, key)
			b.refused(t, key, owner, time.Second)
			b.wait(2 * time.Second)
			b.takeTurn(t, key)
		},
		"a row whose code will not live until Slack allows it ends, and the others wait": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, 20*time.Minute)
			b.move(t, key, finished(Move{Owner: owner}), Moved)
			if n, err := b.Count(t.Context(), Turns); n != 0 || err != nil {
				t.Errorf("got %d, %v that wait, want none", n, err)
			}
			key, _, turn := b.arrive(t)
			if turn.Place != 1 {
				t.Errorf("got place %d, want 1", turn.Place)
			}
			wantNear(t, "wait", turn.Wait, maxClosed)
			b.wait(maxClosed + time.Second)
			b.takeTurn(t, key)
		},
		"the answer of each step is lost": func(t *testing.T, b testBackend) {
			first, owner, _ := b.arrive(t)
			b.refused(t, first, owner, time.Minute)
			b.refused(t, first, owner, time.Minute)
			key, owner, turn := b.arrive(t)
			for range 2 {
				row, err := b.Consume(t.Context(), key, owner, []byte("again"), 30*time.Second, patience)
				must(t, err)
				if row.Turn.Place != turn.Place || row.Phase != Working {
					t.Errorf("got %+v, want the same turn as before, %+v", row, turn)
				}
			}
			if n, err := b.Count(t.Context(), Turns); n != 2 || err != nil {
				t.Errorf("got %d, %v, want 2 that wait", n, err)
			}
			b.claim(t, "")
			b.wait(61 * time.Second)
			taker, _ := b.takeTurn(t, first)
			b.takeTurn(t, key)
			b.move(t, first, recorded(taker, "ada", ""), Moved)
			b.move(t, first, Move{Owner: owner, To: Working, Close: time.Minute}, Lost) // late, by the one before
		},
		"a row's turn": func(t *testing.T, b testBackend) {
			first, owner, _ := b.arrive(t)
			b.refused(t, first, owner, 40*time.Second)
			b.arrive(t)
			key, _, _ := b.arrive(t)
			row, err := b.Look(t.Context(), key)
			must(t, err)
			turn, err := b.Turn(t.Context(), row.Number)
			must(t, err)
			if turn.Place != 3 {
				t.Errorf("got %+v, want place 3", turn)
			}
			wantNear(t, "wait", turn.Wait, 40*time.Second)
			b.wait(41 * time.Second)
			for range 3 {
				b.Claim(t.Context(), Turns, NewOwner(), time.Minute)
			}
			if turn, err := b.Turn(t.Context(), row.Number); turn != (Turn{}) || err != nil {
				t.Errorf("got %+v, %v, want none after its turn", turn, err)
			}
		},
		"the clock steps back": func(t *testing.T, b testBackend) {
			key, owner, _ := b.arrive(t)
			b.refused(t, key, owner, time.Minute)
			b.wait(-time.Hour)
			b.takeTurn(t, key)
		},
		"dropped, expired and malformed rows hold up nothing": func(t *testing.T, b testBackend) {
			dropped, owner, _ := b.arrive(t)
			b.refused(t, dropped, owner, time.Second)
			malformed, _, _ := b.arrive(t)
			key, _, _ := b.arrive(t)
			must(t, b.Drop(t.Context(), dropped))
			if n, err := b.Count(t.Context(), Turns); n != 2 || err != nil {
				t.Errorf("got %d, %v, want 2 that wait", n, err)
			}
			b.write(malformed, "garbage")
			b.wait(2 * time.Second)
			_, _, _, err := b.Claim(t.Context(), Turns, NewOwner(), time.Minute)
			if !errors.Is(err, MalformedError(malformed)) {
				t.Errorf("got %v, want the malformed row", err)
			}
			b.takeTurn(t, key)
			b.takeTurn(t, "")
		},
		"the queue can be listed": func(t *testing.T, b testBackend) {
			first, owner, _ := b.arrive(t)
			b.refused(t, first, owner, time.Minute)
			second, _, _ := b.arrive(t)
			var got []string
			must(t, b.List(t.Context(), Turns, func(key Key, row Row, due time.Time, err error) bool {
				got = append(got, fmt.Sprint(key, " ", string(rune(row.Phase)), " ", due.IsZero(), " ", err))
				return true
			}))
			if want := fmt.Sprint([]string{string(first) + " w true <nil>", string(second) + " w true <nil>"}); fmt.Sprint(got) != want {
				t.Errorf("got %v, want %v", got, want)
			}
			if more, err := b.Wake(t.Context(), Turns); more || err != nil {
				t.Errorf("Wake: got %t, %v", more, err)
			}
			b.takeTurn(t, "")
		},
	}
	eachBackend(t, func(t *testing.T, b testBackend) {
		for name, test := range cases {
			t.Run(name, func(t *testing.T) {
				clearBackend(t, b)
				test(t, b)
			})
		}
	})
}
