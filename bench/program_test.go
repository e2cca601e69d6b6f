package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/state/redistest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lab is what programs run in: a Redis that writes nothing to disk, the fakes, a folder.
type lab struct {
	t        *testing.T
	dir      string
	redis    *redis.Client
	fakes    *fakes
	floor    program
	services []program // this build and the others, with Redis, and then embedded
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, dir: t.TempDir(), redis: redistest.Start(t).Client(), fakes: newFakes(t)}
	l.floor = program{floorName, l.install(filepath.Join(built, floorName)), false}
	paths := append([]string{filepath.Join(built, "service")}, strings.FieldsFunc(*builds, func(c rune) bool { return c == ',' })...)
	for _, bolt := range []bool{false, true} {
		for _, path := range paths {
			l.services = append(l.services, program{filepath.Base(path), l.install(path), bolt})
		}
	}
	return l
}

// built is the folder of the programs of this module.
var built string

func TestMain(m *testing.M) {
	code := 1
	if err := build(); err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	os.RemoveAll(built)
	os.Exit(code)
}

// build builds the service and the floor as the Dockerfile does.
func build() (err error) {
	if built, err = os.MkdirTemp("", "novu-slack-redirect-bench-"); err != nil {
		return err
	}
	for name, folder := range map[string]string{"service": "..", floorName: "./floor"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(built, name), folder)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}

// install returns the path of a copy of a program. The linker writes its file through a
// mapping, page by page, and programs start more than a millisecond later from such pages of
// the kernel's cache than from those of a file that was copied, as the files of an image are.
func (l *lab) install(path string) string {
	text, err := os.ReadFile(path)
	must(l.t, err)
	installed := filepath.Join(l.t.TempDir(), filepath.Base(path))
	must(l.t, os.WriteFile(installed, text, 0o755))
	return installed
}

func (l *lab) dataFile(of program) string { return filepath.Join(l.dir, of.name+".db") }

// redisBytes is what Redis has in use.
func (l *lab) redisBytes() float64 {
	n, err := strconv.ParseFloat(l.redis.InfoMap(context.Background(), "memory").Val()["Memory"]["used_memory"], 64)
	must(l.t, err)
	return n
}

const floorName = "floor"

// program is a binary with its store: a column of the table.
type program struct {
	name, path string
	bolt       bool // the embedded store rather than Redis
}

func (p program) String() string {
	return p.name + map[bool]string{false: ", Redis", true: ", embedded"}[p.bolt]
}

// process is a running program.
type process struct {
	program
	addr, metrics string
	cmd           *exec.Cmd
	started       time.Duration // from exec to the first 200 of /readyz
}

// start runs a program with the settings that all share, and waits until it is ready.
func (l *lab) start(of program) *process {
	p := &process{program: of, addr: freeAddr(l.t), metrics: freeAddr(l.t), cmd: exec.Command(of.path)}
	_, port, _ := net.SplitHostPort(p.addr)
	p.cmd.Env = []string{"PORT=" + port, "METRICS_ADDR=" + p.metrics, "RATE_LIMIT=0", "REDIRECT_URL=" + redirectURL, "RETURN_URLS=" + returnURL,
		"SLACK_URL=" + l.fakes.slack.URL, "NOVU_API_URL=" + l.fakes.novu.URL,
		"SLACK_CLIENT_ID=" + clientID, "SLACK_CLIENT_SECRET=" + clientSecret, "NOVU_API_KEY=" + apiKey, "LINK_SECRET=" + linkSecret, "APP_NAME=Bench"}
	if of.bolt {
		p.cmd.Env = append(p.cmd.Env, "DATA_FILE="+l.dataFile(of))
	} else {
		p.cmd.Env = append(p.cmd.Env, "REDIS_URL=redis://"+l.redis.Options().Addr)
	}
	if of.name == floorName {
		p.metrics = p.addr
	}
	log, err := os.Create(filepath.Join(l.dir, of.String()+".log"))
	must(l.t, err)
	defer log.Close()
	p.cmd.Stderr = log
	begin := time.Now()
	must(l.t, p.cmd.Start())
	l.t.Cleanup(p.kill)
	if !waitFor(time.Minute, func() bool { _, _, err := p.get("/readyz", "", http.StatusOK); return err == nil }) {
		text, _ := os.ReadFile(log.Name())
		l.t.Fatalf("%v does not start:\n%s", of, text)
	}
	p.started = time.Since(begin)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// waitFor asks often, but does not take a whole processor.
func waitFor(limit time.Duration, ask func() bool) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		if ask() {
			return true
		}
	}
	return false
}

func freeAddr(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// cpu returns the processor time that the process has used, in milliseconds. The ticks
// of /proc/PID/stat are a hundredth of a second on Linux.
func (p *process) cpu() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	_, after, _ := strings.Cut(string(text), ") ")
	var user, system float64
	if fields := strings.Fields(after); len(fields) > 12 {
		user, _ = strconv.ParseFloat(fields[11], 64)
		system, _ = strconv.ParseFloat(fields[12], 64)
	}
	return (user + system) * 10
}

// memory returns a line of /proc/PID/status in MB (of 1,000,000 bytes): VmRSS is all
// resident memory, RssAnon the part that is not pages of files.
func (p *process) memory(line string) (mb float64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	_, after, _ := strings.Cut(string(text), line+":")
	_, _ = fmt.Sscan(after, &mb)
	return mb * 1024 / 1e6
}

// metric reads a number that the program publishes.
func (p *process) metric(name string) (n float64) {
	res, err := http.Get("http://" + p.metrics + "/metrics")
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	_, after, _ := strings.Cut("\n"+string(text), "\n"+name+" ")
	_, _ = fmt.Sscan(after, &n)
	return n
}
