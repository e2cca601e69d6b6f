// Package config reads all settings from the environment and reports all problems
// with them at once. A problem never contains the value of a setting.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/kelseyhightower/envconfig"
	"github.com/rs/zerolog"

	"novu-slack-redirect/link"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// settings is the text of every setting. Reading text cannot fail, so that all
// problems are reported together, and by this package: envconfig's errors print
// the value. A secret may also come from the file that NAME_FILE names.
type settings struct {
	RedirectURL       string        `envconfig:"REDIRECT_URL" need:"the Redirect URL entered in the Slack app, such as https://slack.example.com/slack/callback"`
	SlackClientID     string        `envconfig:"SLACK_CLIENT_ID" need:"the Client ID from the Slack app's Basic Information"`
	SlackClientSecret secret.String `envconfig:"SLACK_CLIENT_SECRET" need:"the Client Secret from the Slack app's Basic Information"`
	NovuAPIKey        secret.String `envconfig:"NOVU_API_KEY" need:"the Novu environment's secret key"`
	NovuAPIURL        string        `envconfig:"NOVU_API_URL" default:"https://api.novu.co"`
	NovuIntegration   string        `envconfig:"NOVU_INTEGRATION_IDENTIFIER"`
	NovuEnvironment   string        `envconfig:"NOVU_ENVIRONMENT_ID"`
	NovuSaveAs        string        `envconfig:"NOVU_SAVE_AS" default:"credentials"`
	NovuCreate        string        `envconfig:"NOVU_CREATE_SUBSCRIBER" default:"true"`
	RedisURL          secret.String `envconfig:"REDIS_URL"`
	RedisPrefix       string        `envconfig:"REDIS_PREFIX" default:"nsr"`
	DataFile          string        `envconfig:"DATA_FILE" default:"novu-slack-redirect.db"`
	LinkSecret        secret.String `envconfig:"LINK_SECRET"`
	StoreSecret       secret.String `envconfig:"STORE_SECRET"`
	ReturnURLs        string        `envconfig:"RETURN_URLS"`
	StateTTL          string        `envconfig:"STATE_TTL" default:"15m"`
	SlackURL          string        `envconfig:"SLACK_URL" default:"https://slack.com"`
	AppName           string        `envconfig:"APP_NAME" default:"Novu"`
	AppLogoURL        string        `envconfig:"APP_LOGO_URL"`
	SupportURL        string        `envconfig:"SUPPORT_URL"`
	WelcomeMessage    string        `envconfig:"WELCOME_MESSAGE"`
	InstallPage       string        `envconfig:"INSTALL_PAGE" default:"false"`
	Port              string        `envconfig:"PORT" default:"8080"`
	MetricsAddr       string        `envconfig:"METRICS_ADDR"`
	TrustedProxies    string        `envconfig:"TRUSTED_PROXIES"`
	RateLimit         string        `envconfig:"RATE_LIMIT" default:"20"`
	LogLevel          string        `envconfig:"LOG_LEVEL" default:"info"`
	LogFormat         string        `envconfig:"LOG_FORMAT" default:"json"`
}

// Config holds every setting, checked. Of several secrets the first is used and
// all are accepted, which is how they are rotated.
type Config struct {
	RedirectURL *url.URL // of the Slack app: its path is the callback route, its origin the public origin

	SlackURL      *url.URL // the origin of Slack, without a path
	SlackClientID string
	SlackSecrets  []secret.String // SLACK_CLIENT_SECRET; at least one

	NovuAPIURL       *url.URL // as it is set: with or without a path
	NovuAPIKeys      []secret.String
	NovuIntegration  string // the identifier for links that name none; may be empty
	NovuEnvironment  string // the only environment that links may name; empty is any
	SaveEndpoints    bool   // NOVU_SAVE_AS=endpoint: save channel endpoints, not credentials
	CreateSubscriber bool   // create a subscriber that Novu does not know

	RedisURL     secret.String   // empty: DataFile is the store
	RedisPrefix  string          // begins every key in Redis
	DataFile     string          // of the embedded store
	StoreSecrets []secret.String // seal the store; SlackSecrets if STORE_SECRET is not set

	LinkSecrets     []secret.String // sign and verify links; NovuAPIKeys if LINK_SECRET is not set
	LinkSecretUnset bool            // LINK_SECRET is not set
	ReturnURLs      []*url.URL      // prefixes that Novu-style links may return to; the first is the default
	StateTTL        time.Duration   // how long a person may take at Slack: 1 minute to 24 hours

	AppName        string
	AppLogoURL     string // an image, https or http on loopback; may be empty
	SupportURL     string // https, http on loopback, or mailto; may be empty
	WelcomeMessage string // posted to a new webhook; empty is none
	InstallPage    bool   // ask before sending a person to Slack

	Listen         string       // where to listen, such as :8080
	MetricsAddr    string       // where to serve metrics, such as :9090; empty is nowhere
	TrustedProxies []*net.IPNet // whose X-Forwarded-For is believed
	RateLimit      float64      // requests a second per client address; 0 is no limit
	LogLevel       zerolog.Level
	LogConsole     bool // log for people rather than as JSON
}

// LinkSecretIsShort reports whether a secret in LINK_SECRET is shorter than HS256
// requires (RFC 7518 section 3.2). Anyone who holds a link can brute-force a short
// secret offline.
func (c Config) LinkSecretIsShort() bool {
	return !c.LinkSecretUnset && slices.ContainsFunc(c.LinkSecrets, func(s secret.String) bool { return len(s.Reveal()) < 32 })
}

// Problem is one thing that is wrong with the settings. It never contains a value.
type Problem struct {
	Name    string // the setting, such as NOVU_API_KEY or NOVU_API_KEY_FILE
	Cause   string // a predicate, such as "is not a port number"
	Remedy  string // what to do about it; empty if the cause says so
	Missing bool   // a required setting is not set
}

// String returns the problem in one line.
func (p Problem) String() string {
	if p.Remedy == "" {
		return p.Name + ": " + p.Cause
	}
	return p.Name + ": " + p.Cause + "; " + p.Remedy
}

// Load reads the settings from the environment and from the files that NAME_FILE
// variables name. If it returns a problem, the fields of the settings without one
// can still be used.
func Load() (Config, []Problem) {
	var s settings
	var l loader
	if err := envconfig.Process("", &s); err != nil { // impossible with text alone
		l.report("environment", "cannot be read", "")
	}
	c := l.load(&s)
	return c, l.problems
}

// Defaults returns the name of every setting with its default, which may be empty.
func Defaults() map[string]string {
	defaults := map[string]string{}
	for i, t := 0, reflect.TypeFor[settings](); i < t.NumField(); i++ {
		defaults[t.Field(i).Tag.Get("envconfig")] = t.Field(i).Tag.Get("default")
	}
	return defaults
}

// loader turns settings into a Config and collects the problems.
type loader struct{ problems []Problem }

func (l *loader) report(name, cause, remedy string) {
	l.problems = append(l.problems, Problem{Name: name, Cause: cause, Remedy: remedy})
}

func (l *loader) load(s *settings) Config {
	l.complete(s)
	c := Config{
		RedirectURL:      l.redirectURL(s.RedirectURL),
		SlackURL:         l.slackURL(s.SlackURL),
		SlackClientID:    s.SlackClientID,
		SlackSecrets:     l.secrets("SLACK_CLIENT_SECRET", s.SlackClientSecret),
		NovuAPIURL:       l.novuAPIURL(s.NovuAPIURL),
		NovuAPIKeys:      l.secrets("NOVU_API_KEY", s.NovuAPIKey),
		NovuIntegration:  s.NovuIntegration,
		NovuEnvironment:  s.NovuEnvironment,
		SaveEndpoints:    l.choose("NOVU_SAVE_AS", s.NovuSaveAs, "credentials", "endpoint"),
		CreateSubscriber: l.boolean("NOVU_CREATE_SUBSCRIBER", s.NovuCreate),
		RedisURL:         s.RedisURL,
		RedisPrefix:      s.RedisPrefix,
		DataFile:         s.DataFile,
		StoreSecrets:     l.secrets("STORE_SECRET", s.StoreSecret),
		LinkSecrets:      l.secrets("LINK_SECRET", s.LinkSecret),
		LinkSecretUnset:  s.LinkSecret.Empty(),
		ReturnURLs:       l.returnURLs(s.ReturnURLs),
		AppName:          s.AppName,
		AppLogoURL:       s.AppLogoURL,
		SupportURL:       s.SupportURL,
		WelcomeMessage:   s.WelcomeMessage,
		InstallPage:      l.boolean("INSTALL_PAGE", s.InstallPage),
		Listen:           ":" + s.Port,
		MetricsAddr:      s.MetricsAddr,
		TrustedProxies:   l.trustedProxies(s.TrustedProxies),
		LogConsole:       l.choose("LOG_FORMAT", s.LogFormat, "json", "console"),
	}
	if s.LinkSecret.Empty() {
		c.LinkSecrets = c.NovuAPIKeys
	}
	if s.StoreSecret.Empty() {
		c.StoreSecrets = c.SlackSecrets
	}
	if !s.RedisURL.Empty() {
		client, err := state.NewRedisClient(s.RedisURL)
		if err != nil {
			l.report("REDIS_URL", err.Error(), "use redis://[user:password@]host:port[/db], or rediss:// for TLS")
		} else {
			client.Close()
		}
	}
	// Braces would decide in which slot of a Cluster a key lies.
	if len(s.RedisPrefix) > 64 || !consistsOf(s.RedisPrefix, alphanumeric+"._-:") {
		l.report("REDIS_PREFIX", "has more than 64 bytes, or characters beside letters, digits and . _ - :", "use one like nsr")
	}
	if _, err := link.ParseReturnURL(s.AppLogoURL); s.AppLogoURL != "" && err != nil {
		l.report("APP_LOGO_URL", err.Error(), "use the https URL of an image")
	}
	if _, err := link.ParseReturnURL(s.SupportURL); s.SupportURL != "" && err != nil && !isMailto(s.SupportURL) {
		l.report("SUPPORT_URL", "is neither an https URL nor mailto: and an address", "")
	}
	if len(s.WelcomeMessage) > 3000 {
		l.report("WELCOME_MESSAGE", "has more than 3,000 bytes", "")
	}
	if !isPort(s.Port) {
		l.report("PORT", "is not a port number", "use 0 (any free port) to 65535")
	}
	if _, port, err := net.SplitHostPort(s.MetricsAddr); s.MetricsAddr != "" && (err != nil || !isPort(port)) {
		l.report("METRICS_ADDR", "is not an address to listen at", "use one like :9090 or 127.0.0.1:9090")
	}
	var err error
	if c.StateTTL, err = time.ParseDuration(s.StateTTL); err != nil || c.StateTTL < time.Minute || c.StateTTL > 24*time.Hour {
		l.report("STATE_TTL", "is not a duration between 1m and 24h", "use one like 15m")
	}
	if c.RateLimit, err = strconv.ParseFloat(s.RateLimit, 64); err != nil || !(c.RateLimit >= 0 && c.RateLimit <= 1e6) { // NaN is neither
		l.report("RATE_LIMIT", "is not a number of requests a second", "use one like 20, or 0 for none")
	}
	if c.LogLevel, err = zerolog.ParseLevel(s.LogLevel); err != nil || !slices.Contains(logLevels, s.LogLevel) {
		l.report("LOG_LEVEL", "is not a level", "use debug, info, warn or error")
	}
	return c
}

// zerolog also parses "disabled" and numbers.
var logLevels = []string{"trace", "debug", "info", "warn", "error"}

// complete reads the NAME_FILE files, gives a setting that is unset or empty its
// default, and reports what is missing.
func (l *loader) complete(s *settings) {
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name, need := tag.Get("envconfig"), tag.Get("need")
		switch field := v.Field(i).Addr().Interface().(type) {
		case *string:
			*field = cmp.Or(strings.TrimSpace(*field), tag.Get("default"))
			if *field == "" && need != "" {
				l.reportMissing(name, "set it to "+need)
			}
		case *secret.String:
			l.readSecretFile(name, field)
			*field = secret.New(strings.TrimSpace(field.Reveal()))
			if strings.ContainsFunc(field.Reveal(), unicode.IsControl) {
				l.report(name, "has a line break or another control character in it", "set the secret alone")
			}
			if field.Empty() && need != "" {
				l.reportMissing(name, "set it, or "+name+"_FILE, to "+need)
			}
		}
	}
}

func (l *loader) reportMissing(name, remedy string) {
	l.problems = append(l.problems, Problem{Name: name, Cause: "is missing", Remedy: remedy, Missing: true})
}

// unread stands for a secret whose file cannot be used, so that the secret is not
// reported as missing too.
var unread = secret.New("unread")

// readSecretFile sets s to the text of the file that NAME_FILE names, if any.
func (l *loader) readSecretFile(name string, s *secret.String) {
	path := os.Getenv(name + "_FILE")
	if path == "" {
		return
	}
	if !s.Empty() {
		l.report(name, "is set twice", "unset it or "+name+"_FILE")
		return
	}
	text, err := os.ReadFile(path)
	switch {
	case err != nil:
		cause := errors.Unwrap(err) // without the path, which may be a secret set in the wrong place
		l.report(name+"_FILE", fmt.Sprintf("cannot be read (%v)", cause), "name a file that holds the secret")
		*s = unread
	case strings.TrimSpace(string(text)) == "":
		l.report(name+"_FILE", "names an empty file", "write the secret into it")
		*s = unread
	default:
		*s = secret.New(string(text))
	}
}

// redirectURL returns nil if the setting is not a URL.
func (l *loader) redirectURL(text string) *url.URL {
	const name = "REDIRECT_URL"
	if text == "" { // reported as missing
		return nil
	}
	u, err := link.ParseReturnURL(text)
	if err != nil {
		l.report(name, err.Error(), "enter what the Slack app has, such as https://slack.example.com/slack/callback")
		return nil
	}
	switch path := u.EscapedPath(); {
	case path == "" || path == "/":
		l.report(name, "has no path", "use one like /slack/callback")
	case isReserved(path):
		l.report(name, "has a path that the service uses itself", "use one like /slack/callback")
	case !consistsOf(path, alphanumeric+"/._~-"):
		l.report(name, "has a path with characters beside letters, digits and / . _ ~ -", "use one like /slack/callback")
	case strings.ContainsAny(text, "?#"):
		l.report(name, "has a query or a fragment", "leave it out, here and in the Slack app")
	case link.Origin(u)+u.Path != text:
		l.report(name, "is not in its plain form", "write scheme and host in lower case and leave the usual port out, here and in the Slack app")
	}
	return u
}

// isReserved reports whether a route other than the callback has the path.
func isReserved(path string) bool {
	return slices.Contains([]string{link.InstallPath, "/slack/result", "/healthz", "/readyz"}, path) ||
		strings.HasPrefix(path, "/assets/") || strings.HasPrefix(path, "/v1/")
}

func (l *loader) slackURL(text string) *url.URL {
	u, err := parseRoot(text)
	if err != nil || strings.Trim(u.Path, "/") != "" {
		l.report("SLACK_URL", "is not the origin of a Slack", "use https://slack.com or https://slack-gov.com")
		return nil
	}
	origin := link.Origin(u)
	if origin != "https://slack.com" && origin != "https://slack-gov.com" && !link.Loopback(u.Hostname()) {
		l.report("SLACK_URL", "is neither https://slack.com nor https://slack-gov.com", "anything else must be a loopback address, for tests")
		return nil
	}
	u, _ = url.Parse(origin)
	return u
}

func (l *loader) novuAPIURL(text string) *url.URL {
	u, err := parseRoot(text)
	if err != nil {
		l.report("NOVU_API_URL", "is not the root of an API", "use https://api.novu.co, https://eu.api.novu.co or your own Novu's, such as https://novu.example.com/api")
	}
	return u
}

// parseRoot parses the http or https URL of an API's root.
func parseRoot(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || !isPort(cmp.Or(u.Port(), "0")) || u.User != nil || strings.ContainsAny(text, "?#") {
		return nil, errors.New("not the root of an API")
	}
	return u, nil
}

func (l *loader) returnURLs(text string) (urls []*url.URL) {
	for i, item := range split(text) {
		u, err := link.ParseReturnURL(item)
		if err == nil && strings.ContainsAny(item, "?#") {
			err = errors.New("has a query or a fragment")
		}
		if err != nil {
			l.report("RETURN_URLS", fmt.Sprintf("entry %d %v", i+1, err), "list prefixes such as https://app.example.com/settings")
			continue
		}
		urls = append(urls, u)
	}
	return urls
}

// privateNetworks are the private, loopback and link-local addresses.
var privateNetworks = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "127.0.0.0/8", "::1/128", "169.254.0.0/16", "fe80::/10"}

func (l *loader) trustedProxies(text string) (networks []*net.IPNet) {
	for i, item := range split(text) {
		cidrs := []string{item}
		if item == "private" {
			cidrs = privateNetworks
		}
		for _, cidr := range cidrs {
			_, network, err := net.ParseCIDR(cidr)
			if err != nil {
				l.report("TRUSTED_PROXIES", fmt.Sprintf("entry %d is not a CIDR", i+1), "use ones like 10.0.0.0/8, or the word private")
				continue
			}
			networks = append(networks, network)
		}
	}
	return networks
}

// secrets splits a list of secrets.
func (l *loader) secrets(name string, text secret.String) (all []secret.String) {
	for _, item := range split(text.Reveal()) {
		all = append(all, secret.New(item))
	}
	if len(all) == 0 && !text.Empty() {
		l.report(name, "holds no secret between its commas", "")
	}
	return all
}

func (l *loader) boolean(name, text string) bool {
	value, err := strconv.ParseBool(text)
	if err != nil {
		l.report(name, "is neither true nor false", "")
	}
	return value
}

// choose returns whether text is yes rather than no, and reports a problem if it is
// neither.
func (l *loader) choose(name, text, no, yes string) bool {
	if text != no && text != yes {
		l.report(name, "is neither "+no+" nor "+yes, "")
	}
	return text == yes
}

// split returns the items of a comma-separated list that are not empty.
func split(text string) (items []string) {
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// isMailto reports whether text is mailto: and one address, without headers.
func isMailto(text string) bool {
	address, ok := strings.CutPrefix(text, "mailto:")
	user, host, _ := strings.Cut(address, "@")
	return ok && user != "" && consistsOf(user, alphanumeric+"._%+-") && host != "" && consistsOf(host, alphanumeric+".-")
}

const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// consistsOf reports whether each byte of text is in alphabet, which is ASCII.
func consistsOf(text, alphabet string) bool { return strings.TrimLeft(text, alphabet) == "" }
