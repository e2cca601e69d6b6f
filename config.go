package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/kelseyhightower/envconfig"
	"github.com/rs/zerolog"

	"novu-slack-redirect/handler"
	"novu-slack-redirect/secret"
)

// environment is every setting as text. Reading text cannot fail, so that all
// problems can be told at once and none of them by a library that prints the
// value. Secrets can also come from the file that NAME_FILE names. All but REDIS_URL
// may be several, comma-separated: the first is used, all are accepted.
type environment struct {
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

// config is every setting, checked.
type config struct {
	redirectURL     *url.URL
	slackURL        *url.URL
	slackClientID   string
	slackSecrets    []secret.String
	novuAPIURL      *url.URL
	novuAPIKeys     []secret.String
	novuIntegration string
	novuEnvironment string
	novuEndpoints   bool // NOVU_SAVE_AS=endpoint
	novuCreate      bool
	redisURL        secret.String
	dataFile        string
	linkSecrets     []secret.String
	linksByAPIKey   bool // LINK_SECRET is not set
	storeSecrets    []secret.String
	returnURLs      []*url.URL
	stateTTL        time.Duration
	brand           handler.Brand
	welcomeMessage  string
	installPage     bool
	listen          string
	metricsAddr     string
	trustedProxies  []*net.IPNet
	rateLimit       float64
	logLevel        zerolog.Level
	logConsole      bool
}

// problems are what is wrong with the settings: name, cause and what to do, one
// line each, without any value.
type problems []string

func (p *problems) add(name, format string, args ...any) {
	*p = append(*p, name+": "+fmt.Sprintf(format, args...))
}

// loadConfig reads the settings from the environment and from NAME_FILE files.
func loadConfig() (config, problems) {
	var env environment
	var found problems
	if err := envconfig.Process("", &env); err != nil {
		found.add("environment", "cannot be read") // not possible with text alone
	}
	env.complete(&found)
	return env.parse(found)
}

// loadConfigOr is loadConfig for a command: it tells stderr what is wrong.
func loadConfigOr(stderr io.Writer) (c config, ok bool) {
	c, found := loadConfig()
	for _, p := range found {
		fmt.Fprintln(stderr, p)
	}
	return c, len(found) == 0
}

// complete reads NAME_FILE files, gives what is unset or empty its default, and
// reports what is missing.
func (env *environment) complete(found *problems) {
	v := reflect.ValueOf(env).Elem()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := tag.Get("envconfig")
		need := tag.Get("need")
		switch field := v.Field(i).Addr().Interface().(type) {
		case *string:
			if *field = strings.TrimSpace(*field); *field == "" {
				*field = tag.Get("default")
			}
			if *field == "" && need != "" {
				found.add(name, "is missing; set it to %s", need)
			}
		case *secret.String:
			readSecretFile(name, field, found)
			*field = secret.New(strings.TrimSpace(field.Reveal()))
			if strings.ContainsFunc(field.Reveal(), unicode.IsControl) {
				found.add(name, "has a line break or another control character in it; set the secret alone")
			}
			if field.Empty() && need != "" {
				found.add(name, "is missing; set it, or %s_FILE, to %s", name, need)
			}
		}
	}
}

// readSecretFile fills s from the file that NAME_FILE names.
func readSecretFile(name string, s *secret.String, found *problems) {
	path := os.Getenv(name + "_FILE")
	if path == "" {
		return
	}
	if !s.Empty() {
		found.add(name, "is set twice; unset it or %s_FILE", name)
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		cause := errors.Unwrap(err) // without the path, which may be a secret set in the wrong place
		found.add(name+"_FILE", "cannot be read (%v); name a file that holds the secret", cause)
		*s = secret.New("unread") // so that it is not reported as missing too
		return
	}
	*s = secret.New(string(text))
	if strings.TrimSpace(string(text)) == "" {
		found.add(name+"_FILE", "names an empty file; write the secret into it")
		*s = secret.New("unread")
	}
}

func (env *environment) parse(found problems) (config, problems) {
	c := config{
		slackClientID:   env.SlackClientID,
		novuIntegration: env.NovuIntegration,
		novuEnvironment: env.NovuEnvironment,
		redisURL:        env.RedisURL,
		dataFile:        env.DataFile,
		welcomeMessage:  env.WelcomeMessage,
		brand:           handler.Brand{Name: env.AppName, LogoURL: env.AppLogoURL, SupportURL: env.SupportURL},
	}
	var err error

	if env.RedirectURL != "" {
		if c.redirectURL, err = handler.ParseReturnURL(env.RedirectURL); err != nil {
			found.add("REDIRECT_URL", "%v; enter what the Slack app has, such as https://slack.example.com/slack/callback", err)
		} else if err := handler.CheckRedirectPath(c.redirectURL.EscapedPath()); err != nil {
			found.add("REDIRECT_URL", "%v", err)
		} else if strings.ContainsAny(env.RedirectURL, "?#") {
			found.add("REDIRECT_URL", "has a query or a fragment; leave it out, here and in the Slack app")
		} else if origin(c.redirectURL)+c.redirectURL.Path != env.RedirectURL {
			found.add("REDIRECT_URL", "is not in its plain form; write scheme and host in lower case and leave the usual port out, here and in the Slack app")
		}
	}
	if c.slackURL, err = parseRoot(env.SlackURL); err != nil || strings.Trim(c.slackURL.Path, "/") != "" {
		found.add("SLACK_URL", "is not the origin of a Slack; use https://slack.com or https://slack-gov.com")
	} else if o := origin(c.slackURL); o != "https://slack.com" && o != "https://slack-gov.com" && !handler.Loopback(c.slackURL.Hostname()) {
		found.add("SLACK_URL", "is neither https://slack.com nor https://slack-gov.com; anything else must be a loopback address, for tests")
	} else {
		c.slackURL, _ = url.Parse(o)
	}
	if c.novuAPIURL, err = parseRoot(env.NovuAPIURL); err != nil {
		found.add("NOVU_API_URL", "is not the root of an API; use https://api.novu.co, https://eu.api.novu.co or your own Novu's, such as https://novu.example.com/api")
	}
	switch env.NovuSaveAs {
	case "credentials":
	case "endpoint":
		c.novuEndpoints = true
	default:
		found.add("NOVU_SAVE_AS", "is neither credentials nor endpoint")
	}
	if len(env.WelcomeMessage) > 3000 {
		found.add("WELCOME_MESSAGE", "has more than 3,000 bytes")
	}
	if c.novuCreate, err = strconv.ParseBool(env.NovuCreate); err != nil {
		found.add("NOVU_CREATE_SUBSCRIBER", "is neither true nor false")
	}
	if c.installPage, err = strconv.ParseBool(env.InstallPage); err != nil {
		found.add("INSTALL_PAGE", "is neither true nor false")
	}
	if _, err := handler.ParseReturnURL(env.AppLogoURL); env.AppLogoURL != "" && err != nil {
		found.add("APP_LOGO_URL", "%v; use the https URL of an image", err)
	}
	if _, err := handler.ParseReturnURL(env.SupportURL); env.SupportURL != "" && err != nil && !mailto.MatchString(env.SupportURL) {
		found.add("SUPPORT_URL", "is neither an https URL nor mailto: and an address")
	}
	if !c.redisURL.Empty() {
		if _, err := newRedisClient(c.redisURL); err != nil {
			found.add("REDIS_URL", "%v; use redis://[user:password@]host:port[/db], or rediss:// for TLS", err)
		}
	}

	c.linksByAPIKey = env.LinkSecret.Empty()
	c.slackSecrets = secrets("SLACK_CLIENT_SECRET", env.SlackClientSecret, nil, &found)
	c.novuAPIKeys = secrets("NOVU_API_KEY", env.NovuAPIKey, nil, &found)
	c.linkSecrets = secrets("LINK_SECRET", env.LinkSecret, c.novuAPIKeys, &found)
	c.storeSecrets = secrets("STORE_SECRET", env.StoreSecret, c.slackSecrets, &found)
	for i, text := range list(env.ReturnURLs) {
		u, err := handler.ParseReturnURL(text)
		if err == nil && strings.ContainsAny(text, "?#") {
			err = errors.New("has a query or a fragment")
		}
		if err != nil {
			found.add("RETURN_URLS", "entry %d %v; list prefixes such as https://app.example.com/settings", i+1, err)
			continue
		}
		c.returnURLs = append(c.returnURLs, u)
	}

	if c.stateTTL, err = time.ParseDuration(env.StateTTL); err != nil || c.stateTTL < time.Minute || c.stateTTL > 24*time.Hour {
		found.add("STATE_TTL", "is not a duration between 1m and 24h; use one like 15m")
	}
	if !portNumber(env.Port) {
		found.add("PORT", "is not a port number; use 0 (any free port) to 65535")
	}
	c.listen = ":" + env.Port
	if _, port, err := net.SplitHostPort(env.MetricsAddr); env.MetricsAddr != "" && (err != nil || !portNumber(port)) {
		found.add("METRICS_ADDR", "is not an address to listen at; use one like :9090 or 127.0.0.1:9090")
	}
	c.metricsAddr = env.MetricsAddr
	for i, text := range list(env.TrustedProxies) {
		if text == "private" {
			text = privateNetworks
		}
		for text := range strings.SplitSeq(text, " ") {
			_, network, err := net.ParseCIDR(text)
			if err != nil {
				found.add("TRUSTED_PROXIES", "entry %d is not a CIDR; use ones like 10.0.0.0/8, or the word private", i+1)
				continue
			}
			c.trustedProxies = append(c.trustedProxies, network)
		}
	}
	if c.rateLimit, err = strconv.ParseFloat(env.RateLimit, 64); err != nil || !(c.rateLimit >= 0 && c.rateLimit <= 1e6) {
		found.add("RATE_LIMIT", "is not a number of requests a second; use one like 20, or 0 for none")
	}
	if c.logLevel, err = zerolog.ParseLevel(env.LogLevel); err != nil || !slices.Contains(logLevels, env.LogLevel) {
		found.add("LOG_LEVEL", "is not a level; use debug, info, warn or error")
	}
	switch env.LogFormat {
	case "json":
	case "console":
		c.logConsole = true
	default:
		found.add("LOG_FORMAT", "is neither json nor console")
	}
	return c, found
}

// secrets splits a list of them; where nothing is set, they are those of fallback.
func secrets(name string, text secret.String, fallback []secret.String, found *problems) (all []secret.String) {
	if text.Empty() {
		return fallback
	}
	for _, item := range list(text.Reveal()) {
		all = append(all, secret.New(item))
	}
	if len(all) == 0 {
		found.add(name, "holds no secret between its commas")
	}
	return all
}

func portNumber(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

var mailto = regexp.MustCompile(`^mailto:[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+$`)

var logLevels = []string{"trace", "debug", "info", "warn", "error"}

// parseRoot reads the http or https URL of an API's root.
func parseRoot(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	_, err = strconv.ParseUint(cmp.Or(u.Port(), "0"), 10, 16)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || strings.ContainsAny(text, "?#") {
		return nil, errors.New("not the root of an API")
	}
	return u, nil
}

// privateNetworks are the private, loopback and link-local addresses.
const privateNetworks = "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 127.0.0.0/8 ::1/128 169.254.0.0/16 fe80::/10"

func list(text string) (items []string) {
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// origin returns scheme, host and port as browsers write an origin.
func origin(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" && !(u.Scheme == "https" && port == "443") && !(u.Scheme == "http" && port == "80") {
		host += ":" + port
	}
	return u.Scheme + "://" + host
}
