package state

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/state/redistest"
)

// The timeouts of the URL hold; those that it leaves out fit a person's patience.
func TestTimeoutsOfTheURLHold(t *testing.T) {
	for query, want := range map[string][4]time.Duration{
		"":                                  {time.Second, time.Second, time.Second, time.Second},
		"?read_timeout=5s":                  {time.Second, 5 * time.Second, time.Second, time.Second},
		"?dial_timeout=2s&write_timeout=3s": {2 * time.Second, time.Second, 3 * time.Second, time.Second},
		"?pool_timeout=4s":                  {time.Second, time.Second, time.Second, 4 * time.Second},
	} {
		client, err := NewRedisClient(secret.New("redis://127.0.0.1:1" + query))
		if err != nil {
			t.Fatal(err)
		}
		o := client.(*redis.Client).Options()
		client.Close()
		if got := [4]time.Duration{o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout}; got != want || !o.ContextTimeoutEnabled {
			t.Errorf("%q: got %v, want %v", query, got, want)
		}
	}
}

func TestRedisURLs(t *testing.T) {
	for url, want := range map[string]string{
		"redis://x":                              "*redis.Client",
		"rediss://user:pw@x:6380/1":              "*redis.Client",
		"redis://x?addr=y:1&addr=z:1":            "*redis.ClusterClient",
		"redis://x?master_name=m&addr=y:1":       "*redis.Client", // one that asks Sentinels
		"":                                       "is not a Redis URL",
		"http://:canary@x":                       "is not a Redis URL",
		"redis://x/canary":                       "is not a Redis URL",
		"redis://:canary@x:y":                    "is not a Redis URL",
		"redis://x?read_timeout=canary":          "is not a Redis URL",
		"redis://x?canary=1":                     "has an unknown parameter",
		"redis://:p#canary@x":                    "has a #, at which a URL ends: percent-encode it as %23",
		"redis://u:123#canary@x":                 "has a #, at which a URL ends: percent-encode it as %23",
		"redis://x:6379/0?read_timeout=1s#":      "has a #, at which a URL ends: percent-encode it as %23",
		"redis://u:12/canary@x":                  "has a / or another special character in the user or the password: percent-encode it, / as %2F",
		"redis://u:12/%63anary@x?addr=y:1":       "has a / or another special character in the user or the password: percent-encode it, / as %2F",
		"redis://u:12?canary@x":                  "has an unknown parameter",
		"rediss://x?skip_verify=true":            "*redis.Client",
		"rediss://x?addr=y:1&skip_verify=true":   "has an unknown parameter", // go-redis has none for Clusters
		"redis://x?addr=canary":                  "is not a Redis URL",
		"redis://x?pool_size=canary":             "is not a Redis URL",
		"redis://:p%23a%2Fb@x":                   "*redis.Client",
		"redis://x?addr=y:1&canary=1":            "has an unknown parameter",
		"redis://x?master_name=m&addr=y:1&bog=1": "has an unknown parameter",
	} {
		client, err := NewRedisClient(secret.New(url))
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%T", client)
			client.Close()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", url, got, want)
		}
	}
}

// Neither a pipeline's error nor those of its commands quote a command that Redis
// does not know.
func TestPipelinesQuoteNothing(t *testing.T) {
	server := redistest.Start(t, "--cluster-enabled", "yes", "--rename-command", "HELLO", "", "--rename-command", "AUTH", "")
	if err := server.Client().ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"", "?addr=" + server.Addr} {
		client, err := NewRedisClient(secret.New("redis://u:canary@" + server.Addr + query))
		if err != nil {
			t.Fatal(err)
		}
		pipe := client.Pipeline()
		command := pipe.Get(t.Context(), "x")
		_, err = pipe.Exec(t.Context())
		client.Close()
		if err == nil || strings.Contains(fmt.Sprint(err, command.Err()), "canary") {
			t.Errorf("%q: got %v, %v, want an error without the password", query, err, command.Err())
		}
	}
}

func TestRedisLogger(t *testing.T) {
	var out bytes.Buffer
	RedisLogger{zerolog.New(&out)}.Printf(t.Context(), "connection %d", 1)
	if got, want := out.String(), `{"level":"debug","message":"connection 1"}`+"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Every reason has a remedy of its own, wherever in an error it stands.
func TestRemedies(t *testing.T) {
	for text, want := range map[string]string{
		"LOADING Redis is loading the dataset in memory":                       "wait",
		"BUSY Redis is busy running a script":                                  "SCRIPT KILL",
		"DENIED Redis is running in protected mode":                            "protected mode",
		"CROSSSLOT Keys in request don't hash to the same slot":                "hash tag",
		"MOVED 866 127.0.0.1:7001":                                             "?addr=host:port",
		"ERR max number of clients reached":                                    "maxclients",
		"ERR AUTH <password> called without any password configured":           "has no password",
		"NOPERM User app has no permissions to run the 'time' command (TIME)":  "every permission",
		"ERR ACL failure in script: User app has no permissions":               "every permission",
		"connect: dial tcp: lookup x: no such host":                            "host name",
		"connect: dial tcp 10.0.0.1:6379: i/o timeout":                         "firewalls",
		"context deadline exceeded: connect: context deadline exceeded":        "firewalls",
		"context deadline exceeded":                                            "does not answer in time",
		"read tcp 127.0.0.1:1->127.0.0.1:2: i/o timeout":                       "does not answer in time",
		"remote error: tls: certificate required":                              "tls-auth-clients",
		"write data.db: no space left on device":                               "DATA_FILE",
		"redis: all sentinels specified in configuration are unreachable: EOF": "its hosts must be Sentinels",
		"something new": "see that Redis, or the data file's disk, answers and has room",
	} {
		if got := Remedy(fmt.Errorf("state: ready: %w", errors.New(text))); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	if got := Remedy(nil); got != "" {
		t.Errorf("no error: got %q", got)
	}
}
