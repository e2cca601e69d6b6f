package e2e_test

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// browser is the one Chromium of a run, started by the first test that needs it.
var browser struct {
	sync.Once
	ctx   context.Context
	err   error
	close func()
}

// closeBrowser is for the end of the run.
func closeBrowser() {
	if browser.close != nil {
		browser.close()
	}
}

// chromium opens a tab with cookies of its own, as in a browser of its own. Without
// Chromium the test is skipped, or fails with CI=true.
func chromium(t *testing.T) tab {
	t.Helper()
	path := needCommand(t, "chromium", "chromium-browser", "google-chrome")
	browser.Do(func() {
		options := append(chromedp.DefaultExecAllocatorOptions[:],
			chromedp.ExecPath(path),
			// Containers often run as root and without network: switches for tests only.
			chromedp.NoSandbox, chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		)
		allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
		ctx, stopBrowser := chromedp.NewContext(allocator)
		browser.ctx, browser.close = ctx, func() { stopBrowser(); stop() }
		browser.err = chromedp.Do(ctx)
	})
	if browser.err != nil {
		t.Fatalf("chromium: %v", browser.err)
	}
	return newTab(t, browser.ctx, chromedp.WithNewBrowserContext())
}

// newTab opens a tab in the browser of parent.
func newTab(t *testing.T, parent context.Context, options ...chromedp.ContextOption) tab {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(parent, options...)
	t.Cleanup(closeTab)
	b := tab{t, ctx, &complaints{}}
	if err := chromedp.Listen(ctx, b.complaints.hear); err != nil { // without a deadline, which would be the tab's
		t.Fatal(err)
	}
	do(b, "log", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, cdplog.Enable, cdp.Empty{})
		return err
	}))
	return b
}

// startDemo runs the demo until the test ends and returns its page.
func startDemo(t *testing.T) (home string) {
	t.Helper()
	p, home, err := launchUntil(t, exec.Command(binary, "demo"), regexp.MustCompile(`^Open (\S+) in a browser`), "PORT=0")
	if p != nil {
		t.Cleanup(p.end)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return home
}

// tab is a browser tab with the words of the tests.
type tab struct {
	t          *testing.T
	ctx        context.Context
	complaints *complaints
}

// complaints are what a tab's console says is wrong: errors, exceptions and
// violations of the Content-Security-Policy.
type complaints struct {
	mu  sync.Mutex
	all []string
}

func (c *complaints) hear(event any) {
	text := ""
	switch e := event.(type) {
	case *cdplog.EventEntryAdded:
		// The status of an error page is no complaint.
		if !strings.HasPrefix(e.Entry.Text, "Failed to load resource: the server responded with a status of") || strings.Contains(e.Entry.URL, "/slack/assets/") {
			text = fmt.Sprint(e.Entry.Level, ": ", e.Entry.Text, " ", e.Entry.URL)
		}
	case *runtime.EventConsoleAPICalled:
		text = fmt.Sprint("console.", e.Type)
	case *runtime.EventExceptionThrown:
		text = "exception: " + e.ExceptionDetails.Text
	}
	if text != "" {
		c.mu.Lock()
		c.all = append(c.all, text)
		c.mu.Unlock()
	}
}

func (b tab) wantNoComplaints(what string) {
	b.t.Helper()
	b.complaints.mu.Lock()
	defer b.complaints.mu.Unlock()
	if len(b.complaints.all) != 0 {
		b.t.Errorf("%s: the browser complains: %s", what, b.complaints.all)
	}
	b.complaints.all = nil
}

// do runs one step and returns its value.
func do[T any](b tab, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	return value
}

// leave does what makes the page go, or its window close. The browser may do that
// before it reports that the step was done, which is then reported as an error: only
// one that takes too long is one. What the step leads to is for the caller to see.
func leave[T any](b tab, what string, action chromedp.Action[T]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if _, err := chromedp.Run(ctx, action); err != nil && ctx.Err() != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// click follows a link or presses a button and waits until the page it leads to
// says want.
func (b tab) click(selector, want string) {
	b.t.Helper()
	before := b.url()
	leave(b, "click "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
	// On a busy machine the page may still move when the browser looks where to click.
	if !b.holds(saysText(want), patience/3) && b.url() == before {
		leave(b, "click "+selector+" again", chromedp.Evaluate[any](fmt.Sprintf(`void document.querySelector(%q)?.click()`, selector)))
	}
	b.wantText(want)
}

func (b tab) open(url, want string) {
	b.t.Helper()
	do(b, "open "+url, chromedp.Navigate(url))
	b.wantText(want)
}

func (b tab) wantText(want string) {
	b.t.Helper()
	b.wait(saysText(want))
}

// saysText is the condition that the page is there and says want.
func saysText(want string) string {
	return fmt.Sprintf(`document.readyState == "complete" && document.body.innerText.includes(%q)`, want)
}

// wait waits until condition is true in the page, whatever page that is by then.
func (b tab) wait(condition string) {
	b.t.Helper()
	if !b.holds(condition, patience) {
		b.t.Fatalf("not in %v: %s. The page at %s says: %s", patience, condition, b.url(), b.text())
	}
}

// holds reports whether condition becomes true in the page within a time.
func (b tab) holds(condition string, within time.Duration) bool {
	b.t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		// An error, or no answer, is a page that goes while it is read.
		ctx, cancel := context.WithTimeout(b.ctx, patience/6)
		done, _ := chromedp.Run(ctx, chromedp.Evaluate[bool](condition))
		cancel()
		if done {
			return true
		}
	}
	return false
}

func (b tab) text() string {
	b.t.Helper()
	return do(b, "text", chromedp.Evaluate[string](`document.body.innerText`))
}

func (b tab) url() string {
	b.t.Helper()
	return do(b, "location", chromedp.Location())
}

// screenshot keeps a picture of the whole page under a name.
func (b tab) screenshot(name string) {
	b.t.Helper()
	png := do(b, "screenshot", chromedp.FullScreenshot(100))
	path := filepath.Join("..", "screenshots", name+".png")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// titleConnected is on the service's page and on the demo's.
const titleConnected = "Slack is connected"

// The cards of the demo's customers. The links of the first lead there and back, those of
// the second open a popup.
const (
	first  = "section:nth-of-type(1) "
	second = "section:nth-of-type(2) "

	connectLink    = "[data-status]:not([hidden]) [data-link=connect]" // Add to Slack, or change
	disconnectLink = "[data-link=disconnect]"
)

// wantCard waits until the card of a customer says want.
func (b tab) wantCard(card, want string) {
	b.t.Helper()
	b.wait(fmt.Sprintf(`document.querySelector(%q)?.innerText.includes(%q)`, card+".slack", want))
}

// TestBrowserClicksThroughTheDemo is the whole program in a real browser. It
// leaves pictures in screenshots/, which git ignores.
func TestBrowserClicksThroughTheDemo(t *testing.T) {
	t.Parallel()
	b, home := chromium(t), startDemo(t)
	do(b, "size", chromedp.EmulateViewport(1100, 900))

	b.open(home, "Novu does not know this subscriber yet")
	b.wantCard(first, "Slack is not connected")
	b.screenshot("demo-before")

	// Allow, with another channel than the first, and back in the app.
	b.click(first+connectLink, "Where should it post?")
	b.screenshot("consent")
	do(b, "pick", chromedp.Click(chromedp.CSS(`input[value="#general"]`)))
	b.click("button[name=allow]", "Connected to #general at Acme")
	b.wantText("slack.connected for ada@example.com: #general at Acme ✓ signature verified")
	for _, want := range []string{
		"Novu sends to", "https://hooks.slack.com/serv…", "→ Slack 200 POST /api/oauth.v2.access", "→ your app 204 POST /events",
		"→ Novu 400 PUT /v1/subscribers/ada%40example.com/credentials", "As expected: Novu does not know this subscriber yet",
	} {
		b.wantText(want)
	}
	b.screenshot("demo")

	// Cancel, on the service's own page, and Start again from there.
	b.click(second+".plain", "Where should it post?")
	b.click("button[name=cancel]", "You cancelled")
	b.screenshot("cancelled")
	b.click("a.button", "Where should it post?")
	b.click("button[name=allow]", titleConnected)
	b.screenshot("connected")

	// A reload shows the same result; a second choice is not ignored in silence.
	do(b, "reload", chromedp.Reload())
	b.wantText(titleConnected)
	do(b, "back", chromedp.NavigateBack())
	b.wantText("Where should it post?") // Slack's page: the callback is not in the history
	b.click("button[name=allow]", "Slack was connected already")
	b.screenshot("choice-not-used")
	b.click("a.button", "Where should it post?") // one click starts again

	// Two tabs, finished in both orders, each for its own subscriber.
	other := newTab(t, b.ctx)
	for _, firstFirst := range []bool{true, false} {
		b.open(home, "Pages of the service")
		other.open(home, "Pages of the service")
		b.click(first+".plain", "Where should it post?")
		other.click(second+".plain", "Where should it post?")
		do(other, "pick", chromedp.Click(chromedp.CSS(`input[value="#random"]`)))
		finish := []func(){
			func() { b.click("button[name=allow]", "#alerts at Acme") },
			func() { other.click("button[name=allow]", "#random at Acme") },
		}
		if !firstFirst {
			slices.Reverse(finish)
		}
		finish[0]()
		finish[1]()
	}

	// The browser never came back, and the app knows: by the events.
	b.open(home, "Pages of the service")
	b.wantCard(first, "Connected to #alerts at Acme")
	b.wantCard(second, "Connected to #random at Acme")
	if text := b.text(); strings.Count(text, "Novu sends to") != 2 {
		t.Errorf("want one webhook for each subscriber: %s", text)
	}
	b.wantNoComplaints("on the way")
}

//go:embed testdata/axe/axe.min.js
var axe string

// look checks the page in light, dark and forced colors, narrow and wide: nothing to
// scroll sideways, nothing wrong for a screen reader or in contrast. It leaves a picture
// of each.
func (b tab) look(name string) {
	b.t.Helper()
	b.wait(`document.readyState == "complete"`) // to stop it before would stop its style
	do(b, "stop its reload", chromedp.Evaluate[any](`window.stop(); for (let i = setTimeout(() => {}); i > 0; i--) clearTimeout(i)`))
	do(b, "axe", chromedp.Evaluate[any](axe+";null"))
	for _, scheme := range []string{"forced", "dark", "light"} { // which also ends as it began
		do(b, scheme, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "forced-colors", Value: "none"}}
			if scheme == "forced" {
				features = []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}, {Name: "forced-colors", Value: "active"}}
			}
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
			return err
		}))
		if !do(b, "logos", chromedp.Evaluate[bool](`[...document.querySelectorAll("img.mark")].every(e => getComputedStyle(e).backgroundColor == "rgb(255, 255, 255)")`)) {
			b.t.Errorf("%s, %s: a logo that is made for white does not stand on white", name, scheme)
		}
		for _, width := range map[string][]int64{"light": {320, 390, 1280}, "dark": {320, 1280}, "forced": {390}}[scheme] {
			do(b, "size", chromedp.EmulateViewport(width, 720))
			shot := fmt.Sprintf("%s-%s-%d", name, scheme, width)
			if wide := do(b, "width", chromedp.Evaluate[int64](`document.documentElement.scrollWidth`)); wide > width {
				b.t.Errorf("%s: the page is %d px wide", shot, wide)
			}
			found := do(b, "axe", chromedp.Evaluate[[]string](`axe.run({preload: false}).then(r => r.violations.map(v => v.id + ": " + v.nodes.map(n => n.html + " " + n.failureSummary).join("; ")))`, chromedp.EvalAwaitPromise))
			if len(found) != 0 {
				b.t.Errorf("%s: axe finds %s", shot, found)
			}
			b.screenshot(shot)
		}
	}
	b.wantNoComplaints(name)
}

// press presses a button at the simulated Slack.
func (b tab) press(name string) {
	b.t.Helper()
	b.wantText("Where should it post?")
	leave(b, name, chromedp.Click(chromedp.CSS("button[name="+name+"]"), chromedp.NodeVisible))
}

// demoSwitch is a button of the demo's page that leads to one page of the service.
type demoSwitch struct {
	page string // its code or name
	how  string // what the person does then
}

func demoSwitches(t *testing.T, home string) (switches []demoSwitch) {
	t.Helper()
	for _, m := range regexp.MustCompile(`<button name="page" value="([a-z_]+)"><code>[a-z_]+</code> <span>([^<]*)</span>`).FindAllStringSubmatch(demoPage(t, home), -1) {
		switches = append(switches, demoSwitch{m[1], m[2]})
	}
	if len(switches) < 10 {
		t.Fatalf("the demo has %d switches, want one for each kind of page", len(switches))
	}
	return switches
}

// demoPage is the demo's page as it is sent to browsers.
func demoPage(t *testing.T, home string) string {
	t.Helper()
	res, err := http.Get(home)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return string(must(io.ReadAll(res.Body)))
}

// landmarks are what shows that a page is the one that a switch promises. Other pages
// show their code.
var landmarks = map[string]string{
	"front":     `document.querySelector("header ~ main:not([class])") != null`,
	"connected": `document.querySelector("main.connected") != null`,
	"install":   `document.querySelector("main.install form") != null`,
	"pending":   `document.querySelector("main.working .place") != null`,
	"working":   `document.querySelector("main.working:not(:has(.place))") != null`,
}

// TestEveryPage opens each kind of page by its switch of the demo, and the text of each of
// Slack's refusals, in each language.
func TestEveryPage(t *testing.T) {
	t.Parallel()
	for _, language := range []string{"en", "de"} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			b, home := chromium(t), startDemo(t)
			b.speak(language)
			for _, s := range demoSwitches(t, home) {
				b.open(home, "Pages of the service")
				leave(b, s.page, chromedp.Click(chromedp.CSS(`button[value="`+s.page+`"]`), chromedp.NodeVisible))
				if strings.Contains(s.how, "then Allow") {
					b.press("allow")
				} else if s.how == "then Cancel" {
					b.press("cancel")
				}
				landmark := cmp.Or(landmarks[s.page], `document.querySelector("main").dataset.code == "`+s.page+`"`)
				b.wait(`document.readyState == "complete" && document.documentElement.lang == "` + language + `" && ` + landmark)
				if size := do(b, "size", chromedp.Evaluate[int](`performance.getEntries().reduce((sum, e) => sum + (e.decodedBodySize || 0), 0)`)); size < 2000 || size > 30000 {
					t.Errorf("%s has %d bytes with all that it loads, want at most 30000", s.page, size)
				}
				b.look(filepath.Join(language, s.page))
			}
			b.open(home, "Pages of the service")
			b.look(filepath.Join(language, "demo"))

			b.click("a.plain", "Where should it post?")
			leave(b, "cancel", chromedp.Click(chromedp.CSS("button[name=cancel]"), chromedp.NodeVisible))
			b.wait(`document.querySelector("main.cancelled") != null`)
			refused := b.url()
			for _, code := range []string{"code_expired", "slack_account", "slack_later", "slack_busy", "slack_unknown", "not_distributed"} {
				b.open(strings.Replace(refused, "refused=access_denied", "refused="+code, 1), code)
				b.look(filepath.Join(language, code))
			}
		})
	}
}

// speak makes the tab ask for pages in a language.
func (b tab) speak(language string) {
	b.t.Helper()
	agent := do(b, "user agent", chromedp.Evaluate[string](`navigator.userAgent`))
	do(b, "language", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: agent, AcceptLanguage: language})
		return err
	}))
}

var popups sync.Map // those that were opened so far, by target ID

// popup clicks what opens a popup and returns the popup's tab.
func (b tab) popup(selector string) tab {
	b.t.Helper()
	return b.popupOf(b, selector)
}

// popupOf is popup, with a tab that lives as long as parent does.
func (b tab) popupOf(parent tab, selector string) tab {
	b.t.Helper()
	// An earlier popup that is just closing is told of once more.
	opened := chromedp.WaitNewTarget(b.ctx, func(info *target.Info) bool {
		if info.OpenerID != chromedp.FromContext(b.ctx).Target.TargetID {
			return false // another test's
		}
		_, known := popups.LoadOrStore(info.TargetID, true)
		return !known
	})
	do(b, "open popup", chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
	select {
	case id := <-opened:
		return newTab(b.t, parent.ctx, chromedp.WithTargetID(id))
	case <-time.After(patience):
		b.t.Fatal("no popup opens")
		return tab{}
	}
}

func (b tab) wantClosed() {
	b.t.Helper()
	select {
	case <-must(chromedp.Detached(b.ctx)):
	case <-time.After(patience):
		b.t.Fatalf("the popup stays open at %s: %s", b.url(), b.text())
	}
}

// closeByButton presses the page's own button.
func (b tab) closeByButton() {
	b.t.Helper()
	b.wait(`document.getElementById("close").checkVisibility()`)
	leave(b, "close", chromedp.Click(chromedp.CSS("#close"), chromedp.NodeVisible))
	b.wantClosed()
}

// show presses a switch of the demo from aside, without leaving the page.
func show(t *testing.T, home, page string) {
	t.Helper()
	res, err := http.DefaultTransport.RoundTrip(must(http.NewRequest(http.MethodPost, home+"show?page="+page, nil)))
	if err != nil || res.StatusCode != http.StatusSeeOther {
		t.Fatalf("show %s: %v, %v", page, res, err)
	}
	res.Body.Close()
}

func TestPopup(t *testing.T) {
	t.Parallel()
	b, home := chromium(t), startDemo(t)

	// The popup tells the page, on another origin, and closes. The page stays where it is.
	b.open(home, "Pages of the service")
	b.wantCard(second, "Slack is not connected")
	do(b, "mark", chromedp.Evaluate[any](`window.marked = true`))
	p := b.popup(second + connectLink)
	p.press("allow")
	p.wantClosed()
	b.wantCard(second, "Connected to #alerts at Acme")
	b.wait(`window.marked`)
	b.wantNoComplaints("on the way")

	// Nothing but a type and the parameters of the return URL, and the opener stays where it was.
	const listen = `window.got = []; window.addEventListener("message", e => { got.push(e.origin + " " + JSON.stringify(e.data)); e.stopImmediatePropagation() }, true)`
	for press, outcome := range map[string]string{"allow": `"slack":"connected","channel":"#alerts","team":"Acme"`, "cancel": `"slack":"error","reason":"access_denied"`} {
		b.open(home, "Pages of the service")
		b.wantCard(second, "Connected to")
		do(b, "listen", chromedp.Evaluate[any](listen))
		p = b.popup(second + connectLink)
		service := must(url.Parse(must(url.Parse(do(p, "consent", chromedp.Location()))).Query().Get("redirect_uri")))
		p.press(press)
		p.wantClosed()
		b.wait(`got.length > 0`)
		want := service.Scheme + "://" + service.Host + ` {"type":"novu-slack-redirect",` + outcome + `,"slack_result":"eyJ`
		if got := do(b, "got", chromedp.Evaluate[[]string](`got`)); len(got) != 1 || !strings.HasPrefix(got[0], want) || strings.Count(got[0], ",") != strings.Count(want, ",") {
			t.Errorf("%s: the opener got %q, want %q… alone", press, got, want)
		}
	}

	// What there is to read stays open, with Start again and a button.
	b.open(home, "Pages of the service")
	b.wantCard(second, "Connected to")
	show(t, home, "slack_admin")
	p = b.popup(second + connectLink)
	p.press("allow")
	p.wantText("A workspace admin must allow it")
	b.wantCard(second, "A workspace admin must allow it")
	demoPage(t, home) // which mends the demo
	p.look("popup-problem")
	p.click("a.button", "Where should it post?")
	do(p, "pick", chromedp.Click(chromedp.CSS(`input[value="#random"]`)))
	p.press("allow")
	p.wantClosed()
	b.wantCard(second, "Connected to #random at Acme")
	show(t, home, "slack_admin")
	p = b.popup(second + connectLink)
	p.press("allow")
	p.wantText("A workspace admin must allow it")
	p.closeByButton()

	// With an opener there is a button to close, and no way back inside the popup.
	show(t, home, "slack_admin")
	p = b.popup(second + connectLink)
	p.press("allow")
	p.wantText("A workspace admin must allow it")
	if got := do(p, "buttons", chromedp.Evaluate[string](`[...document.querySelectorAll("nav *")].filter(e => e.checkVisibility()).map(e => e.innerText).join()`)); got != "Start again,Close this window" {
		t.Errorf("the popup shows %s", got)
	}
	p.closeByButton()

	// Without a return URL nobody can be told: the popup stays, with a button.
	b.open(home, "Pages of the service")
	b.wantCard(second, "Connected to")
	do(b, "no return URL", chromedp.Evaluate[any](`document.querySelector("`+second+connectLink+`").href = document.querySelector("`+second+`a.plain").href`))
	p = b.popup(second + connectLink)
	p.press("allow")
	p.wantText(titleConnected)
	p.closeByButton()
	p.wantNoComplaints("without a return URL")

	// An opener that is not the return URL's is told nothing.
	b.open(strings.Replace(home, "localhost", "127.0.0.1", 1), "Links lead back to "+strings.TrimSuffix(home, "/"))
	b.wantCard(second, "Connected to")
	do(b, "listen", chromedp.Evaluate[any](listen))
	p = b.popup(second + connectLink)
	p.press("allow")
	p.wantClosed()
	if got := do(b, "got", chromedp.Evaluate[[]string](`got`)); len(got) != 0 {
		t.Errorf("a stranger got %q", got)
	}
}

// Slack's pages may cut the popup off from its opener: the outcome arrives by way
// of the return URL.
func TestPopupThatLostItsOpener(t *testing.T) {
	t.Parallel()
	b, home := chromium(t), startDemo(t)
	b.open(home+"?apart", "Let Slack cut popups off")
	b.wantCard(second, "Slack is not connected")
	p := b.popup(second + connectLink)
	p.wantText("Where should it post?")
	if !do(p, "opener", chromedp.Evaluate[bool](`window.opener === null`)) {
		t.Fatal("the simulated Slack did not cut the popup off")
	}
	p.press("allow")
	b.wantCard(second, "Connected to #alerts at Acme") // told through the return URL
	p.wantClosed()

	// Also what went wrong, if it is no page to read.
	b.open(home+"?apart", "Let Slack cut popups off")
	b.wantCard(second, "Connected to")
	p = b.popup(second + connectLink)
	p.press("cancel")
	b.wantCard(second, "You cancelled")
	p.wantClosed()

	// What there is to read stays, with a way back and no button that does nothing.
	b.open(home+"?apart", "Let Slack cut popups off")
	b.wantCard(second, "Connected to")
	show(t, home, "slack_admin")
	p = b.popup(second + connectLink)
	p.press("allow")
	p.wantText("A workspace admin must allow it")
	p.look("popup-problem-alone") // which takes a while, and finds the page where it was
	if got := do(p, "buttons", chromedp.Evaluate[string](`[...document.querySelectorAll("nav *")].filter(e => e.checkVisibility()).map(e => e.innerText).join()`)); got != "Start again,Back to Example Inc." {
		t.Errorf("the popup shows %s", got)
	}

	// An opener that was closed meanwhile is as lost as one that was cut off.
	opener := newTab(t, b.ctx)
	opener.open(home, "Pages of the service")
	opener.wantCard(second, "Connected to")
	p = opener.popupOf(b, second+connectLink)
	p.wantText("Where should it post?")
	if err := chromedp.Cancel(opener.ctx); err != nil {
		t.Fatal(err)
	}
	do(p, "pick", chromedp.Click(chromedp.CSS(`input[value="#random"]`)))
	p.press("allow")
	p.wantClosed() // by the page at the return URL
	b.wantCard(second, "Connected to #random at Acme")
}

// Who allows in another browser than the one that began is told so, whether that
// has cookies or not, and harms nobody: the first browser goes on.
func TestOtherBrowser(t *testing.T) {
	t.Parallel()
	b, home := chromium(t), startDemo(t)
	b.open(home, "Pages of the service")
	b.click("a.plain", "Where should it post?")
	consent := b.url()

	other := newTab(t, b.ctx, chromedp.WithNewBrowserContext())
	other.open(consent, "Where should it post?")
	other.press("allow")
	other.wait(`document.querySelector("main").dataset.code == "other_browser"`)
	other.wantText("Your browser sent no cookies")
	other.look("other-browser-without-cookies")

	other.open(home, "Pages of the service")
	other.click("a.plain", "Where should it post?") // the service leaves a cookie, of another flow
	other.open(consent, "Where should it post?")
	other.press("allow")
	other.wait(`document.querySelector("main").dataset.code == "other_browser"`)
	other.wantText("You started in another browser or on another device")

	b.click("button[name=allow]", titleConnected)
}

// Reload and Back at each step, with the page that asks first.
func TestReloadAndBack(t *testing.T) {
	t.Parallel()
	b, home := chromium(t), startDemo(t)
	reload := func(want string) {
		t.Helper()
		do(b, "reload", chromedp.Reload())
		b.wantText(want)
	}
	back := func(want string) {
		t.Helper()
		leave(b, "back", chromedp.Evaluate[any](`void history.back()`)) // a page that the browser kept does not load again
		b.wantText(want)
	}
	b.open(home, "Pages of the service")
	b.click(`button[value="install"]`, "Connect Slack to Example Inc.")
	reload("Connect Slack to Example Inc.")
	b.click("form button", "Where should it post?")
	reload("Where should it post?")
	back("Connect Slack to Example Inc.")
	reload("Connect Slack to Example Inc.")
	b.click("form button", "Where should it post?")

	b.click("button[name=cancel]", "You cancelled")
	reload("You cancelled")
	b.click("a.button", "Where should it post?") // Start again does not ask again
	reload("Where should it post?")
	b.click("button[name=cancel]", "You cancelled")
	back("Where should it post?") // the page that the browser kept, whose elements chromedp does not know
	leave(b, "allow", chromedp.Evaluate[any](`void document.querySelector("button[name=allow]").click()`))
	b.wantText(titleConnected) // Cancel spent nothing
	reload(titleConnected)
	b.click("#change", "Where should it post?") // Wrong channel? Connect again
	do(b, "pick", chromedp.Click(chromedp.CSS(`input[value="#general"]`)))
	b.click("button[name=allow]", "#general at Acme")
	back("Where should it post?")
	back("#alerts at Acme") // the earlier result
	b.wantNoComplaints("on the way")

	b.open(home, "Novu sends to")
	back("#alerts at Acme")
}

// Keys alone lead through, in the order of the page, with a focus to be seen.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	b, home := chromium(t), startDemo(t)
	b.open(home, "Pages of the service")
	b.click("a.plain", "Where should it post?")
	b.click("button[name=cancel]", "You cancelled")
	do(b, "tab", chromedp.KeyEvent(kb.Tab))
	if got := do(b, "focus", chromedp.Evaluate[string](`document.activeElement.innerText + " " + getComputedStyle(document.activeElement).outlineStyle`)); got != "Start again solid" {
		t.Errorf("the first tab stop is %q, want Start again, outlined", got)
	}
	leave(b, "enter", chromedp.KeyEvent(kb.Enter))
	b.press("allow")
	b.wantText(titleConnected)
	var stops []string
	for range 3 {
		do(b, "tab", chromedp.KeyEvent(kb.Tab))
		stops = append(stops, do(b, "focus", chromedp.Evaluate[string](`document.activeElement.innerText`)))
	}
	if got := strings.Join(stops, ", "); got != "Back to Example Inc., Wrong channel? Connect again, Manage in Slack" {
		t.Errorf("got tab stops %s", got)
	}
}

// The demo prints where it is, shows the button, and ends in order.
func TestDemoRunsTheMainJob(t *testing.T) {
	t.Parallel()
	if page := demoPage(t, startDemo(t)); !strings.Contains(page, "Add to Slack") {
		t.Errorf("got %s", readable(page))
	}
}

// A link that is opened on another host name ends connected in a real browser, with the
// page that asks first: also behind a proxy that rewrites Host, and in a browser that says
// nothing of Sec-Fetch-Site.
func TestLinkOnAnotherHostInABrowser(t *testing.T) {
	t.Parallel()
	b := chromium(t)
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	w := newWorld(t, "INSTALL_PAGE=true", "REDIRECT_URL=http://"+listener.Addr().String()+"/slack/callback")
	w.slack.RedirectURL = w.setting("REDIRECT_URL")
	backend := must(url.Parse(start(t, w.env...).origin))
	front := &http.Server{Handler: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(backend) // and the Host with it
		r.Out.Header.Del("Sec-Fetch-Site")
	}}}
	go front.Serve(listener)
	t.Cleanup(func() { front.Close() })

	// The link's origin is the audience that it was signed for.
	link := strings.Replace(w.link(claims{"sub": "ada", "aud": "http://" + listener.Addr().String()}), publicOrigin, strings.Replace("http://"+listener.Addr().String(), "127.0.0.1", "localhost", 1), 1)
	b.open(link, "Connect Slack to Example Inc.")
	if url := b.url(); !strings.HasPrefix(url, "http://"+listener.Addr().String()+"/slack/install?token=") {
		t.Errorf("the link is still on another host: %s", url)
	}
	b.click("form button", "Where should it post?")
	b.click("button[name=allow]", titleConnected)
	b.wantNoComplaints("on the way")
	w.wantSaved(t, "ada", 0)
}
