package link_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
)

// signResult signs a result for an app on the service's own origin, which has the audience
// and the subscriber of a link.
func signResult(t testing.TB, v *link.Verifier, r link.Result) string {
	t.Helper()
	signed, err := v.SignResult(r)
	if err != nil || signed == "" {
		t.Fatalf("sign %+v: got %q, %v", r, signed, err)
	}
	return signed
}

// The token, byte for byte: what apps rely on.
func TestSignResult(t *testing.T) {
	const typ = `{"alg":"HS256","typ":"slack-result+jwt"}`
	for _, c := range []struct {
		result link.Result
		want   string
	}{
		{link.Result{Subscriber: "ada", FlowID: "f1", ReturnURL: "https://App.example.com:443/settings?a=b#c", Outcome: "connected", Channel: "#alerts", ChannelID: "C1", Team: "Acme & Söhne", TeamID: "T1", Integration: "slack-eu"},
			`{"iss":"https://slack.example.com","sub":"ada","exp":1800000600,"iat":1800000000,"jti":"f1","aud":"https://app.example.com","outcome":"connected","channel":"#alerts","channelId":"C1","team":"Acme & Söhne","teamId":"T1","integrationIdentifier":"slack-eu"}`},
		{link.Result{Subscriber: "ada", ReturnURL: "http://localhost:3000", Outcome: "error", Reason: "link_expired"},
			`{"iss":"https://slack.example.com","sub":"ada","exp":1800000600,"iat":1800000000,"aud":"http://localhost:3000","outcome":"error","reason":"link_expired"}`},
	} {
		token := signResult(t, newVerifier(), c.result)
		parts := strings.Split(token, ".")
		header, _ := base64.RawURLEncoding.DecodeString(parts[0])
		payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
		if got := strings.ReplaceAll(string(payload), `\u0026`, "&"); string(header) != typ || got != c.want {
			t.Errorf("got %s %s, want %s %s", header, got, typ, c.want)
		}
		signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
		if err := jwt.SigningMethodHS256.Verify(parts[0]+"."+parts[1], signature, []byte(linkSecret)); err != nil {
			t.Errorf("the first secret does not verify it: %v", err)
		}
	}
}

func TestNoResultWithoutSecretOrAudience(t *testing.T) {
	result := link.Result{Subscriber: "ada", ReturnURL: "https://app.example.com/", Outcome: "connected"}
	for name, secrets := range map[string][]secret.String{"none": nil, "an empty one": {{}}, "an empty one first": {{}, secret.New(linkSecret)}} {
		v := newVerifier()
		v.Secrets = secrets
		if signed, err := v.SignResult(result); signed != "" || err != nil {
			t.Errorf("secrets: %s: got %q, %v, want nothing", name, signed, err)
		}
	}
	result.ReturnURL = ""
	if signed, err := newVerifier().SignResult(result); signed != "" || err != nil {
		t.Errorf("no return URL: got %q, %v, want nothing", signed, err)
	}
	result.ReturnURL = "javascript:alert(1)"
	if signed, err := newVerifier().SignResult(result); signed != "" || err == nil {
		t.Errorf("no URL: got %q, %v, want an error", signed, err)
	}
}

// A result is refused as a link, even where everything but its typ would do: one secret, at
// any place in the list, the app on the public origin, and no claim that links do not have.
func TestResultIsNoLink(t *testing.T) {
	result := link.Result{Subscriber: "ada", FlowID: "f1", ReturnURL: origin + "/settings", Outcome: "error", Reason: "access_denied"}
	signer := newVerifier()
	signer.Secrets = []secret.String{secret.New(linkSecret)}
	token := signResult(t, signer, result)
	for name, secrets := range map[string][]secret.String{
		"the only secret":   {secret.New(linkSecret)},
		"the first of two":  {secret.New(linkSecret), secret.New(oldSecret)},
		"the second of two": {secret.New(oldSecret), secret.New(linkSecret)},
	} {
		v := newVerifier()
		v.Secrets = secrets
		r, err := verify(t, v, "token="+token)
		if err == nil || errors.Is(err, link.ErrExpired) || !strings.Contains(err.Error(), "typ") {
			t.Errorf("%s: got %+v, %v, want it refused for its typ", name, r, err)
		}
		// It is the typ alone that stops it.
		if _, err := verify(t, v, forge(t, jwt.SigningMethodHS256, []byte(linkSecret), claimsOf(t, token))); err != nil {
			t.Errorf("%s: the same claims as a link: %v", name, err)
		}
	}
	late := newVerifier()
	late.Now = func() time.Time { return now.Add(time.Hour) }
	if r, err := verify(t, late, "token="+token); err == nil || errors.Is(err, link.ErrExpired) {
		t.Errorf("an expired result: got %+v, %v, want no word of expiry", r, err)
	}
}

// claimsOf returns the claims of a token.
func claimsOf(t *testing.T, token string) jwt.MapClaims {
	t.Helper()
	payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	claims := jwt.MapClaims{}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// Only typ JWT, or none, is a link.
func TestTypeOfALink(t *testing.T) {
	sign := func(header map[string]any) string {
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ada", "aud": origin, "exp": now.Add(time.Hour).Unix()})
		maps.Copy(token.Header, header)
		if header == nil {
			delete(token.Header, "typ")
		}
		text, err := token.SignedString([]byte(linkSecret))
		if err != nil {
			t.Fatal(err)
		}
		return "token=" + text
	}
	for _, header := range []map[string]any{nil, {"typ": "JWT"}, {"typ": "jwt"}, {"typ": "Jwt"}} {
		if r, err := verify(t, newVerifier(), sign(header)); err != nil || r.Subscriber != "ada" {
			t.Errorf("%v: got %+v, %v, want ada", header, r, err)
		}
	}
	for _, typ := range []any{"slack-result+jwt", "SLACK-RESULT+JWT", "application/slack-result+jwt", "", "at+jwt", "JWT ", "JWS", "application/jwt", nil, 1, []string{"JWT"}, map[string]any{"JWT": 1}, true} {
		if r, err := verify(t, newVerifier(), sign(map[string]any{"typ": typ})); err == nil || !strings.Contains(err.Error(), "typ") {
			t.Errorf("typ %v: got %+v, %v, want it refused", typ, r, err)
		}
	}
}

// A name keeps its letters and loses what would turn the text around it.
func TestAccountNameHasNoBidiControls(t *testing.T) {
	v := newVerifier()
	query := sign(t, v, link.Request{Subscriber: "ada", AccountName: "\u202eAcme \u2066\u05d0\u05d1\u2069\u200e\u200f\u061c\u202c 👩\u200d💻"})
	if r, err := verify(t, v, query); err != nil || r.AccountName != "Acme \u05d0\u05d1 👩\u200d💻" {
		t.Errorf("got %q, %v", r.AccountName, err)
	}
}
