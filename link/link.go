// Package link signs and verifies install links, and checks return URLs and
// subscriber IDs.
//
// A link comes in two kinds. A signed link carries a JWT (RFC 7519) with HS256.
// A Novu-style link carries the HMAC of the subscriber ID that Novu's Slack
// guide describes. Read parses the query of an install URL, and Verify returns what
// the link asks for if it is genuine. Use no part of a link before Verify has
// accepted it.
package link

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/secret"
)

// InstallPath is the path of the install URLs that Sign returns.
const InstallPath = "/slack/install"

var (
	// ErrExpired means that a signed link has expired and that nothing else is wrong
	// with it. Its holder only needs a fresh link.
	ErrExpired = errors.New("the link has expired")

	// ErrReturnURL means that a genuine link names a return URL that people may not
	// be sent to. The error that wraps it gives the cause.
	ErrReturnURL = errors.New("the return URL is not allowed")
)

// Link holds the parameters of an install URL, not verified. Token and Hash are
// credentials: store a Link sealed, and never log one.
//
// A Link that Verify accepts holds at most 4 KB of text, so that the record of its
// flow can keep it and Start again can verify it anew.
type Link struct {
	Token string `json:"t,omitempty"` // a signed link's JWT; the next five fields are empty

	Subscriber  string `json:"s,omitempty"` // this and the next four are of a Novu-style link
	Hash        string `json:"h,omitempty"`
	Integration string `json:"i,omitempty"`
	Environment string `json:"e,omitempty"`
	ReturnURL   string `json:"r,omitempty"`

	Popup bool `json:"p,omitempty"` // the link was opened in a popup (display=popup)
}

// Signed reports whether l is a signed link rather than a Novu-style one.
func (l Link) Signed() bool { return l.Token != "" }

// parameters are those of an install URL. Each may occur once, because parsers differ
// in which of two values they use.
var parameters = []string{"token", "subscriberId", "hmacHash", "environmentId", "integrationIdentifier", "returnUrl", "display"}

// Read reads the query of an install URL, unverified. It returns an error if a
// parameter occurs twice, or if the query is not exactly one of the two kinds of
// link. pathSubscriber is the subscriber in the path of Novu's Shareable URL, and
// empty on any other path.
func Read(rawQuery, pathSubscriber string) (Link, error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil { // the error quotes the query
		return Link{}, errors.New("link: the query is malformed")
	}
	for _, name := range parameters {
		if len(query[name]) > 1 {
			return Link{}, fmt.Errorf("link: %s occurs more than once", name)
		}
	}
	if pathSubscriber != "" {
		if query.Has("subscriberId") || query.Has("token") {
			return Link{}, errors.New("link: the path and the query both name a subscriber")
		}
		query.Set("subscriberId", pathSubscriber)
	}
	popup := query.Get("display") == "popup"
	switch {
	case query.Get("token") != "" && !query.Has("subscriberId") && !query.Has("hmacHash"):
		return Link{Token: query.Get("token"), Popup: popup}, nil
	case query.Has("subscriberId") && !query.Has("token"):
		return Link{
			Subscriber: query.Get("subscriberId"), Hash: query.Get("hmacHash"),
			Integration: query.Get("integrationIdentifier"), Environment: query.Get("environmentId"), ReturnURL: query.Get("returnUrl"),
			Popup: popup,
		}, nil
	}
	return Link{}, errors.New("link: the query has neither a token nor a subscriberId with its hmacHash")
}

// Request is what a verified link asks for, with the defaults filled in.
type Request struct {
	Subscriber  string // Novu's subscriber ID
	Integration string // Novu's integration identifier; empty if neither the link nor the Verifier names one
	Environment string // Novu's environment ID; empty if the link names none
	ReturnURL   string // where the person is sent at the end; empty if neither the link nor the Verifier names one
	TeamID      string // the only Slack workspace accepted; empty is any
	Context     string // of Novu's channel endpoint: a JSON object with sorted keys, or empty
	Popup       bool   // the link was opened in a popup
}

// Verifier verifies links, and signs them. Its methods may be called
// concurrently.
type Verifier struct {
	Origin      string           // public origin, the audience of signed links
	Secrets     []secret.String  // each verifies signed links, the first signs; empty ones verify nothing
	APIKeys     []secret.String  // each verifies Novu-style links; empty ones verify nothing
	Environment string           // if set, links that name another Novu environment are refused
	Integration string           // the default for links that name none
	Contexts    bool             // keep the context of signed links; only channel endpoints have one
	ReturnURLs  []*url.URL       // URL prefixes allowed in Novu-style links; the first is the default of all links
	Now         func() time.Time // nil is time.Now
}

const (
	leeway   = time.Minute // by which the clocks of the signer and the service may differ
	maxToken = 4096        // bytes
	maxID    = 255         // bytes of a subscriber ID or an identifier
)

// claims are the claims of a signed link; sub is the subscriber. Unknown ones are ignored.
type claims struct {
	jwt.RegisteredClaims
	requestClaims
}

// requestClaims are the claims that are ours.
type requestClaims struct {
	Integration string          `json:"integrationIdentifier,omitempty"`
	Environment string          `json:"environmentId,omitempty"`
	ReturnURL   string          `json:"returnUrl,omitempty"`
	TeamID      string          `json:"teamId,omitempty"`
	Context     json.RawMessage `json:"context,omitempty"`
}

// Verify returns what l asks for if l is genuine and allowed. The error wraps
// ErrExpired or ErrReturnURL where those apply, and quotes nothing of the link.
//
// ErrExpired comes with the Request all the same, so that the person can be led
// back to the app; any other error comes with the zero Request.
func (v *Verifier) Verify(l Link) (r Request, err error) {
	var c claims
	var expired bool
	if l.Signed() {
		c, expired, err = v.verifyToken(l.Token)
	} else {
		err = v.verifyHash(l)
	}
	if err == nil {
		r, err = v.request(l, c.Subject, c.requestClaims)
	}
	if err == nil {
		err = v.checkRequest(r, l.Signed())
	}
	if err != nil {
		return Request{}, fmt.Errorf("link: %w", err)
	}
	if expired {
		return r, fmt.Errorf("link: %w", ErrExpired)
	}
	return r, nil
}

// DecodeVerified returns what l asks for without verifying it. It is for a link
// that Verify accepted and that was kept sealed since: a flow under way must go on
// after a rotation of the secrets or a change of RETURN_URLS.
func (v *Verifier) DecodeVerified(l Link) (Request, error) {
	var c struct { // the token's other claims are costly to decode
		Subject string `json:"sub"`
		requestClaims
	}
	if l.Signed() {
		_, rest, _ := strings.Cut(l.Token, ".")
		payload, _, _ := strings.Cut(rest, ".")
		text, err := base64.RawURLEncoding.DecodeString(payload)
		if err != nil || json.Unmarshal(text, &c) != nil { // the error quotes the token
			return Request{}, errors.New("link: the token cannot be read")
		}
	}
	r, err := v.request(l, c.Subject, c.requestClaims)
	if err != nil {
		return Request{}, fmt.Errorf("link: %w", err)
	}
	return r, nil
}

// Sign returns a signed link for r, an install URL that works until expires. It
// returns an error for a subscriber ID that no link may have; whatever else Verify
// would refuse is signed.
func (v *Verifier) Sign(r Request, expires time.Time) (string, error) {
	if err := CheckSubscriberID(r.Subscriber); err != nil {
		return "", err
	}
	if len(v.Secrets) == 0 || v.Secrets[0].Empty() {
		return "", errors.New("sign link: there is no secret")
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   r.Subscriber,
			Audience:  jwt.ClaimStrings{v.Origin},
			ExpiresAt: jwt.NewNumericDate(expires),
		},
		requestClaims: requestClaims{Integration: r.Integration, Environment: r.Environment, ReturnURL: r.ReturnURL, TeamID: r.TeamID, Context: json.RawMessage(r.Context)},
	}).SignedString([]byte(v.Secrets[0].Reveal()))
	if err != nil {
		return "", fmt.Errorf("sign link: %w", err)
	}
	signed := v.Origin + InstallPath + "?token=" + token
	if r.Popup {
		signed += "&display=popup"
	}
	return signed, nil
}

// parser checks a token's form, algorithm and signature, and leaves the claims to
// verifyToken, so that one parser serves every origin and clock.
var parser = jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())

// verifyToken verifies a signed link and returns its claims, also when it has expired.
func (v *Verifier) verifyToken(token string) (c claims, expired bool, err error) {
	if len(token) > maxToken {
		return c, false, errors.New("the token is too long")
	}
	parsed, err := parser.ParseWithClaims(token, &c, v.verificationKeys)
	if err != nil {
		return c, false, tokenError(err)
	}
	now := time.Now()
	if v.Now != nil {
		now = v.Now()
	}
	switch _, critical := parsed.Header["crit"]; {
	case critical: // RFC 7515 section 4.1.11
		return c, false, errors.New("the token has critical header parameters")
	case c.ExpiresAt == nil:
		return c, false, errors.New("the token has no expiry")
	case !slices.Contains(c.Audience, v.Origin):
		return c, false, errors.New("the token is for another audience")
	case c.NotBefore != nil && now.Before(c.NotBefore.Add(-leeway)):
		return c, false, errors.New("the token is not valid yet")
	}
	return c, !now.Before(c.ExpiresAt.Add(leeway)), nil
}

func (v *Verifier) verificationKeys(*jwt.Token) (any, error) {
	var set jwt.VerificationKeySet
	for _, s := range v.Secrets {
		if !s.Empty() {
			set.Keys = append(set.Keys, []byte(s.Reveal()))
		}
	}
	return set, nil
}

// tokenError replaces an error of the library, which may quote the token.
func tokenError(err error) error {
	for _, known := range []error{jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid} {
		if errors.Is(err, known) {
			return known
		}
	}
	return errors.New("the token is invalid")
}

// request returns what l asks for, with the defaults filled in. c are the claims of a
// signed link.
func (v *Verifier) request(l Link, subject string, c requestClaims) (Request, error) {
	r := Request{Subscriber: l.Subscriber, Integration: l.Integration, Environment: l.Environment, ReturnURL: l.ReturnURL}
	if l.Signed() {
		r = Request{Subscriber: subject, Integration: c.Integration, Environment: c.Environment, ReturnURL: c.ReturnURL, TeamID: c.TeamID}
	}
	r.Popup = l.Popup
	r.Integration = cmp.Or(r.Integration, v.Integration)
	if r.ReturnURL == "" && len(v.ReturnURLs) > 0 {
		r.ReturnURL = v.ReturnURLs[0].String()
	}
	if len(c.Context) == 0 || !v.Contexts {
		return r, nil
	}
	// Equal contexts become equal text, because Novu compares them as objects.
	var object map[string]any
	from := json.NewDecoder(bytes.NewReader(c.Context))
	from.UseNumber()
	if err := from.Decode(&object); err != nil {
		return Request{}, errors.New("the context is not a JSON object")
	}
	if len(object) == 0 {
		return r, nil
	}
	text, err := json.Marshal(object)
	r.Context = string(text)
	return r, err
}

// verifyHash checks the HMAC of Novu's guide: hex(HMAC-SHA256(API key, subscriber
// ID)). It covers the subscriber ID alone.
func (v *Verifier) verifyHash(l Link) error {
	got, err := hex.DecodeString(l.Hash)
	if err != nil || !slices.ContainsFunc(v.APIKeys, func(key secret.String) bool {
		mac := hmac.New(sha256.New, []byte(key.Reveal()))
		mac.Write([]byte(l.Subscriber))
		return !key.Empty() && hmac.Equal(got, mac.Sum(nil))
	}) {
		return errors.New("the hmacHash does not match the subscriberId")
	}
	return nil
}

// checkRequest checks what a genuine link asks for.
func (v *Verifier) checkRequest(r Request, signed bool) error {
	if err := CheckSubscriberID(r.Subscriber); err != nil {
		return err
	}
	for _, id := range []string{r.Integration, r.Environment, r.TeamID} {
		if len(id) > maxID || !plainText(id) {
			return errors.New("an identifier is too long or has control characters")
		}
	}
	if v.Environment != "" && r.Environment != "" && r.Environment != v.Environment {
		return errors.New("the link is for another Novu environment")
	}
	if r.ReturnURL == "" {
		return nil
	}
	u, err := ParseReturnURL(r.ReturnURL)
	// A signature covers the return URL, a hash does not.
	if err == nil && !signed && !isWithin(v.ReturnURLs, u) {
		err = errors.New("is not under RETURN_URLS")
	}
	if err != nil {
		return fmt.Errorf("%w: it %w", ErrReturnURL, err)
	}
	return nil
}

// CheckSubscriberID returns an error unless id is 1 to 255 bytes of UTF-8 without
// control characters, and neither . nor .. (dot segments of a path).
func CheckSubscriberID(id string) error {
	switch {
	case id == "":
		return errors.New("the subscriber ID is empty")
	case len(id) > maxID:
		return fmt.Errorf("the subscriber ID has more than %d bytes", maxID)
	case id == "." || id == "..":
		return errors.New("the subscriber ID is a dot segment")
	case !plainText(id):
		return errors.New("the subscriber ID has control characters or is not UTF-8")
	}
	return nil
}

func plainText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
