package handler

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	// uriText is what RFC 3986 allows in a URI, and nothing that some browser
	// reads differently: no controls, spaces, backslashes or letters beyond ASCII.
	uriText    = regexp.MustCompile(`^[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+$`)
	numeric    = regexp.MustCompile(`^([0-9]+|0[xX][0-9A-Fa-f]*)$`) // how a host ends that browsers take for an IPv4 address
	hostFormat = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)
)

const maxReturnURL = 2048 // bytes

// ParseReturnURL returns raw as a URL a browser may safely be sent to: https, or
// http on a loopback host, absolute, with a plain host and a plain path.
func ParseReturnURL(raw string) (*url.URL, error) {
	if len(raw) > maxReturnURL || !uriText.MatchString(raw) {
		return nil, errors.New("is empty, too long, or has characters that no URL has")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("is not a URL")
	}
	host, isIPv6 := u.Hostname(), strings.HasPrefix(u.Host, "[")
	ip, ipErr := netip.ParseAddr(host)
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !Loopback(host)):
		return nil, errors.New("must begin with https:// (or http:// on a loopback host)")
	case u.User != nil || u.Opaque != "" || strings.Contains(u.Host, "@"):
		return nil, errors.New("must not have a user name")
	case isIPv6 && (ipErr != nil || ip.Zone() != ""), !isIPv6 && !hostFormat.MatchString(host):
		return nil, errors.New("has no plain host name")
	case !isIPv6 && ipErr != nil && numeric.MatchString(host[strings.LastIndex(host, ".")+1:]):
		return nil, errors.New("has a host that is neither a name nor an IP address")
	case !validPort(u):
		return nil, errors.New("has an odd port")
	case !plainPath(u.EscapedPath()):
		return nil, errors.New("has a path with dot segments, empty segments or hidden characters")
	}
	return u, nil
}

// Loopback reports whether host is this machine: localhost, 127.0.0.0/8 or ::1.
func Loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback() && ip.Zone() == ""
}

func validPort(u *url.URL) bool {
	port := u.Port()
	if port == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.Atoi(port)
	return err == nil && n > 0 && n < 65536 && strconv.Itoa(n) == port
}

// plainPath refuses what could mean another path to some server, at any depth of
// encoding.
func plainPath(path string) bool {
	for {
		for _, segment := range strings.Split(path, "/") {
			name, _, _ := strings.Cut(segment, ";") // some servers drop what follows
			if name == "." || name == ".." {
				return false
			}
		}
		if strings.Contains(path, "//") || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' || r == 0xfffd }) {
			return false
		}
		decoded, err := url.PathUnescape(path)
		if err != nil {
			return false
		}
		if decoded == path {
			return true
		}
		path = decoded
	}
}

// within reports whether u lies under one of the allowed prefixes. Scheme, host,
// port and whole path segments are compared, not characters.
func within(allowed []*url.URL, u *url.URL) bool {
	return slices.ContainsFunc(allowed, func(prefix *url.URL) bool {
		if u.Scheme != prefix.Scheme || !strings.EqualFold(u.Hostname(), prefix.Hostname()) || port(u) != port(prefix) {
			return false
		}
		have, want := segments(u), segments(prefix)
		return len(have) >= len(want) && slices.Equal(have[:len(want)], want)
	})
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

func segments(u *url.URL) []string {
	path := strings.Trim(u.EscapedPath(), "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// addQuery adds name, value, name, value to a URL and leaves the rest of it, its
// query and fragment included, as it stands; but for outcomes of earlier flows,
// as an app may name the URL it was last returned to.
func addQuery(raw string, pairs ...string) string {
	raw, fragment, hasFragment := strings.Cut(raw, "#")
	base, query, _ := strings.Cut(raw, "?")
	var parts []string
	if query != "" {
		parts = strings.Split(query, "&")
	}
	outcome := []string{"slack", "reason", "channel", "team", "slack_popup"}
	named := func(names []string) func(string) bool {
		return func(part string) bool {
			name, _, _ := strings.Cut(part, "=")
			name, err := url.QueryUnescape(name)
			return err == nil && slices.Contains(names, name)
		}
	}
	if slices.ContainsFunc(parts, named(outcome[:1])) {
		parts = slices.DeleteFunc(parts, named(outcome))
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		parts = append(parts, pairs[i]+"="+url.QueryEscape(pairs[i+1]))
	}
	base += "?" + strings.Join(parts, "&")
	if hasFragment {
		base += "#" + fragment
	}
	return base
}
