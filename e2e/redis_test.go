package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/upstream/upstreamtest"
)

// certificate writes a self-signed certificate for 127.0.0.1 and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: must(x509.CreateCertificate(rand.Reader, template, template, private.Public(), private))},
		key:  {Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(private))},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// Redis with TLS, and a user that may do what the service does and nothing more.
func TestRedisWithTLSAndACL(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	port := redistest.FreePort(t)
	server := redistest.Start(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no")
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "slack", "on", ">canary-password", "~nsr:*", "+@read", "+@write", "+@scripting", "+@connection", "+@transaction", "-@dangerous", "+time", "+info").Err(); err != nil {
		t.Fatal(err)
	}
	url := "rediss://slack:canary-password@127.0.0.1:" + port
	w := newWorld(t, "REDIS_URL="+url)
	program, person := start(t, append(w.env, "SSL_CERT_FILE="+cert)...), w.person(t)
	person.wantConnect(program, w.linkTo("ada"), textConnected)
	w.wantSaved(t, "ada", 0)

	// A certificate that nobody vouches for is not taken.
	stranger := start(t, append(w.env, "SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/dev/null")...)
	if status := w.person(t).status(stranger, "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("an unknown certificate: got %d, want 503", status)
	}
	if log := program.text() + stranger.text(); strings.Contains(log, "canary") {
		t.Error("a log has the password")
	}
}

// Whatever happens to a flow, what it leaves in Redis is small and ends by itself,
// except for what waits for Novu. What is refused leaves nothing.
func TestWhatIsInRedisEnds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, "REDIS_URL="+server.URL())
	program := start(t, w.env...)
	client, ctx := server.Client(), t.Context()
	for _, target := range []string{"/slack/install?token=x", "/slack/install?subscriberId=ada&hmacHash=" + strings.Repeat("0", 64), "/slack/callback?code=x&state=" + strings.Repeat("A", 32), "/slack/callback?error=access_denied&state=x", "/slack/result?flow=" + strings.Repeat("A", 24), "/nothing"} {
		w.person(t).get(program, target)
	}
	keys := slices.DeleteFunc(client.Keys(ctx, "*").Val(), func(key string) bool { return strings.HasSuffix(key, ":ready") })
	if !slices.Equal(keys, []string{"nsr:deployments"}) { // the start writes both
		t.Errorf("what was refused left %v", keys)
	}

	begun := w.person(t)
	begun.approve(program, w.linkTo("begun"))
	for range 3 {
		w.person(t).wantConnect(program, w.linkTo("ada"), textConnected)
	}
	cancelled := w.person(t)
	callback := must(url.Parse(cancelled.approve(program, w.linkTo("cancelled"))))
	cancelled.finish(program, callback.Path+"?error=access_denied&state="+callback.Query().Get("state"))
	begun.get(program, "/readyz")
	w.novu.BreakAll(upstreamtest.JSON(http.StatusUnauthorized, `{"message":"no"}`))
	w.person(t).wantConnect(program, w.linkTo("waits"), textPending)

	atWork := w.person(t)
	callback = must(url.Parse(atWork.approve(program, w.linkTo("at work"))))
	exchanges := w.exchanges()
	fault, answer := holdRequest()
	w.slack.Break(fault)
	done := make(chan bool)
	go func() {
		atWork.get(program, callback.RequestURI())
		close(done)
	}()
	waitFor(t, "the exchange begins", func() bool { return w.exchanges() > exchanges })

	got := map[string]int{}
	name := regexp.MustCompile(`^nsr:(?:\{[A-Za-z0-9_-]{12}\}:)?([a-z]+)(?::[A-Za-z0-9_-]{24})?$`)
	for _, key := range client.Keys(ctx, "*").Val() {
		left, size := client.TTL(ctx, key).Val(), client.MemoryUsage(ctx, key).Val()
		m := name.FindStringSubmatch(key)
		if m == nil {
			t.Errorf("%s has another form than documented", key)
			continue
		}
		kind, longest := m[1], 15*time.Minute
		switch {
		case kind == "flow" && left == -1:
			kind, longest = "flow that waits for Novu", -1
		case kind == "flow" && left > longest:
			kind, longest = "flow that waits for Slack", time.Hour
		case kind == "newest" && left == -1:
			kind, longest = "newest of what waits", -1
		case kind == "newest":
			longest = 30 * 24 * time.Hour
		case kind == "number" || kind == "deployments":
			longest = -1
		case kind == "due":
			longest = -1
			if n := client.ZCard(ctx, key).Val(); n != 2 {
				t.Errorf("%s has %d members, want the two that wait", key, n)
			}
		}
		if left == -2 && kind == "ready" {
			continue // it has ended since
		}
		got[kind]++
		if left > longest || left <= 0 && longest > 0 {
			t.Errorf("%s ends in %v, want at most %v", key, left, longest)
		}
		if size > 2<<10 {
			t.Errorf("%s takes %d bytes", key, size)
		}
	}
	delete(got, "ready") // the load balancer's question
	want := map[string]int{"flow": 5, "flow that waits for Novu": 1, "flow that waits for Slack": 1, "newest": 1, "newest of what waits": 1, "due": 1, "number": 1, "deployments": 1}
	if !maps.Equal(got, want) {
		t.Errorf("got keys %v, want %v", got, want)
	}
	close(answer)
	<-done
}

// A Redis of before version 6, or a proxy, without HELLO: the password goes by AUTH.
func TestRedisWithoutHELLO(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--rename-command", "HELLO", "")
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "slack", "on", ">canary-password", "~*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "REDIS_URL=redis://slack:canary-password@"+server.Addr)
	w.person(t).wantConnect(start(t, w.env...), w.linkTo("ada"), textConnected)
}

// clusterOfThree runs a Redis Cluster of three masters.
func clusterOfThree(t *testing.T) (nodes []*redistest.Server, addrs []string) {
	t.Helper()
	for range 3 {
		node := redistest.Start(t, "--cluster-enabled", "yes")
		nodes, addrs = append(nodes, node), append(addrs, node.Addr)
	}
	for i, node := range nodes {
		client := node.Client()
		from, to := 16384*i/3, 16384*(i+1)/3-1
		if err := client.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", from, to).Err(); err != nil {
			t.Fatal(err)
		}
		for _, other := range addrs {
			host, port, _ := net.SplitHostPort(other)
			if err := client.Do(t.Context(), "CLUSTER", "MEET", host, port).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, node := range nodes {
		client := node.Client()
		waitFor(t, "the cluster comes up", func() bool {
			info := client.ClusterInfo(t.Context()).Val()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return nodes, addrs
}

// A Redis Cluster of three masters: all keys of a deployment lie on one.
func TestRedisClusterOfThree(t *testing.T) {
	t.Parallel()
	nodes, addrs := clusterOfThree(t)
	w := newWorld(t, fmt.Sprintf("REDIS_URL=redis://%s?addr=%s&addr=%s", addrs[0], addrs[1], addrs[2]))
	one, two := start(t, w.env...), start(t, w.env...)
	for i := range 40 {
		person, subscriber := w.person(t), fmt.Sprintf("s%d", i)
		person.wantFinish(two, person.approve(one, w.linkTo(subscriber)), textConnected)
		w.wantSaved(t, subscriber, i)
	}
	holding := 0
	for _, node := range nodes {
		for _, key := range node.Client().Keys(t.Context(), "*").Val() {
			if strings.HasSuffix(key, ":due") || strings.Contains(key, ":flow:") {
				holding++
				break
			}
		}
	}
	if holding != 1 {
		t.Errorf("flows lie on %d masters, want one: each change of a flow is one script", holding)
	}
}

// The master of a Sentinel set-up dies while a webhook waits in the outbox and a
// person is at Slack: the replica takes over, the webhook is delivered, and flows go
// on, by themselves.
func TestSentinelFailOver(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := redistest.Start(t, "--replicaof", host+" "+port)
	var sentinels []string
	for range 3 {
		sentinelPort, dir := redistest.FreePort(t), t.TempDir()
		conf := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor main %s %s 2\nsentinel failover-timeout main 3000\nlogfile %s/log\n", sentinelPort, dir, host, port, dir)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("redis-server", conf, "--sentinel")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		sentinels = append(sentinels, "127.0.0.1:"+sentinelPort)
	}
	for _, addr := range sentinels {
		client := redis.NewClient(&redis.Options{Addr: addr})
		defer client.Close()
		waitFor(t, "the sentinels know each other and the replica", func() bool {
			info := client.Info(t.Context(), "sentinel").Val()
			return strings.Contains(info, "slaves=1,sentinels=3")
		})
	}
	waitFor(t, "the replica follows", func() bool {
		return strings.Contains(replica.Client().Info(t.Context(), "replication").Val(), "master_link_status:up")
	})

	w := newWorld(t, fmt.Sprintf("REDIS_URL=redis://%s?master_name=main&addr=%s&addr=%s", sentinels[0], sentinels[1], sentinels[2]))
	program, person := start(t, w.env...), w.person(t)
	w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
	person.wantConnect(program, w.linkTo("ada"), textPending)
	atSlack := person.approve(program, w.linkTo("bob"))
	waitFor(t, "the replica has it", func() bool { return master.Client().Wait(t.Context(), 1, time.Second).Val() == 1 })
	for _, addr := range sentinels { // only now: a busy machine may be away for as long
		client := redis.NewClient(&redis.Options{Addr: addr})
		defer client.Close()
		if err := client.Do(t.Context(), "SENTINEL", "SET", "main", "down-after-milliseconds", "500").Err(); err != nil {
			t.Fatal(err)
		}
	}
	master.Stop()

	waitFor(t, "the replica takes over", func() bool { return person.status(program, "/readyz") == http.StatusOK })
	w.novu.BreakAll(nil)
	waitFor(t, "the webhook is delivered", func() bool { channels, _ := w.novu.Channels("ada"); return len(channels) == 1 })
	w.wantSaved(t, "ada", 0)
	person.waitFinish(program, atSlack, textConnected)
	w.wantSaved(t, "bob", 1)
	if replica.Client().Info(t.Context(), "replication").Val() == "" {
		t.Error("the replica does not answer")
	}
}

// Flows find the connections to Redis that earlier ones opened.
func TestRedisConnectionsAreKept(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, "REDIS_URL="+server.URL())
	program, p, client := start(t, w.env...), w.person(t), server.Client()
	opened := func() (n int) {
		_, rest, _ := strings.Cut(must(client.Info(t.Context(), "stats").Result()), "total_connections_received:")
		if _, err := fmt.Sscan(rest, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	flow := func() { p.wantConnect(program, w.linkTo("ada"), textConnected) }
	flow()
	before := opened()
	for range 20 {
		flow()
	}
	if n := opened() - before; n > 2 { // the outbox's worker may have met a flow
		t.Errorf("20 flows opened %d connections to Redis", n)
	}
}

// Redis restarts with its append-only file while Novu is down: what was recorded is
// delivered afterwards.
func TestRedisRestartWithAOF(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	w := newWorld(t, "REDIS_URL="+server.URL())
	program := start(t, w.env...)
	w.novu.BreakAll(upstreamtest.HTML(http.StatusServiceUnavailable))
	p := w.person(t)
	pending := p.approve(program, w.linkTo("ada"))
	p.wantFinish(program, pending, textPending)
	open := p.approve(program, w.linkTo("bob")) // at Slack while Redis is away
	server.Stop()
	if status := p.status(program, open); status != http.StatusServiceUnavailable {
		t.Errorf("callback without Redis: got %d, want 503", status)
	}
	server.Restart()
	w.novu.BreakAll(nil)
	waitFor(t, "the recorded webhook is saved", func() bool { return w.novu.Saves() == 1 })
	w.wantSaved(t, "ada", 0)
	p.waitFinish(program, pending, textConnected)
	p.waitFinish(program, open, textConnected) // its state was not spent
}
