package e2e_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/state/redistest"
)

// redisDo runs a command that must succeed on a Redis.
func redisDo(t *testing.T, server *redistest.Server, args ...any) {
	t.Helper()
	if err := server.Client().Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// wantRefused fails unless readiness, the log and check of a program all know that this
// REDIS_URL does not work, with Redis's reason and a remedy.
func wantRefused(t *testing.T, w *world, url, reason, remedy string, more ...string) {
	t.Helper()
	env := append(append(slices.Clone(w.env), "REDIS_URL="+url), more...)
	var program *program
	var exit int
	var lines string
	failure := func() string { return strings.Join(logged(program, `"message":"the store failed`), "") }
	for range 10 { // a busy machine may be too slow to be refused
		program = start(t, env...)
		if status := w.person(t).status(program, "/readyz"); status != http.StatusServiceUnavailable {
			t.Errorf("/readyz: got %d, want 503", status)
		}
		waitFor(t, "the log says that the store failed", func() bool { return failure() != "" })
		exit, lines = checked(t, env)
		if strings.Contains(failure(), reason) && strings.Contains(lines, reason) || !strings.Contains(failure()+lines, "deadline exceeded") {
			break
		}
	}
	for name, text := range map[string]string{"the log": failure(), "check": lines} {
		if !strings.Contains(text, reason) || !strings.Contains(text, remedy) {
			t.Errorf("%s: got %s, want the reason %q and the remedy %q", name, text, reason, remedy)
		}
	}
	if exit != exitFailed {
		t.Errorf("check: got exit code %d, want %d: %s", exit, exitFailed, lines)
	}
	if strings.Contains(lines+program.text(), "canary") {
		t.Errorf("a part of the password is printed: %s %s", lines, lastLines(program.text()))
	}
}

// logged returns the lines of a program's log that contain text.
func logged(p *program, text string) (lines []string) {
	for line := range strings.Lines(p.text()) {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// A user of Redis who lacks one permission.
func TestRedisWithoutOnePermission(t *testing.T) {
	t.Parallel()
	const remedy = "give the user of REDIS_URL every permission"
	server, w := redistest.Start(t), newWorld(t, "REDIS_URL=redis://unused")
	url := func(user string) string { return "redis://" + user + ":canary@" + server.Addr }
	for rule, reason := range map[string]string{
		"-@scripting": "'eval' command", "-eval": "'eval' command", "-evalsha": "'evalsha' command", "-time": "(TIME)",
		"-set": "(SET)", "-incr": "(INCR)", "-get": "(GET)", "-mget": "(MGET)", "-pexpire": "(PEXPIRE)", "-del": "(DEL)",
		"-zadd": "(ZADD)", "-exists": "(EXISTS)", "-zscore": "(ZSCORE)", "-zcount": "(ZCOUNT)", "-zrem": "(ZREM)", "-zcard": "(ZCARD)", "-zrange": "(ZRANGE)", "-zrangebyscore": "(ZRANGEBYSCORE)",
	} {
		user := strings.Trim(rule, "-@")
		redisDo(t, server, "ACL", "SETUSER", user, "on", ">canary", "~nsr:*", "+@all", rule)
		t.Run(rule, func(t *testing.T) { wantRefused(t, w, url(user), reason, remedy) })
	}
	redisDo(t, server, "ACL", "SETUSER", "elsewhere", "on", ">canary", "~other:*", "+@all")
	t.Run("other keys", func(t *testing.T) {
		wantRefused(t, w, url("elsewhere"), "NOPERM this user has no permissions to access one of the keys", remedy)
	})
	t.Run("REDIS_PREFIX", func(t *testing.T) {
		redisDo(t, server, "ACL", "SETUSER", "prefix", "on", ">canary", "~nsr:*", "+@all")
		wantRefused(t, w, url("prefix"), "NOPERM", remedy, "REDIS_PREFIX=nsr2")
	})
	t.Run("what the documents list is enough", func(t *testing.T) {
		text := string(must(os.ReadFile("../docs/operating.md")))
		_, rest, _ := strings.Cut(text, "```\n~nsr:*")
		rules, _, found := strings.Cut(rest, "\n```")
		if !found {
			t.Fatal("docs/operating.md does not list the permissions")
		}
		args := []any{"ACL", "SETUSER", "documented", "on", ">canary", "~nsr:*"}
		for _, rule := range strings.Fields(rules) {
			args = append(args, rule)
		}
		redisDo(t, server, args...)
		env := append(slices.Clone(w.env), "REDIS_URL="+url("documented"))
		if exit, lines := checked(t, env); exit != exitOK || strings.Contains(lines, "INFO cannot be read") {
			t.Errorf("got exit code %d: %s", exit, lines)
		}
		w.person(t).wantConnect(start(t, env...), w.linkTo("ada"), textConnected)
	})
}

// What Redis refuses, whoever asks, is passed on.
func TestRedisThatRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "REDIS_URL=redis://unused")
	for name, test := range map[string]struct {
		url            func(t *testing.T) string
		reason, remedy string
	}{
		"no password": {func(t *testing.T) string {
			server := redistest.Start(t)
			redisDo(t, server, "CONFIG", "SET", "requirepass", "canary-right")
			return server.URL()
		}, "NOAUTH", "put the password into REDIS_URL"},
		"wrong password": {func(t *testing.T) string {
			server := redistest.Start(t)
			redisDo(t, server, "CONFIG", "SET", "requirepass", "canary-right")
			return "redis://:canary-wrong@" + server.Addr
		}, "WRONGPASS", "correct the user and the password"},
		"no such database": {func(t *testing.T) string { return redistest.Start(t).URL() + "/99" },
			"DB index is out of range", "leave the number of the database out"},
		"replica": {func(t *testing.T) string {
			host, port, _ := net.SplitHostPort(redistest.Start(t).Addr)
			return redistest.Start(t, "--replicaof", host+" "+port).URL()
		}, "READONLY", "REDIS_URL must name the master"},
		"replica without its master": {func(t *testing.T) string {
			return redistest.Start(t, "--replicaof", "127.0.0.1 1", "--replica-serve-stale-data", "no").URL()
		}, "MASTERDOWN", "REDIS_URL must name the master"},
		"too few replicas": {func(t *testing.T) string { return redistest.Start(t, "--min-replicas-to-write", "1").URL() },
			"NOREPLICAS", "min-replicas-to-write"},
		"full": {func(t *testing.T) string { return redistest.Start(t, "--maxmemory", "1").URL() },
			"OOM", "raise maxmemory"},
		"cannot save": {func(t *testing.T) string {
			dir := filepath.Join(t.TempDir(), "gone")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			server := redistest.Start(t, "--dir", dir, "--save", "3600 1", "--logfile", os.DevNull)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			redisDo(t, server, "BGSAVE")
			waitFor(t, "Redis could not save", func() bool {
				return strings.Contains(server.Client().Info(t.Context(), "persistence").Val(), "rdb_last_bgsave_status:err")
			})
			return server.URL()
		}, "MISCONF", "cannot write to its disk"},
		"no scripting": {func(t *testing.T) string { return redistest.Start(t, "--rename-command", "EVAL", "").URL() },
			"unknown command 'eval'", "with scripting (EVAL)"},
		"keys of another program": {func(t *testing.T) string {
			server := redistest.Start(t)
			start(t, append(slices.Clone(w.env), "REDIS_URL="+server.URL())...)
			tags := server.Client().SMembers(t.Context(), "nsr:deployments").Val()
			redisDo(t, server, "SET", "nsr:{"+tags[0]+"}:due", "x")
			return server.URL()
		}, "WRONGTYPE", "REDIS_PREFIX"},
		"Cluster that is not whole": {func(t *testing.T) string { return redistest.Start(t, "--cluster-enabled", "yes").URL() },
			"CLUSTERDOWN", "CLUSTER INFO"},
		"Sentinel": {func(t *testing.T) string {
			return "redis://" + startSentinel(t, redistest.Start(t), "")
		}, "unknown command", "?master_name="},
		"master_name of another set-up": {func(t *testing.T) string {
			return "redis://" + startSentinel(t, redistest.Start(t), "") + "?master_name=other"
		}, "all sentinels", "correct master_name"},
		"master_name without a Sentinel": {func(t *testing.T) string { return redistest.Start(t).URL() + "?master_name=main" },
			"all sentinels", "its hosts must be Sentinels"},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, w, test.url(t), test.reason, test.remedy) })
	}
}

// A port that is not what the URL says.
func TestRedisURLOfSomethingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "REDIS_URL=redis://unused")
	cert, key := certificate(t)
	tlsPort := redistest.FreePort(t)
	server := redistest.Start(t, "--tls-port", tlsPort, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no")
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	webAddr := strings.TrimPrefix(web.URL, "http://")
	for name, test := range map[string]struct{ url, reason, remedy string }{
		"redis to a TLS port":      {"redis://127.0.0.1:" + tlsPort, "EOF", "use rediss://"},
		"rediss to a plain port":   {"rediss://" + server.Addr, "connect: ", "that the port speaks TLS if the URL begins with rediss://"},
		"redis to a web server":    {"redis://" + webAddr, "HTTP/1.1 400 Bad Request", "the port speaks something other than Redis"},
		"rediss to a web server":   {"rediss://" + webAddr, "does not look like a TLS handshake", "the port does not speak TLS"},
		"nothing listens":          {"redis://:canary@127.0.0.1:1", "connect: dial tcp 127.0.0.1:1: connect: connection refused", "nothing listens there"},
		"unknown authority":        {"rediss://127.0.0.1:" + tlsPort, "x509: ", "SSL_CERT_FILE"},
		"name not in certificate":  {"rediss://localhost:" + tlsPort, "x509: ", "use the host name that the server's certificate is for"},
		"one Sentinel, wrong port": {"redis://127.0.0.1:1?master_name=main", "connection refused", "its hosts must be Sentinels"},
	} {
		t.Run(name, func(t *testing.T) {
			trust := "SSL_CERT_FILE=/dev/null"
			if name == "name not in certificate" {
				trust = "SSL_CERT_FILE=" + cert
			}
			wantRefused(t, w, test.url, test.reason, test.remedy, trust, "SSL_CERT_DIR=/dev/null")
		})
	}

	// What vouches for a certificate of one's own, and what does without.
	for url, trust := range map[string]string{
		"rediss://127.0.0.1:" + tlsPort:                       "SSL_CERT_FILE=" + cert,
		"rediss://127.0.0.1:" + tlsPort + "?skip_verify=true": "SSL_CERT_FILE=/dev/null",
	} {
		program := start(t, append(slices.Clone(w.env), "REDIS_URL="+url, trust, "SSL_CERT_DIR=/dev/null")...)
		if a, err := w.person(t).getServed(program, "/readyz"); err != nil || a.status != http.StatusOK {
			t.Errorf("%s with %s: got %d, %v, want 200", url, trust, a.status, err)
		}
	}
}

// A node of a Cluster is no Redis of its own, whether or not it has our slot; one
// address with addr is enough for a Cluster.
func TestOneAddressOfACluster(t *testing.T) {
	t.Parallel()
	_, addrs := clusterOfThree(t)
	w := newWorld(t, "REDIS_URL=redis://unused")
	refused := 0
	for _, addr := range addrs {
		env := append(slices.Clone(w.env), "REDIS_URL=redis://"+addr)
		if _, lines := checked(t, env); !strings.Contains(lines, "fail store") { // it has our slot
			if want := "warn redis: this is a node of a Redis Cluster"; !strings.Contains(lines, want) || !strings.Contains(lines, "add ?addr=") {
				t.Errorf("got %s, want %q and the remedy", lines, want)
			}
			continue
		}
		refused++
		wantRefused(t, w, "redis://"+addr, "MOVED", "this is a Redis Cluster: add ?addr=host:port of one of its nodes")
	}
	if refused != 2 {
		t.Errorf("%d of three nodes refuse, want two", refused)
	}
	for i, addr := range addrs {
		env := append(slices.Clone(w.env), "REDIS_URL=redis://"+addr+"?addr="+addr)
		if exit, lines := checked(t, env); exit != exitOK || strings.Contains(lines, "this is a node of a Redis Cluster") {
			t.Errorf("got exit code %d: %s", exit, lines)
		}
		subscriber := fmt.Sprintf("s%d", i)
		w.person(t).wantConnect(start(t, env...), w.linkTo(subscriber), textConnected)
		w.wantSaved(t, subscriber, i)
	}
}

// startSentinel runs one Sentinel that watches a master named main, and returns its
// address. Settings are further lines of its file.
func startSentinel(t *testing.T, master *redistest.Server, settings string) (addr string) {
	t.Helper()
	host, port, _ := net.SplitHostPort(master.Addr)
	sentinelPort, dir := redistest.FreePort(t), t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nlogfile %s/log\nsentinel monitor main %s %s 1\n%s\n", sentinelPort, dir, dir, host, port, settings)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", conf, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	addr = "127.0.0.1:" + sentinelPort
	waitFor(t, "the Sentinel listens", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return addr
}

// The Sentinels and Redis each have a password of their own.
func TestSentinelPasswords(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	redisDo(t, master, "ACL", "SETUSER", "app", "on", ">canary-app", "~nsr:*", "+@all")
	redisDo(t, master, "CONFIG", "SET", "requirepass", "canary-master")
	sentinel := startSentinel(t, master, "requirepass canary-sentinel\nsentinel auth-pass main canary-master")
	w := newWorld(t, "REDIS_URL=redis://unused")
	for i, url := range []string{
		"redis://:canary-sentinel@" + sentinel + "?master_name=main&password=canary-master",
		"redis://default:canary-sentinel@" + sentinel + "?master_name=main&username=app&password=canary-app",
	} {
		subscriber := fmt.Sprintf("s%d", i)
		program := start(t, append(slices.Clone(w.env), "REDIS_URL="+url)...)
		w.person(t).wantConnect(program, w.linkTo(subscriber), textConnected)
		w.wantSaved(t, subscriber, i)
	}
	const ofSentinels = "the user and the password of the Sentinels come before the @"
	for url, want := range map[string][2]string{
		"redis://:canary-sentinel@" + sentinel + "?master_name=main":                              {"NOAUTH", "behind Sentinel, as the parameter password"},
		"redis://:canary-sentinel@" + sentinel + "?master_name=main&password=canary-wrong":        {"WRONGPASS", "behind Sentinel, in the parameters username and password"},
		"redis://" + sentinel + "?master_name=main&password=canary-master":                        {"NOAUTH", ofSentinels},
		"redis://:canary-master@" + sentinel + "?master_name=main&password=canary-master":         {"WRONGPASS", ofSentinels},
		"redis://app:canary-app@" + sentinel + "?master_name=main&username=app&password=canary-x": {"WRONGPASS", ofSentinels},
	} {
		wantRefused(t, w, url, want[0], want[1])
	}
}

// A REDIS_URL with a character that cannot stand there is not used in part, nor printed.
func TestRedisURLsThatAreNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for url, want := range map[string]string{
		"redis://:secretive#canary@redis.example.com:6379": "percent-encode it as %23",
		"redis://canary:123#canary@redis.example.com":      "percent-encode it as %23",
		"redis://canary:123/canary@redis.example.com":      "percent-encode it, / as %2F",
		"redis://canary:%zzcanary@redis.example.com":       "is not a Redis URL",
		"canary": "is not a Redis URL",
	} {
		exit, stdout, stderr := runCommand(t, append(slices.Clone(w.env), "REDIS_URL="+url))
		if text := stdout + stderr; exit != exitUsage || !strings.Contains(text, "REDIS_URL") || !strings.Contains(text, want) || strings.Contains(text, "canary") || strings.Contains(text, "secretive") {
			t.Errorf("%q: got exit code %d, want %d and %q: %s", url, exit, exitUsage, want, text)
		}
	}
}

// The start says what check would about a Redis that loses what it was given.
func TestStartWarnsOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	w := newWorld(t, "REDIS_URL="+server.URL())
	risks := []string{"maxmemory-policy is allkeys-lru", "appendonly is off"}
	program := start(t, w.env...)
	for _, text := range append(risks, `"remedy":"set it to noeviction"`, `"remedy":"set appendonly to yes"`) {
		if lines := logged(program, text); len(lines) != 1 || !strings.Contains(lines[0], `"level":"warn"`) {
			t.Errorf("%s: got %q, want one warning", text, lines)
		}
	}
	_, lines := checked(t, w.env)
	for _, text := range risks {
		if !strings.Contains(lines, "warn redis: "+text) {
			t.Errorf("check: got %s, want %q", lines, text)
		}
	}
	redisDo(t, server, "CONFIG", "SET", "maxmemory-policy", "noeviction", "appendonly", "yes")
	if lines := logged(start(t, w.env...), "REDIS_URL: "); len(lines) != 0 {
		t.Errorf("Redis that keeps everything: got %q", lines)
	}
}

// Managed Redis may leave settings out of INFO: that is no alarm.
func TestINFOWithoutAPolicy(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t) // its INFO has little
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	defer client.Close()
	if info := client.Info(t.Context()).Val(); info == "" || strings.Contains(info, "maxmemory_policy") {
		t.Fatalf("got INFO %q, want one without a policy", info)
	}
	w := newWorld(t, "REDIS_URL=redis://"+server.Addr())
	exit, lines := checked(t, w.env)
	if exit != exitOK || strings.Contains(lines, "warn redis") || !strings.Contains(lines, "ok redis: maxmemory-policy is not known") || !strings.Contains(lines, "ok redis: appendonly is not known") {
		t.Errorf("got exit code %d: %s", exit, lines)
	}
	if lines := logged(start(t, w.env...), "REDIS_URL: "); len(lines) != 0 {
		t.Errorf("the start warns: %q", lines)
	}
}

// While the store is away the log has one line when it goes and one when it is back,
// whoever asks it meanwhile: the worker, probes, metrics and people. Redis that only
// refuses to write answers the worker, and is not back.
func TestStoreFailureIsLoggedOnce(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes")
	w := newWorld(t, "REDIS_URL="+server.URL(), "METRICS_ADDR=127.0.0.1:0")
	program, p := start(t, w.env...), w.person(t)
	for i, outage := range []struct {
		begin, end func()
		remedy     string
	}{
		{server.Stop, server.Restart, `"remedy":"`},
		{func() { redisDo(t, server, "CONFIG", "SET", "maxmemory", "1") }, func() { redisDo(t, server, "CONFIG", "SET", "maxmemory", "0") }, `"remedy":"Redis is full`},
	} {
		before := gauge(t, program, "slack_redirect_store_errors_total")
		outage.begin()
		requests := 0
		waitFor(t, "the store failed ten times", func() bool {
			p.status(program, "/readyz")
			if p.status(program, w.linkTo("ada")) == http.StatusServiceUnavailable {
				requests++
			}
			return gauge(t, program, "slack_redirect_store_errors_total") > before+10 && requests > 3
		})
		outage.end()
		waitFor(t, "the log says that it is back", func() bool { return len(logged(program, `"message":"the store works again"`)) == i+1 })
		failures := logged(program, `"message":"the store failed`)
		if len(failures) != i+1 || !strings.Contains(failures[len(failures)-1], outage.remedy) || !strings.Contains(failures[i], `"level":"error"`) {
			t.Errorf("outage %d: got %q, want one line each, with %s", i, failures, outage.remedy)
		}
		p.wantConnect(program, w.linkTo("ada"), textConnected)
	}
	for line := range strings.Lines(program.text()) {
		isRequest := strings.Contains(line, `"message":"request"`) && strings.Contains(line, `"route":"/slack/install"`) && strings.Contains(line, `"remedy":"`)
		if strings.Contains(line, `"level":"error"`) && !isRequest && !strings.Contains(line, "the store failed") {
			t.Errorf("another line about the store: %s", line)
		}
	}
}

// HTTPS_PROXY is for Slack and Novu, and not for Redis.
func TestEgressProxy(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := map[string]bool{}
	proxy := httptest.NewServer(http.HandlerFunc(func(to http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.Method+" "+r.Host] = true
		to.WriteHeader(http.StatusForbidden)
	}))
	defer proxy.Close()
	server := redistest.Start(t)
	w := newWorld(t, "REDIS_URL="+server.URL())
	env := append(slices.Clone(w.env), "HTTPS_PROXY="+proxy.URL, "HTTP_PROXY="+proxy.URL, "NOVU_API_URL=https://novu.invalid", "SLACK_URL=https://slack.com", "REDIRECT_URL=https://connect.example.com/slack/callback")
	_, lines := checked(t, env)
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 2 || !asked["CONNECT novu.invalid:443"] || !asked["CONNECT slack.com:443"] || !strings.Contains(lines, "ok store") {
		t.Errorf("the proxy was asked for %v, want Novu and Slack: %s", asked, lines)
	}
}
