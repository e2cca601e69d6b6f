// Package link signs and verifies install links, signs results, and checks return URLs
// and subscriber IDs.
//
// A link comes in two kinds. A signed link carries a JWT (RFC 7519) with HS256.
// A Novu-style link carries the HMAC of the subscriber ID that Novu's Slack
// guide describes. Read parses the query of an install URL, and Verify returns what
// the link asks for if it is genuine. Use no part of a link before Verify has
// accepted it.
package link

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/text/runes"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
)

// Paths of the URLs that Sign returns.
const (
	InstallPath    = "/slack/install"
	DisconnectPath = "/slack/disconnect" // if the Action is Disconnect
)

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

// Request is what a verified link asks for, with the defaults filled in. Its JSON names are
// claims of a signed link.
type Request struct {
	Subscriber  string             `json:"sub"`                             // Novu's subscriber ID
	Integration string             `json:"integrationIdentifier,omitempty"` // Novu's; empty if neither the link nor the Verifier names one
	Environment string             `json:"environmentId,omitempty"`         // Novu's; empty if the link names none
	ReturnURL   string             `json:"returnUrl,omitempty"`             // where the person is sent at the end; empty if neither the link nor the Verifier names one
	TeamID      string             `json:"teamId,omitempty"`                // the only Slack workspace accepted; empty is any
	AccountName string             `json:"accountName,omitempty"`           // whose account this is, for the person to see, without the bidirectional controls of the claim; may be empty
	Action      string             `json:"action,omitempty"`                // Connect or Disconnect
	Context     novuclient.Context `json:"-"`
	Popup       bool               `json:"-"` // the link was opened in a popup
}

// Actions of a Request.
const (
	Connect    = ""
	Disconnect = "disconnect"
)

// Verifier verifies links, and signs them and results. Its methods may be called
// concurrently.
type Verifier struct {
	Origin      string           // public origin, the audience of signed links
	Secrets     []secret.String  // each verifies signed links, the first signs links and results; empty ones verify nothing
	APIKeys     []secret.String  // each verifies Novu-style links; empty ones verify nothing
	Environment string           // if set, links that name another Novu environment are refused
	Integration string           // the default for links that name none
	Contexts    bool             // keep the context of signed links; only channel endpoints have one
	ReturnURLs  []*url.URL       // URL prefixes allowed in Novu-style links; the first is the default of all links
	Now         func() time.Time // nil is time.Now
}

// MaxLife is how far ahead a signed link may expire.
const MaxLife = 400 * 24 * time.Hour

const (
	leeway   = time.Minute // by which the clocks of the signer and the service may differ
	maxToken = 4096        // bytes
	maxID    = 255         // bytes of a subscriber ID or an identifier
)

// Verify returns what l asks for if l is genuine and allowed. The error wraps
// ErrExpired or ErrReturnURL where those apply, and quotes nothing of the link.
//
// ErrExpired comes with the Request all the same, so that the person can be led
// back to the app. Any other error comes with the subscriber alone, for the log, if the
// link has a right signature and can be read, and otherwise with the zero Request.
func (v *Verifier) Verify(l Link) (Request, error) {
	var c claims
	err := v.checkSignature(l)
	if err == nil {
		c, err = v.decode(l)
	}
	if err == nil {
		err = v.checkRequest(c.Request, l.Signed())
	}
	if err == nil && l.Signed() {
		err = v.checkValidity(c)
	}
	switch {
	case err == nil:
		return c.Request, nil
	case errors.Is(err, ErrExpired):
		return c.Request, fmt.Errorf("link: %w", err)
	case CheckSubscriberID(c.Subscriber) != nil:
		c.Subscriber = ""
	}
	return Request{Subscriber: c.Subscriber}, fmt.Errorf("link: %w", err)
}

// DecodeVerified returns what l asks for without verifying it. It is for a link
// that Verify accepted and that was kept sealed since: a flow under way must go on
// after a rotation of the secrets or a change of RETURN_URLS.
func (v *Verifier) DecodeVerified(l Link) (Request, error) {
	c, err := v.decode(l)
	if err != nil {
		return Request{}, errors.New("link: the kept link cannot be read")
	}
	return c.Request, nil
}

// Sign returns a signed link for r, a URL that works until expires. It
// returns an error for a subscriber ID that no link may have; whatever else Verify
// would refuse is signed. To open the link in a popup, add display=popup to its query.
func (v *Verifier) Sign(r Request, expires time.Time) (string, error) {
	if err := CheckSubscriberID(r.Subscriber); err != nil {
		return "", err
	}
	c := &claims{Request: r, Audience: audience{v.Origin}, ExpiresAt: new(float64(expires.Unix()))}
	if r.Context.JSON != "" {
		c.Context = jsontext.Value(r.Context.JSON)
	}
	token, err := v.signToken(linkHeader, c)
	if err != nil {
		return "", err
	}
	path := InstallPath
	if r.Action == Disconnect {
		path = DisconnectPath
	}
	return v.Origin + path + "?token=" + token, nil
}

// linkHeader begins the token of every link that Sign returns.
var linkHeader = base64url.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))

// checkSignature checks the signature of a token, or a hash: that of Novu's guide,
// hex(HMAC-SHA256(API key, subscriber ID)), covers the subscriber ID alone.
func (v *Verifier) checkSignature(l Link) error {
	switch {
	case l.Signed():
		return v.checkToken(l.Token)
	case len(v.APIKeys) == 0:
		return errors.New("links with subscriberId and hmacHash are off (NOVU_STYLE_LINKS)")
	case !isSigned(l.Subscriber, strings.ToLower(l.Hash), hex.EncodeToString, v.APIKeys):
		return errors.New("the hmacHash does not match the subscriberId")
	}
	return nil
}

// decode returns what l asks for, with the defaults filled in, and the other claims of a
// signed link. They are without a context if only that cannot be read.
func (v *Verifier) decode(l Link) (c claims, err error) {
	c.Request = Request{Subscriber: l.Subscriber, Integration: l.Integration, Environment: l.Environment, ReturnURL: l.ReturnURL}
	if l.Signed() {
		if c, err = decodeClaims(l.Token); err != nil {
			return claims{}, err
		}
		c.AccountName = withoutBidi.String(c.AccountName)
	}
	c.Popup = l.Popup
	c.Integration = cmp.Or(c.Integration, v.Integration)
	if c.ReturnURL == "" && len(v.ReturnURLs) > 0 {
		c.ReturnURL = v.ReturnURLs[0].String()
	}
	if v.Contexts {
		c.Request.Context, err = novuclient.ParseContext(string(c.Context))
	}
	return c, err
}

// withoutBidi removes the bidirectional controls, which could change how the text around
// a name is displayed.
var withoutBidi = runes.Remove(runes.In(unicode.Bidi_Control))

// checkValidity checks for whom and when a signed link is valid. Its error is ErrExpired only
// if nothing else is wrong.
func (v *Verifier) checkValidity(c claims) error {
	now := v.now()
	switch {
	case c.ExpiresAt == nil:
		return errors.New("the token has no expiry")
	case !slices.Contains(c.Audience, v.Origin):
		return errors.New("the token is for another audience")
	case atSecond(c.ExpiresAt).After(now.Add(MaxLife)):
		return errors.New("the claim exp is more than 400 days ahead; it counts seconds, not milliseconds")
	case c.NotBefore != nil && now.Before(atSecond(c.NotBefore).Add(-leeway)):
		return errors.New("the token is not valid yet")
	case !now.Before(atSecond(c.ExpiresAt).Add(leeway)):
		return ErrExpired
	}
	return nil
}

// atSecond returns the time of a claim. One that is further away than distant is that far
// away, because a number that no int64 holds would become another time.
func atSecond(s *float64) time.Time {
	const distant = 1 << 40 // 35,000 years
	return time.Unix(int64(max(-distant, min(*s, distant))), 0)
}

func (v *Verifier) now() time.Time {
	if v.Now != nil {
		return v.Now()
	}
	return time.Now()
}

// checkRequest checks what a genuine link asks for.
func (v *Verifier) checkRequest(r Request, signed bool) error {
	if err := CheckSubscriberID(r.Subscriber); err != nil {
		return err
	}
	if r.Action != Connect && r.Action != Disconnect {
		return errors.New("the claim action is not disconnect; leave it out to connect")
	}
	for _, text := range []string{r.Integration, r.Environment, r.TeamID, r.AccountName} {
		if len(text) > maxID || !plainText(text) {
			return errors.New("an identifier or the account's name is too long or has control characters")
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
	if err == nil && !signed && (!PlainPath(u.EscapedPath()) || !isWithin(v.ReturnURLs, u)) {
		err = errors.New("is not under RETURN_URLS, or has a path that hides where it leads")
	}
	if err != nil {
		return fmt.Errorf("%w: it %w", ErrReturnURL, err)
	}
	return nil
}

// CheckSubscriberID returns an error unless id is 1 to 255 bytes of UTF-8 without
// control characters and without white space at either end, and neither . nor .. (dot
// segments of a path). Novu trims white space when it creates a subscriber, and then
// never finds the ID that was not trimmed.
func CheckSubscriberID(id string) error {
	switch {
	case id == "":
		return errors.New("the subscriber ID is empty")
	case len(id) > maxID:
		return fmt.Errorf("the subscriber ID has more than %d bytes", maxID)
	case id == "." || id == "..":
		return errors.New("the subscriber ID is a dot segment")
	case strings.TrimFunc(id, isTrimmed) != id:
		return errors.New("the subscriber ID begins or ends with white space, which Novu would trim: leave it out")
	case !plainText(id):
		return errors.New("the subscriber ID has control characters or is not UTF-8")
	}
	return nil
}

// isTrimmed reports whether JavaScript's trim removes r.
func isTrimmed(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' }

func plainText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
