package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"novu-slack-redirect/upstream/upstreamtest"
)

// newOpenWorld is newWorld with a running program that browsers reach. link signs links
// that lead to it.
func newOpenWorld(t *testing.T, settings ...string) (w *world, link func(claims) string) {
	t.Helper()
	var backend *url.URL
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(backend)
		r.Out.Host = r.In.Host
	}})
	t.Cleanup(front.Close)
	w = newWorld(t, append(settings, "REDIRECT_URL="+front.URL+"/slack/callback")...)
	w.slack.RedirectURL = front.URL + "/slack/callback"
	backend = must(url.Parse(start(t, w.env...).origin))
	return w, func(c claims) string {
		c["aud"] = front.URL
		path := "/slack/install?"
		if c["action"] == "disconnect" {
			path = "/slack/disconnect?"
		}
		return strings.Replace(w.link(c), publicOrigin+"/slack/install?", front.URL+path, 1)
	}
}

// A page that waits becomes the page of success in place: nothing is loaded anew, the focus
// stays where it was, and what is new stands in a live region that was there before. A
// browser without JavaScript loads the page again.
func TestAlmostDoneBecomesSuccess(t *testing.T) {
	t.Parallel()
	for _, script := range []bool{true, false} {
		t.Run(map[bool]string{true: "with JavaScript", false: "without"}[script], func(t *testing.T) {
			t.Parallel()
			b := chromium(t)
			w, link := newOpenWorld(t, "APP_URL=https://app.example.com/settings")
			w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
			b.open(link(claims{"sub": "ada"}), "Where should it post?")
			do(b, "script", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
				_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !script})
				return err
			}))
			b.press("allow")
			b.wantText("Almost done")
			if script {
				do(b, "mark it", chromedp.Evaluate[any](`window.mark = document.getElementById("status"); document.getElementById("back").focus()`))
				b.wait(`mark.getAttribute("role") == "status"`)
			}
			w.novu.BreakAll(nil)
			b.wait(`document.querySelector("main.connected h1")?.innerText == "Slack is connected" && document.querySelector(".place").innerText == "#alerts at Acme"`)
			if script {
				for what, is := range map[string]string{
					"the page was loaded anew, or the live region replaced": `window.mark?.isConnected && mark.innerText.includes("Slack is connected")`,
					"the focus is lost":   `document.activeElement.id == "back"`,
					"the title is old":    `document.title == "Slack is connected · Example Inc."`,
					"the links are wrong": `[...document.querySelectorAll("nav a")].map(a => a.id).join() == "back,change,manage"`,
				} {
					if !do(b, what, chromedp.Evaluate[bool](is)) {
						t.Errorf("%s: %s", what, do(b, "page", chromedp.Evaluate[string](`document.documentElement.outerHTML`)))
					}
				}
			}
			b.wantNoComplaints("while it waited")
			w.wantSaved(t, "ada", 0)
		})
	}
}

// A link that has expired, opened in a popup, tells the page that opened it, and stays to be
// read.
func TestExpiredLinkTellsItsOpener(t *testing.T) {
	t.Parallel()
	b := chromium(t)
	_, link := newOpenWorld(t)
	var to string
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<title>app</title><script>got = []; onmessage = e => got.push(e.data)</script>
			<a href="%s&amp;display=popup" onclick="event.preventDefault(); open(this.href, '', 'popup,width=640,height=800')">Add to Slack</a>`, to)
	}))
	t.Cleanup(app.Close)
	to = link(claims{"sub": "ada", "exp": 1000000000, "returnUrl": app.URL + "/settings"})
	b.open(app.URL, "Add to Slack")
	p := b.popup("a")
	p.wantText("This link has expired")
	b.wait(`got.length == 1 && got[0].slack == "error" && got[0].reason == "link_expired" && got[0].slack_result.length > 20`)
	if got := do(p, "buttons", chromedp.Evaluate[string](`[...document.querySelectorAll("nav *")].filter(e => e.checkVisibility()).map(e => e.innerText).join()`)); got != "Close this window" {
		t.Errorf("the popup shows %s", got)
	}
	p.closeByButton()
}

// logoSVG is a logo made for white, with the name in it.
const logoSVG = `<svg xmlns="http://www.w3.org/2000/svg" width="132" height="40" viewBox="0 0 132 40"><circle cx="18" cy="20" r="14" fill="#ffd400"/><text x="40" y="27" font-family="sans-serif" font-size="20" font-weight="bold" fill="#1c1c1a">Éclair</text></svg>`

// TestBrandedPages opens the pages of an app with a logo and a color that would be hard to
// read, and with neither: those that ask, those at the end, and a problem.
func TestBrandedPages(t *testing.T) {
	t.Parallel()
	logo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/svg+xml")
		w.Write([]byte(logoSVG))
	}))
	t.Cleanup(logo.Close)
	for name, settings := range map[string][]string{
		"plain": nil, "logo": {"APP_COLOR=#ffd400", "APP_LOGO_URL=" + logo.URL}, "long name": {"APP_COLOR=#101060", "APP_NAME=Österreichische Donaudampfschifffahrtsgesellschaft"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := chromium(t)
			b.speak("de")
			w, link := newOpenWorld(t, append(settings, "INSTALL_PAGE=true", "APP_URL=https://app.example.com/settings", "SUPPORT_URL=mailto:help@example.com")...)
			w.slack.Workspaces[0].Name, w.slack.Workspaces[0].Channels = "Rhabarberbarbara & Söhne", []string{"#benachrichtigungen-aus-der-produktion-rund-um-die-uhr"}
			look := func(page string) {
				t.Helper()
				b.look(filepath.Join("branded", name, page))
			}
			b.open(link(claims{"sub": "ada", "accountName": "Rhabarber GmbH"}), "Zu Slack hinzufügen")
			look("install")
			leave(b, "ask", chromedp.Click(chromedp.CSS("form button"), chromedp.NodeVisible))
			b.press("cancel")
			b.wait(`document.querySelector("main.cancelled") != null`)
			look("cancelled")
			b.click("#again", "Where should it post?")
			b.press("allow")
			b.wait(`document.querySelector("main.connected") != null`)
			if got := do(b, "sizes", chromedp.Evaluate[bool](`parseFloat(getComputedStyle(document.querySelector(".place")).fontSize) > Math.max(...[...document.querySelectorAll("main :not(.place, .place *, .pair *)")].map(e => parseFloat(getComputedStyle(e).fontSize)))`)); !got {
				t.Error("channel and workspace are not the largest text of the page")
			}
			look("connected")
			b.open(link(claims{"sub": "ada", "action": "disconnect"}), "Slack trennen")
			look("disconnect")
			leave(b, "disconnect", chromedp.Click(chromedp.CSS("form button"), chromedp.NodeVisible))
			b.wait(`document.querySelector("main.disconnected form") == null && document.querySelector("main.disconnected") != null`)
			look("disconnected")
			b.open(link(claims{"sub": "ada", "exp": 1000000000}), "link_expired")
			look("link_expired")
			w.slack.Break(upstreamtest.JSON(http.StatusTooManyRequests, `{}`, "Retry-After", "400"))
			b.open(link(claims{"sub": "bob"}), "Zu Slack hinzufügen")
			leave(b, "ask again", chromedp.Click(chromedp.CSS("form button"), chromedp.NodeVisible))
			b.press("allow")
			b.wait(`document.querySelector("main.working").textContent.includes("Warteschlange: 1")`)
			look("waiting")
		})
	}
}
