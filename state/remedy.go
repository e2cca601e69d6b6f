package state

import (
	"regexp"
	"sync"
)

// Remedy returns what the operator should do about an error of a store, which names
// Redis's own reason.
func Remedy(err error) string {
	if err == nil {
		return ""
	}
	for _, r := range remedies() {
		if r.reason.MatchString(err.Error()) {
			return r.remedy
		}
	}
	return "see that Redis, or the data file's disk, answers and has room"
}

const clusterRemedy = "this is a Redis Cluster: add ?addr=host:port of one of its nodes to REDIS_URL, and leave out the number of the database"

// remedies has the reasons that Redis, TLS and the network give, the more particular
// ones first. (Redis: the error replies of server.c, acl.c, cluster.c and script.c.) They are
// made for the first error.
var remedies = sync.OnceValue(func() []remedy {
	return []remedy{
		{regexp.MustCompile(`all sentinels (?s:.)*(NOAUTH|WRONGPASS|invalid password|without any password)`), "in REDIS_URL, the user and the password of the Sentinels come before the @, and those of Redis are the parameters username and password"},
		{regexp.MustCompile(`all sentinels (?s:.)*redis: nil`), "the Sentinels know no master of this name: correct master_name in REDIS_URL"},
		{regexp.MustCompile(`all sentinels `), "REDIS_URL has master_name, so its hosts must be Sentinels: correct their hosts and ports"},
		{regexp.MustCompile(`NOAUTH`), "put the password into REDIS_URL, as redis://user:password@host:port or redis://:password@host:port; behind Sentinel, as the parameter password"},
		{regexp.MustCompile(`WRONGPASS|invalid password`), "correct the user and the password in REDIS_URL, with #, /, ?, @ and % percent-encoded; behind Sentinel, in the parameters username and password"},
		{regexp.MustCompile(`without any password configured|no password is set`), "this Redis has no password: set one there, or leave it out of REDIS_URL"},
		{regexp.MustCompile(`NOPERM|user executing the script can't|permissions to run|ACL failure`), "give the user of REDIS_URL every permission that docs/operating.md lists under The store, and the keys ~PREFIX:* where PREFIX is REDIS_PREFIX"},
		{regexp.MustCompile(`\b(MOVED|ASK) \d|SELECT is not allowed in cluster mode`), clusterRemedy},
		{regexp.MustCompile(`CROSSSLOT`), "all keys of a deployment share a hash tag, in braces: see that what is between here and Redis keeps them on one node"},
		{regexp.MustCompile(`CLUSTERDOWN`), "not every slot of the Cluster is served: see CLUSTER INFO of its nodes"},
		{regexp.MustCompile(`READONLY`), "this is a replica: REDIS_URL must name the master (primary), or the Sentinels with master_name"},
		{regexp.MustCompile(`MASTERDOWN`), "this is a replica that has lost its master: REDIS_URL must name the master (primary), and it must run"},
		{regexp.MustCompile(`NOREPLICAS`), "fewer replicas follow than min-replicas-to-write asks for: see that they run"},
		{regexp.MustCompile(`OOM `), "Redis is full: raise maxmemory, or delete what other programs left there"},
		{regexp.MustCompile(`LOADING`), "wait until Redis has loaded its data"},
		{regexp.MustCompile(`MISCONF`), "Redis cannot write to its disk: see its log, and that the disk has room"},
		{regexp.MustCompile(`BUSY `), "another program's script keeps Redis busy: end it with SCRIPT KILL"},
		{regexp.MustCompile(`WRONGTYPE`), "another program uses the same keys: set REDIS_PREFIX to a name of your own"},
		{regexp.MustCompile(`DENIED`), "Redis is in protected mode: set a password there, and put it into REDIS_URL"},
		{regexp.MustCompile(`max number of clients`), "raise maxclients of Redis, or the limit of its plan"},
		{regexp.MustCompile(`DB index is out of range`), "leave the number of the database out of REDIS_URL"},
		{regexp.MustCompile(`unknown command|NOSCRIPT`), "Redis must be version 6 or newer, with scripting (EVAL) and no renamed commands; Sentinels need ?master_name= in REDIS_URL"},
		{regexp.MustCompile(`first record does not look like a TLS handshake`), "the port does not speak TLS: use redis://, or Redis's TLS port"},
		{regexp.MustCompile(`certificate is (valid for|not valid for any)|IP SANs`), "use the host name that the server's certificate is for in REDIS_URL"},
		{regexp.MustCompile(`certificate required`), "Redis asks for a client certificate, which is not supported: set tls-auth-clients no"},
		{regexp.MustCompile(`x509:`), "if the certificate is of a private authority, set SSL_CERT_FILE to a file with that authority's certificate"},
		{regexp.MustCompile(`can't parse|tls: `), "the port speaks something other than Redis: correct the host and the port in REDIS_URL, and see whether it wants rediss:// (TLS) or redis://"},
		{regexp.MustCompile(`connection refused`), "nothing listens there: see that Redis runs and listens to more than its own machine, and that the host and the port in REDIS_URL are right"},
		{regexp.MustCompile(`no such host|server misbehaving`), "the host name in REDIS_URL is not known here: correct it, and see that this machine may resolve it"},
		{regexp.MustCompile(`EOF|connection reset|broken pipe`), "Redis ended the connection: see that it runs; if it never worked, the port may want TLS: use rediss://"},
		{regexp.MustCompile(`connect: .*(deadline exceeded|timeout)|no route to host|network is unreachable`), "no connection came about: see the host and the port in REDIS_URL and the firewalls on the way, and that the port speaks TLS if the URL begins with rediss://"},
		{regexp.MustCompile(`deadline exceeded|timeout`), "Redis is connected and does not answer in time: see its load and its log, and the network between here and Redis"},
		{regexp.MustCompile(`DATA_FILE is in use`), "an embedded store serves one instance: stop the other one, or set REDIS_URL for any number"},
		{regexp.MustCompile(`DATA_FILE: is damaged`), "restore it from a backup, or move it away to begin with an empty one"},
		{regexp.MustCompile(`DATA_FILE: cannot be opened`), "name a file in a folder that can be written"},
		{regexp.MustCompile(`no space left|disk quota|read-only file system`), "the disk of DATA_FILE must have room and be writable"},
	}
})

// remedy is what to do about errors whose text matches a reason.
type remedy struct {
	reason *regexp.Regexp
	remedy string
}
