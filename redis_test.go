package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
	"novu-slack-redirect/state/redistest"
	"novu-slack-redirect/wire"
)

func freePort(t *testing.T) string {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

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
	cert, key := certificate(t)
	port := freePort(t)
	server := redistest.Start(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no")
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "slack", "on", ">canary-password", "~nsr:*", "+@read", "+@write", "+@scripting", "+@connection", "+@transaction", "-@dangerous", "+time", "+info").Err(); err != nil {
		t.Fatal(err)
	}
	url := "rediss://slack:canary-password@127.0.0.1:" + port
	w := newWorld(t, "REDIS_URL="+url)
	program, person := start(t, append(w.env, "SSL_CERT_FILE="+cert)...), w.person(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(program.text())
		}
	})
	wantText(t, person.connect(program, state.Flow{Subscriber: "ada"}), "Slack is connected")
	w.wantSaved(t, "ada", 0)

	// A certificate that nobody vouches for is not taken.
	stranger := start(t, append(w.env, "SSL_CERT_FILE=/dev/null", "SSL_CERT_DIR=/dev/null")...)
	if status, _, _, _ := w.person(t).get(stranger, "/readyz"); status != http.StatusServiceUnavailable {
		t.Errorf("an unknown certificate: got %d, want 503", status)
	}
	if log := program.text() + stranger.text(); strings.Contains(log, "canary") {
		t.Errorf("the log has the password: %s", log)
	}
}

// Whatever happens to a flow, what it leaves in Redis is small and ends by itself,
// but for what waits in the outbox; and what is refused leaves nothing.
func TestWhatIsInRedisEnds(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newWorld(t, "REDIS_URL="+server.URL())
	program := start(t, w.env...)
	client, ctx := server.Client(), t.Context()
	for _, target := range []string{"/slack/install?token=x", "/slack/install?subscriberId=ada&hmacHash=" + strings.Repeat("0", 64), "/slack/callback?code=x&state=" + state.NewHalf(), "/slack/callback?error=access_denied&state=x", "/slack/result?flow=" + strings.Repeat("A", 24), "/nothing"} {
		w.person(t).get(program, target)
	}
	if keys := client.Keys(ctx, "*").Val(); len(keys) != 0 {
		t.Errorf("what was refused left %v", keys)
	}

	begun := w.person(t)
	begun.begin(program, "begun")
	for range 3 {
		wantText(t, w.person(t).connect(program, state.Flow{Subscriber: "ada"}), "Slack is connected")
	}
	cancelled := w.person(t)
	callback := must(url.Parse(cancelled.begin(program, "cancelled")))
	cancelled.land(program, callback.Path+"?error=access_denied&state="+callback.Query().Get("state"))
	begun.get(program, "/readyz")
	w.novu.BreakAll(wire.JSON(http.StatusUnauthorized, `{"message":"no"}`))
	wantText(t, w.person(t).connect(program, state.Flow{Subscriber: "waits"}), "we are finishing the set-up")

	atWork := w.person(t)
	callback = must(url.Parse(atWork.begin(program, "at work")))
	exchanges, answer := make(chan bool), make(chan bool)
	w.slack.Break(func(to http.ResponseWriter, r *http.Request, next http.Handler) {
		exchanges <- true
		<-answer
		next.ServeHTTP(to, r)
	})
	done := make(chan bool)
	go func() {
		atWork.get(program, callback.RequestURI())
		close(done)
	}()
	<-exchanges

	flows := 0
	for _, key := range client.Keys(ctx, "*").Val() {
		left, size := client.TTL(ctx, key).Val(), client.MemoryUsage(ctx, key).Val()
		switch {
		case strings.HasPrefix(key, "nsr:{outbox}:"):
			if n := client.ZCard(ctx, key).Val() + client.HLen(ctx, key).Val(); n > 1 {
				t.Errorf("%s has %d entries, want what waits alone", key, n)
			}
		case left <= 0 || left > 15*time.Minute:
			t.Errorf("%s ends in %v, want at most STATE_TTL", key, left)
		case strings.HasPrefix(key, "nsr:flow:"):
			flows++
		}
		if size > 2<<10 {
			t.Errorf("%s takes %d bytes", key, size)
		}
	}
	if flows != 7 {
		t.Errorf("got %d flows, want 7", flows)
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
	wantText(t, w.person(t).connect(start(t, w.env...), state.Flow{Subscriber: "ada"}), "Slack is connected")
}

// What the URL says of timeouts holds; what it leaves open fits a person's patience.
func TestTimeoutsOfTheURLHold(t *testing.T) {
	for query, want := range map[string][4]time.Duration{
		"":                                  {time.Second, time.Second, time.Second, time.Second},
		"?read_timeout=5s":                  {time.Second, 5 * time.Second, time.Second, time.Second},
		"?dial_timeout=2s&write_timeout=3s": {2 * time.Second, time.Second, 3 * time.Second, time.Second},
		"?pool_timeout=4s":                  {time.Second, time.Second, time.Second, 4 * time.Second},
	} {
		client := must(newRedisClient(secret.New("redis://127.0.0.1:1" + query))).(*redis.Client)
		o := client.Options()
		client.Close()
		if got := [4]time.Duration{o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout}; got != want || !o.ContextTimeoutEnabled {
			t.Errorf("%q: got %v, want %v", query, got, want)
		}
	}
}

// Neither a pipeline's error nor its commands' quote what Redis does not know.
func TestPipelinesQuoteNothing(t *testing.T) {
	server := redistest.Start(t, "--cluster-enabled", "yes", "--rename-command", "HELLO", "", "--rename-command", "AUTH", "")
	must(server.Client().ClusterAddSlotsRange(t.Context(), 0, 16383).Result())
	for _, query := range []string{"", "?addr=" + server.Addr} {
		client := must(newRedisClient(secret.New("redis://u:canary@" + server.Addr + query)))
		pipe := client.Pipeline()
		command := pipe.Get(t.Context(), "x")
		_, err := pipe.Exec(t.Context())
		client.Close()
		if err == nil || strings.Contains(fmt.Sprint(err, command.Err()), "canary") {
			t.Errorf("%q: got %v, %v, want an error without the password", query, err, command.Err())
		}
	}
}

// A Redis Cluster of three masters: flows lie on all of them, the outbox on one.
func TestRedisClusterOfThree(t *testing.T) {
	var nodes []*redistest.Server
	var addrs []string
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
	w := newWorld(t, fmt.Sprintf("REDIS_URL=redis://%s?addr=%s&addr=%s", addrs[0], addrs[1], addrs[2]))
	one, two := start(t, w.env...), start(t, w.env...)
	for i := range 40 {
		person, subscriber := w.person(t), fmt.Sprintf("s%d", i)
		wantText(t, person.land(two, person.begin(one, subscriber)), "Slack is connected")
		w.wantSaved(t, subscriber, i)
	}
	for _, node := range nodes {
		if n := node.Client().DBSize(t.Context()).Val(); n == 0 {
			t.Errorf("nothing lies on %s", node.Addr)
		}
	}
}

// The master of a Sentinel set-up dies while a webhook waits in the outbox and a
// person is at Slack: the replica takes over, the webhook is delivered, and flows go
// on, by themselves.
func TestSentinelFailOver(t *testing.T) {
	master := redistest.Start(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := redistest.Start(t, "--replicaof", host+" "+port)
	var sentinels []string
	for range 3 {
		sentinelPort, dir := freePort(t), t.TempDir()
		conf := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor main %s %s 2\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\nlogfile %s/log\n", sentinelPort, dir, host, port, dir)
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
	w.novu.BreakAll(wire.HTML(http.StatusServiceUnavailable))
	wantText(t, person.land(program, person.begin(program, "ada")), "we are finishing the set-up")
	atSlack := person.begin(program, "bob")
	if n := master.Client().Wait(t.Context(), 1, 5*time.Second).Val(); n != 1 {
		t.Fatalf("%d replicas have it, want 1", n)
	}
	master.Stop()

	waitFor(t, "the replica takes over", func() bool {
		status, _, _, err := person.get(program, "/readyz")
		return err == nil && status == http.StatusOK
	})
	w.novu.BreakAll(nil)
	waitFor(t, "the webhook is delivered", func() bool { channels, _ := w.novu.Channels("ada"); return len(channels) == 1 })
	w.wantSaved(t, "ada", 0)
	wantText(t, person.land(program, atSlack), "Slack is connected")
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
	flow := func() { wantText(t, p.land(program, p.begin(program, "ada")), "Slack is connected") }
	flow()
	before := opened()
	for range 20 {
		flow()
	}
	if n := opened() - before; n > 2 { // the outbox's worker may have met a flow
		t.Errorf("20 flows opened %d connections to Redis", n)
	}
}
