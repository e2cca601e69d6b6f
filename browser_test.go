package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// chromium starts a real browser, headless, with a profile of its own. Where it
// is not installed the test is skipped, or fails with CI=true.
func chromium(t *testing.T) tab {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("chromium is not installed, and CI=true wants it")
		}
		t.Skip("chromium is not installed")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		// Containers often run as root and without network: switches for tests only.
		chromedp.NoSandbox, chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
	)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	return newTab(t, allocator)
}

// newTab opens a tab in the browser of parent, or a browser where there is none.
func newTab(t *testing.T, parent context.Context) tab {
	t.Helper()
	ctx, closeTab := chromedp.NewContext(parent)
	t.Cleanup(closeTab)
	if err := chromedp.Do(ctx); err != nil { // without a deadline, which would be the tab's
		t.Fatal(err)
	}
	return tab{t, ctx}
}

// startDemo runs the demo until the test ends and returns its page.
func startDemo(t *testing.T) (home string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	out, in := io.Pipe()
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"demo"}, in, os.Stderr) }()
	t.Cleanup(func() {
		stop()
		if got := <-ended; got != exitOK {
			t.Errorf("demo: got exit code %d, want 0", got)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(line)[1]
}

// tab is a browser tab with the words of the tests.
type tab struct {
	t   *testing.T
	ctx context.Context
}

// do runs one step and returns its value.
func do[T any](b tab, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	return value
}

// click follows a link or presses a button and waits until the page it leads to
// says want.
func (b tab) click(selector, want string) {
	b.t.Helper()
	do(b, "click "+selector, chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
	b.wantText(want)
}

func (b tab) open(url, want string) {
	b.t.Helper()
	do(b, "open "+url, chromedp.Navigate(url))
	b.wantText(want)
}

func (b tab) wantText(want string) {
	b.t.Helper()
	text := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		// An error, or no answer, is a page that goes while it is read.
		ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
		text, _ = chromedp.Run(ctx, chromedp.Evaluate[string](`document.readyState == "complete" ? document.body.innerText : ""`))
		cancel()
		if strings.Contains(text, want) {
			return
		}
	}
	b.t.Fatalf("the page does not say %q: %s", want, text)
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
	if err := os.MkdirAll("screenshots", 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("screenshots", name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// TestBrowserClicksThroughTheDemo is the whole program in a real browser. It
// leaves pictures in screenshots/, which git ignores.
func TestBrowserClicksThroughTheDemo(t *testing.T) {
	b := chromium(t)
	home := startDemo(t)
	first, second := "section:nth-of-type(1) ", "section:nth-of-type(2) "
	do(b, "size", chromedp.EmulateViewport(1100, 900))

	b.open(home, "Novu does not know this subscriber yet")
	b.screenshot("demo-before")

	// Allow, with another channel than the first, and back in the app.
	b.click(first+".add", "Where should it post?")
	b.screenshot("consent")
	do(b, "pick", chromedp.Click(chromedp.CSS(`input[value="#general"]`)))
	b.click("button[name=allow]", "Slack is connected: #general at Acme.")
	if text := b.text(); !strings.Contains(text, "Novu sends to") || !strings.Contains(text, "https://hooks.slack.com/serv…") || !strings.Contains(text, "→ Slack POST /api/oauth.v2.access 200") {
		t.Errorf("the demo does not show what happened: %s", text)
	}
	b.screenshot("demo")
	if url := b.url(); !strings.Contains(url, "slack=connected&channel=%23general&team=Acme") {
		t.Errorf("got return URL %s", url)
	}

	// Cancel, on the service's own page, and Start again from there.
	b.click(second+".plain", "Where should it post?")
	b.click("button[name=cancel]", "You cancelled")
	b.screenshot("cancelled")
	b.click("a.button", "Where should it post?")
	b.click("button[name=allow]", "Slack is connected")
	b.screenshot("connected")

	// Reload and Back show the same result.
	result := b.url()
	do(b, "reload", chromedp.Reload())
	b.wantText("Slack is connected")
	do(b, "back", chromedp.NavigateBack())
	b.wantText("Where should it post?") // Slack's page: the callback is not in the history
	b.click("button[name=allow]", "Slack is connected")
	if got := b.url(); got != result {
		t.Errorf("got %s, want the first result %s", got, result)
	}

	// Two tabs, finished in the other order, each for its own subscriber.
	other := newTab(t, b.ctx)
	b.open(home, "Add to Slack")
	other.open(home, "Add to Slack")
	b.click(first+".plain", "Where should it post?")
	other.click(second+".plain", "Where should it post?")
	do(other, "pick", chromedp.Click(chromedp.CSS(`input[value="#random"]`)))
	other.click("button[name=allow]", "Messages will arrive in #random at Acme")
	b.click("button[name=allow]", "Messages will arrive in #alerts at Acme")

	b.open(home, "Add to Slack")
	if text := b.text(); strings.Count(text, "Novu sends to") != 2 {
		t.Errorf("want one webhook for each subscriber: %s", text)
	}
}
