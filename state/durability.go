package state

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"novu-slack-redirect/secret"
)

// Advice is what one setting of Redis means for the flows that it keeps.
type Advice struct {
	Risk   bool // flows can be lost
	Text   string
	Remedy string
}

// AdviseRedis reads from INFO of each master whether Redis keeps what is written to it.
func AdviseRedis(ctx context.Context, rawURL secret.String) []Advice {
	client, err := NewRedisClient(rawURL)
	if err != nil {
		return nil // config reports it
	}
	defer client.Close()
	cluster, isCluster := client.(*redis.ClusterClient)
	var mu sync.Mutex
	var all []Advice
	read := func(ctx context.Context, node *redis.Client) error {
		info, err := node.Info(ctx).Result()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(info, "redis_mode:cluster") && !isCluster {
			all = append(all, Advice{true, "this is a node of a Redis Cluster, and REDIS_URL does not say so", clusterRemedy})
		}
		for _, advice := range adviseNode(info) {
			if !slices.Contains(all, advice) { // masters are mostly set alike
				all = append(all, advice)
			}
		}
		return nil
	}
	if isCluster {
		err = cluster.ForEachMaster(ctx, read)
	} else {
		err = read(ctx, client.(*redis.Client))
	}
	if err != nil {
		all = append(all, Advice{true, "INFO cannot be read: " + err.Error(), "give the user +info, or see by hand that maxmemory-policy is noeviction and appendonly is yes"})
	}
	return all
}

// adviseNode reads one node's INFO. Managed Redis may leave any of it out.
func adviseNode(info string) []Advice {
	value := func(name string) string {
		_, rest, _ := strings.Cut(info, "\n"+name+":")
		text, _, _ := strings.Cut(rest, "\r")
		return text
	}
	var eviction, appendOnly Advice
	switch policy := value("maxmemory_policy"); {
	case policy == "noeviction", value("maxmemory") == "0":
		eviction = Advice{Text: "maxmemory-policy evicts nothing"}
	case policy == "":
		eviction = Advice{Text: "maxmemory-policy is not known: INFO does not have it", Remedy: "see by hand that it is noeviction"}
	default:
		eviction = Advice{true, "maxmemory-policy is " + policy + ": states and recorded webhooks can be evicted", "set it to noeviction"}
	}
	switch value("aof_enabled") {
	case "1":
		appendOnly = Advice{Text: "appendonly is on"}
	case "":
		appendOnly = Advice{Text: "appendonly is not known: INFO does not have it", Remedy: "see by hand that Redis keeps its data when it restarts"}
	default:
		appendOnly = Advice{true, "appendonly is off: a restart of Redis can lose recorded webhooks", "set appendonly to yes"}
	}
	return []Advice{eviction, appendOnly}
}
