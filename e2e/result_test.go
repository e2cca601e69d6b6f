package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/golang-jwt/jwt/v5"

	"novu-slack-redirect/state/redistest"
)

// verifyingCode returns the lines of docs/integrating.md in a language that verify a result.
func verifyingCode(t *testing.T, language string) string {
	t.Helper()
	_, section, _ := strings.Cut(string(must(os.ReadFile("../docs/integrating.md"))), "\n## Results\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, code, found := strings.Cut(section, "```"+language+"\n")
	code, _, ended := strings.Cut(code, "```")
	if !found || !ended || !strings.Contains(code, "slack-result+jwt") {
		t.Fatalf("docs/integrating.md does not verify a result in %s", language)
	}
	return strings.ReplaceAll(code, "https://slack.example.com", publicOrigin)
}

// The program around these lines reads {"subscriber": …, "tokens": […]} from its
// standard input, and prints for each token the claims, or null if it is refused.
const (
	aroundNode = `const jwt = require("jsonwebtoken");
function verify(slackResult, subscriberId) {
%s
  return result;
}
const { subscriber, tokens } = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(tokens.map((token) => { try { return verify(token, subscriber); } catch { return null; } })));
`
	aroundPython = `import json, jwt, os, sys
def verify(slack_result, subscriber_id):
%s
    return result
asked = json.load(sys.stdin)
def verified(token):
    try:
        return verify(token, asked["subscriber"])
    except (jwt.InvalidTokenError, ValueError):
        return None
print(json.dumps([verified(token) for token in asked["tokens"]]))
`
	aroundGo = `package main

import (
	"encoding/json"
	"errors"
	"os"

	"github.com/golang-jwt/jwt/v5"
)

func main() {
	var asked struct {
		Subscriber string
		Tokens     []string
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	answers := make([]any, len(asked.Tokens))
	for i, token := range asked.Tokens {
		verify(token, asked.Subscriber, func(result any) { answers[i] = result })
	}
	json.NewEncoder(os.Stdout).Encode(answers)
}

func verify(slackResult, subscriberID string, accept func(any)) error {
%s
	accept(result)
	return nil
}
`
)

// verifyAs runs the document's lines of a language on tokens.
func verifyAs(t *testing.T, language, subscriber string, tokens []string) (answers []claims) {
	t.Helper()
	ctx := t.Context() // Go may have much to compile first
	code, dir := verifyingCode(t, language), t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var cmd *exec.Cmd
	switch language {
	case "js":
		cmd = exec.CommandContext(ctx, needCommand(t, "node"), write("verify.js", fmt.Sprintf(aroundNode, code)))
	case "go":
		cmd = exec.CommandContext(ctx, "go", "run", write("verify.go", fmt.Sprintf(aroundGo, code)))
		cmd.Dir = ".." // of the module, which has the library
	case "python":
		indented := "    " + strings.ReplaceAll(strings.TrimSpace(code), "\n", "\n    ")
		path := write("verify.py", fmt.Sprintf(aroundPython, indented))
		for _, python := range []string{"python3", "/usr/bin/python3"} {
			if exec.CommandContext(ctx, python, "-c", "import jwt; jwt.get_unverified_header").Run() == nil {
				cmd = exec.CommandContext(ctx, python, path)
			}
		}
		if cmd == nil && os.Getenv("CI") == "true" {
			t.Fatal("there is no Python with PyJWT")
		} else if cmd == nil {
			t.Skip("there is no Python with PyJWT")
		}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin = bytes.NewReader(must(json.Marshal(map[string]any{"subscriber": subscriber, "tokens": tokens})))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "LINK_SECRET="+linkSecret, "NODE_PATH="+must(filepath.Abs("testdata/jsonwebtoken")))
	if err := cmd.Run(); err != nil || json.Unmarshal(stdout.Bytes(), &answers) != nil || len(answers) != len(tokens) {
		t.Fatalf("%s: %v: %s%s", language, err, stdout.String(), stderr.String())
	}
	return answers
}

// signToken signs any token with the links' secret, or another key.
func signToken(typ string, c claims, key string) string {
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(c))
	token.Header["typ"] = typ
	return must(token.SignedString([]byte(key)))
}

// The document's lines take what the program sends, and nothing else: no link, and nothing
// that differs from a result in one thing.
func TestVerifyResultAsTheDocumentSays(t *testing.T) {
	t.Parallel()
	const subscriber, back = "user+1@example.com/ä #?", "https://app.example.com/settings"
	w := newWorld(t, "LINK_SECRET="+linkSecret+",an-older-secret-of-32-bytes-and-more")
	program, person := start(t, w.env...), w.person(t)
	link := w.link(claims{"sub": subscriber, "returnUrl": back})
	resultOf := func(callback string) string {
		t.Helper()
		a, err := person.get(program, callback)
		if err != nil {
			t.Fatal(err)
		}
		token := must(url.Parse(a.location)).Query().Get("slack_result")
		if !strings.HasPrefix(a.location, back+"?slack=") || token == "" {
			t.Fatalf("got %d to %q, want the return URL with slack_result", a.status, a.location)
		}
		return token
	}
	connected := resultOf(person.approve(program, link))
	callback := person.approve(program, link)
	cancelled := resultOf("/slack/callback?error=access_denied&state=" + must(url.Parse(callback)).Query().Get("state"))

	var real claims
	payload := must(base64.RawURLEncoding.DecodeString(strings.Split(connected, ".")[1]))
	if err := json.Unmarshal(payload, &real); err != nil {
		t.Fatal(err)
	}
	but := func(name string, value any) claims {
		c := maps.Clone(real)
		c[name] = value
		return c
	}
	const typ = "slack-result+jwt"
	refused := map[string]string{
		"a link":                   strings.TrimPrefix(link, publicOrigin+"/slack/install?token="),
		"a link with these claims": signToken("JWT", real, linkSecret),
		"no typ":                   signToken("", real, linkSecret),
		"another typ":              signToken("at+jwt", real, linkSecret),
		"expired":                  signToken(typ, but("exp", time.Now().Add(-2*time.Minute).Unix()), linkSecret),
		"another audience":         signToken(typ, but("aud", "https://other.example.com"), linkSecret),
		"another issuer":           signToken(typ, but("iss", "https://other.example.com"), linkSecret),
		"another person":           signToken(typ, but("sub", "bob"), linkSecret),
		"another secret":           signToken(typ, real, "another-secret-of-32-bytes-and-more!"),
		"no signature":             connected[:strings.LastIndexByte(connected, '.')+1],
		"nothing":                  "",
	}
	tokens := []string{connected, cancelled, signToken(typ, real, linkSecret)} // the last one shows that the others fail for what differs
	var names []string
	for name, token := range refused {
		names, tokens = append(names, name), append(tokens, token)
	}
	for _, language := range []string{"js", "go", "python"} {
		t.Run(language, func(t *testing.T) {
			answers := verifyAs(t, language, subscriber, tokens)
			for i, want := range []claims{
				{"outcome": "connected", "channel": "#alerts", "channelId": "C01", "team": "Acme", "teamId": "T01ACME", "integrationIdentifier": "slack-main"},
				{"outcome": "error", "reason": "access_denied", "integrationIdentifier": "slack-main"},
				{"outcome": "connected"},
			} {
				for name, value := range want {
					if answers[i][name] != value {
						t.Errorf("result %d: got %s %v, want %v, of %v", i, name, answers[i][name], value, answers[i])
					}
				}
			}
			for i, answer := range answers[3:] {
				if answer != nil {
					t.Errorf("%s: taken for a result: %v", names[i], answer)
				}
			}
		})
	}
}

// A return URL of 2,000 bytes and the longest names arrive through a browser, and a name of
// an account that would turn the page around does not.
func TestLongResultInABrowser(t *testing.T) {
	t.Parallel()
	b := chromium(t)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<link rel="icon" href="data:,"><p>the app got %s with a URL of %d bytes and a result of %d</p>`, r.URL.Query().Get("slack"), len(r.RequestURI), len(r.URL.Query().Get("slack_result")))
	}))
	t.Cleanup(app.Close)
	port := redistest.FreePort(t)
	address := "127.0.0.1:" + port
	w := newWorld(t)
	w.slack.RedirectURL = "http://" + address + "/slack/callback"
	start(t, append(w.env, "REDIRECT_URL="+w.slack.RedirectURL, "PORT="+port, "INSTALL_PAGE=true")...)

	back := app.URL + "/settings?x=" + strings.Repeat("y", 2000-len(app.URL+"/settings?x="))
	link := strings.Replace(w.link(claims{"aud": "http://" + address, "sub": strings.Repeat("s", 255), "returnUrl": back, "accountName": "\u202e\u05d0\u05d1\u2069 Ltd\u202e"}), publicOrigin, "http://"+address, 1)
	b.open(link, "Connect Slack to Example Inc.")
	order := do(b, "order", chromedp.Evaluate[string](`(() => {
		const account = document.querySelector(".account"), name = account.querySelector("bdi").getBoundingClientRect();
		const range = document.createRange(); range.selectNodeContents(account.firstChild);
		const label = range.getBoundingClientRect();
		return account.innerText + (label.right <= name.left && name.width > 0 ? " in order" : " out of order");
	})()`))
	if want := "Account: \u05d0\u05d1 Ltd in order"; order != want {
		t.Errorf("the page shows %q, want %q", order, want)
	}
	b.click("form button", "Where should it post?")
	b.press("allow")
	b.wantText("the app got connected with a URL of 2")
	if url := b.url(); len(url) < 2500 || len(url) > 4096 || !strings.HasPrefix(url, back+"&slack=connected") {
		t.Errorf("the browser is at a URL of %d bytes: %s", len(url), url)
	}
	b.wantNoComplaints("on the way")
}

// The demo's links name an account, and its pages show it.
func TestDemoNamesAnAccount(t *testing.T) {
	t.Parallel()
	home := startDemo(t)
	res, err := http.PostForm(home+"show", url.Values{"page": {"install"}}) // which leads on to the page
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	wantText(t, string(must(io.ReadAll(res.Body))), "Account: <bdi>Acme Ltd</bdi>")
}
