package link

import (
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Result is the outcome of a flow, as the app learns it in signed form. Its JSON is a
// part of the token's claims; empty fields are left out.
type Result struct {
	Subscriber string `json:"-"` // of the flow's link; the claim sub
	FlowID     string `json:"-"` // the claim jti; empty if the link began no flow
	ReturnURL  string `json:"-"` // of the flow's link; its origin is the audience

	Outcome     string `json:"outcome"`          // connected, pending, disconnected or error
	Reason      string `json:"reason,omitempty"` // the code of an error
	Channel     string `json:"channel,omitempty"`
	ChannelID   string `json:"channelId,omitempty"`
	Team        string `json:"team,omitempty"`
	TeamID      string `json:"teamId,omitempty"`
	Integration string `json:"integrationIdentifier,omitempty"` // Novu's
}

const (
	resultType = "slack-result+jwt" // the token's header parameter typ (RFC 8725 section 3.11)
	resultLife = 10 * time.Minute
)

// resultClaims are the claims of a signed result. Its audience is one string, not a list,
// because that is simpler to verify where a library does not.
type resultClaims struct {
	jwt.RegisteredClaims
	Audience string `json:"aud"`
	Result
}

// SignResult returns r as a JWT, which the holder of Verifier's first secret can verify
// for 10 minutes. Its issuer is the Verifier's origin. It is no link: Verify refuses it. Its
// length is about 200 bytes and four thirds of the fields' length.
//
// It returns "" if there is no secret, or no return URL and so no audience.
func (v *Verifier) SignResult(r Result) (string, error) {
	if len(v.Secrets) == 0 || v.Secrets[0].Empty() || r.ReturnURL == "" {
		return "", nil
	}
	to, err := ParseReturnURL(r.ReturnURL)
	if err != nil {
		return "", fmt.Errorf("sign result: the return URL %w", err)
	}
	now := v.now()
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, resultClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: v.Origin, Subject: r.Subscriber, ID: r.FlowID, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(resultLife)),
		},
		Audience: Origin(to), Result: r,
	})
	token.Header["typ"] = resultType
	signed, err := token.SignedString([]byte(v.Secrets[0].Reveal()))
	if err != nil {
		return "", fmt.Errorf("sign result: %w", err)
	}
	return signed, nil
}

// isLinkType reports whether a token's header has the typ of a link: JWT, or none. A
// result, or whatever else the secret signs, is not a link.
func isLinkType(header map[string]any) bool {
	typ, ok := header["typ"]
	text, _ := typ.(string)
	return !ok || strings.EqualFold(text, "JWT")
}
