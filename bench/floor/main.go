// Command floor is the promise floor, a yardstick for the benchmark, NOT FOR USE: what a
// flow costs when the service's promises are kept on the wire by as little code as
// possible.
//
// It does what the service does in a flow in which nothing goes wrong, with net/http and
// go-redis: it verifies a signed link (JWT), gives the flow a cookie, seals and records
// each phase with the scripts of package state, exchanges the code, records the webhook
// before Novu is asked, saves it, finishes the flow, signs the result, and then looks
// whether Novu sends the messages elsewhere, too. It writes the same log lines.
//
// What goes wrong is an HTTP status. There are no pages, retries, metrics, limits, nor
// settings but those that it needs, and what others send is hardly looked at.
package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"novu-slack-redirect/secret"
	"novu-slack-redirect/state"
)

// Settings, by the service's names.
var (
	slack, novu            = os.Getenv("SLACK_URL"), os.Getenv("NOVU_API_URL")
	clientID, clientSecret = os.Getenv("SLACK_CLIENT_ID"), os.Getenv("SLACK_CLIENT_SECRET")
	apiKey, linkSecret     = os.Getenv("NOVU_API_KEY"), []byte(os.Getenv("LINK_SECRET"))
	redirectURL, returnURL = os.Getenv("REDIRECT_URL"), os.Getenv("RETURN_URLS")
	origin                 = strings.TrimSuffix(redirectURL, "/slack/callback")
)

type floor struct {
	store *state.Redis
	seal  cipher.AEAD
	log   zerolog.Logger
}

func main() {
	client, err := state.NewRedisClient(secret.New(os.Getenv("REDIS_URL")))
	if err != nil {
		log.Fatal("REDIS_URL ", err)
	}
	redis.SetLogger(state.RedisLogger{Log: zerolog.Nop()})
	key := sha256.Sum256([]byte(clientSecret))
	block, _ := aes.NewCipher(key[:])
	seal, _ := cipher.NewGCMWithRandomNonce(block)
	f := &floor{state.NewRedis(client, "floor", "floor"), seal, zerolog.New(os.Stderr).With().Timestamp().Logger()}
	server := &http.Server{Addr: ":" + os.Getenv("PORT"), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 40 * time.Second, Handler: f.routes()}
	log.Fatal(server.ListenAndServe())
}

func (f *floor) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /slack/install", f.logged(f.install))
	mux.HandleFunc("GET /slack/callback", f.logged(f.callback))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if f.store.Ready(r.Context()) != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintf(w, "go_memstats_mallocs_total %d\ngo_memstats_alloc_bytes_total %d\n", m.Mallocs, m.TotalAlloc)
	})
	return mux
}

// flow is what the log says of a request.
type flow struct {
	id, subscriber, outcome string
}

// headers are those of every answer.
var headers = http.Header{
	"Content-Security-Policy":   {"default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"},
	"X-Frame-Options":           {"DENY"},
	"X-Content-Type-Options":    {"nosniff"},
	"Referrer-Policy":           {"no-referrer"},
	"Cache-Control":             {"no-store"},
	"Strict-Transport-Security": {"max-age=31536000"},
}

func (f *floor) logged(h func(http.ResponseWriter, *http.Request, *flow) int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start, id := time.Now(), state.NewOwner()
		maps.Copy(w.Header(), headers)
		w.Header().Set("X-Request-Id", id)
		var of flow
		status := h(w, r, &of)
		w.WriteHeader(status)
		client, _, _ := net.SplitHostPort(r.RemoteAddr)
		f.log.Info().Str("flow", of.id).Str("subscriber", of.subscriber).Str("outcome", of.outcome).Str("request_id", id).Str("method", r.Method).
			Str("route", r.URL.Path).Int("status", status).Str("client", client).Dur("ms", time.Since(start)).Msg("request")
	}
}

// claims are those of a link.
type claims struct {
	Subscriber  string   `json:"sub"`
	Audience    []string `json:"aud"`
	Expires     int64    `json:"exp"`
	Integration string   `json:"integrationIdentifier"`
}

// sum appends the HMAC of a token's text to b.
func sum(b []byte, text string) []byte {
	mac := hmac.New(sha256.New, linkSecret)
	io.WriteString(mac, text)
	return mac.Sum(b)
}

// verify verifies a link's token, which must have exactly the header that the benchmark's
// links have.
func verify(token string) (c claims, ok bool) {
	const header = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
	dot := strings.LastIndexByte(token, '.')
	if len(token) > 4096 || dot < len(header) || !strings.HasPrefix(token, header) {
		return c, false
	}
	var mac [sha256.Size]byte
	signature, err := base64.RawURLEncoding.AppendDecode(nil, []byte(token[dot+1:]))
	if err != nil || !hmac.Equal(signature, sum(mac[:0], token[:dot])) {
		return c, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(token[len(header):dot])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return c, false
	}
	return c, c.Subscriber != "" && slices.Contains(c.Audience, origin) && time.Now().Unix() < c.Expires
}

// result is what the app learns, as the claims of a token.
type result struct {
	Issuer      string `json:"iss"`
	Subscriber  string `json:"sub"`
	Expires     int64  `json:"exp"`
	IssuedAt    int64  `json:"iat"`
	ID          string `json:"jti"`
	Audience    string `json:"aud"`
	Outcome     string `json:"outcome"`
	Channel     string `json:"channel"`
	ChannelID   string `json:"channelId"`
	Team        string `json:"team"`
	TeamID      string `json:"teamId"`
	Integration string `json:"integrationIdentifier"`
}

func (r result) sign() string {
	payload, _ := json.Marshal(r)
	text := "eyJhbGciOiJIUzI1NiIsInR5cCI6InNsYWNrLXJlc3VsdCtqd3QifQ." + base64.RawURLEncoding.EncodeToString(payload)
	var mac [sha256.Size]byte
	return text + "." + base64.RawURLEncoding.EncodeToString(sum(mac[:0], text))
}

// record is what is sealed: at first a flow's ID and its link, then the code, then the
// webhook.
type record struct {
	ID, Token, Subscriber, Integration, Code, Webhook, ChannelID, Channel, TeamID, Team string `json:",omitempty"`
}

func (f *floor) sealed(r record, key state.Key, phase state.Phase) []byte {
	text, _ := json.Marshal(r)
	return f.seal.Seal(nil, nil, text, append([]byte(key), byte(phase)))
}

const cookiePrefix = "__Host-slack_flow_"

func (f *floor) install(w http.ResponseWriter, r *http.Request, of *flow) int {
	token := r.URL.Query().Get("token")
	c, ok := verify(token)
	if !ok {
		return http.StatusForbidden
	}
	st, browser := state.NewState(time.Now()), state.NewBrowserHalf()
	of.id, _ = state.FlowID(st)
	of.subscriber = c.Subscriber
	key, _ := state.NewKey(of.id, browser)
	if f.store.Issue(r.Context(), key, f.sealed(record{ID: of.id, Token: token, Subscriber: c.Subscriber, Integration: c.Integration}, key, state.Issued), 15*time.Minute) != nil {
		return http.StatusServiceUnavailable
	}
	http.SetCookie(w, &http.Cookie{Name: cookiePrefix + of.id, Value: browser.Reveal(), Path: "/", MaxAge: 900, HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
	w.Header().Set("Location", slack+"/oauth/v2/authorize?client_id="+clientID+"&redirect_uri="+url.QueryEscape(redirectURL)+"&scope=incoming-webhook&state="+st.Reveal())
	return http.StatusFound
}

func (f *floor) callback(w http.ResponseWriter, r *http.Request, of *flow) int {
	query := r.URL.Query()
	var ok bool
	if of.id, ok = state.FlowID(secret.New(query.Get("state"))); !ok {
		return http.StatusBadRequest
	}
	cookie, err := r.Cookie(cookiePrefix + of.id)
	if err != nil {
		return http.StatusForbidden
	}
	key, ok := state.NewKey(of.id, secret.New(cookie.Value))
	if !ok {
		return http.StatusForbidden
	}
	ctx, owner := context.WithoutCancel(r.Context()), state.NewOwner()
	row, err := f.store.Consume(ctx, key, owner, f.sealed(record{Code: query.Get("code")}, key, state.Working), 30*time.Second, 8*time.Minute)
	if err != nil || row.Owner != owner {
		return http.StatusGone
	}
	var link record
	text, err := f.seal.Open(nil, nil, row.Request, append([]byte(key), byte(state.Issued)))
	if err != nil || json.Unmarshal(text, &link) != nil {
		return http.StatusGone
	}
	of.subscriber = link.Subscriber

	installed, err := exchange(ctx, query.Get("code"))
	if err != nil {
		return http.StatusBadGateway
	}
	move := func(to state.Phase, lease time.Duration) bool {
		step, err := f.store.Move(ctx, key, state.Move{
			Owner: owner, To: to, Content: f.sealed(installed, key, to), Keep: 15 * time.Minute, Subscriber: link.Subscriber, Destination: link.Integration + "." + link.Subscriber, Lease: lease,
		})
		return err == nil && step == state.Moved
	}
	if !move(state.Recorded, 50*time.Second) {
		return http.StatusServiceUnavailable
	}
	if save(ctx, link.Subscriber, link.Integration, installed.Webhook) != nil {
		return http.StatusBadGateway
	}
	if !move(state.Finished, 0) {
		return http.StatusServiceUnavailable
	}
	go f.warnOfOthers(ctx, link.Subscriber, link.Integration)
	of.outcome = "connected"
	f.log.Info().Str("flow", of.id).Str("subscriber", link.Subscriber).Str("integration", link.Integration).Str("team", installed.TeamID).Str("channel", installed.ChannelID).
		Int("attempts", 1).Str("outcome", of.outcome).Msg("connection")

	now := time.Now()
	signed := result{
		Issuer: origin, Subscriber: link.Subscriber, Expires: now.Add(10 * time.Minute).Unix(), IssuedAt: now.Unix(), ID: of.id, Audience: returnURL, Outcome: of.outcome,
		Channel: installed.Channel, ChannelID: installed.ChannelID, Team: installed.Team, TeamID: installed.TeamID, Integration: link.Integration,
	}.sign()
	http.SetCookie(w, &http.Cookie{Name: cookie.Name, Value: cookie.Value, Path: "/", MaxAge: 900, HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
	w.Header().Set("Location", returnURL+"?slack=connected&channel="+url.QueryEscape(installed.Channel)+"&team="+url.QueryEscape(installed.Team)+"&slack_result="+signed)
	return http.StatusSeeOther
}

func exchange(ctx context.Context, code string) (record, error) {
	var answer struct {
		OK   bool `json:"ok"`
		Team struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"team"`
		Webhook struct {
			URL       string `json:"url"`
			Channel   string `json:"channel"`
			ChannelID string `json:"channel_id"`
		} `json:"incoming_webhook"`
	}
	form := "code=" + url.QueryEscape(code) + "&redirect_uri=" + url.QueryEscape(redirectURL)
	err := call(ctx, http.MethodPost, slack+"/api/oauth.v2.access", []byte(form), slackHeader, &answer)
	if err == nil && !answer.OK {
		err = errors.New("slack refused the code")
	}
	return record{Webhook: answer.Webhook.URL, Channel: answer.Webhook.Channel, ChannelID: answer.Webhook.ChannelID, Team: answer.Team.Name, TeamID: answer.Team.ID}, err
}

func save(ctx context.Context, subscriber, integration, webhook string) error {
	type credentials struct {
		WebhookURL string `json:"webhookUrl"`
	}
	body, _ := json.Marshal(struct {
		ProviderID  string      `json:"providerId"`
		Integration string      `json:"integrationIdentifier"`
		Credentials credentials `json:"credentials"`
	}{"slack", integration, credentials{webhook}})
	var saved struct {
		Data struct {
			Channels []struct {
				Credentials credentials `json:"credentials"`
			} `json:"channels"`
		} `json:"data"`
	}
	err := call(ctx, http.MethodPut, novu+"/v1/subscribers/"+url.PathEscape(subscriber)+"/credentials", body, novuHeader, &saved)
	if err == nil && len(saved.Data.Channels) != 1 {
		err = errors.New("novu has other channels")
	}
	return err
}

func (f *floor) warnOfOthers(ctx context.Context, subscriber, integration string) {
	var endpoints struct {
		Data []struct{} `json:"data"`
	}
	query := "?integrationIdentifier=" + url.QueryEscape(integration) + "&subscriberId=" + url.QueryEscape(subscriber)
	if err := call(ctx, http.MethodGet, novu+"/v1/channel-endpoints"+query, nil, novuHeader, &endpoints); err != nil || len(endpoints.Data) > 0 {
		f.log.Warn().Int("channels", len(endpoints.Data)).Err(err).Msg("Novu sends this subscriber's messages to other channels, too")
	}
}

// Headers of requests. Nobody changes them.
var (
	novuHeader  = http.Header{"Authorization": {"ApiKey " + apiKey}, "Content-Type": {"application/json"}, "Accept": {"application/json"}, "User-Agent": {"floor"}}
	slackHeader = func() http.Header {
		r := http.Request{Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}, "User-Agent": {"floor"}}}
		r.SetBasicAuth(clientID, clientSecret)
		return r.Header
	}()
)

// pool keeps as many connections as the service's do.
var pool = func() *http.Transport {
	pool := http.DefaultTransport.(*http.Transport).Clone()
	pool.MaxIdleConnsPerHost = pool.MaxIdleConns
	return pool
}()

// call sends a request, and decodes its answer into out. It never follows redirects.
func call(ctx context.Context, method, url string, body []byte, header http.Header, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 13*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header = header
	res, err := pool.RoundTrip(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("HTTP %d", res.StatusCode)
	}
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	return err
}
