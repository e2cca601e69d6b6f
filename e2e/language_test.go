package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"novu-slack-redirect/state/redistest"
)

// measureTexts puts each title and each button of a dictionary on the page that is shown, and
// returns what does not fit: a word that is wider than its line, a title of more than
// five lines, a button of more than two.
const measureTexts = `(dictionary => {
	const wrong = [], title = document.querySelector("h1"), button = document.querySelector(".button")
	const lines = e => Math.round((e.clientHeight - parseFloat(getComputedStyle(e).paddingTop) * 2) / parseFloat(getComputedStyle(e).lineHeight))
	const fill = text => text.replaceAll("{app}", "Example Inc.")
	for (const e of [title, button]) { // words are not cut to make them fit
		e.style.overflowWrap = "normal"
		e.style.hyphens = "manual"
	}
	const put = (e, text, maxLines) => {
		e.textContent = fill(text)
		const room = e.parentElement.getBoundingClientRect()
		if (e.scrollWidth > e.clientWidth || e.getBoundingClientRect().right > room.right + 0.5) wrong.push("too wide: " + text)
		if (lines(e) > maxLines) wrong.push(lines(e) + " lines: " + text)
	}
	for (const page of Object.values(dictionary.pages)) put(title, page.title, 5)
	for (const name of ["again", "back", "change", "close", "disconnect", "help", "install", "manage"]) put(button, dictionary.labels[name], 2)
	return wrong
})`

// TestLanguagesOnAPhone shows the longest page, a question and an outcome in each language
// on a screen that is 320 px wide: nothing has to be scrolled sideways, and every title and
// button fits. It leaves pictures in screenshots/.
func TestLanguagesOnAPhone(t *testing.T) {
	t.Parallel()
	files := must(filepath.Glob("../handler/pages/*.json"))
	if len(files) != 10 {
		t.Fatalf("got dictionaries %v, want ten", files)
	}
	port := redistest.FreePort(t)
	origin := "http://127.0.0.1:" + port
	w := newWorld(t)
	w.slack.RedirectURL = origin + "/slack/callback"
	channel := "#" + strings.Repeat("a-channel-", 8) // as long as Slack allows
	w.slack.Workspaces[0].Channels = append(w.slack.Workspaces[0].Channels, channel)
	start(t, append(w.env, "REDIRECT_URL="+w.slack.RedirectURL, "PORT="+port, "INSTALL_PAGE=true", "APP_URL=https://app.example.com/", "SUPPORT_URL=mailto:help@example.com")...)
	for _, file := range files {
		language := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(language, func(t *testing.T) {
			dictionary := must(os.ReadFile(file))
			var texts struct {
				Pages map[string]struct{ Title string }
			}
			if err := json.Unmarshal(dictionary, &texts); err != nil {
				t.Fatal(err)
			}
			b := chromium(t)
			b.speak(language)
			do(b, "size", chromedp.EmulateViewport(320, 640))
			shows := func(page string) {
				t.Helper()
				b.wait(fmt.Sprintf(`document.readyState == "complete" && document.documentElement.lang == %q && document.querySelector("h1").textContent == %q`,
					language, strings.ReplaceAll(texts.Pages[page].Title, "{app}", "Example Inc.")))
				if wide := do(b, "width", chromedp.Evaluate[int64](`document.documentElement.scrollWidth`)); wide > 320 {
					t.Errorf("%s is %d px wide, want at most 320", page, wide)
				}
				b.screenshot(filepath.Join("languages", language+"-"+page))
				b.wantNoComplaints(page)
			}

			do(b, "no cookies", chromedp.Navigate(origin+"/slack/result?flow="+strings.Repeat("x", 24)))
			shows("no_cookies")
			link := strings.Replace(w.link(claims{"sub": "ada", "aud": origin, "accountName": "Müller & Söhne"}), publicOrigin, origin, 1)
			do(b, "link", chromedp.Navigate(link))
			shows("install")
			leave(b, "add", chromedp.Click(chromedp.CSS("form .button"), chromedp.NodeVisible))
			b.wait(`location.pathname == "/oauth/v2/authorize"`)
			callback := must(w.slack.Approve(b.url(), "T01ACME", channel))
			do(b, "callback", chromedp.Navigate(callback))
			shows("connected")
			for _, wrong := range do(b, "measure", chromedp.Evaluate[[]string](measureTexts+"("+string(dictionary)+")")) {
				t.Error(wrong)
			}
		})
	}
}

// TestStartReadsNoDictionary holds what the pages cost at the start: the runtime counts the
// bytes that the package allocates before main. All ten dictionaries would take 428,000.
func TestStartReadsNoDictionary(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(binary, "version")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	output := string(must(cmd.CombinedOutput()))
	found := regexp.MustCompile(`init novu-slack-redirect/handler @.* clock, (\d+) bytes`).FindStringSubmatch(output)
	if found == nil {
		t.Fatalf("the start of the pages is not in %s", output)
	}
	if got := must(strconv.Atoi(found[1])); got > 100_000 {
		t.Errorf("the package allocates %d bytes at the start, want at most 100000", got)
	}
}
