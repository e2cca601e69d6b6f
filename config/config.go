// Package config reads all settings from the environment and reports all problems
// with them at once. A problem never contains the value of a setting.
package config

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
	"github.com/rs/zerolog"

	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// Config holds every setting, checked. Its tags name the setting and its default, as
// envconfig reads them; need says what a required setting is, and prose marks text for
// people. A secret may be a list, for its rotation: the first one is used, and all are
// accepted.
type Config struct {
	RedirectURL      *url.URL        `envconfig:"REDIRECT_URL" need:"the Redirect URL entered in the Slack app, such as https://slack.example.com/slack/callback"`
	SlackClientID    string          `envconfig:"SLACK_CLIENT_ID" need:"the Client ID from the Slack app's Basic Information"`
	SlackSecrets     []secret.String `envconfig:"SLACK_CLIENT_SECRET" need:"the Client Secret from the Slack app's Basic Information"`
	NovuAPIKeys      []secret.String `envconfig:"NOVU_API_KEY" need:"the Novu environment's secret key"`
	AppName          string          `envconfig:"APP_NAME" prose:"true" need:"your app's name, which people read on pages and in Slack"`
	LinkSecrets      []secret.String `envconfig:"LINK_SECRET"`                                // sign and verify links, each at least 32 bytes and no API key; none: signed links are refused
	NovuStyleLinks   bool            `envconfig:"NOVU_STYLE_LINKS"`                           // accept links with subscriberId and hmacHash
	NovuAPIURL       *url.URL        `envconfig:"NOVU_API_URL" default:"https://api.novu.co"` // as it is set: with or without a path
	NovuIntegration  string          `envconfig:"NOVU_INTEGRATION_IDENTIFIER"`                // for links that name none; may be empty
	NovuEnvironment  string          `envconfig:"NOVU_ENVIRONMENT_ID"`                        // the only one that links may name; empty is any
	SaveEndpoints    bool            `envconfig:"NOVU_SAVE_AS" default:"credentials"`         // save channel endpoints, not credentials
	CreateSubscriber bool            `envconfig:"NOVU_CREATE_SUBSCRIBER" default:"true"`      // create a subscriber that Novu does not know
	RedisURL         secret.String   `envconfig:"REDIS_URL"`                                  // not a list; empty: DataFile is the store
	RedisPrefix      string          `envconfig:"REDIS_PREFIX" default:"nsr"`                 // begins every key in Redis
	DataFile         string          `envconfig:"DATA_FILE" default:"novu-slack-redirect.db"`
	StoreSecrets     []secret.String `envconfig:"STORE_SECRET"`                          // seal the store; SlackSecrets if it is not set
	ReturnURLs       []*url.URL      `envconfig:"RETURN_URLS"`                           // prefixes that Novu-style links may return to; the first is the default
	EventsURL        *url.URL        `envconfig:"EVENTS_URL"`                            // where signed events go; nil is nowhere
	EventsKeys       []secret.String `envconfig:"EVENTS_SECRET"`                         // each signs events; at least one with EventsURL
	StateTTL         time.Duration   `envconfig:"STATE_TTL" default:"15m"`               // how long a person may take at Slack: 1 minute to 24 hours
	SlackURL         *url.URL        `envconfig:"SLACK_URL" default:"https://slack.com"` // the origin of Slack, without a path
	AppURL           string          `envconfig:"APP_URL"`                               // where pages without a return URL lead back to; may be empty
	AppLogoURL       string          `envconfig:"APP_LOGO_URL"`                          // an image, https or http on loopback; may be empty
	AppColor         string          `envconfig:"APP_COLOR"`                             // #rrggbb, of buttons and links; may be empty
	SupportURL       string          `envconfig:"SUPPORT_URL"`                           // https, http on loopback, or mailto; may be empty
	InstallPage      bool            `envconfig:"INSTALL_PAGE" default:"false"`          // show a page with a button before sending a person to Slack
	WelcomeMessage   string          `envconfig:"WELCOME_MESSAGE" prose:"true"`          // posted to a new webhook; empty is none
	Port             string          `envconfig:"PORT" default:"8080"`
	MetricsAddr      string          `envconfig:"METRICS_ADDR"`            // where to serve metrics, such as :9090; empty is nowhere
	TrustedProxies   []*net.IPNet    `envconfig:"TRUSTED_PROXIES"`         // whose X-Forwarded-For is believed
	RateLimit        float64         `envconfig:"RATE_LIMIT" default:"20"` // requests a second per client address; 0 is no limit
	LogLevel         zerolog.Level   `envconfig:"LOG_LEVEL" default:"info"`
	LogFormat        string          `envconfig:"LOG_FORMAT" default:"json"`

	warnings []Problem // that Load found
}

// Values of LOG_FORMAT other than json.
const (
	LogConsole = "console" // for people
	LogGoogle  = "google"  // json with severity and time as Cloud Logging reads them
)

// Warnings returns what is risky in the settings, and variables whose names are nearly
// those of settings.
func (c Config) Warnings() []Problem {
	warnings := slices.Clone(c.warnings)
	if len(c.LinkSecrets) == 0 {
		cause := "is not set: signed links are refused, and Novu-style links never expire"
		if !c.NovuStyleLinks {
			cause = "is not set, and NOVU_STYLE_LINKS is false: every link is refused"
		}
		warnings = append(warnings, Problem{Name: "LINK_SECRET", Cause: cause, Remedy: LinkSecretRemedy})
	}
	if c.NovuAPIURL != nil && c.NovuAPIURL.Scheme == "http" && !IsPrivate(c.NovuAPIURL.Hostname()) {
		warnings = append(warnings, Problem{Name: "NOVU_API_URL", Cause: "begins with http: the key and the webhooks are sent unencrypted", Remedy: "use https"})
	}
	return warnings
}

// privateDomains end names that public DNS does not have; svc is Kubernetes's.
var privateDomains = []string{".local", ".internal", ".svc", ".lan", ".home", ".home.arpa", ".test", ".localhost", ".corp"}

// IsPrivate reports whether the name or address of host is private, so that the public
// cannot reach it.
func IsPrivate(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast()
	}
	isIn := func(domain string) bool { return strings.HasSuffix(host, domain) }
	return !strings.Contains(host, ".") || slices.ContainsFunc(privateDomains, isIn)
}

// Problem is one thing that is wrong with the settings. It never contains a value.
type Problem struct {
	Name    string // the setting, such as NOVU_API_KEY or NOVU_API_KEY_FILE
	Cause   string // a predicate, such as "is not a port number"
	Remedy  string // what to do about it
	Missing bool   // a required setting is not set
}

// String returns the problem in one line.
func (p Problem) String() string {
	return p.Name + ": " + p.Cause + "; " + p.Remedy
}

// Load reads the settings from the environment and from the files that NAME_FILE
// variables name. If it returns problems, the fields of other settings are still
// valid.
func Load() (Config, []Problem) {
	l := loader{texts: readTexts(), misnamed: misnamedVariables(os.Environ())}
	l.complete()
	c := l.parse()
	for _, m := range l.misnamed {
		c.warnings = append(c.warnings, Problem{Name: m.name, Cause: "is not a setting, but its name is nearly " + m.setting, Remedy: "if it is meant for this program, rename it to " + m.setting})
	}
	return c, l.problems
}

// fields are the fields of Config that are settings.
var fields = slices.DeleteFunc(reflect.VisibleFields(reflect.TypeFor[Config]()), func(f reflect.StructField) bool { return !f.IsExported() })

// isSecret reports whether a setting may also be read from the file that NAME_FILE names.
func isSecret(field reflect.StructField) bool {
	return field.Type == reflect.TypeFor[secret.String]() || field.Type == reflect.TypeFor[[]secret.String]()
}

// Defaults returns the name of every setting with its default, which may be empty.
func Defaults() map[string]string {
	defaults := map[string]string{}
	for _, field := range fields {
		defaults[field.Tag.Get("envconfig")] = field.Tag.Get("default")
	}
	return defaults
}

// readTexts returns the text of every setting by its name. envconfig would stop at the first
// value that it cannot parse, and print it. So it gets a struct whose fields have the tags of
// Config's and are all text, with which it cannot fail.
func readTexts() map[string]string {
	textFields := slices.Clone(fields)
	for i := range textFields {
		textFields[i].Type = reflect.TypeFor[string]()
	}
	read := reflect.New(reflect.StructOf(textFields))
	if err := envconfig.Process("", read.Interface()); err != nil {
		panic("envconfig cannot read text") // without the error, which may have a value
	}
	texts := map[string]string{}
	for i, field := range textFields {
		texts[field.Tag.Get("envconfig")] = read.Elem().Field(i).String()
	}
	return texts
}

// loader makes a Config of the settings' texts, and collects the problems.
type loader struct {
	texts    map[string]string // by the setting's name
	problems []Problem
	misnamed []misnamedVariable
}

func (l *loader) report(name, cause, remedy string) {
	l.problems = append(l.problems, Problem{Name: name, Cause: cause, Remedy: remedy})
}

// check reports a problem with the setting unless ok.
func (l *loader) check(ok bool, name, cause, remedy string) {
	if !ok {
		l.report(name, cause, remedy)
	}
}

// checkError reports an error, which is a predicate, as a problem with the setting.
func (l *loader) checkError(err error, name, remedy string) {
	if err != nil {
		l.report(name, err.Error(), remedy)
	}
}

// complete takes the wrappings off each text and reports them, reads the NAME_FILE files,
// gives a setting that is unset or empty its default, and reports what is missing.
func (l *loader) complete() {
	for _, field := range fields {
		name, need := field.Tag.Get("envconfig"), field.Tag.Get("need")
		text, path := l.unwrap(name, "", l.texts[name], field.Tag.Get("prose") != ""), ""
		remedy := "set it to " + need
		if isSecret(field) {
			remedy = "set it, or " + name + "_FILE, to " + need
			path = l.unwrap(name+"_FILE", "", os.Getenv(name+"_FILE"), false)
			if path != "" && text != "" {
				l.report(name, "is set twice", "unset it or "+name+"_FILE")
			} else if path != "" {
				text = l.readSecretFile(name+"_FILE", path)
			}
		}
		l.texts[name] = cmp.Or(text, field.Tag.Get("default"))
		if need == "" || text != "" || path != "" {
			continue
		}
		for _, m := range l.misnamed {
			if m.setting == name || m.setting == name+"_FILE" {
				remedy += "; " + m.name + ", which is set, is nearly this name"
			}
		}
		l.problems = append(l.problems, Problem{Name: name, Cause: "is missing", Remedy: remedy, Missing: true})
	}
}

// readSecretFile returns the text of the file at path, without the line break at its end.
func (l *loader) readSecretFile(name, path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		cause := errors.Unwrap(err) // without the path, which may be a secret set in the wrong place
		l.report(name, fmt.Sprintf("cannot be read (%v)", cause), "name a file that holds the secret")
		return ""
	}
	l.check(strings.TrimSpace(string(text)) != "", name, "names an empty file", "write the secret into it")
	line := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	return l.unwrap(name, "names a file whose text ", line, false)
}

// parse makes a Config of the texts. The settings whose field is text are used as they are
// written.
func (l *loader) parse() (c Config) {
	for _, field := range fields {
		if to, ok := reflect.ValueOf(&c).Elem().FieldByIndex(field.Index).Addr().Interface().(*string); ok {
			*to = l.texts[field.Tag.Get("envconfig")]
		}
	}
	c.RedirectURL = l.parseRedirectURL()
	first, second, _ := strings.Cut(c.SlackClientID, ".")
	l.check(c.SlackClientID == "" || first != "" && second != "" && link.ConsistsOf(first+second, link.Digits),
		"SLACK_CLIENT_ID", "is not two numbers with a dot between them", "copy the Client ID from the Slack app's Basic Information, such as 1234567890.1234567890123")
	c.SlackSecrets = l.parseSecrets("SLACK_CLIENT_SECRET")
	c.NovuAPIKeys = l.parseSecrets("NOVU_API_KEY")
	c.LinkSecrets = l.parseSecrets("LINK_SECRET")
	l.checkLinkSecrets(c.LinkSecrets, c.NovuAPIKeys)
	c.NovuStyleLinks = len(c.LinkSecrets) == 0
	if l.texts["NOVU_STYLE_LINKS"] != "" {
		c.NovuStyleLinks = l.parseBool("NOVU_STYLE_LINKS")
	}
	c.NovuAPIURL = parseRoot(l.texts["NOVU_API_URL"])
	l.check(c.NovuAPIURL != nil && c.NovuAPIURL.Hostname() != "api.eu.novu.co", // a usual mistake, which does not exist
		"NOVU_API_URL", "is not the root of Novu's API", "use https://api.novu.co, https://eu.api.novu.co or your own Novu's, such as https://novu.example.com/api")
	c.SaveEndpoints = l.texts["NOVU_SAVE_AS"] == "endpoint"
	l.check(c.SaveEndpoints || l.texts["NOVU_SAVE_AS"] == "credentials", "NOVU_SAVE_AS", "is neither credentials nor endpoint", "write one of them")
	c.CreateSubscriber = l.parseBool("NOVU_CREATE_SUBSCRIBER")
	if c.RedisURL = secret.New(l.texts["REDIS_URL"]); !c.RedisURL.Empty() {
		client, err := state.NewRedisClient(c.RedisURL)
		l.checkError(err, "REDIS_URL", "use redis://[user:password@]host:port[/db], or rediss:// for TLS, with the user and the password percent-encoded")
		if err == nil {
			client.Close()
		}
	}
	// Braces would change the Cluster slot of a key.
	l.check(len(c.RedisPrefix) <= 64 && link.ConsistsOf(c.RedisPrefix, link.Alphanumeric+"._-:"),
		"REDIS_PREFIX", "has more than 64 bytes, or characters other than letters, digits and . _ - :", "use one like nsr")
	if c.StoreSecrets = l.parseSecrets("STORE_SECRET"); l.texts["STORE_SECRET"] == "" {
		c.StoreSecrets = c.SlackSecrets
	} else if slices.ContainsFunc(c.StoreSecrets, func(s secret.String) bool { return len(s.Reveal()) < 32 }) {
		c.warnings = append(c.warnings, Problem{Name: "STORE_SECRET", Cause: "has fewer than 32 bytes: anyone who has a copy of the store can brute-force it",
			Remedy: "change it, as docs/operating.md says, to the output of: openssl rand -hex 32"})
	}
	c.ReturnURLs = l.parseReturnURLs()
	c.EventsURL = l.parseURL("EVENTS_URL", "use the https URL of your app that takes events")
	c.EventsKeys = l.parseEventsKeys()
	c.StateTTL = l.parseStateTTL()
	c.SlackURL = l.parseSlackURL()
	l.parseURL("APP_URL", "use the address of your app, such as https://app.example.com/settings")
	if c.AppURL == "" && len(c.ReturnURLs) > 0 && c.ReturnURLs[0] != nil {
		c.AppURL = c.ReturnURLs[0].String()
	}
	l.parseURL("APP_LOGO_URL", "use the https URL of an image")
	isColor := len(c.AppColor) == 7 && c.AppColor[0] == '#' && link.ConsistsOf(c.AppColor[1:], link.Digits+"abcdefABCDEF")
	l.check(c.AppColor == "" || isColor, "APP_COLOR", "is not # and six hexadecimal digits", "use one like #4a154b")
	_, err := link.ParseReturnURL(c.SupportURL)
	l.check(c.SupportURL == "" || err == nil || isMailto(c.SupportURL), "SUPPORT_URL", "is neither an https URL nor mailto: and an address", "use one like https://example.com/help or mailto:help@example.com")
	c.InstallPage = l.parseBool("INSTALL_PAGE")
	l.check(len(c.WelcomeMessage) <= 3000, "WELCOME_MESSAGE", "has more than 3,000 bytes", "shorten it")
	l.check(isPort(c.Port), "PORT", "is not a port number", "use 0 (any free port) to 65535")
	_, port, err := net.SplitHostPort(c.MetricsAddr)
	l.check(c.MetricsAddr == "" || err == nil && isPort(port), "METRICS_ADDR", "is not an address to listen at", "use one like :9090 or 127.0.0.1:9090")
	c.TrustedProxies = l.parseTrustedProxies()
	c.RateLimit, err = strconv.ParseFloat(l.texts["RATE_LIMIT"], 64)
	// NaN is not in the range either.
	l.check(err == nil && c.RateLimit >= 0 && c.RateLimit <= 1e6, "RATE_LIMIT", "is not a number of requests a second", "use one like 20, or 0 for none")
	c.LogLevel, _ = zerolog.ParseLevel(l.texts["LOG_LEVEL"]) // which also parses "disabled" and numbers
	l.check(slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, l.texts["LOG_LEVEL"]), "LOG_LEVEL", "is not a level", "use debug, info, warn or error")
	l.check(slices.Contains([]string{"json", LogConsole, LogGoogle}, c.LogFormat), "LOG_FORMAT", "is not a format", "use json, console or google")
	return c
}

// parseURL parses a URL that browsers or this program may request. It returns nil if the
// setting is not set or has another form.
func (l *loader) parseURL(name, remedy string) *url.URL {
	if l.texts[name] == "" {
		return nil
	}
	u, err := link.ParseReturnURL(l.texts[name])
	l.checkError(err, name, remedy)
	return u
}

// parseRedirectURL returns nil if the setting is not a URL.
func (l *loader) parseRedirectURL() *url.URL {
	const name = "REDIRECT_URL"
	u := l.parseURL(name, "enter what the Slack app has, such as https://slack.example.com/slack/callback")
	if u == nil {
		return nil
	}
	switch path := u.EscapedPath(); {
	case path == "" || path == "/":
		l.report(name, "has no path", "use one like /slack/callback")
	case !link.PlainPath(path):
		l.report(name, "has a path with an empty part, or with . or .. as one", "use one like /slack/callback")
	case isReserved(path):
		l.report(name, "has a path that the service uses itself", "use one like /slack/callback")
	case !link.ConsistsOf(path, link.Alphanumeric+"/._~-"):
		l.report(name, "has a path with characters other than letters, digits and / . _ ~ -", "use one like /slack/callback")
	case link.Origin(u)+u.Path != l.texts[name]:
		l.report(name, "is not in its plain form", "write scheme and host in lower case and leave out the usual port, a query or a fragment, here and in the Slack app")
	}
	return u
}

// isReserved reports whether path belongs to a route other than the callback.
func isReserved(path string) bool {
	return slices.Contains([]string{link.InstallPath, "/slack/result", "/slack/disconnect", "/healthz", "/readyz"}, strings.TrimRight(path, "/")) ||
		strings.HasPrefix(path, "/slack/assets/") || strings.HasPrefix(path, "/v1/")
}

func (l *loader) parseSlackURL() *url.URL {
	u := parseRoot(l.texts["SLACK_URL"])
	hosts := []string{"https://slack.com", "https://slack-gov.com"}
	if u == nil || strings.Trim(u.Path, "/") != "" || !slices.Contains(hosts, link.Origin(u)) && !link.IsLoopback(u.Hostname()) {
		l.report("SLACK_URL", "is neither https://slack.com nor https://slack-gov.com", "anything else must be the origin of a loopback address, for tests")
		return nil
	}
	u, _ = url.Parse(link.Origin(u))
	return u
}

// parseRoot parses the http or https URL of an API's root, and returns nil for anything else.
func parseRoot(text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || !isPort(cmp.Or(u.Port(), "0")) || u.User != nil || strings.ContainsAny(text, "?#") {
		return nil
	}
	return u
}

func (l *loader) parseReturnURLs() (urls []*url.URL) {
	for i, item := range l.split("RETURN_URLS") {
		u, err := link.ParseReturnURL(item)
		switch {
		case err != nil:
		case strings.ContainsAny(item, "?#"):
			err = errors.New("has a query or a fragment")
		case !link.PlainPath(u.EscapedPath()):
			err = errors.New("has a path with an empty part, with . or .. as one, or with hidden characters")
		}
		l.check(err == nil, "RETURN_URLS", fmt.Sprintf("entry %d %v", i+1, err), "list prefixes such as https://app.example.com/settings")
		urls = append(urls, u)
	}
	return urls
}

// privateNetworks are the private, loopback and link-local addresses.
var privateNetworks = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10"}

func (l *loader) parseTrustedProxies() (networks []*net.IPNet) {
	for i, item := range l.split("TRUSTED_PROXIES") {
		cidrs := []string{item}
		if item == "private" {
			cidrs = privateNetworks
		}
		for _, cidr := range cidrs {
			_, network, err := net.ParseCIDR(cidr)
			l.check(err == nil, "TRUSTED_PROXIES", fmt.Sprintf("entry %d is not a CIDR", i+1), "use ones like 10.0.0.0/8, or the word private")
			networks = append(networks, network)
		}
	}
	return networks
}

// parseSecrets splits a list of secrets.
func (l *loader) parseSecrets(name string) (all []secret.String) {
	for i, item := range split(l.texts[name]) {
		all = append(all, secret.New(l.unwrap(name, fmt.Sprintf("entry %d ", i+1), item, false)))
	}
	l.check(len(all) > 0 || l.texts[name] == "", name, "holds no secret between its commas", "write one secret, or a list new,old")
	return all
}

// parseEventsKeys parses EVENTS_SECRET, which EVENTS_URL needs, and the other way round. A
// secret is whsec_ and base64, or plain text, of 24 to 64 bytes.
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#signature-scheme
func (l *loader) parseEventsKeys() (keys []secret.String) {
	const name, remedy = "EVENTS_SECRET", "set it to the output of: echo whsec_$(openssl rand -base64 32)"
	hasURL, hasSecret := l.texts["EVENTS_URL"] != "", l.texts[name] != ""
	l.check(hasSecret || !hasURL, name, "is missing: events must be signed", remedy)
	l.check(hasURL || !hasSecret, "EVENTS_URL", "is missing, although EVENTS_SECRET is set", "set it, or unset EVENTS_SECRET")
	for _, s := range l.parseSecrets(name) {
		key := s.Reveal()
		if encoded, ok := strings.CutPrefix(key, "whsec_"); ok {
			decoded, err := base64.StdEncoding.DecodeString(encoded)
			if key = string(decoded); err != nil {
				key = ""
			}
		}
		l.check(len(key) >= 24 && len(key) <= 64, name, "is neither whsec_ and base64, nor text, of 24 to 64 bytes", remedy)
		keys = append(keys, secret.New(key))
	}
	return keys
}

// LinkSecretRemedy says how to get a LINK_SECRET.
const LinkSecretRemedy = "set it to the output of: openssl rand -hex 32"

// checkLinkSecrets reports secrets with which others could forge links.
func (l *loader) checkLinkSecrets(secrets, apiKeys []secret.String) {
	for i, s := range secrets {
		isSame := func(key secret.String) bool { return key.Reveal() == s.Reveal() }
		entry := fmt.Sprintf("entry %d ", i+1)
		if len(secrets) == 1 {
			entry = ""
		}
		// RFC 7518 section 3.2 wants 32 bytes for HS256.
		switch {
		case slices.ContainsFunc(apiKeys, isSame):
			l.report("LINK_SECRET", entry+"is a key of NOVU_API_KEY: anyone who can choose a subscriber ID and sees its hash can forge a link", LinkSecretRemedy)
		case len(s.Reveal()) < 32:
			l.report("LINK_SECRET", entry+"has fewer than 32 bytes: anyone who holds a link can brute-force the secret offline", LinkSecretRemedy)
		}
	}
}

func (l *loader) parseBool(name string) bool {
	value, err := strconv.ParseBool(l.texts[name])
	l.check(err == nil, name, "is neither true nor false", "write one of them")
	return value
}

func (l *loader) parseStateTTL() time.Duration {
	ttl, err := ParseDuration(l.texts["STATE_TTL"])
	if err == nil && (ttl < time.Minute || ttl > 24*time.Hour) {
		err = errors.New("is not a duration between 1m and 24h")
	}
	l.checkError(err, "STATE_TTL", "use one like 15m")
	return ttl
}

// split returns the items of a comma-separated list, without the spaces beside its commas.
func (l *loader) split(name string) (items []string) {
	for i, item := range split(l.texts[name]) {
		items = append(items, l.unwrap(name, fmt.Sprintf("entry %d ", i+1), strings.TrimSpace(item), false))
	}
	return items
}

// split returns the items of a comma-separated list that are not blank.
func split(text string) []string {
	return slices.DeleteFunc(strings.Split(text, ","), func(item string) bool { return strings.TrimSpace(item) == "" })
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// isMailto reports whether text is mailto: and one address, without headers.
func isMailto(text string) bool {
	address, ok := strings.CutPrefix(text, "mailto:")
	user, host, _ := strings.Cut(address, "@")
	return ok && user != "" && link.ConsistsOf(user, link.Alphanumeric+"._%+-") && host != "" && link.ConsistsOf(host, link.Alphanumeric+".-")
}
