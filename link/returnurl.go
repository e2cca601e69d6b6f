package link

import (
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	digits       = "0123456789"
	hexDigits    = digits + "ABCDEFabcdef"
	alphanumeric = digits + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

	// uriAlphabet is what RFC 3986 allows in a URI. It has nothing that some browser
	// reads differently: no controls, spaces, backslashes or letters beyond ASCII.
	uriAlphabet = alphanumeric + "-._~:/?#[]@!$&'()*+,;=%"

	maxReturnURL = 2048 // bytes
)

// ParseReturnURL returns raw as a URL that a browser may safely be sent to: https,
// or http on a loopback host, absolute, with a plain host and a plain path. Its
// errors are predicates, such as "is not a URL", to follow the name of the URL.
func ParseReturnURL(raw string) (*url.URL, error) {
	if raw == "" || len(raw) > maxReturnURL || !consistsOf(raw, uriAlphabet) {
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
	case isIPv6 && (ipErr != nil || ip.Zone() != ""), !isIPv6 && !plainHost(host):
		return nil, errors.New("has no plain host name")
	case !isIPv6 && ipErr != nil && endsInNumber(host):
		return nil, errors.New("has a host that is neither a name nor an IP address")
	case !validPort(u):
		return nil, errors.New("has an odd port")
	case !plainPath(u.EscapedPath()):
		return nil, errors.New("has a path with dot segments, empty segments or hidden characters")
	}
	return u, nil
}

// consistsOf reports whether each byte of s is in alphabet, which is ASCII.
func consistsOf(s, alphabet string) bool { return strings.TrimLeft(s, alphabet) == "" }

// plainHost reports whether host is made of the letters, digits and inner hyphens
// of RFC 952, in labels that are not empty.
func plainHost(host string) bool {
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || strings.Trim(label, "-") != label || !consistsOf(label, alphanumeric+"-") {
			return false
		}
	}
	return true
}

// endsInNumber reports whether browsers take a plain host for an IPv4 address,
// which they do by its last label (https://url.spec.whatwg.org/#ends-in-a-number-checker).
func endsInNumber(host string) bool {
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	hex, isHex := strings.CutPrefix(last, "0x")
	return consistsOf(last, digits) || isHex && consistsOf(hex, hexDigits)
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
		for segment := range strings.SplitSeq(path, "/") {
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
		if Origin(u) != Origin(prefix) {
			return false
		}
		have, want := strings.Trim(u.EscapedPath(), "/"), strings.Trim(prefix.EscapedPath(), "/")
		rest, ok := strings.CutPrefix(have, want)
		return ok && (want == "" || rest == "" || rest[0] == '/')
	})
}

// Origin returns scheme, host and port of u as browsers write an origin.
func Origin(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" && !(u.Scheme == "https" && port == "443") && !(u.Scheme == "http" && port == "80") {
		host += ":" + port
	}
	return u.Scheme + "://" + host
}

// outcome are the parameters that tell an app the outcome of a flow. The first is
// in each of them.
var outcome = []string{"slack", "reason", "channel", "team", "slack_popup"}

// AddQuery adds name, value, name, value to the query of a URL and leaves the rest
// of the text, the query and fragment included, as it is. It removes the outcome
// of an earlier flow, because an app may name the URL it was last returned to.
func AddQuery(raw string, pairs ...string) string {
	raw, fragment, hasFragment := strings.Cut(raw, "#")
	base, query, _ := strings.Cut(raw, "?")
	var parts []string
	if query != "" {
		parts = strings.Split(query, "&")
	}
	if slices.ContainsFunc(parts, func(part string) bool { return parameterName(part) == outcome[0] }) {
		parts = slices.DeleteFunc(parts, func(part string) bool { return slices.Contains(outcome, parameterName(part)) })
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

// parameterName returns the name in a query's name=value, or "" if it is
// malformed.
func parameterName(part string) string {
	name, _, _ := strings.Cut(part, "=")
	name, err := url.QueryUnescape(name)
	if err != nil {
		return ""
	}
	return name
}
