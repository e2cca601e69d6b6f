package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	bolt "go.etcd.io/bbolt"

	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// onEachStore runs a test on Redis and on a file, in parallel. The server is nil on a
// file.
func onEachStore(t *testing.T, test func(t *testing.T, w *world, server *redistest.Server), settings ...string) {
	t.Parallel()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
		test(t, newWorld(t, append(slices.Clone(settings), "REDIS_URL="+server.URL())...), server)
	})
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		test(t, newWorld(t, settings...), nil)
	})
}

// exchanges returns how many requests came to Slack's oauth.v2.access.
func (w *world) exchanges() (n int) {
	for _, e := range w.recorder.All() {
		if e.To == "Slack" && strings.HasPrefix(e.Target, "/api/oauth.v2.access") {
			n++
		}
	}
	return n
}

// updates returns when Novu was sent a subscriber's credentials.
func (w *world) updates(subscriber string) (at []time.Time) {
	for _, e := range w.recorder.All() {
		if e.To == "Novu" && e.Method == http.MethodPut && strings.HasPrefix(e.Target, "/v1/subscribers/"+url.PathEscape(subscriber)+"/") {
			at = append(at, e.At)
		}
	}
	return at
}

// holdAnswer is a fault that does the work and holds its answer back, from when reached
// is closed until release is.
func holdAnswer() (fault upstreamtest.Fault, reached, release chan struct{}) {
	reached, release = make(chan struct{}), make(chan struct{})
	return func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		upstreamtest.Edit(func(*httptest.ResponseRecorder) {
			close(reached)
			hold(r, release)
		})(to, r, next)
	}, reached, release
}

// hold waits until release is closed, or until the program is gone, so that a fake whose test
// has failed does not wait for ever.
func hold(r *http.Request, release <-chan struct{}) {
	select {
	case <-release:
	case <-r.Context().Done():
	}
}

// holdRequest is a fault that does the work once release is closed.
func holdRequest() (fault upstreamtest.Fault, release chan struct{}) {
	release = make(chan struct{})
	return func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		hold(r, release)
		next.ServeHTTP(to, r)
	}, release
}

// slackAsksToWait makes Slack ask the next request to wait for a second, and answer the one
// after that when looked is closed: until then people wait.
func (w *world) slackAsksToWait() (looked chan struct{}) {
	fault, looked := holdRequest()
	w.slack.Break(upstreamtest.JSON(http.StatusTooManyRequests, `{"ok":false,"error":"ratelimited"}`, "Retry-After", "1"), fault)
	return looked
}

// within fails the test if a channel is not closed for very long.
func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
	}
}

// background opens a URL without waiting for the answer, which is in the channel.
func (p *person) background(at *program, target string) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		a, _ := p.get(at, target)
		answers <- a
	}()
	return answers
}

// waitPage reloads a browser's result page until it says one of texts.
func (p *person) waitPage(at *program, page string, texts ...string) (body string) {
	p.t.Helper()
	waitFor(p.t, fmt.Sprintf("the page says one of %q", texts), func() bool {
		a, err := p.get(at, page)
		body = a.body
		return err == nil && slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(body, text) })
	})
	return body
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// pause stops the program until SIGCONT, and returns when none of its threads runs.
func (p *program) pause() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	waitFor(p.t, "the program stands still", func() bool {
		tasks := must(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid)))
		return len(tasks) > 0 && !slices.ContainsFunc(tasks, func(path string) bool {
			text, err := os.ReadFile(path)
			_, state, _ := strings.Cut(string(text), ") ")
			return err == nil && !strings.HasPrefix(state, "T")
		})
	})
}

const (
	replacedPage    = "<code>replaced</code>"
	interruptedPage = "<code>interrupted</code>"
)

// An instance stands still, as a paused VM does, from when it has asked Slack until
// after a newer connection of the same subscriber was made on another one. Once it goes
// on it changes nothing in Novu. After 18 s it still has the flow; after 35 s the other
// instance has taken that over.
func TestPausedBetweenExchangeAndRecord(t *testing.T) {
	t.Parallel()
	for _, pause := range []time.Duration{18 * time.Second, 35 * time.Second} {
		t.Run(pause.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "REDIS_URL="+redistest.Start(t).URL())
			w.novu.AddSubscriber("ada")
			one, two := start(t, w.env...), start(t, w.env...)
			older, newer := w.person(t), w.person(t)
			callback := older.approve(one, w.linkTo("ada"))
			fault, reached, release := holdAnswer()
			w.slack.Break(fault)
			answered := older.background(one, callback)
			within(t, "Slack is asked", reached)
			one.pause()
			close(release)
			resumed := time.After(pause)
			newer.wantConnect(two, w.linkTo("ada"), textConnected)
			w.wantSaved(t, "ada", 1)
			<-resumed
			one.signal(syscall.SIGCONT)

			<-answered
			page := older.waitPage(two, older.resultPage(), replacedPage, interruptedPage, "<code>slack_unavailable</code>") // by which of many timers ends first
			if strings.Contains(page, textConnected) {
				t.Errorf("a false success: %s", readable(page))
			}
			one.stop() // with all that it has begun
			w.wantSaved(t, "ada", 1)
			if n := len(w.updates("ada")); w.novu.Overlaps() != 0 || n != 1 {
				t.Errorf("got %d updates and %d overlaps, want the newer connection's alone", n, w.novu.Overlaps())
			}
		})
	}
}

// The store fails when the webhook is to be recorded. If it is back within 5 s, the
// person is connected. If not, the person is told to start again and nothing is in
// Novu; a connection made afterwards stays.
func TestStoreFailsAtTheRecord(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file  bool
		fails func(t *testing.T, server *redistest.Server, program *program) (mend func())
	}{
		"redis is gone": {false, func(t *testing.T, server *redistest.Server, _ *program) func() {
			server.Stop()
			return server.Restart
		}},
		"redis hangs": {false, func(t *testing.T, server *redistest.Server, _ *program) func() {
			server.Pause()
			return server.Resume
		}},
		"the disk is full": {true, func(t *testing.T, _ *redistest.Server, program *program) func() {
			prlimit := needCommand(t, "prlimit")
			limit := func(size string) {
				if out, err := exec.Command(prlimit, "--pid", fmt.Sprint(program.cmd.Process.Pid), "--fsize="+size+":").CombinedOutput(); err != nil {
					t.Fatalf("prlimit: %v: %s", err, out)
				}
			}
			limit("0")
			return func() { limit("unlimited") }
		}},
	} {
		setUp := func(t *testing.T) (*world, *redistest.Server, *program) {
			settings, server := []string{"METRICS_ADDR=127.0.0.1:0"}, (*redistest.Server)(nil)
			if !c.file {
				server = redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
				settings = append(settings, "REDIS_URL="+server.URL())
			}
			w := newWorld(t, settings...)
			return w, server, start(t, w.env...)
		}
		t.Run(name+" for a while", func(t *testing.T) {
			t.Parallel()
			w, server, program := setUp(t)
			for try := range 10 {
				p, subscriber := w.person(t), fmt.Sprint("ada", try)
				callback := p.approve(program, w.linkTo(subscriber))
				fault, reached, release := holdAnswer()
				w.slack.Break(fault)
				answered := p.background(program, callback)
				within(t, "Slack is asked", reached)
				mend := c.fails(t, server, program)
				failed := time.Now()
				close(release)
				time.Sleep(2 * time.Second)
				mend()
				took := time.Since(failed)
				a := <-answered
				if a.status != http.StatusSeeOther && took > 4*time.Second {
					t.Logf("the store was away for %v, which is too long: once more", took)
					waitFor(t, "the store is back", func() bool { return p.status(program, "/readyz") == http.StatusOK })
					continue
				}
				if a.status != http.StatusSeeOther {
					t.Fatalf("got %d: %s", a.status, readable(a.body))
				}
				p.waitPage(program, p.resultPage(), textConnected)
				w.wantSaved(t, subscriber, try)
				return
			}
			t.Fatal("nothing was shown: in ten tries this machine never mended the store within 4 s")
		})
		t.Run(name+" for longer", func(t *testing.T) {
			t.Parallel()
			w, server, program := setUp(t)
			p := w.person(t)
			callback := p.approve(program, w.linkTo("ada"))
			fault, reached, release := holdAnswer()
			w.slack.Break(fault)
			answered := p.background(program, callback)
			within(t, "Slack is asked", reached)
			mend := c.fails(t, server, program)
			close(release)
			if a := <-answered; a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, interruptedPage) {
				t.Errorf("got %d: %s", a.status, readable(a.body))
			}
			mend()
			waitFor(t, "the store is back", func() bool { return p.status(program, "/readyz") == http.StatusOK })
			if n := len(w.updates("ada")); n != 0 {
				t.Errorf("Novu was sent %d updates, want none", n)
			}
			w.person(t).wantConnect(program, w.linkTo("ada"), textConnected)
			waitFor(t, "the first flow is over", func() bool { return gauge(t, program, "slack_redirect_outbox_entries") == 0 })
			w.wantSaved(t, "ada", 1)
			p.waitPage(program, p.resultPage(), interruptedPage)
		})
	}
}

// Redis hangs while a flow is consumed. The person reads meanwhile that the service is
// not available; the same callback, opened again afterwards, connects. Slack is asked
// once.
func TestRedisHangsDuringConsume(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, "REDIS_URL="+server.URL())
	program, p := start(t, w.env...), w.person(t)
	callback := p.approve(program, w.linkTo("ada"))
	server.Pause()
	if status := p.status(program, callback); status != http.StatusServiceUnavailable {
		t.Errorf("while Redis hangs: got %d, want 503", status)
	}
	server.Resume()
	p.waitFinish(program, callback, textConnected)
	w.wantSaved(t, "ada", 0)
	if n := w.exchanges(); n != 1 {
		t.Errorf("Slack was asked %d times, want once", n)
	}
}

// The connection to Novu breaks, or a gateway gives up, while Novu still works on an
// update. Nothing else is sent for the subscriber for 30 s, also not a newer connection,
// and in the end there is one channel, the newer one.
func TestNovuIsStillAtWork(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]upstreamtest.Fault{"reset": upstreamtest.Reset, "502": upstreamtest.HTML(http.StatusBadGateway)} {
		t.Run(name, func(t *testing.T) {
			onEachStore(t, func(t *testing.T, w *world, _ *redistest.Server) {
				w.novu.Work = 3 * time.Second
				w.novu.AddSubscriber("ada")
				program := start(t, w.env...)
				older, newer := w.person(t), w.person(t)
				callback := older.approve(program, w.linkTo("ada"))
				var working sync.WaitGroup
				w.novu.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
					working.Go(func() { next.ServeHTTP(httptest.NewRecorder(), r) })
					time.Sleep(100 * time.Millisecond)
					breaks(to, r, next)
				})
				older.wantFinish(program, callback, textPending)
				newer.wantConnect(program, w.linkTo("ada"), textPending)
				older.waitPage(program, older.resultPage(), replacedPage)
				newer.waitPage(program, newer.resultPage(), textConnected)
				working.Wait()
				w.wantSaved(t, "ada", 1)
				at := w.updates("ada")
				if len(at) != 2 || at[1].Sub(at[0]) < 30*time.Second || w.novu.Overlaps() != 0 {
					t.Errorf("got updates at %v and %d overlaps, want two, 30 s apart", at, w.novu.Overlaps())
				}
			})
		})
	}
}

// Two deployments share a Redis, the prefix of its keys and every secret.
func TestTwoDeploymentsOnOneRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	shared := []string{"REDIS_URL=" + server.URL(), "STORE_SECRET=a-store-secret-of-the-tests", "REDIS_PREFIX=shared:of-both"}
	prod, dev := newWorld(t, shared...), newWorld(t, shared...)
	const devOrigin = "http://127.0.0.1:10"
	dev.slack.RedirectURL, dev.slack.ClientID = devOrigin+"/slack/callback", "4444.5555"
	dev.env = append(dev.env, "REDIRECT_URL="+dev.slack.RedirectURL, "SLACK_CLIENT_ID="+dev.slack.ClientID)
	devLink := func(subscriber string) string { return dev.link(claims{"sub": subscriber, "aud": devOrigin}) }
	prodProgram, devProgram := start(t, prod.env...), start(t, dev.env...)

	// A person with a flow of dev, cookie and all, at prod's callback.
	p := dev.person(t)
	callback := p.approve(devProgram, devLink("eve"))
	a, err := p.get(prodProgram, callback)
	if err != nil || a.status != http.StatusGone || !strings.Contains(a.body, "<code>state_not_found</code>") {
		t.Errorf("dev's callback at prod: got %d, %v: %s", a.status, err, readable(a.body))
	}
	if n := prod.exchanges() + dev.exchanges() + prod.novu.Saves() + dev.novu.Saves(); n != 0 {
		t.Errorf("dev's callback at prod led to %d requests", n)
	}
	p.wantFinish(devProgram, callback, textConnected) // it was not spent
	dev.wantSaved(t, "eve", 0)

	// Much waits for dev, and prod's worker does not see it.
	const many = 30
	dev.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
	var people sync.WaitGroup
	for i := range many {
		people.Go(func() { dev.person(t).connect(devProgram, devLink(fmt.Sprint("dev", i))) })
	}
	people.Wait()
	devProgram.stop()
	prod.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
	prod.person(t).wantConnect(prodProgram, prod.linkTo("ada"), textPending)
	prod.novu.BreakAll(nil)
	waitFor(t, "prod's worker saves", func() bool { return prod.novu.Saves() == 1 })
	prod.wantSaved(t, "ada", 0)
	for i := range many {
		if n := len(prod.updates(fmt.Sprint("dev", i))); n != 0 {
			t.Errorf("prod's worker sent dev%d to its own Novu %d times", i, n)
		}
	}

	// What waits for dev is named where somebody looks after prod.
	again := start(t, prod.env...)
	const remedy = "run outbox drain --now with the earlier settings"
	if log := again.text(); !strings.Contains(log, fmt.Sprintf(`"flows":%d`, many)) || !strings.Contains(log, remedy) {
		t.Errorf("the start of prod does not name dev's flows: %s", lastLines(log))
	}
	_, lines := checked(t, prod.env)
	if !strings.Contains(lines, "warn outbox: flows of another deployment (") || !strings.Contains(lines, fmt.Sprintf("in this store: %d: if", many)) || !strings.Contains(lines, "ok outbox: empty") {
		t.Errorf("check of prod does not name dev's flows: %s", lines)
	}
	if _, list, _ := runCommand(t, prod.env, "outbox", "list"); strings.Contains(list, "dev") {
		t.Errorf("outbox list of prod: got %s", list)
	}
	exit, stdout, stderr := runCommand(t, prod.env, "outbox", "drain")
	if exit != exitOK || stdout != "0 sent, 0 to be tried again\n" {
		t.Errorf("outbox drain of prod: got %d, %s%s", exit, stdout, stderr)
	}

	// The remedy works.
	dev.novu.BreakAll(nil)
	sent := 0
	waitFor(t, "drain --now sends all, and what is due within seconds then", func() bool {
		exit, stdout, stderr := runCommand(t, dev.env, "outbox", "drain", "--now")
		n, text, _ := strings.Cut(stdout, " ")
		if count, err := strconv.Atoi(n); err == nil {
			sent += count
		}
		if exit == exitOK && !strings.HasPrefix(text, "sent, 0 to be tried again\n") {
			t.Fatalf("outbox drain --now of dev: got %d, %s%s", exit, stdout, stderr)
		}
		return exit == exitOK && !strings.Contains(stdout, "left: ")
	})
	if sent != many || dev.novu.Saves() < 1+many {
		t.Errorf("outbox drain --now of dev: %d sent, and %d in Novu, want %d", sent, dev.novu.Saves()-1, many)
	}
	if _, lines := checked(t, prod.env); strings.Contains(lines, "another deployment") {
		t.Errorf("check of prod afterwards: %s", lines)
	}
}

// A flow's own page starts it again with the link that the record holds. Once the
// secret that signed this link is rotated away, it is refused as the link itself is.
func TestStartAgainAfterRotation(t *testing.T) {
	const oldSecret, newSecret = "link-secret-old-0123456789-0123456789", "link-secret-new-0123456789-0123456789"
	for name, c := range map[string]struct {
		before, both, after string
		link                func(w *world) string
	}{
		"LINK_SECRET": {"LINK_SECRET=" + oldSecret, "LINK_SECRET=" + newSecret + "," + oldSecret, "LINK_SECRET=" + newSecret, func(w *world) string {
			w.linkSecret = oldSecret
			return w.linkTo("ada")
		}},
		"NOVU_API_KEY": {"NOVU_API_KEY=key-old", "NOVU_API_KEY=key-new,key-old", "NOVU_API_KEY=key-new", func(*world) string { return novuStyleLink("key-old", "ada") }},
	} {
		t.Run(name, func(t *testing.T) {
			onEachStore(t, func(t *testing.T, w *world, _ *redistest.Server) {
				if name == "NOVU_API_KEY" {
					w.novu.SetAPIKey("key-old")
				}
				p, link := w.person(t), c.link(w)
				program := start(t, append(w.env, "NOVU_STYLE_LINKS=true", c.before)...)
				p.wantConnect(program, link, textConnected)
				page := p.resultPage()
				again := "/slack/install?again=" + strings.TrimPrefix(page, "/slack/result?flow=")
				program.stop()
				if name == "NOVU_API_KEY" {
					w.novu.SetAPIKey("key-new")
				}
				program = start(t, append(w.env, "NOVU_STYLE_LINKS=true", c.both)...)
				wantText(t, p.waitPage(program, page, textConnected), again)
				if status := p.status(program, again); status != http.StatusFound {
					t.Errorf("while the old secret still counts: got %d, want 302", status)
				}
				program.stop()
				program = start(t, append(w.env, "NOVU_STYLE_LINKS=true", c.after)...)
				if body := p.waitPage(program, page, textConnected); strings.Contains(body, again) {
					t.Errorf("the page still offers to start again: %s", readable(body))
				}
				a, err := p.get(program, again)
				if err != nil || a.status != http.StatusForbidden || a.location != "" || !strings.Contains(a.body, "<code>link_invalid</code>") {
					t.Errorf("after the secret is gone: got %d to %q, %v: %s", a.status, a.location, err, readable(a.body))
				}
				if status := p.status(program, link); status != http.StatusForbidden {
					t.Errorf("the link itself: got %d, want 403", status)
				}
			})
		})
	}
}

// The host ends the program just when Novu has answered: the welcome message still
// goes out, whether a request or the worker has saved.
func TestSIGTERMRightAfterASave(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"request", "worker"} {
		t.Run(who, func(t *testing.T) {
			onEachStore(t, func(t *testing.T, w *world, _ *redistest.Server) {
				w.slack.HooksURL = w.setting("SLACK_URL")
				w.novu.AddSubscriber("ada")
				program, p := start(t, w.env...), w.person(t)
				callback := p.approve(program, w.linkTo("ada"))
				terminate := upstreamtest.Edit(func(*httptest.ResponseRecorder) { program.terminate() })
				if who == "request" {
					w.novu.Break(terminate)
					if status := p.status(program, callback); status != http.StatusSeeOther {
						t.Errorf("the request in flight: got %d, want 303", status)
					}
				} else {
					down := upstreamtest.HTML(http.StatusServiceUnavailable)
					w.novu.Break(down, down, down, terminate)
					p.wantFinish(program, callback, textPending)
				}
				if got := program.wait(); got != exitOK {
					t.Errorf("got exit code %d, want %d", got, exitOK)
				}
				w.wantSaved(t, "ada", 0)
				if got := w.slack.Messages(); len(got) != 1 {
					t.Errorf("got messages %q, want the welcome", got)
				}
			}, "WELCOME_MESSAGE=Hello")
		})
	}
}

// The first Ctrl-C lets requests finish, for up to 20 s. The second one ends the program
// at once.
func TestSecondInterruptEndsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program, p := start(t, w.env...), w.person(t)
	callback := p.approve(program, w.linkTo("ada"))
	w.slack.Break(upstreamtest.Hang)
	p.background(program, callback)
	waitFor(t, "the exchange begins", w.exchanging)
	program.signal(os.Interrupt)
	waitFor(t, "the program drains", func() bool { return strings.Contains(program.text(), `"message":"draining"`) })
	for ended := false; !ended; { // the first of these may come before the program is ready for it
		program.cmd.Process.Signal(os.Interrupt)
		select {
		case <-program.exited:
			ended = true
		case <-time.After(200 * time.Millisecond):
		}
	}
	status, _ := program.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGINT { // else it ended by itself, when the request did
		t.Errorf("ended with %v, want at once by SIGINT", program.cmd.ProcessState)
	}
}

// Whoever asks /readyz 200 times a second makes the program write to its store once a
// second at most.
func TestReadyzWritesLittle(t *testing.T) {
	const seconds, rate = 4, 200
	onEachStore(t, func(t *testing.T, w *world, server *redistest.Server) {
		program, p := start(t, w.env...), w.person(t)
		if status := p.status(program, "/readyz"); status != http.StatusOK {
			t.Fatalf("got %d, want 200", status)
		}
		commands := func() int { return 0 }
		if server != nil {
			client := server.Client()
			commands = func() int {
				stats := must(client.InfoMap(t.Context(), "stats").Result())
				return must(strconv.Atoi(stats["Stats"]["total_commands_processed"]))
			}
		}
		before, writes, written, begin := commands(), 0, time.Time{}, time.Now()
		done := make(chan struct{})
		var watching sync.WaitGroup
		if server == nil {
			written = must(os.Stat(w.setting("DATA_FILE"))).ModTime()
			watching.Go(func() {
				for {
					select {
					case <-done:
						return
					case <-time.After(2 * time.Millisecond):
					}
					if at := must(os.Stat(w.setting("DATA_FILE"))).ModTime(); !at.Equal(written) {
						written = at
						writes++
					}
				}
			})
		}
		var asking sync.WaitGroup
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		for range seconds * rate {
			<-tick.C
			asking.Go(func() {
				res, err := http.Get(program.origin + "/readyz")
				if err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("got %v, %v", res, err)
					return
				}
				res.Body.Close()
			})
		}
		asking.Wait()
		close(done)
		watching.Wait()
		took := int(time.Since(begin).Seconds()) // longer than it should, on a busy machine
		// A write of the file is data and a meta page, which are seen as one change or two.
		if writes > 2*(took+3) {
			t.Errorf("the data file changed %d times in %d s of %d questions a second, want once a second", writes, took, rate)
		}
		// One question tries some 15 commands, and the worker looks for what is due meanwhile.
		if n := commands() - before; n > 60*(took+3) {
			t.Errorf("Redis ran %d commands in %d s for %d questions, want one question a second", n, took, seconds*rate)
		}
	})
}

// writeRecords writes what is no record into a store whose program does not run, or runs on
// Redis: one key each, due now.
func writeRecords(t *testing.T, w *world, server *redistest.Server, records map[string]string) {
	t.Helper()
	now := time.Now().UnixMilli()
	if server != nil {
		client, ctx := server.Client(), t.Context()
		dues := client.Keys(ctx, "nsr:{*}:due").Val()
		if len(dues) != 1 {
			t.Fatalf("got %q, want one deployment's keys", dues)
		}
		for key, text := range records {
			client.Set(ctx, strings.TrimSuffix(dues[0], "due")+"flow:"+key, text, 0)
			if err := client.ZAdd(ctx, dues[0], redis.Z{Score: float64(now), Member: key}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	db := must(bolt.Open(w.setting("DATA_FILE"), 0o600, &bolt.Options{Timeout: patience, NoFreelistSync: true}))
	defer db.Close()
	err := db.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, home *bolt.Bucket) error {
			for key, text := range records {
				never, due := binaryMillis(0), binaryMillis(now)
				err := errors.Join(
					home.Put([]byte("flow:"+key), slices.Concat(never, []byte(text))),
					home.Put([]byte("flow:"+key+"/due"), slices.Concat(never, due)),
					home.Put(slices.Concat([]byte("due/"), due, []byte(key)), nil),
				)
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func binaryMillis(ms int64) []byte {
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(ms >> (56 - 8*i))
	}
	return b
}

// What is no record is named by list, check and the log, holds up nothing else, and can
// be dropped.
func TestMalformedRecordHoldsUpNothing(t *testing.T) {
	onEachStore(t, func(t *testing.T, w *world, server *redistest.Server) {
		program := start(t, w.env...)
		callback := w.person(t)
		atSlack := callback.approve(program, w.linkTo("cyd"))
		bob := w.person(t)
		bobAtSlack := bob.approve(program, w.linkTo("bob"))
		w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
		bob.wantFinish(program, bobAtSlack, textPending)
		program.stop()
		malformed := map[string]string{}
		for i, text := range []string{"garbage", "", "r 1 2 3 a b c 99999\nshort", "r x 2 3 a b c 0\n", "\x00\xff\n\n", strings.Repeat("a", 10_000)} {
			if text == "" && server == nil {
				text = "z" // an empty value is nothing at all to the file's index
			}
			malformed[strings.Repeat(string(rune('A'+i)), 24)] = text
		}
		writeRecords(t, w, server, malformed)

		exit, list, stderr := runCommand(t, w.env, "outbox", "list")
		if exit != exitOK || waitingFlow(list, "bob") == "" {
			t.Errorf("list: got %d, %s%s", exit, list, stderr)
		}
		_, findings := checked(t, w.env)
		for _, text := range []string{": 7, the oldest", "malformed; it can be dropped with: outbox drop "} {
			if !strings.Contains(findings, text) {
				t.Errorf("check does not say %q: %s", text, findings)
			}
		}
		for key := range malformed {
			if !strings.Contains(list, "\n"+key+" ") || !strings.Contains(list, "the record "+key+" is malformed") {
				t.Errorf("list does not name %s: %s", key, list)
			}
		}

		w.novu.BreakAll(nil)
		program = start(t, append(w.env, "METRICS_ADDR=127.0.0.1:0")...)
		bob.waitPage(program, bob.resultPage(), textConnected)
		w.wantSaved(t, "bob", 0)
		callback.wantFinish(program, atSlack, textConnected)
		w.wantSaved(t, "cyd", 1)
		for key := range malformed {
			waitFor(t, "the log names "+key, func() bool { return strings.Contains(program.text(), "the record "+key+" is malformed") })
			if n := strings.Count(program.text(), "the record "+key+" is malformed"); n > 2 {
				t.Errorf("the log names %s %d times, want once an hour", key, n)
			}
		}
		if n := gauge(t, program, "slack_redirect_outbox_entries"); n != float64(len(malformed)) {
			t.Errorf("the metrics count %v waiting, want %d", n, len(malformed))
		}
		program.stop()
		for key := range malformed {
			if exit, _, stderr := runCommand(t, w.env, "outbox", "drop", key); exit != exitOK {
				t.Errorf("drop %s: got %d, %s", key, exit, stderr)
			}
		}
		if _, list, _ := runCommand(t, w.env, "outbox", "list"); strings.Count(list, "\n") != 1 {
			t.Errorf("list after all were dropped: got %s", list)
		}
		if _, findings := checked(t, w.env); !strings.Contains(findings, "ok outbox: empty") {
			t.Errorf("check after all were dropped: got %s", findings)
		}
	})
}

// Whatever is wrong with the data file, a command ends with one line that names the
// setting.
func TestDamagedDataFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	program := start(t, w.env...)
	link := w.linkTo(strings.Repeat("ada", 80))
	for range 60 {
		if status := w.person(t).status(program, link); status != http.StatusFound {
			t.Fatalf("got %d, want 302", status)
		}
	}
	program.stop()
	whole := must(os.ReadFile(w.setting("DATA_FILE")))
	for name, data := range map[string][]byte{
		"cut in half": whole[:len(whole)/2], "cut after two pages": whole[:8<<10], "cut within a page": whole[:5000], "cut to one byte": whole[:1],
		"zeros": make([]byte, len(whole)), "zeros behind the start": append(bytes.Clone(whole[:8<<10]), make([]byte, len(whole)-8<<10)...),
		"text": []byte(strings.Repeat("This is not a data file.\n", 5000)), "a little text": []byte("hello\n"),
	} {
		t.Run(name, func(t *testing.T) {
			path := w.setting("DATA_FILE")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"serve"}, {"check"}, {"outbox", "list"}, {"outbox", "drain"}, {"outbox", "drop", "x"}} {
				exit, stdout, stderr := runCommand(t, w.env, args...)
				out := stdout + stderr
				if exit != exitFailed || strings.Count(out, "DATA_FILE") != 1 || strings.Contains(out, "goroutine ") || strings.Contains(out, path) {
					t.Errorf("%v: got exit code %d: %s", args, exit, lastLines(out))
				}
				if args[0] != "check" && strings.Count(out, "\n") != 1 {
					t.Errorf("%v: got more than one line: %s", args, lastLines(out))
				}
			}
			if left := must(os.ReadFile(path)); !bytes.Equal(left, data) {
				t.Error("the file was changed")
			}
		})
	}
}

// An instance is killed when it has consumed a flow and before Slack was asked. The
// code still lives: another instance, or the next start, goes on with the flow once the
// lease has ended, and nobody starts again.
func TestKilledBeforeSlackWasAsked(t *testing.T) {
	onEachStore(t, func(t *testing.T, w *world, server *redistest.Server) {
		program, p := start(t, w.env...), w.person(t)
		other := program
		if server != nil {
			other = start(t, w.env...)
		}
		callback := p.approve(program, w.linkTo("ada"))
		w.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
			program.cmd.Process.Kill()
			upstreamtest.Reset(to, r, next)
		})
		if a, err := p.get(program, callback); err == nil {
			t.Fatalf("got %d from a dead process", a.status)
		}
		program.wait()
		if server == nil {
			other = start(t, w.env...)
		}
		// The reload finds the flow at work.
		a, err := p.get(other, callback)
		if err != nil || a.status != http.StatusSeeOther {
			t.Fatalf("got %d, %v: %s", a.status, err, readable(a.body))
		}
		p.waitPage(other, a.location, "One moment", textConnected) // which the page says after 30 s
		p.waitPage(other, a.location, textConnected)
		w.wantSaved(t, "ada", 0)
		if n := w.exchanges(); n != 2 {
			t.Errorf("Slack was asked %d times, want once by each instance", n)
		}
	})
}

// Slack asks to wait: the code is kept, the person reads that it takes a moment, and the
// page turns into success by itself.
func TestSlackAsksToWait(t *testing.T) {
	onEachStore(t, func(t *testing.T, w *world, _ *redistest.Server) {
		program, p := start(t, w.env...), w.person(t)
		looked := w.slackAsksToWait()
		p.wantConnect(program, w.linkTo("ada"), "One moment")
		close(looked)
		p.waitPage(program, p.resultPage(), textConnected)
		w.wantSaved(t, "ada", 0)
	})
}

// Cancel spends nothing: Back and Allow connects.
func TestCancelSpendsNothing(t *testing.T) {
	onEachStore(t, func(t *testing.T, w *world, _ *redistest.Server) {
		program, p := start(t, w.env...), w.person(t)
		callback := p.approve(program, w.linkTo("ada"))
		u := must(url.Parse(callback))
		cancelled := u.Path + "?error=access_denied&state=" + u.Query().Get("state")
		for range 2 {
			p.wantFinish(program, cancelled, "You cancelled")
		}
		p.wantFinish(program, callback, textConnected)
		p.wantFinish(program, cancelled, textConnected) // too late
		w.wantSaved(t, "ada", 0)
	})
}
