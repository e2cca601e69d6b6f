// Command floor is what a flow costs with nothing promised: a yardstick for the
// benchmark, NOT FOR USE. It makes the same calls over the same libraries, and
// leaves out what the service is for: nothing is sealed or recorded before Novu
// is asked, nothing is tried twice, any browser can bring any state back, an
// answer is hardly looked at, and a failure is an HTTP status.
//
// Its links are the cheapest that cannot be forged: the subscriber and its HMAC.
// It logs one line a request, as the service does. It reads the service's settings.
package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

type floor struct {
	redis redis.UniversalClient
	log   zerolog.Logger
}

// Settings, by the service's names.
var (
	slack, novu            = os.Getenv("SLACK_URL"), os.Getenv("NOVU_API_URL")
	clientID, clientSecret = os.Getenv("SLACK_CLIENT_ID"), os.Getenv("SLACK_CLIENT_SECRET")
	apiKey, linkSecret     = os.Getenv("NOVU_API_KEY"), os.Getenv("LINK_SECRET")
	redirectURL, returnURL = os.Getenv("REDIRECT_URL"), os.Getenv("RETURN_URLS")
)

func main() {
	o, err := redis.ParseURL(os.Getenv("REDIS_URL"))
	if err != nil {
		log.Fatal("REDIS_URL is not a Redis URL")
	}
	o.ContextTimeoutEnabled = true // these are the service's options
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = time.Second, time.Second, time.Second, time.Second
	f := &floor{redis.NewClient(o), zerolog.New(os.Stderr).With().Timestamp().Logger()}
	server := &http.Server{Addr: ":" + os.Getenv("PORT"), ReadHeaderTimeout: 5 * time.Second, Handler: f.routes()}
	log.Fatal(server.ListenAndServe())
}

func sum(secret, subscriber string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(subscriber))
	return hex.EncodeToString(mac.Sum(nil))
}

func (f *floor) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /slack/install", f.logged(f.install))
	mux.HandleFunc("GET /slack/callback", f.logged(f.callback))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if f.redis.Set(r.Context(), "floor:ping", "", time.Minute).Err() != nil {
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

func (f *floor) logged(h func(w http.ResponseWriter, r *http.Request) int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		status := h(w, r)
		w.WriteHeader(status)
		f.log.Info().Str("route", r.URL.Path).Int("status", status).Dur("ms", time.Since(start)).Msg("request")
	}
}

func (f *floor) install(w http.ResponseWriter, r *http.Request) int {
	query := r.URL.Query()
	subscriber := query.Get("subscriber")
	if !hmac.Equal([]byte(query.Get("hmac")), []byte(sum(linkSecret, subscriber))) {
		return http.StatusForbidden
	}
	state := rand.Text()
	if f.redis.Set(r.Context(), "floor:"+state, subscriber, 15*time.Minute).Err() != nil {
		return http.StatusServiceUnavailable
	}
	w.Header().Set("Location", slack+"/oauth/v2/authorize?"+url.Values{
		"client_id": {clientID}, "scope": {"incoming-webhook"}, "redirect_uri": {redirectURL}, "state": {state},
	}.Encode())
	return http.StatusFound
}

func (f *floor) callback(w http.ResponseWriter, r *http.Request) int {
	query := r.URL.Query()
	subscriber, err := f.redis.GetDel(r.Context(), "floor:"+query.Get("state")).Result()
	if err != nil {
		return http.StatusForbidden
	}
	var answer struct {
		OK      bool `json:"ok"`
		Webhook struct {
			URL     string `json:"url"`
			Channel string `json:"channel"`
		} `json:"incoming_webhook"`
	}
	form := url.Values{"code": {query.Get("code")}, "redirect_uri": {redirectURL}}.Encode()
	err = call(r.Context(), http.MethodPost, slack+"/api/oauth.v2.access", "application/x-www-form-urlencoded", strings.NewReader(form),
		func(r *http.Request) { r.SetBasicAuth(clientID, clientSecret) }, &answer)
	if err != nil || !answer.OK {
		return http.StatusBadGateway
	}
	body, _ := json.Marshal(map[string]any{"providerId": "slack", "credentials": map[string]string{"webhookUrl": answer.Webhook.URL}})
	err = call(r.Context(), http.MethodPut, novu+"/v1/subscribers/"+url.PathEscape(subscriber)+"/credentials", "application/json", bytes.NewReader(body),
		func(r *http.Request) { r.Header.Set("Authorization", "ApiKey "+apiKey) }, nil)
	if err != nil {
		return http.StatusBadGateway
	}
	w.Header().Set("Location", returnURL+"?"+url.Values{"slack": {"connected"}, "channel": {answer.Webhook.Channel}}.Encode())
	return http.StatusSeeOther
}

// client keeps as many connections as the service's do.
var client = func() *http.Client {
	pool := http.DefaultTransport.(*http.Transport).Clone()
	pool.MaxIdleConnsPerHost = pool.MaxIdleConns
	return &http.Client{Transport: pool}
}()

func call(ctx context.Context, method, url, kind string, body io.Reader, auth func(*http.Request), out any) error {
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", kind)
	auth(r)
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %d", res.StatusCode)
	}
	text, err := io.ReadAll(res.Body)
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	return err
}
