package link

import (
	"fmt"
	"time"
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

const resultLife = 10 * time.Minute

// resultHeader begins every signed result. Its typ tells it from a link (RFC 8725 section
// 3.11).
var resultHeader = base64url.EncodeToString([]byte(`{"alg":"HS256","typ":"slack-result+jwt"}`))

// resultClaims are the claims of a signed result. Its audience is one string, not a list,
// because that is simpler to verify where a library does not.
type resultClaims struct {
	Issuer     string `json:"iss"`
	Subscriber string `json:"sub"`
	ExpiresAt  int64  `json:"exp"`
	IssuedAt   int64  `json:"iat"`
	FlowID     string `json:"jti,omitempty"`
	Audience   string `json:"aud"`
	*Result
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
	return v.signToken(resultHeader, &resultClaims{v.Origin, r.Subscriber, now.Add(resultLife).Unix(), now.Unix(), r.FlowID, Origin(to), &r})
}
