package upstream

import (
	"runtime/debug"
	"strings"
)

// version is set by a release build: -ldflags "-X novu-slack-redirect/upstream.version=1.2.3".
var version string

// Version returns the version of this program: that of the release, or else what Go knows
// of the commit that it was built from.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		return info.Main.Version
	}
	return version
}

// UserAgent is sent with every request. Firewalls in front of self-hosted Novu refuse Go's
// own. (RFC 9110 section 10.1.5.)
var UserAgent = "novu-slack-redirect/" + strings.Trim(Version(), "()") // Go writes (devel) for an unknown version
