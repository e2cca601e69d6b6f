package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// What docs/integrating.md shows of the settings page is what the demo runs.
func TestSettingsPageOfTheDocument(t *testing.T) {
	t.Parallel()
	document := string(must(os.ReadFile("../docs/integrating.md")))
	fragment, script := string(must(os.ReadFile("../demo/settings.html"))), string(must(os.ReadFile("../demo/settings.js")))
	for language, text := range map[string]string{"html": fragment, "js": script} {
		if !strings.Contains(document, "```"+language+"\n"+text+"```\n") {
			t.Errorf("docs/integrating.md does not show the %s of demo/", language)
		}
	}
	home := startDemo(t)
	page := demoPage(t, home)
	box, include, _ := strings.Cut(fragment, "<script")
	if !strings.Contains(page, strings.Replace(box, "/account/slack", "/account/0", 1)) || !strings.Contains(page, "<script"+include) {
		t.Errorf("the demo's page has not the fragment: %s", page)
	}
	if served := demoPage(t, home+"settings.js"); served != script {
		t.Errorf("the demo serves another script: %s", served)
	}
	if strings.Contains(fragment, "style=") || regexp.MustCompile(`\son[a-z]+=`).MatchString(page) || strings.Contains(page, "<script>") {
		t.Error("the page has inline script or style")
	}
}

// The settings page in each of its states: what is connected, change, disconnect, almost
// done, and what went wrong. The address bar is clean afterwards.
func TestSettingsPage(t *testing.T) {
	t.Parallel()
	b, home := chromium(t), startDemo(t)
	wantClean := func(want string) {
		t.Helper()
		b.wait(fmt.Sprintf("location.href == %q", want))
	}
	b.open(home, "Pages of the service")
	b.wantCard(first, "Slack is not connected. Add to Slack")
	b.click(first+connectLink, "Where should it post?")
	b.click("button[name=allow]", "Connected to #alerts at Acme · change · disconnect")
	b.wantCard(second, "Slack is not connected") // the result is not this customer's
	wantClean(home)
	do(b, "reload", chromedp.Reload())
	b.wantText("Connected to #alerts at Acme · change · disconnect")

	b.click(first+connectLink, "Where should it post?")
	do(b, "pick", chromedp.Click(chromedp.CSS(`input[value="#random"]`)))
	b.click("button[name=allow]", "Connected to #random at Acme")
	b.click(first+connectLink, "Where should it post?")
	b.click("button[name=cancel]", "You cancelled")
	b.wantCard(first, "Connected to #random at Acme")
	wantClean(home)

	// Nothing that somebody typed is believed, and other parameters stay.
	b.open(home+"?slack=connected&channel=%23forged&team=Evil&tab=2&slack_result=eyJ.x.y#here", "Pages of the service")
	b.wantCard(first, "Connected to #random at Acme")
	b.wantCard(second, "Slack is not connected")
	wantClean(home + "?tab=2#here")

	b.click(first+disconnectLink, "Disconnect Slack from")
	b.click("form button", "Pages of the service")
	b.wantCard(first, "Slack is not connected")
	b.wantText("slack.disconnected for ada@example.com ✓ signature verified")
	b.wantText("Novu knows this subscriber, without a Slack channel.")
	wantClean(home)

	// In a popup.
	p := b.popup(second + connectLink)
	p.press("allow")
	p.wantClosed()
	b.wantCard(second, "Connected to #alerts at Acme")
	p = b.popup(second + disconnectLink)
	p.wantText("Disconnect Slack from")
	leave(p, "disconnect", chromedp.Click(chromedp.CSS("form button"), chromedp.NodeVisible))
	p.wantClosed()
	b.wantCard(second, "Slack is not connected")

	// A message of another origin than the service's is not read, also while a popup is open.
	p = b.popup(second + connectLink)
	p.wantText("Where should it post?")
	do(b, "forge a message", chromedp.Evaluate[any](`window.asked = []; const real = fetch; fetch = (...args) => { asked.push(args[1]?.method ?? ""); return real(...args) };
		addEventListener("message", () => { window.heard = true }); postMessage({ type: "novu-slack-redirect", slack_result: "eyJ.x.y" }, "*"); null`))
	b.wait(`window.heard`)
	if do(b, "asked", chromedp.Evaluate[bool](`asked.includes("POST")`)) {
		t.Error("the page reads a message of another origin")
	}
	p.press("cancel")
	p.wantClosed()
	b.wantCard(second, "You cancelled")
	b.wait(`asked.includes("POST")`)

	// Novu is down: almost done, which the event turns into success.
	show(t, home, "pending")
	b.click(first+connectLink, "Where should it post?")
	b.press("allow")
	b.wait(`location.href.startsWith("` + home + `")`) // opening the page repairs Novu
	b.wantCard(first, "Connected to #alerts at Acme")
	b.wantNoComplaints("on the way")
}

// While Novu is down the page says so, and turns into success by itself when it is back.
func TestSettingsPageAlmostDone(t *testing.T) {
	t.Parallel()
	b, home := chromium(t), startDemo(t)
	b.open(home, "Pages of the service")
	b.wantCard(second, "Slack is not connected")
	show(t, home, "pending")
	p := b.popup(second + connectLink)
	p.press("allow")
	p.wantClosed()
	b.wantCard(second, "Almost done")
	do(b, "mark", chromedp.Evaluate[any](`window.marked = true`))
	demoPage(t, home) // which repairs Novu
	b.wantCard(second, "Connected to #alerts at Acme · change · disconnect")

	// The same for the end of a connection.
	show(t, home, "pending")
	p = b.popup(second + disconnectLink)
	p.wantText("Disconnect Slack from")
	leave(p, "disconnect", chromedp.Click(chromedp.CSS("form button"), chromedp.NodeVisible))
	p.wantClosed()
	b.wantCard(second, "Almost done")
	demoPage(t, home)
	b.wantCard(second, "Slack is not connected")
	b.wait(`window.marked`)
	b.wantNoComplaints("on the way")

	// A backend that does not answer.
	do(b, "break", chromedp.Evaluate[any](`fetch = () => Promise.reject(new Error()); document.dispatchEvent(new Event("visibilitychange"))`))
	b.wantCard(second, "This can’t be shown right now")
}

// settingsOf is what the demo's backend answers for a customer; with a result, after that.
func settingsOf(t *testing.T, home string, customer int, result string) (state struct{ Status, Place, Connect, Disconnect, Problem string }) {
	t.Helper()
	address := fmt.Sprintf("%saccount/%d", home, customer)
	res, err := http.Get(address)
	if err == nil && result != "" {
		res.Body.Close()
		res, err = http.PostForm(address, url.Values{"slack_result": {result}})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&state); err != nil {
		t.Fatal(err)
	}
	return state
}

// chooseInDemo opens a link of the demo, presses "allow" or "cancel" at Slack, and returns the
// slack_result that comes back to the app.
func chooseInDemo(t *testing.T, link, channel, press string) (result string) {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Hostname() == "localhost" || r.Method == http.MethodPost {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	res, err := client.Get(link)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	res, err = client.PostForm(res.Request.URL.String(), url.Values{"team": {"T01ACME"}, "channel": {channel}, press: {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return must(url.Parse(res.Header.Get("Location"))).Query().Get("slack_result")
}

// The demo's app takes a signed result once, for whom it is, and no old one.
func TestDemoVerifiesResults(t *testing.T) {
	t.Parallel()
	home := startDemo(t)
	older := chooseInDemo(t, settingsOf(t, home, 0, "").Connect, "#alerts", "allow")
	newer := chooseInDemo(t, settingsOf(t, home, 0, "").Connect, "#random", "allow")
	refusal := chooseInDemo(t, settingsOf(t, home, 0, "").Connect, "#alerts", "cancel")
	waitFor(t, "the events come", func() bool { return settingsOf(t, home, 0, "").Place == "#random at Acme" })
	for _, c := range []struct {
		name     string
		customer int
		result   string
		place    string
		problem  string
	}{
		{"again", 0, newer, "#random at Acme", ""},
		{"an older one", 0, older, "#random at Acme", ""},
		{"a refusal", 0, refusal, "#random at Acme", "You cancelled"},
		{"somebody else's", 1, newer, "", ""},
		{"somebody else's refusal", 1, refusal, "", ""},
		{"a link", 1, must(url.Parse(settingsOf(t, home, 1, "").Connect)).Query().Get("token"), "", ""},
		{"without its signature", 0, refusal[:strings.LastIndexByte(refusal, '.')+1], "#random at Acme", ""},
	} {
		if state := settingsOf(t, home, c.customer, c.result); state.Place != c.place || !strings.Contains(state.Problem, c.problem) || c.problem == "" && state.Problem != "" {
			t.Errorf("%s: got %+v, want place %q and problem %q", c.name, state, c.place, c.problem)
		}
	}
}

// The demo's app believes only events with the service's signature.
func TestDemoRefusesForgedEvents(t *testing.T) {
	t.Parallel()
	home := startDemo(t)
	const forged = `{"type":"slack.connected","data":{"subscriberId":"ada@example.com","channel":"#forged","team":"Evil","flow":"x"}}`
	for _, signature := range []string{"", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="} {
		req := must(http.NewRequest(http.MethodPost, home+"events", strings.NewReader(forged)))
		if signature != "" {
			req.Header.Set("webhook-id", "evt_1")
			req.Header.Set("webhook-timestamp", fmt.Sprint(time.Now().Unix()))
			req.Header.Set("webhook-signature", signature)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("signature %q: got %d, want 400", signature, res.StatusCode)
		}
	}
	if state := settingsOf(t, home, 0, ""); state.Status != "none" {
		t.Errorf("the app believes a forged event: %+v", state)
	}
	if page := demoPage(t, home); strings.Count(page, `class="refused"`) != 2 || strings.Contains(page, "#forged at Evil") {
		t.Errorf("the page does not show what was refused: %s", page)
	}
}

// The demo runs in the image: with the settings that the Dockerfile has, without another
// place to write to than the folder of DATA_FILE, and reachable from outside at its one port.
func TestDemoInTheImage(t *testing.T) {
	t.Parallel()
	dockerfile := string(must(os.ReadFile("../Dockerfile")))
	if !regexp.MustCompile(`(?m)^ENV .*\bPORT=8080\b`).MatchString(dockerfile) || !strings.Contains(dockerfile, "\nENV DATA_FILE=/data/") {
		t.Error("the image sets no PORT, or no DATA_FILE")
	}
	data := t.TempDir()
	demo := exec.Command(binary, "demo")
	demo.Dir = "/"
	p, home, err := launchUntil(t, demo, regexp.MustCompile(`^Open (\S+) in a browser`), "PORT=0", "DATA_FILE="+data+"/novu-slack-redirect.db", "TMPDIR=/there/is/none")
	if p != nil {
		t.Cleanup(p.end)
	}
	if err != nil {
		t.Fatal(err)
	}
	port := must(url.Parse(home)).Port()
	if outside := outsideAddress(); outside != "" {
		page := demoPage(t, "http://"+net.JoinHostPort(outside, port)+"/")
		wantText(t, page, "Add to Slack")
		wantText(t, page, "open this page there")
	}
	if exit, _, stderr := runCommand(t, []string{"PORT=" + port}, "health"); exit != exitOK {
		t.Errorf("health: got exit code %d: %s", exit, stderr)
	}

	// Whatever browsers are sent to is at that port.
	w := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := w.Get(settingsOf(t, home, 0, "").Connect)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	for _, address := range []string{settingsOf(t, home, 0, "").Disconnect, res.Header.Get("Location"), must(url.Parse(res.Header.Get("Location"))).Query().Get("redirect_uri")} {
		if got := must(url.Parse(address)).Port(); got != port {
			t.Errorf("browsers are sent to %s, want port %s", address, port)
		}
	}
	p.stop()
	if left := must(os.ReadDir(data)); len(left) != 0 {
		t.Errorf("the demo leaves %v", left)
	}
}

// outsideAddress returns an IPv4 address of this machine that is not loopback, or "".
func outsideAddress() string {
	for _, address := range must(net.InterfaceAddrs()) {
		if ip, ok := address.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			return ip.IP.String()
		}
	}
	return ""
}

// Without PORT the demo is for this machine alone; a port that is in use is an error that
// names the setting.
func TestDemoListensOnThisMachine(t *testing.T) {
	t.Parallel()
	p, home, err := launchUntil(t, exec.Command(binary, "demo"), regexp.MustCompile(`^Open (\S+) in a browser`))
	if p != nil {
		t.Cleanup(p.end)
	}
	if err != nil {
		t.Fatal(err)
	}
	port := must(url.Parse(home)).Port()
	if outside := outsideAddress(); outside != "" {
		if conn, err := net.Dial("tcp", net.JoinHostPort(outside, port)); err == nil {
			conn.Close()
			t.Errorf("%s can be reached at %s", home, outside)
		}
	}
	p.stop()
	taken := must(net.Listen("tcp", ":0"))
	t.Cleanup(func() { taken.Close() })
	exit, _, stderr := runCommand(t, []string{fmt.Sprint("PORT=", taken.Addr().(*net.TCPAddr).Port)}, "demo")
	if exit != exitFailed || !strings.Contains(stderr, "PORT: ") || !strings.Contains(stderr, "choose another") {
		t.Errorf("got exit code %d: %s", exit, stderr)
	}
}

// The demo's page in light and dark, on phones and wide.
func TestDemoLooks(t *testing.T) {
	t.Parallel()
	b, home := chromium(t), startDemo(t)
	b.open(home, "Pages of the service")
	b.wantCard(first, "Slack is not connected")
	b.click(first+connectLink, "Where should it post?")
	b.click("button[name=allow]", "Connected to #alerts at Acme")
	b.wantText("✓ signature verified")
	b.look("demo")
	for _, scheme := range []string{"light", "dark"} {
		do(b, scheme, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			return err
		}))
		do(b, "size", chromedp.EmulateViewport(390, 844))
		if wide := do(b, "width", chromedp.Evaluate[int64](`document.documentElement.scrollWidth`)); wide > 390 {
			t.Errorf("%s: the page is %d px wide", scheme, wide)
		}
		b.screenshot("demo-" + scheme + "-390")
	}
}
