package link

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
)

// claims are the claims of a signed link.
type claims struct {
	jwt.Claims  `json:"-"`       // nil: the parser, which wants its methods, does not call them
	Subject     string           `json:"sub"`
	ExpiresAt   *float64         `json:"exp"` // seconds since 1970; nil if the token has none
	NotBefore   *float64         `json:"nbf,omitempty"`
	Audience    jwt.ClaimStrings `json:"aud"`
	Integration string           `json:"integrationIdentifier,omitempty"`
	Environment string           `json:"environmentId,omitempty"`
	ReturnURL   string           `json:"returnUrl,omitempty"`
	TeamID      string           `json:"teamId,omitempty"`
	AccountName string           `json:"accountName,omitempty"`
	Action      string           `json:"action,omitempty"`
	Context     json.RawMessage  `json:"context,omitempty"`
}

// knownClaims are the names of those.
var knownClaims = []string{
	"sub", "exp", "nbf", "aud", "integrationIdentifier", "environmentId", "returnUrl", "teamId", "accountName", "action", "context",
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
	type plain claims // without this method
	var in struct {
		plain
		Others map[string]jsontext.Value `json:",embed"`
	}
	// Broken escapes are harmless in claims that are ignored.
	err := jsonv2.Unmarshal(payload, &in, jsontext.AllowInvalidUTF8(true))
	var mismatch *jsonv2.SemanticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return claimError("a claim occurs more than once")
	case errors.As(err, &mismatch):
		return mismatchError(strings.TrimPrefix(string(mismatch.JSONPointer), "/"))
	case err != nil:
		return err
	}
	for name := range in.Others {
		if near := nearlyKnown(name); near != "" {
			return claimError("a claim's name is nearly " + near + "; names count to the letter")
		}
	}
	*c = claims(in.plain)
	if strings.ContainsRune(c.Subject+c.Integration+c.Environment+c.ReturnURL+c.TeamID+c.AccountName+c.Action, utf8.RuneError) {
		return claimError("a claim is not UTF-8")
	}
	return nil
}

// mismatchError says which form a claim must have.
func mismatchError(name string) claimError {
	form := "a string"
	switch name {
	case "":
		return "the claims are not a JSON object"
	case "exp", "nbf":
		form = "a number: it counts seconds since 1970"
	case "aud":
		form = "a string or a list of strings"
	}
	return claimError("the claim " + name + " is not " + form)
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
