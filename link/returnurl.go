package link

import (
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Alphabets for ConsistsOf.
const (
	Digits       = "0123456789"
	Alphanumeric = Digits + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

const (
	hexDigits = Digits + "ABCDEFabcdef"

	// uriAlphabet is what RFC 3986 allows in a URI. It has nothing that some browser
	// reads differently: no controls, spaces, backslashes or letters beyond ASCII.
	uriAlphabet = Alphanumeric + "-._~:/?#[]@!$&'()*+,;=%"

	maxReturnURL = 2048 // bytes
)

// ParseReturnURL parses raw if every browser takes it to the host that it names: an
// absolute URL with https, or http on a loopback host, and with a plain host. Its path may
// be any. Its errors are predicates, such as "is not a URL", to follow the name of the URL.
func ParseReturnURL(raw string) (*url.URL, error) {
	if raw == "" || len(raw) > maxReturnURL || !ConsistsOf(raw, uriAlphabet) {
		return nil, errors.New("is empty, too long, or has characters that no URL has")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("is not a URL")
	}
	switch host := u.Hostname(); {
	case u.Scheme != "https" && (u.Scheme != "http" || !IsLoopback(host)):
		return nil, errors.New("must begin with https:// (or http:// on a loopback host)")
	case u.User != nil:
		return nil, errors.New("must not have a user name")
	case !plainHost(host):
		return nil, errors.New("has a host that is neither a plain name nor an IP address")
	case !validPort(u):
		return nil, errors.New("has an invalid port")
	}
	return u, nil
}

// ConsistsOf reports whether each byte of s is in alphabet, which is ASCII.
func ConsistsOf(s, alphabet string) bool { return strings.TrimLeft(s, alphabet) == "" }

// plainHost reports whether host is an IP address without a zone, or a name of letters,
// digits, - and _ in labels that are not empty. Browsers take a name for an IPv4 address if
// its last label is a number (https://url.spec.whatwg.org/#ends-in-a-number-checker).
func plainHost(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Zone() == ""
	}
	if !ConsistsOf(host, Alphanumeric+"-_.") || strings.Contains("."+host+".", "..") {
		return false
	}
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	hex, isHex := strings.CutPrefix(last, "0x")
	return !ConsistsOf(last, Digits) && !(isHex && ConsistsOf(hex, hexDigits))
}

// IsLoopback reports whether host is this machine: localhost, 127.0.0.0/8 or ::1.
func IsLoopback(host string) bool {
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

// PlainPath reports whether every server reads an escaped path as the same path, no
// matter how often it decodes it: it has no dot segments, no empty segments but the
// last, and no hidden characters.
func PlainPath(path string) bool {
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

// isWithin reports whether u is under one of the allowed prefixes. Scheme, host,
// port and whole path segments are compared, not characters.
func isWithin(allowed []*url.URL, u *url.URL) bool {
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

// outcomeParameters tell an app the outcome of a flow. The first is always present.
var outcomeParameters = []string{"slack", "reason", "channel", "team", "slack_result", "slack_popup"}

// AddQuery adds name, value, name, value to the query of a URL and leaves the rest of
// it unchanged. It removes the outcome parameters of an earlier flow, because an app
// may sign a link with the URL to which that flow returned.
func AddQuery(raw string, pairs ...string) string {
	raw, fragment, hasFragment := strings.Cut(raw, "#")
	base, query, _ := strings.Cut(raw, "?")
	var parts []string
	if query != "" {
		parts = strings.Split(query, "&")
	}
	isSlack := func(part string) bool { return parameterName(part) == outcomeParameters[0] }
	if i := slices.IndexFunc(parts, isSlack); i >= 0 { // what stands before it is the app's own
		parts = append(parts[:i], slices.DeleteFunc(parts[i:], func(part string) bool { return slices.Contains(outcomeParameters, parameterName(part)) })...)
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
	name, _ = url.QueryUnescape(name)
	return name
}
