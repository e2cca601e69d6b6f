package link_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/link"
	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/secret"
)

const (
	origin     = "https://slack.example.com"
	linkSecret = "canary-link-secret-0123456789abcdef"
	oldSecret  = "canary-old-link-secret"
	apiKey     = "canary-api-key"
)

var now = time.Unix(1_800_000_000, 0)

// newVerifier returns a Verifier at the time now.
func newVerifier() *link.Verifier {
	return &link.Verifier{
		Origin: origin, Secrets: []secret.String{secret.New(linkSecret), secret.New(oldSecret)}, APIKeys: []secret.String{secret.New(apiKey)},
		Now: func() time.Time { return now },
	}
}

func sign(t testing.TB, v *link.Verifier, r link.Request) string {
	t.Helper()
	signed, err := v.Sign(r, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return query(signed)
}

// query returns the query of an install URL.
func query(signed string) string {
	_, query, _ := strings.Cut(signed, "?")
	return query
}

// forge signs a token of any kind. The claims begin as a good link's; nil removes
// one.
func forge(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims, header ...string) string {
	t.Helper()
	all := jwt.MapClaims{"sub": "ada", "aud": origin, "exp": now.Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	token := jwt.NewWithClaims(method, all)
	for i := 0; i+1 < len(header); i += 2 {
		token.Header[header[i]] = header[i+1]
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return "token=" + text
}

func hash(key, subscriber string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(subscriber))
	return hex.EncodeToString(mac.Sum(nil))
}

func novuStyle(subscriber string, more ...string) string {
	q := url.Values{"subscriberId": {subscriber}, "hmacHash": {hash(apiKey, subscriber)}}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return q.Encode()
}

// verify reads and verifies a query, and checks what holds of every answer.
func verify(t *testing.T, v *link.Verifier, query string) (link.Request, error) {
	t.Helper()
	l, err := link.Read(query, "")
	if err != nil {
		if l != (link.Link{}) {
			t.Errorf("%.60s: refused, and yet read as a link", query)
		}
		return link.Request{}, err
	}
	r, err := v.Verify(l)
	switch {
	case err == nil:
		if kept, err := v.DecodeVerified(l); err != nil || kept != r {
			t.Errorf("%.60s: kept and decoded as %+v, %v, want %+v", query, kept, err, r)
		}
	case errors.Is(err, link.ErrExpired):
		if r.Subscriber == "" {
			t.Errorf("%.60s: expired, and nothing is known of it", query)
		}
	case r != (link.Request{Subscriber: r.Subscriber}):
		t.Errorf("%.60s: refused, and yet asks for %+v", query, r)
	}
	return r, err
}

func TestLinkAttacks(t *testing.T) {
	v := newVerifier()
	v.Environment = "env1"
	key := []byte(linkSecret)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := forge(t, jwt.SigningMethodHS256, key, nil)
	token := strings.TrimPrefix(good, "token=")
	parts := strings.Split(token, ".")
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	signature[0] ^= 1
	other, _ := json.Marshal(map[string]any{"sub": "bob", "aud": origin, "exp": now.Add(time.Hour).Unix()})
	hs256 := func(claims jwt.MapClaims) string { return forge(t, jwt.SigningMethodHS256, key, claims) }

	for name, attack := range map[string]string{
		"guessed subscriber":           "subscriberId=ada",
		"guessed, empty hash":          "subscriberId=ada&hmacHash=",
		"another subscriber's hash":    "subscriberId=ada&hmacHash=" + hash(apiKey, "bob"),
		"another key's hash":           "subscriberId=ada&hmacHash=" + hash("guess", "ada"),
		"the empty key's hash":         "subscriberId=ada&hmacHash=" + hash("", "ada"),
		"shortened hash":               "subscriberId=ada&hmacHash=" + hash(apiKey, "ada")[:62],
		"lengthened hash":              "subscriberId=ada&hmacHash=" + hash(apiKey, "ada") + "00",
		"hash that is not hex":         "subscriberId=ada&hmacHash=" + strings.Repeat("z", 64),
		"nothing":                      "",
		"empty token":                  "token=",
		"malformed query":              "token=%zz",
		"two tokens":                   good + "&token=" + token,
		"token and subscriber":         good + "&subscriberId=bob&hmacHash=" + hash(apiKey, "bob"),
		"token and empty subscriber":   good + "&subscriberId=",
		"empty token and a hash":       novuStyle("ada") + "&token=",
		"token and hash":               good + "&hmacHash=" + hash(apiKey, "ada"),
		"two hashes":                   novuStyle("ada") + "&hmacHash=" + hash(apiKey, "bob"),
		"two integrations":             novuStyle("ada", "integrationIdentifier", "a") + "&integrationIdentifier=b",
		"two environments":             novuStyle("ada", "environmentId", "env1") + "&environmentId=env2",
		"two return URLs":              novuStyle("ada") + "&returnUrl=&returnUrl=x",
		"two displays":                 good + "&display=popup&display=x",
		"two subscribers":              novuStyle("ada") + "&subscriberId=bob",
		"signature's spare bits":       "token=" + spareBits(token),
		"long token, rightly signed":   hs256(jwt.MapClaims{"x": strings.Repeat("A", 5000)}),
		"altered signature":            "token=" + parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(signature),
		"no signature":                 "token=" + parts[0] + "." + parts[1] + ".",
		"two parts":                    "token=" + parts[0] + "." + parts[1],
		"four parts":                   good + "." + parts[2],
		"another subscriber's payload": "token=" + parts[0] + "." + base64.RawURLEncoding.EncodeToString(other) + "." + parts[2],
		"another secret":               forge(t, jwt.SigningMethodHS256, []byte("guess"), nil),
		"empty secret":                 forge(t, jwt.SigningMethodHS256, []byte(""), nil),
		"alg none":                     forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil),
		"HS512":                        forge(t, jwt.SigningMethodHS512, key, nil),
		"RS256":                        forge(t, jwt.SigningMethodRS256, rsaKey, nil),
		"RS256 claimed, HMAC made":     relabel(good, "HS256", "RS256"),
		"critical header":              forge(t, jwt.SigningMethodHS256, key, nil, "crit", "b64"),
		"wrong audience":               hs256(jwt.MapClaims{"aud": "https://evil.example"}),
		"no audience":                  hs256(jwt.MapClaims{"aud": nil}),
		"empty audience":               hs256(jwt.MapClaims{"aud": ""}),
		"audience with a path":         hs256(jwt.MapClaims{"aud": origin + "/x"}),
		"audience in other letters":    hs256(jwt.MapClaims{"aud": strings.ToUpper(origin)}),
		"no expiry":                    hs256(jwt.MapClaims{"exp": nil}),
		"expiry is text":               hs256(jwt.MapClaims{"exp": "never"}),
		"not yet valid":                hs256(jwt.MapClaims{"nbf": now.Add(time.Hour).Unix()}),
		"never valid":                  hs256(jwt.MapClaims{"nbf": 1e19}),
		"never expires":                hs256(jwt.MapClaims{"exp": 1e308}),
		"subscriber is a number":       hs256(jwt.MapClaims{"sub": 1}),
		"another environment":          hs256(jwt.MapClaims{"environmentId": "env2"}),
		"another environment, Novu":    novuStyle("ada", "environmentId", "env2"),
		"control byte in integration":  novuStyle("ada", "integrationIdentifier", "a\x00b"),
		"long integration":             novuStyle("ada", "integrationIdentifier", strings.Repeat("x", 256)),
		"10 kB token":                  "token=" + strings.Repeat("A", 10_000),
		"expired, not yet valid":       hs256(jwt.MapClaims{"exp": 1, "nbf": now.Add(time.Hour).Unix()}),
		"expired, wrong audience":      hs256(jwt.MapClaims{"exp": 1, "aud": "x"}),
		"expired, wrong secret":        forge(t, jwt.SigningMethodHS256, []byte("guess"), jwt.MapClaims{"exp": 1}),
		"expired, another environment": hs256(jwt.MapClaims{"exp": 1, "environmentId": "env2"}),
		"expired, no subscriber":       hs256(jwt.MapClaims{"exp": 1, "sub": nil}),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := verify(t, v, attack)
			if err == nil || errors.Is(err, link.ErrExpired) || errors.Is(err, link.ErrReturnURL) {
				t.Fatalf("got %+v, %v, want an error without a name", r, err)
			}
			for _, text := range []string{"canary", "evil", parts[1], "ada"} {
				if strings.Contains(err.Error(), text) {
					t.Errorf("the error quotes %q: %v", text, err)
				}
			}
		})
	}

	// The bad ones failed for what is bad about them.
	for _, query := range []string{
		good, good + "&display=popup&unknown=1&unknown=2", novuStyle("ada", "environmentId", "env1"), "subscriberId=ada&hmacHash=" + strings.ToUpper(hash(apiKey, "ada")),
		forge(t, jwt.SigningMethodHS256, []byte(oldSecret), nil),
		hs256(jwt.MapClaims{"aud": []string{"x", origin}, "environmentId": "env1"}),
	} {
		if r, err := verify(t, v, query); err != nil || r.Subscriber != "ada" {
			t.Errorf("%s: got %+v, %v, want ada", query, r, err)
		}
	}
}

// spareBits changes the bits of a token's last character that mean nothing: a
// lenient decoder takes it for the same signature.
func spareBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + alphabet[last^1:last^1+1]
}

// relabel changes the algorithm that a token claims and leaves the rest.
func relabel(query, from, to string) string {
	header, rest, _ := strings.Cut(strings.TrimPrefix(query, "token="), ".")
	text, _ := base64.RawURLEncoding.DecodeString(header)
	return "token=" + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(text), from, to, 1))) + "." + rest
}

func TestPathOfTheShareableURL(t *testing.T) {
	v := newVerifier()
	for _, c := range []struct {
		query string
		ok    bool
	}{
		{"hmacHash=" + hash(apiKey, "ada"), true},
		{"hmacHash=" + hash(apiKey, "bob"), false},
		{"", false},
		{novuStyle("ada"), false},
		{"subscriberId=&hmacHash=" + hash(apiKey, "ada"), false},
		{sign(t, v, link.Request{Subscriber: "ada"}), false},
		{"token=&hmacHash=" + hash(apiKey, "ada"), false},
	} {
		l, err := link.Read(c.query, "ada")
		if err == nil {
			_, err = v.Verify(l)
		}
		if (err == nil) != c.ok {
			t.Errorf("%q: got %v, want it accepted: %t", c.query, err, c.ok)
		}
	}
}

// Two requests that differ share no signature. The only text that a Novu-style
// hash covers is the whole subscriber ID.
func TestNoTwoRequestsShareASignature(t *testing.T) {
	v := newVerifier()
	for _, pair := range [][2]string{{"a", "a&environmentId=b"}, {"a:b", "a"}, {"a", "a "}, {"A", "a"}, {"a%20b", "a b"}, {"a+b", "a b"}} {
		q := url.Values{"subscriberId": {pair[0]}, "hmacHash": {hash(apiKey, pair[1])}}
		if r, err := verify(t, v, q.Encode()); err == nil {
			t.Errorf("%q passes with the hash of %q as %+v", pair[0], pair[1], r)
		}
	}
	if hash(apiKey, "ab") == hash(apiKey, "a")+hash(apiKey, "b") {
		t.Error("the hash is not one of the whole")
	}
}

func TestLinksWithoutAnySecretNeverVerify(t *testing.T) {
	for name, secrets := range map[string][]secret.String{"none": nil, "empty": {{}}} {
		v := newVerifier()
		v.Secrets, v.APIKeys = secrets, secrets
		for _, query := range []string{
			forge(t, jwt.SigningMethodHS256, []byte(""), nil),
			"subscriberId=ada&hmacHash=" + hash("", "ada"),
			"subscriberId=ada&hmacHash=",
		} {
			if r, err := verify(t, v, query); err == nil {
				t.Errorf("%s, %s: got %+v, want an error", name, query, r)
			}
		}
		if signed, err := v.Sign(link.Request{Subscriber: "ada"}, now); err == nil {
			t.Errorf("%s: signed %s", name, signed)
		}
	}
}

func TestClockSkewOfAMinuteStillVerifies(t *testing.T) {
	v := newVerifier()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for _, c := range []struct {
		name   string
		claims jwt.MapClaims
		want   error // nil is any when !ok
		ok     bool
	}{
		{"the signer's clock is behind", jwt.MapClaims{"exp": at(-50 * time.Second)}, nil, true},
		{"the signer's clock is ahead", jwt.MapClaims{"iat": at(50 * time.Second), "nbf": at(50 * time.Second)}, nil, true},
		{"issued in the far future", jwt.MapClaims{"iat": at(time.Hour)}, nil, true},
		{"expired for a minute", jwt.MapClaims{"exp": at(-time.Minute)}, link.ErrExpired, false},
		{"expired for longer", jwt.MapClaims{"exp": at(-time.Hour)}, link.ErrExpired, false},
		{"valid in more than a minute", jwt.MapClaims{"nbf": at(61 * time.Second)}, nil, false},
	} {
		_, err := verify(t, v, forge(t, jwt.SigningMethodHS256, []byte(linkSecret), c.claims))
		if (err == nil) != c.ok || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v (accepted: %t)", c.name, err, c.want, c.ok)
		}
	}
	v.Now = nil
	if _, err := verify(t, v, forge(t, jwt.SigningMethodHS256, []byte(linkSecret), jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()})); err != nil {
		t.Errorf("without a clock: %v", err)
	}
}

// An expired link still tells what it asked for: the person is led back to the app.
func TestExpiredLinkTellsItsReturnURL(t *testing.T) {
	v := newVerifier()
	signed, err := v.Sign(link.Request{Subscriber: "ada", ReturnURL: "https://app.example.com/x"}, now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify(t, v, query(signed)+"&display=popup")
	if want := (link.Request{Subscriber: "ada", ReturnURL: "https://app.example.com/x", Popup: true}); !errors.Is(err, link.ErrExpired) || r != want {
		t.Errorf("got %+v, %v, want %+v with ErrExpired", r, err, want)
	}
	signed, err = v.Sign(link.Request{Subscriber: "ada", ReturnURL: "javascript:alert(1)"}, now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if r, err = verify(t, v, query(signed)); !errors.Is(err, link.ErrReturnURL) || errors.Is(err, link.ErrExpired) {
		t.Errorf("got %+v, %v, want ErrReturnURL alone", r, err)
	}
}

// A refused link names its subscriber if the signature is right, and otherwise nobody, for
// anyone can write any subscriber into it.
func TestRefusedLinkNamesTheSubscriberOfARightSignature(t *testing.T) {
	v := newVerifier()
	v.Environment, v.Contexts = "env1", true
	right := []byte(linkSecret)
	for name, c := range map[string]struct{ query, subscriber string }{
		"another audience":        {forge(t, jwt.SigningMethodHS256, right, jwt.MapClaims{"aud": "https://other.example.com"}), "ada"},
		"another environment":     {forge(t, jwt.SigningMethodHS256, right, jwt.MapClaims{"environmentId": "env2"}), "ada"},
		"no context of Novu's":    {forge(t, jwt.SigningMethodHS256, right, jwt.MapClaims{"context": "x"}), "ada"},
		"no expiry":               {forge(t, jwt.SigningMethodHS256, right, jwt.MapClaims{"exp": nil}), "ada"},
		"not allowed to return":   {novuStyle("ada", "returnUrl", "https://evil.example"), "ada"},
		"another secret":          {forge(t, jwt.SigningMethodHS256, []byte("another-secret-of-32-bytes-and-more"), nil), ""},
		"another subscriber":      {strings.Replace(novuStyle("ada"), "ada", "bob", 1), ""},
		"a subscriber of no link": {forge(t, jwt.SigningMethodHS256, right, jwt.MapClaims{"sub": "ada\n"}), ""},
	} {
		if r, err := verify(t, v, c.query); err == nil || r.Subscriber != c.subscriber {
			t.Errorf("%s: got %q, %v, want %q and an error", name, r.Subscriber, err, c.subscriber)
		}
	}
}

func TestSubscriberIDs(t *testing.T) {
	v := newVerifier()
	for _, id := range []string{"ada", "ada@example.com", "a/b?c#d%2e", "a b", "日本", "...", "tenant:1&x=y", strings.Repeat("x", 255)} {
		for _, query := range []string{novuStyle(id), sign(t, v, link.Request{Subscriber: id})} {
			if r, err := verify(t, v, query); err != nil || r.Subscriber != id {
				t.Errorf("%q: got %q, %v", id, r.Subscriber, err)
			}
		}
	}
	for _, id := range []string{"", ".", "..", "a\x00b", "a\nb", "\x7f", "a\u0085b", "a\xffb", strings.Repeat("x", 256),
		" ada", "ada ", "\tada", "ada\u00a0", "\ufeffada", "ada\u2003", "ada\u2028", "ada\u3000", "\u1680", " "} {
		if _, err := verify(t, v, novuStyle(id)); err == nil {
			t.Errorf("%q passes with a hash", id)
		}
		if utf8.ValidString(id) { // JSON cannot carry the other
			if _, err := verify(t, v, forge(t, jwt.SigningMethodHS256, []byte(linkSecret), jwt.MapClaims{"sub": id})); err == nil {
				t.Errorf("%q passes with a signature", id)
			}
		}
		if signed, err := v.Sign(link.Request{Subscriber: id}, now); err == nil {
			t.Errorf("%q is signed: %s", id, signed)
		}
	}
}

func TestSignedLinkAsksForWhatWasSigned(t *testing.T) {
	v := newVerifier()
	v.Contexts = true
	want := link.Request{Subscriber: "ada", Integration: "slack-eu", Environment: "env1", ReturnURL: "https://app.example.com/x?y#z", TeamID: "T1", Context: novuclient.Context{JSON: `{"tenant":"acme"}`, Key: `["tenant:acme"]`}, Popup: true}
	signed, err := v.Sign(want, now.Add(time.Hour))
	if err != nil || !strings.HasPrefix(signed, origin+"/slack/install?token=") {
		t.Fatalf("got %s, %v", signed, err)
	}
	if got, err := verify(t, v, query(signed)+"&display=popup"); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestDefaults(t *testing.T) {
	v := newVerifier()
	v.Environment, v.Integration = "env1", "slack-main"
	v.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com", Path: "/settings"}, {Scheme: "https", Host: "other.example.com"}}
	want := link.Request{Subscriber: "ada", Integration: "slack-main", ReturnURL: "https://app.example.com/settings"}
	for _, query := range []string{novuStyle("ada"), sign(t, v, link.Request{Subscriber: "ada"})} {
		if got, err := verify(t, v, query); err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	want = link.Request{Subscriber: "ada", Integration: "slack-eu", Environment: "env1", ReturnURL: "https://other.example.com/x"}
	for _, query := range []string{
		novuStyle("ada", "integrationIdentifier", want.Integration, "environmentId", want.Environment, "returnUrl", want.ReturnURL), sign(t, v, want),
	} {
		if got, err := verify(t, v, query); err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

// A context is kept for channel endpoints only. To Novu, contexts with the same types and
// IDs are one; to us as well.
func TestContext(t *testing.T) {
	id100 := strings.Repeat("x", 100)
	keys := map[string]string{
		`null`:                               ``,
		`{"tenant":"acme"}`:                  `["tenant:acme"]`,
		`{"tenant":{"id":"acme"}}`:           `["tenant:acme"]`,
		`{"tenant":{"data":{},"id":"acme"}}`: `["tenant:acme"]`,
		`{"tenant":{"id":"acme","data":{"n":9007199254740993}}}`: `["tenant:acme"]`,
		`{"tenant":{"id":"acme","more":1}}`:                      `["tenant:acme"]`,
		`{"b":"2", "a":{"id":"1"}}`:                              `["a:1" "b:2"]`,
		`{"a":"1","b":"2","c":"3","d":"4","e":"5"}`:              `["a:1" "b:2" "c:3" "d:4" "e:5"]`,
		`{"tenant":"A-z_9"}`:                                     `["tenant:A-z_9"]`,
		`{"tenant":"` + id100 + `"}`:                             `["tenant:` + id100 + `"]`,
	}
	refused := []string{
		`"x"`, `[1]`, `1`, `true`, `{}`, `{"a":"1","b":"2","c":"3","d":"4","e":"5","f":"6"}`, `{"tenant":""}`, `{"tenant":"a b"}`, `{"tenant":"é"}`, `{"tenant":"` + id100 + `x"}`, `{"tenant":1}`, `{"tenant":null}`,
		`{"tenant":["acme"]}`, `{"tenant":{}}`, `{"tenant":{"ID":"acme"}}`, `{"tenant":{"id":1}}`, `{"tenant":{"id":"acme","data":1}}`, `{"tenant":{"id":"acme","data":null}}`,
	}
	open := func(contexts bool, claim string) (link.Request, error) {
		v := newVerifier()
		v.Contexts = contexts
		return verify(t, v, sign(t, v, link.Request{Subscriber: "ada", Context: novuclient.Context{JSON: claim}}))
	}
	for claim, key := range keys {
		if r, err := open(true, claim); err != nil || r.Context.Key != key {
			t.Errorf("%s: got %+v, %v, want the key %s", claim, r.Context, err, key)
		}
	}
	for _, claim := range refused {
		if r, err := open(true, claim); err == nil {
			t.Errorf("%s: got %+v, want an error", claim, r)
		}
	}
	for _, claim := range append(refused, `{"tenant":"acme"}`) {
		if r, err := open(false, claim); err != nil || r.Context != (novuclient.Context{}) {
			t.Errorf("%s, for credentials: got %+v, %v, want no context", claim, r.Context, err)
		}
	}
	// What Novu is told keeps every digit.
	if r, err := open(true, `{ "b":"2", "a":{"id":"1","data":{"n":9007199254740993}} }`); err != nil || r.Context.JSON != `{"a":{"id":"1","data":{"n":9007199254740993}},"b":"2"}` {
		t.Errorf("got %+v, %v", r.Context, err)
	}
	if _, err := novuclient.ParseContext(`{"tenant":{"id":"acme","data":{"x":"` + strings.Repeat("x", 1<<16) + `"}}}`); err == nil {
		t.Error("data of more than 64 KB passes")
	}
}

// A flow under way goes on: its link, kept as JSON, is read whatever has changed.
func TestKeptLinkSurvivesRotation(t *testing.T) {
	v := newVerifier()
	v.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com"}}
	for _, query := range []string{
		sign(t, v, link.Request{Subscriber: "ada", TeamID: "T1", ReturnURL: "https://app.example.com/x"}) + "&display=popup",
		novuStyle("ada", "returnUrl", "https://app.example.com/x") + "&display=popup",
	} {
		want, err := verify(t, v, query)
		if err != nil {
			t.Fatal(err)
		}
		l, _ := link.Read(query, "")
		record, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		var kept link.Link
		if err := json.Unmarshal(record, &kept); err != nil || kept != l {
			t.Fatalf("got %+v, %v, want %+v", kept, err, l)
		}
		later := &link.Verifier{
			Origin: "https://moved.example.com", Secrets: []secret.String{secret.New("new")}, APIKeys: []secret.String{secret.New("new")},
			Environment: "env2", Now: func() time.Time { return now.AddDate(1, 0, 0) },
		}
		if got, err := later.DecodeVerified(kept); err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		if _, err := later.Verify(kept); err == nil {
			t.Error("the link still verifies")
		}
	}
	for _, token := range []string{"x", "a.b.c", "a.!.c", "..", "a." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":1}`)) + ".c"} {
		if r, err := v.DecodeVerified(link.Link{Token: token}); err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("%q: got %+v, %v, want an error that does not quote it", token, r, err)
		}
	}
}

// An accepted link is small: a store keeps it in each flow's record.
func TestAcceptedLinkIsSmall(t *testing.T) {
	v := newVerifier()
	r := link.Request{Subscriber: strings.Repeat("x", 255), Integration: strings.Repeat("x", 255), Environment: strings.Repeat("x", 255), ReturnURL: "https://app.example.com/" + strings.Repeat("x", 2000)}
	v.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com"}}
	for _, query := range []string{sign(t, v, r), novuStyle(r.Subscriber, "integrationIdentifier", r.Integration, "environmentId", r.Environment, "returnUrl", r.ReturnURL)} {
		if _, err := verify(t, v, query); err != nil {
			t.Error(err)
		}
		l, _ := link.Read(query, "")
		if text := fmt.Sprint(l); len(text) > 4200 {
			t.Errorf("got %d bytes, want at most 4 KB", len(text))
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	v := newVerifier()
	v.ReturnURLs = []*url.URL{{Scheme: "https", Host: "app.example.com", Path: "/settings"}}
	for name, query := range map[string]string{
		"signed": sign(b, v, link.Request{Subscriber: "ada", TeamID: "T1", ReturnURL: "https://app.example.com/settings/x"}),
		"novu":   novuStyle("ada", "returnUrl", "https://app.example.com/settings/x"),
	} {
		b.Run(name+"/read and verify", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				l, err := link.Read(query, "")
				if err == nil {
					_, err = v.Verify(l)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		l, _ := link.Read(query, "")
		b.Run(name+"/decode", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.DecodeVerified(l); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
