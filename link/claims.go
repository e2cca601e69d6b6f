package link

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
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
	// The decoder refuses a name that occurs twice. It may replace broken escapes, which
	// are harmless in claims that are ignored.
	d := jsontext.NewDecoder(bytes.NewBuffer(payload), jsontext.AllowInvalidUTF8(true))
	if start, err := d.ReadToken(); err != nil || start.Kind() != '{' {
		return claimError("the claims are not a JSON object")
	}
	for d.PeekKind() != '}' {
		token, err := d.ReadToken()
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return claimError("a claim occurs more than once")
		}
		if err != nil {
			return err
		}
		name := token.String()
		field := c.field(name)
		if field == nil {
			if near := nearlyKnown(name); near != "" {
				return claimError("a claim's name is nearly " + near + "; names count to the letter")
			}
			if err := d.SkipValue(); err != nil {
				return err
			}
			continue
		}
		if !readClaim(d, field) {
			return claimError(fmt.Sprintf("the claim %s is not %s", name, formOf(field)))
		}
		if text, ok := field.(*string); ok && strings.ContainsRune(*text, utf8.RuneError) {
			return claimError("the claim " + name + " is not UTF-8")
		}
	}
	return nil
}

// readClaim reads the value of a claim into its field, and reports whether the value has
// the form of the field. Null leaves the field as it is.
func readClaim(d *jsontext.Decoder, field any) bool {
	switch field := field.(type) {
	case *json.RawMessage:
		value, err := d.ReadValue()
		*field = json.RawMessage(value.Clone())
		return err == nil
	case *jwt.ClaimStrings:
		if d.PeekKind() == '[' {
			value, err := d.ReadValue()
			return err == nil && json.Unmarshal(value, (*[]string)(field)) == nil
		}
		*field = make(jwt.ClaimStrings, 1)
		return readClaim(d, &(*field)[0])
	}
	value, err := d.ReadToken()
	if err != nil {
		return false
	}
	switch field := field.(type) {
	case *string:
		if value.Kind() == '"' {
			*field = value.String()
			return true
		}
	case **jwt.NumericDate:
		if value.Kind() == '0' {
			seconds, _ := value.Int() // the error says that a fraction was dropped
			*field = jwt.NewNumericDate(time.Unix(seconds, 0))
			return true
		}
	}
	return value.Kind() == 'n'
}

// knownClaims are those that field knows.
var knownClaims = []string{
	"sub", "exp", "nbf", "aud", "integrationIdentifier", "environmentId", "returnUrl", "teamId", "accountName", "action", "context",
}

// field returns where the value of a claim goes, or nil if it is not known.
func (c *claims) field(name string) any {
	switch name {
	case "sub":
		return &c.Subject
	case "exp":
		return &c.ExpiresAt
	case "nbf":
		return &c.NotBefore
	case "aud":
		return &c.Audience
	case "integrationIdentifier":
		return &c.Integration
	case "environmentId":
		return &c.Environment
	case "returnUrl":
		return &c.ReturnURL
	case "teamId":
		return &c.TeamID
	case "accountName":
		return &c.AccountName
	case "action":
		return &c.Action
	case "context":
		return &c.Context
	}
	return nil
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

// decodeClaims reads the claims of a token that was verified earlier.
func decodeClaims(token string) (c claims, err error) {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err == nil {
		err = c.UnmarshalJSON(text)
	}
	return c, err
}
