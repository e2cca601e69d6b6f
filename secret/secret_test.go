package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"novu-slack-redirect/secret"
)

const canary = "canary-3f9a"

func TestNothingPrintsASecret(t *testing.T) {
	s := secret.New(canary)
	type outer struct {
		Exported   secret.String
		unexported secret.String
		pointer    *secret.String
		list       []secret.String
	}
	holder := outer{s, s, &s, []secret.String{s}}

	for _, value := range []any{s, &s, holder, &holder, []any{s}, map[string]any{"k": s}, errors.Join(fmt.Errorf("%v", s))} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%t", "%o", "%b", "%c", "%U", "%e", "%p", "%T"} {
			check(t, verb, fmt.Sprintf(verb, value))
		}
		if out, err := json.Marshal(value); err == nil {
			check(t, "json", string(out))
		}
		var buf bytes.Buffer
		log := zerolog.New(&buf)
		log.Log().Interface("v", value).Any("a", value).Msg("")
		slog.New(slog.NewTextHandler(&buf, nil)).Info("", "v", value)
		check(t, "logs", buf.String())
	}
	if got := fmt.Sprint(s); got != "[secret]" {
		t.Errorf("Sprint: got %q, want [secret]", got)
	}
}

// check fails for the text itself and for its hex and decimal spellings.
func check(t *testing.T, how, out string) {
	t.Helper()
	spellings := []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), strings.Trim(fmt.Sprint([]byte(canary)), "[]")}
	for _, leak := range spellings {
		if strings.Contains(out, leak) {
			t.Errorf("%s printed the secret: %q", how, out)
		}
	}
}

func TestEqual(t *testing.T) {
	for _, c := range []struct {
		s    secret.String
		text string
		want bool
	}{
		{secret.New("a"), "a", true},
		{secret.New("a"), "b", false},
		{secret.New("a"), "", false},
		{secret.String{}, "", false},
		{secret.New(""), "", false},
	} {
		if got := c.s.Equal(c.text); got != c.want {
			t.Errorf("Equal(%q, %q): got %t, want %t", c.s.Reveal(), c.text, got, c.want)
		}
	}
}

func TestUnmarshalTextKeepsTheText(t *testing.T) {
	var s secret.String
	if err := s.UnmarshalText([]byte(canary)); err != nil || s.Reveal() != canary {
		t.Errorf("got %q, %v, want the text", s.Reveal(), err)
	}
}
