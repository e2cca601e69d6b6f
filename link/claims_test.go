package link_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// signPayload returns the query of a link whose token has this payload, byte for byte.
func signPayload(t *testing.T, payload string) string {
	t.Helper()
	return signToken(t, `{"alg":"HS256","typ":"JWT"}`, payload)
}

// signToken returns the query of a link whose token has this header and payload, byte for
// byte, and the right secret's HMAC-SHA256, whatever the header says.
func signToken(t *testing.T, header, payload string) string {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	signature, err := jwt.SigningMethodHS256.Sign(text, []byte(linkSecret))
	if err != nil {
		t.Fatal(err)
	}
	return "token=" + text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// A restriction that is written nearly right is not lost in silence.
func TestClaimNamesCountToTheLetter(t *testing.T) {
	base := fmt.Sprintf(`"sub":"ada","aud":%q,"exp":%d`, origin, now.Add(time.Hour).Unix())
	for more, want := range map[string]string{
		"": "", `,"teamId":"T1","accountName":"Acme","action":"disconnect"`: "", `,"teamId":null`: "",
		`,"iss":"x","iat":1,"jti":"y","email":"a@b.c","org":"x","name":"x","tenantId":"x","userId":"x","role":"x","accountId":1`: "",

		`,"SUB":"bob"`: "nearly sub", `,"Sub":"bob"`: "nearly sub", `,"EXP":1`: "nearly exp", `,"Aud":"x"`: "nearly aud",
		`,"teamid":"T1"`: "nearly teamId", `,"team_id":"T1"`: "nearly teamId", `,"teamID":"T1"`: "nearly teamId", `,"temaId":"T1"`: "nearly teamId", `,"teamIds":"T1"`: "nearly teamId", `,"team":"T1"`: "nearly teamId",
		`,"return_url":"x"`: "nearly returnUrl", `,"returnURL":"x"`: "nearly returnUrl", `,"returnUri":"x"`: "nearly returnUrl", `,"environment":"x"`: "nearly environmentId", `,"environmentID":"x"`: "nearly environmentId",
		`,"integration_identifier":"x"`: "nearly integrationIdentifier", `,"integrationIdentifer":"x"`: "nearly integrationIdentifier", `,"integration":"x"`: "nearly integrationIdentifier",
		`,"Context":{}`: "nearly context", `,"contexts":{}`: "nearly context", `,"Action":"x"`: "nearly action", `,"account_name":"x"`: "nearly accountName",

		`,"sub":"bob"`: "more than once", `,"teamId":"T1","teamId":"T2"`: "more than once", `,"t\u0065amId":"T1","teamId":"T2"`: "more than once", `,"x":1,"x":2`: "more than once",

		`,"teamId":1`: "teamId is not a string", `,"teamId":["T1"]`: "teamId is not a string", `,"action":true`: "action is not a string", `,"nbf":"x"`: "nbf is not a number", `,"action":"install"`: "action is not disconnect",
		`,"teamId":"T` + "\xff" + `"`: "not UTF-8", `,"teamId":"\ud800"`: "not UTF-8", `,"x":"` + "\xc3" + `"`: "not UTF-8", `,"teamId":"T\ufffd"`: "not UTF-8",
		`,"accountName":"a\u0000"`: "control characters", `,"accountName":"` + strings.Repeat("x", 256) + `"`: "too long",
	} {
		for _, contexts := range []bool{false, true} {
			v := newVerifier()
			v.Contexts = contexts
			r, err := verify(t, v, signPayload(t, "{"+base+more+"}"))
			if want == "" && (err != nil || r.Subscriber != "ada") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: got %+v, %v, want %q", more, r, err, want)
			}
		}
	}
	for payload, want := range map[string]string{
		strings.Replace(base, `"ada"`, `42`, 1):                                                            "sub is not a string",
		strings.Replace(base, `"aud":`, `"aud":1,"x":`, 1):                                                 "aud is not a string or a list",
		fmt.Sprintf(`"sub":"ada","aud":%q,"exp":%d`, origin, now.Add(time.Hour).UnixMilli()):               "milliseconds",
		fmt.Sprintf(`"sub":"ada","aud":%q,"exp":%d`, origin, now.Add(400*24*time.Hour+time.Second).Unix()): "400 days",
		fmt.Sprintf(`"sub":"ada","aud":%q,"exp":%d`, origin, now.Add(400*24*time.Hour).Unix()):             "",
		fmt.Sprintf(`"sub":"ada","aud":%q,"exp":%d.5`, origin, now.Add(time.Hour).Unix()):                  "",
		fmt.Sprintf(`"sub":"ada","aud":%q,"exp":"%d"`, origin, now.Add(time.Hour).Unix()):                  "exp is not a number",
	} {
		if _, err := verify(t, newVerifier(), signPayload(t, "{"+payload+"}")); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", payload, err, want)
		}
	}
	for _, payload := range []string{`[]`, `"x"`, `null`, ``, `{`, `{}`, `{"sub":"ada"} {}`} {
		if _, err := verify(t, newVerifier(), signPayload(t, payload)); err == nil {
			t.Errorf("%s passes", payload)
		}
	}
}

// Even with a right signature, a token is a link only with the header of one.
func TestHeaderOfALink(t *testing.T) {
	payload := fmt.Sprintf(`{"sub":"ada","aud":%q,"exp":%d}`, origin, now.Add(time.Hour).Unix())
	for _, header := range []string{`{"alg":"HS256"}`, `{"typ":"JWT","alg":"HS256"}`, `{ "alg": "HS256", "kid": "1", "x": {"crit": 1} }`} {
		if r, err := verify(t, newVerifier(), signToken(t, header, payload)); err != nil || r.Subscriber != "ada" {
			t.Errorf("%s: got %+v, %v, want ada", header, r, err)
		}
	}
	for header, want := range map[string]string{
		`{"alg":"none"}`: "HS256", `{"alg":"None"}`: "HS256", `{"alg":"HS512"}`: "HS256", `{"alg":"RS256"}`: "HS256", `{"alg":"hs256"}`: "HS256", `{"alg":""}`: "HS256", `{"alg":["HS256"]}`: "HS256", `{"alg":null}`: "HS256",
		`{}`: "HS256", `{"typ":"JWT"}`: "HS256", `{"ALG":"HS256"}`: "HS256", `{"alg":"none","alg":"HS256"}`: "HS256", `{"alg":"HS256","alg":"none"}`: "HS256", `{"alg":"HS256","x":1,"x":1}`: "HS256",
		``: "HS256", `null`: "HS256", `[]`: "HS256", `"HS256"`: "HS256", `{"alg":"HS256"`: "HS256", `{"alg":"HS256"} {}`: "HS256", "{\"alg\":\"HS256\xff\"}": "HS256", "{\"alg\":\"HS256\",\"x\":\"\xff\"}": "HS256",
		`{"alg":"HS256","crit":["exp"]}`: "critical", `{"alg":"HS256","crit":[]}`: "critical", `{"alg":"HS256","crit":null}`: "critical",
		`{"alg":"HS256","typ":null}`: "typ", `{"alg":"HS256","typ":"JWT","typ":"JWT"}`: "HS256",
	} {
		if r, err := verify(t, newVerifier(), signToken(t, header, payload)); err == nil || r.Subscriber != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %+v, %v, want %q", header, r, err, want)
		}
	}
}

// A token has one form: nothing can be added to it or written otherwise.
func TestTokenHasOneForm(t *testing.T) {
	good := strings.TrimPrefix(signPayload(t, fmt.Sprintf(`{"sub":"ada","aud":%q,"exp":%d}`, origin, now.Add(time.Hour).Unix())), "token=")
	if _, err := verify(t, newVerifier(), "token="+good); err != nil {
		t.Fatal(err)
	}
	header, _, _ := strings.Cut(good, ".")
	for _, other := range []string{
		good + "=", good + "%0A", good + "%0D%0A", "%0A" + good, good + ".", "." + good, good + "%20", good + "A", good[:len(good)-1], "Bearer%20" + good, good[:len(good)-5] + "%0A" + good[len(good)-5:],
		header + "%0A" + good[len(header):], header + "=" + good[len(header):], header + ".", "..", ".", "",
	} {
		if r, err := verify(t, newVerifier(), "token="+other); err == nil {
			t.Errorf("%s: got %+v, want an error", other, r)
		}
	}
}
