package handler

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// Links signs and verifies install links. A signed link carries a JWT (RFC 7519)
// with HS256; a Novu-style link carries the subscriber's HMAC of Novu's guide.
type Links struct {
	Origin      string          // public origin, the audience of signed links
	Secrets     []secret.String // all verify signed links, the first signs
	APIKeys     []secret.String // all verify Novu-style links
	Environment string          // if set, the only Novu environment accepted
	Integration string          // used when a link names none
	Contexts    bool            // keep the context of signed links, for channel endpoints
	ReturnURLs  []*url.URL      // allowed prefixes; the first is used when a link names none
	Now         func() time.Time
}

// Clocks of the signer and the service may differ by this much.
const leeway = time.Minute

// A link opened in a popup says so, signed or not: it changes only how the result
// is told.
const (
	displayParam = "display"
	displayPopup = "popup"
)

const (
	maxToken = 4096 // bytes
	maxID    = 255  // bytes of a subscriber ID or an identifier
)

// claims are those of a signed link. Unknown ones are ignored.
type claims struct {
	jwt.RegisteredClaims
	Integration string          `json:"integrationIdentifier,omitempty"`
	Environment string          `json:"environmentId,omitempty"`
	ReturnURL   string          `json:"returnUrl,omitempty"`
	TeamID      string          `json:"teamId,omitempty"`
	Context     json.RawMessage `json:"context,omitempty"`
}

// Sign returns a signed link for flow that works until expires. The flow's
// LinkExpires is not looked at. A subscriber ID that no link may have is an
// error.
func (l *Links) Sign(flow state.Flow, expires time.Time) (string, error) {
	if err := CheckSubscriberID(flow.Subscriber); err != nil {
		return "", err
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   flow.Subscriber,
			Audience:  jwt.ClaimStrings{l.Origin},
			ExpiresAt: jwt.NewNumericDate(expires),
		},
		Integration: flow.Integration, Environment: flow.Environment, ReturnURL: flow.ReturnURL, TeamID: flow.TeamID, Context: json.RawMessage(flow.Context),
	}).SignedString([]byte(l.Secrets[0].Reveal()))
	if err != nil {
		return "", fmt.Errorf("sign link: %w", err)
	}
	return l.Origin + InstallPath + "?token=" + token, nil
}

// Accept returns what is wrong with a link, if anything.
func (l *Links) Accept(link string) error {
	r, err := http.NewRequest(http.MethodGet, link, nil)
	if err == nil {
		_, err = l.verify(r, "")
	}
	return err
}

// verify returns the flow that a link asks for, or a *problem. Nothing of a link
// is used before its signature is right. The path's subscriber is empty except
// on Novu's Shareable URL.
func (l *Links) verify(r *http.Request, pathSubscriber string) (flow state.Flow, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return flow, &problem{code: codeLinkInvalid, err: errors.New("link: the query is malformed")}
	}
	for _, name := range []string{"token", "subscriberId", "hmacHash", "environmentId", "integrationIdentifier", "returnUrl", displayParam} {
		if len(query[name]) > 1 {
			return flow, &problem{code: codeLinkInvalid, err: fmt.Errorf("link: %s stands in it more than once", name)}
		}
	}
	if pathSubscriber != "" {
		if query.Has("subscriberId") || query.Has("token") {
			return flow, &problem{code: codeLinkInvalid, err: errors.New("link: two subscribers")}
		}
		query.Set("subscriberId", pathSubscriber)
	}
	switch {
	case query.Has("token") && !query.Has("subscriberId") && !query.Has("hmacHash"):
		flow, err = l.verifySigned(query.Get("token"))
	case query.Has("subscriberId") && !query.Has("token"):
		flow, err = l.verifyNovuStyle(query)
	default:
		err = errors.New("neither a token nor a subscriberId with its hmacHash")
	}
	if err == nil {
		err = l.check(&flow)
	}
	flow.Popup = query.Get(displayParam) == displayPopup
	if p := (*problem)(nil); err != nil && !errors.As(err, &p) {
		err = &problem{code: codeLinkInvalid, err: fmt.Errorf("link: %w", err)}
	}
	return flow, err
}

func (l *Links) verifySigned(token string) (state.Flow, error) {
	if len(token) > maxToken {
		return state.Flow{}, errors.New("the token is too long")
	}
	var c claims
	parsed, err := jwt.NewParser(
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithStrictDecoding(), jwt.WithExpirationRequired(),
		jwt.WithAudience(l.Origin), jwt.WithLeeway(leeway), jwt.WithTimeFunc(l.Now),
	).ParseWithClaims(token, &c, l.keys)
	if err != nil {
		// Expired and nothing else: the person only needs a fresh link.
		if errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidAudience) && !errors.Is(err, jwt.ErrTokenNotValidYet) {
			return state.Flow{}, &problem{code: codeLinkExpired, err: errors.New("link: expired")}
		}
		return state.Flow{}, tokenError(err)
	}
	if _, critical := parsed.Header["crit"]; critical { // RFC 7515 section 4.1.11
		return state.Flow{}, errors.New("the token has critical header parameters")
	}
	context, err := l.context(c.Context)
	return state.Flow{
		Context: context, Subscriber: c.Subject, Integration: c.Integration, Environment: c.Environment,
		ReturnURL: c.ReturnURL, TeamID: c.TeamID, LinkExpires: c.ExpiresAt.Unix(),
	}, err
}

// context returns a link's context in one form, so that the same context is the
// same text: keys sorted, no spaces.
func (l *Links) context(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || !l.Contexts {
		return "", nil
	}
	var object map[string]any
	from := json.NewDecoder(bytes.NewReader(raw))
	from.UseNumber()
	if err := from.Decode(&object); err != nil {
		return "", errors.New("the context is not a JSON object")
	}
	if len(object) == 0 {
		return "", nil
	}
	text, err := json.Marshal(object)
	return string(text), err
}

// tokenError tells what is wrong with a token without the library's text, which
// quotes from it.
func tokenError(err error) error {
	for _, known := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenRequiredClaimMissing,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenNotValidYet, jwt.ErrTokenExpired,
	} {
		if errors.Is(err, known) {
			return known
		}
	}
	return errors.New("the token's claims are not right")
}

func (l *Links) keys(*jwt.Token) (any, error) {
	var set jwt.VerificationKeySet
	for _, s := range l.Secrets {
		if !s.Empty() {
			set.Keys = append(set.Keys, []byte(s.Reveal()))
		}
	}
	return set, nil
}

// verifyNovuStyle checks the guide's HMAC: hex(HMAC-SHA256(API key, subscriber)).
func (l *Links) verifyNovuStyle(query url.Values) (state.Flow, error) {
	subscriber := query.Get("subscriberId")
	got, err := hex.DecodeString(query.Get("hmacHash"))
	if err != nil || !slices.ContainsFunc(l.APIKeys, func(key secret.String) bool {
		mac := hmac.New(sha256.New, []byte(key.Reveal()))
		mac.Write([]byte(subscriber))
		return !key.Empty() && hmac.Equal(got, mac.Sum(nil))
	}) {
		return state.Flow{}, errors.New("the hmacHash is not the subscriber's")
	}
	flow := state.Flow{
		Subscriber: subscriber, Integration: query.Get("integrationIdentifier"),
		Environment: query.Get("environmentId"), ReturnURL: query.Get("returnUrl"),
	}
	// The hash does not cover the return URL: only the operator's list does.
	if flow.ReturnURL != "" {
		u, err := ParseReturnURL(flow.ReturnURL)
		if err == nil && !within(l.ReturnURLs, u) {
			err = errors.New("is not under RETURN_URLS")
		}
		if err != nil {
			return flow, &problem{code: codeReturnURL, err: fmt.Errorf("link: returnUrl %w", err)}
		}
	}
	return flow, nil
}

// check looks at what a rightly signed link says, and fills in the defaults.
func (l *Links) check(flow *state.Flow) error {
	if err := CheckSubscriberID(flow.Subscriber); err != nil {
		return err
	}
	for _, id := range []string{flow.Integration, flow.Environment, flow.TeamID} {
		if len(id) > maxID || !plainText(id) {
			return errors.New("an identifier is too long or has control characters")
		}
	}
	if l.Environment != "" && flow.Environment != "" && flow.Environment != l.Environment {
		return errors.New("the link is for another Novu environment")
	}
	if flow.ReturnURL != "" {
		if _, err := ParseReturnURL(flow.ReturnURL); err != nil {
			return &problem{code: codeReturnURL, err: fmt.Errorf("link: returnUrl %w", err)}
		}
	} else if len(l.ReturnURLs) > 0 {
		flow.ReturnURL = l.ReturnURLs[0].String()
	}
	if flow.Integration == "" {
		flow.Integration = l.Integration
	}
	return nil
}

// CheckSubscriberID returns what is wrong with id, if anything: it must be 1 to
// 255 bytes of UTF-8 without control characters, and not a dot segment.
func CheckSubscriberID(id string) error {
	switch {
	case id == "":
		return errors.New("the subscriber ID is empty")
	case len(id) > maxID:
		return fmt.Errorf("the subscriber ID has more than %d bytes", maxID)
	case slices.Contains([]string{".", ".."}, id):
		return errors.New("the subscriber ID is a dot segment")
	case !plainText(id):
		return errors.New("the subscriber ID has control characters or is not UTF-8")
	}
	return nil
}

func plainText(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}
