// Package redistest starts real redis-server processes for tests.
package redistest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// patience is how long a server may take to come up, on a machine that does other work too.
const patience = 2 * time.Minute

// Server is a redis-server on a free loopback port, gone when its test ends.
type Server struct {
	Addr string // host:port, the same across restarts

	tb   testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
}

// Start runs redis-server with args after settings that keep it quiet and empty.
// Where it is not installed the test is skipped, or fails with CI=true.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatal("redis-server is not installed, and CI=true wants it")
		}
		tb.Skip("redis-server is not installed")
	}
	s := &Server{tb: tb, dir: tb.TempDir(), args: args}
	tb.Cleanup(s.Stop)
	for range 5 { // another process may take the port between the look and the start
		s.Addr = net.JoinHostPort("127.0.0.1", FreePort(tb))
		if s.start() == nil {
			return s
		}
	}
	tb.Fatal("redis-server does not start")
	return nil
}

// URL returns the server's address as a redis:// URL.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Client returns a client of the server, closed when the test ends.
func (s *Server) Client() *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: s.Addr})
	s.tb.Cleanup(func() { client.Close() })
	return client
}

// Cluster runs a Redis Cluster of one node, which refuses what crosses slots as
// a larger one does, and returns a client of it, closed when the test ends.
func Cluster(tb testing.TB) *redis.ClusterClient {
	tb.Helper()
	s := Start(tb, "--cluster-enabled", "yes")
	ctx, node := context.Background(), s.Client()
	if err := node.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
		tb.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !strings.Contains(node.ClusterInfo(ctx).Val(), "cluster_state:ok"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal("the cluster does not come up")
		}
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{s.Addr}})
	tb.Cleanup(func() { client.Close() })
	return client
}

// Stop kills the server as a crash would. Starting it again keeps its files.
func (s *Server) Stop() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

// Pause makes the server hang, connections and all, until Resume or Stop.
func (s *Server) Pause() {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		s.tb.Fatal(err)
	}
}

// Resume lets a paused server go on.
func (s *Server) Resume() {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		s.tb.Fatal(err)
	}
}

// Restart starts a stopped server again on its old address and files.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	if err := s.start(); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *Server) start() error {
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--logfile", "redis.log"}, s.args...)
	cmd := exec.Command("redis-server", args...)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	client := redis.NewClient(&redis.Options{Addr: s.Addr, DialerRetries: 1, MaxRetries: -1})
	defer client.Close()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.Addr) // go-redis would log each failure
		if err != nil {
			continue
		}
		conn.Close()
		if pid, err := client.InfoMap(context.Background(), "server").Result(); err == nil {
			if pid["Server"]["process_id"] == fmt.Sprint(cmd.Process.Pid) {
				return nil
			}
			break // somebody else's server has the port
		}
	}
	s.Stop()
	return fmt.Errorf("redis-server %v does not answer", args)
}

// FreePort returns a TCP port that nothing listens at, for a process that is started with
// it. It is not one that the system gives to connections and to listeners at port 0, of which
// tests make thousands: none of them takes it until then. Nor is it the bus of a Cluster's
// node, which listens 10,000 above its port.
func FreePort(tb testing.TB) string {
	tb.Helper()
	for range 1000 {
		port := strconv.Itoa(10_000 + rand.IntN(10_000))
		if _, given := ports.LoadOrStore(port, true); given {
			continue
		}
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			l.Close()
			return port
		}
	}
	tb.Fatal("there is no free port")
	return ""
}

var ports sync.Map // that this process was given
