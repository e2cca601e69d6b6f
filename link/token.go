package link

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"novu-slack-redirect/secret"
)

// base64url is what the parts of a token are written in (RFC 7515 section 2).
var base64url = base64.RawURLEncoding.Strict()

// signToken returns a JWT with HS256 (RFC 7519), signed with the Verifier's first secret.
// The header is written in base64url already.
func (v *Verifier) signToken(header string, claims any) (string, error) {
	if len(v.Secrets) == 0 || v.Secrets[0].Empty() {
		return "", errors.New("sign token: there is no secret")
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	text := header + "." + base64url.EncodeToString(payload)
	return text + "." + base64url.EncodeToString(hmacSHA256(v.Secrets[0], text)), nil
}

// checkToken returns an error unless one of the Verifier's secrets signed a token, and the
// token is a link. Nothing of it is decoded before its signature is right.
func (v *Verifier) checkToken(token string) error {
	encoded, rest, _ := strings.Cut(token, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	switch {
	case len(v.Secrets) == 0:
		return errors.New("signed links need a LINK_SECRET")
	case len(token) > maxToken:
		return errors.New("the token is too long")
	case !isSigned(encoded+"."+payload, signature, base64url.EncodeToString, v.Secrets):
		return errors.New("the token is not signed with the LINK_SECRET")
	}
	var header struct {
		Algorithm string         `json:"alg"`
		Type      jsontext.Value `json:"typ"`
		Critical  jsontext.Value `json:"crit"`
	}
	text, err := base64url.DecodeString(encoded)
	if err == nil {
		err = json.Unmarshal(text, &header)
	}
	switch {
	case err != nil || header.Algorithm != "HS256":
		return errors.New("the token's header is not that of a JWT with HS256")
	case header.Critical != nil: // RFC 7515 section 4.1.11
		return errors.New("the token has critical header parameters")
	case header.Type != nil && !strings.EqualFold(string(header.Type), `"JWT"`): // a result, or whatever else the secret signs
		return errors.New("the token is not a link: the header parameter typ is not JWT")
	}
	return nil
}

// isSigned reports whether one of the keys makes this signature of text, written by encode.
// Signatures are compared as they are written, in constant time, so that each has one form.
func isSigned(text, signature string, encode func([]byte) string, keys []secret.String) bool {
	return slices.ContainsFunc(keys, func(key secret.String) bool {
		return !key.Empty() && hmac.Equal([]byte(encode(hmacSHA256(key, text))), []byte(signature))
	})
}

func hmacSHA256(key secret.String, text string) []byte {
	mac := hmac.New(sha256.New, []byte(key.Reveal()))
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
