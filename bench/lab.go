package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/bench/floor"
	"novu-slack-redirect/handler"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

var slackAuth = "Basic " + base64.StdEncoding.EncodeToString([]byte(clientID+":"+clientSecret))

// lab is what a measurement stands in: two binaries, a Redis, and the fakes.
type lab struct {
	dir     string
	redis   *redis.Client
	addr    string // of Redis
	fakes   *fakes
	visited int
	stop    []func()
}

// profiled is added to a program by the compiler's overlay when -profile asks
// for it: no product code knows of it.
const profiled = `package main
import ("net/http"; _ "net/http/pprof"; "os")
func init() { go http.ListenAndServe(os.Getenv("BENCH_PPROF"), nil) }
`

func newLab(profile bool) (l *lab, err error) {
	l = &lab{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return l, err
	}
	l.stop = append(l.stop, func() { os.RemoveAll(l.dir) })
	if l.fakes, err = newFakes(); err != nil {
		return l, err
	}
	if err = l.startRedis(); err != nil {
		return l, err
	}
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return l, errors.New("the benchmark builds what it measures: run it with go, inside the module")
	}
	root := strings.TrimSpace(string(module))
	for name, path := range map[string]string{"service": ".", "floor": "bench/floor/serve"} {
		args := []string{"build", "-trimpath", "-o", filepath.Join(l.dir, name)}
		if profile {
			extra, overlay := filepath.Join(l.dir, "pprof.go"), filepath.Join(l.dir, name+".json")
			text := fmt.Sprintf(`{"Replace": {%q: %q}}`, filepath.Join(root, path, "bench_pprof.go"), extra)
			if err = errors.Join(os.WriteFile(extra, []byte(profiled), 0o600), os.WriteFile(overlay, []byte(text), 0o600)); err != nil {
				return l, err
			}
			args = append(args, "-overlay", overlay)
		} else {
			args = append(args, "-ldflags", "-s -w") // as the Dockerfile does
		}
		build := exec.Command("go", append(args, "./"+path)...)
		build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return l, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return l, nil
}

func (l *lab) close() {
	for i := len(l.stop) - 1; i >= 0; i-- {
		l.stop[i]()
	}
}

// startRedis runs a redis-server that writes nothing to disk, so that its disk is
// not what is measured.
func (l *lab) startRedis() error {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return errNoRedis
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", l.dir, "--save", "")
	if err := cmd.Start(); err != nil {
		return err
	}
	l.stop = append(l.stop, func() { cmd.Process.Kill(); cmd.Wait() })
	l.addr, l.redis = addr, redis.NewClient(&redis.Options{Addr: addr})
	if !until(10*time.Second, func() bool { conn, err := net.Dial("tcp", addr); return err == nil && conn.Close() == nil }) {
		return errors.New("redis-server does not start")
	}
	return l.redis.Ping(context.Background()).Err()
}

var errNoRedis = errors.New("redis-server is not installed, and this measures with a real one: install it (Debian: apt-get install redis-server)")

// visits makes n people with a fresh link and code each.
func (l *lab) visits(name string, n int) []visit {
	origin, _ := url.Parse(redirectURL)
	links := handler.Links{Origin: "https://" + origin.Host, Secrets: []secret.String{secret.New(linkSecret)}}
	all := make([]visit, n)
	for i := range all {
		l.visited++
		subscriber := fmt.Sprintf("user-%012d", l.visited)
		link := floor.Link(linkSecret, subscriber)
		if name == "service" {
			signed, err := links.Sign(state.Flow{Subscriber: subscriber, Integration: "slack-main"}, time.Now().Add(time.Hour))
			if err != nil {
				panic(err) // these subscribers are good ones
			}
			link = strings.TrimPrefix(signed, links.Origin)
		}
		all[i] = visit{link, fmt.Sprintf("code-%012d", l.visited)}
	}
	return all
}

// server is a running service or floor.
type server struct {
	name, addr, metrics, pprof string
	log                        *os.File
	cmd                        *exec.Cmd
	ready                      time.Duration // from exec to the first 200
}

// start runs one of the two binaries against Redis at addr, or without one on an
// embedded store, and waits until it is ready.
func (l *lab) start(name, redisAddr string) (*server, error) {
	s := &server{name: name}
	for _, to := range []*string{&s.addr, &s.metrics, &s.pprof} {
		var err error
		if *to, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	_, port, _ := net.SplitHostPort(s.addr)
	var err error
	if s.log, err = os.Create(filepath.Join(l.dir, name+".log")); err != nil {
		return nil, err
	}
	s.cmd = exec.Command(filepath.Join(l.dir, name))
	s.cmd.Stderr = s.log
	s.cmd.Env = []string{"PORT=" + port, "METRICS_ADDR=" + s.metrics, "BENCH_PPROF=" + s.pprof, "RATE_LIMIT=0", "DATA_FILE=" + filepath.Join(l.dir, "data.db"),
		"REDIRECT_URL=" + redirectURL, "RETURN_URLS=" + returnURL, "SLACK_URL=" + l.fakes.slack, "NOVU_API_URL=" + l.fakes.novu,
		"SLACK_CLIENT_ID=" + clientID, "SLACK_CLIENT_SECRET=" + clientSecret, "NOVU_API_KEY=" + apiKey, "LINK_SECRET=" + linkSecret}
	if redisAddr != "" {
		s.cmd.Env = append(s.cmd.Env, "REDIS_URL=redis://"+redisAddr)
	}
	if name == "floor" {
		s.metrics = s.addr
	}
	begin := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	ok := until(10*time.Second, func() bool {
		b, err := dial(s.addr)
		if err != nil {
			return false
		}
		defer b.conn.Close()
		m, err := b.get("/readyz", "")
		return err == nil && answers(m, "200")
	})
	s.ready = time.Since(begin)
	l.stop = append(l.stop, s.stop)
	if !ok {
		text, _ := os.ReadFile(s.log.Name())
		return nil, fmt.Errorf("the %s does not start:\n%s", name, text)
	}
	return s, nil
}

func (s *server) stop() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.log.Close()
	}
}

// until asks again and again, tightly but without taking a whole core.
func until(limit time.Duration, ask func() bool) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		if ask() {
			return true
		}
	}
	return false
}

func freeAddr() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// cpu returns the seconds that the process has used, from /proc/PID/stat, whose
// ticks are a hundredth of a second on Linux.
func (s *server) cpu() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

// memory returns a line of /proc/PID/status in MB (of 1,000,000 bytes): VmRSS is
// all that is resident, RssAnon what is not a page of a file.
func (s *server) memory(line string) (mb float64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	_, after, _ := strings.Cut(string(text), line+":")
	_, _ = fmt.Sscan(after, &mb)
	return mb * 1024 / 1e6
}

// metric reads a number that the server publishes.
func (s *server) metric(name string) float64 {
	res, err := http.Get("http://" + s.metrics + "/metrics")
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return n
		}
	}
	return 0
}

// profile writes the server's profiles of the next seconds into dir.
func (s *server) profile(dir string, seconds int) error {
	for _, kind := range []string{"profile?seconds=" + strconv.Itoa(seconds), "allocs", "heap"} {
		res, err := http.Get("http://" + s.pprof + "/debug/pprof/" + kind)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		name, _, _ := strings.Cut(kind, "?")
		to, err := os.Create(filepath.Join(dir, s.name+"."+name))
		if err != nil {
			return err
		}
		_, err = io.Copy(to, res.Body)
		if err := errors.Join(err, to.Close()); err != nil {
			return err
		}
	}
	return nil
}

// nofile raises this process's limit of open files, which its children get too.
func nofile(n uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur < n {
		limit.Cur, limit.Max = n, max(n, limit.Max)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("%d open files are needed (ulimit -n): %w", n, err)
		}
	}
	return nil
}

// usedMemory is what Redis has in use, in bytes.
func (l *lab) usedMemory() int64 {
	info := l.redis.InfoMap(context.Background(), "memory").Val()
	n, _ := strconv.ParseInt(info["Memory"]["used_memory"], 10, 64)
	return n
}
