package link

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// claims are the claims of a signed link.
type claims struct {
	jwt.RegisteredClaims        // sub is the subscriber
	Integration          string `json:"integrationIdentifier,omitempty"`
	Environment          string `json:"environmentId,omitempty"`
	ReturnURL            string `json:"returnUrl,omitempty"`
	TeamID               string `json:"teamId,omitempty"`
	AccountName          string `json:"accountName,omitempty"`
	Action               string `json:"action,omitempty"`

	Context json.RawMessage `json:"context,omitempty"`
}

// claimError says what is wrong with the form of a token's claims. It quotes none.
type claimError string

func (e claimError) Error() string { return string(e) }

// UnmarshalJSON decodes the claims more strictly than encoding/json does, so that no
// restriction of a link gets lost: a name counts to the letter and may occur once, and
// one that is nearly a known name is an error. Other claims are ignored. Text must be
// UTF-8 as it is: what cannot be decoded is not replaced.
func (c *claims) UnmarshalJSON(payload []byte) error {
	if !utf8.Valid(payload) {
		return claimError("the claims are not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return claimError("the claims are not a JSON object")
	}
	fields := c.fields()
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		if seen[name] {
			return claimError("a claim occurs more than once")
		}
		seen[name] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		field, known := fields[name]
		if !known {
			if near := nearlyKnown(name, fields); near != "" {
				return claimError("a claim's name is nearly " + near + "; names count to the letter")
			}
			continue
		}
		if err := json.Unmarshal(value, field); err != nil {
			return claimError(fmt.Sprintf("the claim %s is not %s", name, formOf(field)))
		}
		if text, ok := field.(*string); ok && strings.ContainsRune(*text, utf8.RuneError) {
			return claimError("the claim " + name + " is not UTF-8")
		}
	}
	return nil
}

// fields returns where the value of each claim that is known goes.
func (c *claims) fields() map[string]any {
	return map[string]any{
		"sub": &c.Subject, "exp": &c.ExpiresAt, "nbf": &c.NotBefore, "aud": &c.Audience,
		"integrationIdentifier": &c.Integration, "environmentId": &c.Environment, "returnUrl": &c.ReturnURL, "teamId": &c.TeamID,
		"accountName": &c.AccountName, "action": &c.Action, "context": &c.Context,
	}
}

// formOf returns the form that a claim must have.
func formOf(field any) string {
	switch field.(type) {
	case **jwt.NumericDate:
		return "a number: it counts seconds since 1970"
	case *jwt.ClaimStrings:
		return "a string or a list of strings"
	}
	return "a string"
}

// nearlyKnown returns the known claim that name was probably meant for, or nothing: it
// differs in case, - and _, by a letter, or is only its beginning.
func nearlyKnown(name string, known map[string]any) string {
	name = BareName(name)
	for candidate := range known {
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

// decodeClaims reads the claims of a token whose signature was verified earlier.
func decodeClaims(token string) (c claims, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, errors.New("the token has not three parts")
	}
	payload, err := jwt.NewParser().DecodeSegment(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &c)
	}
	return c, err
}
