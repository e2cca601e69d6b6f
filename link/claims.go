package link

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// claims are the claims of a signed link.
type claims struct {
	Request
	Audience  audience                  `json:"aud"`
	ExpiresAt *float64                  `json:"exp"` // seconds since 1970; nil if the token has none
	NotBefore *float64                  `json:"nbf,omitzero"`
	Context   jsontext.Value            `json:"context,omitzero"` // not parsed, unlike the Request's
	Others    map[string]jsontext.Value `json:",embed"`
}

// knownClaims are the names of those, without the others.
var knownClaims = []string{
	"sub", "exp", "nbf", "aud", "integrationIdentifier", "environmentId", "returnUrl", "teamId", "accountName", "action", "context",
}

// audience is a string or a list of strings.
type audience []string

func (a *audience) UnmarshalJSON(text []byte) error {
	if text[0] != '"' {
		return json.Unmarshal(text, (*[]string)(a))
	}
	*a = audience{""}
	return json.Unmarshal(text, &(*a)[0])
}

// decodeClaims decodes the claims of a token whose signature was checked, so that no
// restriction of a link gets lost: a name counts to the letter and may occur once, and one
// that is nearly a known name is an error. Other claims are ignored. Text must be UTF-8 as it
// is: what cannot be decoded is not replaced. Errors quote nothing of the token.
func decodeClaims(token string) (c claims, err error) {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64url.DecodeString(payload)
	switch {
	case err != nil:
		return c, errors.New("the claims are not base64url")
	case !utf8.Valid(text):
		return c, errors.New("the claims are not UTF-8")
	}
	// Broken escapes are harmless in claims that are ignored.
	err = json.Unmarshal(text, &c, jsontext.AllowInvalidUTF8(true))
	mismatch, isMismatch := errors.AsType[*json.SemanticError](err)
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return c, errors.New("a claim occurs more than once")
	case isMismatch:
		return c, mismatchError(strings.TrimPrefix(string(mismatch.JSONPointer), "/"))
	case err != nil:
		return c, errors.New("the claims are not JSON")
	}
	for name := range c.Others {
		if near := nearlyKnown(name); near != "" {
			return c, errors.New("a claim's name is nearly " + near + "; names count to the letter")
		}
	}
	if strings.ContainsRune(c.Subscriber+c.Integration+c.Environment+c.ReturnURL+c.TeamID+c.AccountName+c.Action, utf8.RuneError) {
		return c, errors.New("a claim is not UTF-8")
	}
	return c, nil
}

// mismatchError says which form a claim must have.
func mismatchError(name string) error {
	form := "a string"
	switch name {
	case "":
		return errors.New("the claims are not a JSON object")
	case "exp", "nbf":
		form = "a number: it counts seconds since 1970"
	case "aud":
		form = "a string or a list of strings"
	}
	return errors.New("the claim " + name + " is not " + form)
}

// nearlyKnown returns the known claim that name was probably meant for, or nothing: it
// differs in case, - and _, by a letter, or is only its beginning.
func nearlyKnown(name string) string {
	if name == "iat" || name == "iss" || name == "jti" { // JWT's own, which most libraries write
		return ""
	}
	name = BareName(name)
	for _, candidate := range knownClaims {
		bare := BareName(candidate)
		if name == bare || len(bare) > 3 && (WithinOneEdit(name, bare) || len(name) > 3 && strings.HasPrefix(bare, name)) {
			return candidate
		}
	}
	return ""
}

// BareName returns the letters and digits of a name, in lower case.
func BareName(name string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
}

// WithinOneEdit reports whether a and b differ by one letter that is missing, added or
// other, or by two neighbours that changed places.
func WithinOneEdit(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch len(b) - len(a) {
	case 0:
		return i == len(a) || a[i+1:] == b[i+1:] || i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
	case 1:
		return a[i:] == b[i+1:]
	}
	return false
}
