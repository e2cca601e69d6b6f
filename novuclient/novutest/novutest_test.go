package novutest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"novu-slack-redirect/novuclient"
	"novu-slack-redirect/novuclient/novutest"
	"novu-slack-redirect/secret"
	"novu-slack-redirect/upstream/upstreamtest"
)

// The fake has the real one's fault: overlapping first updates leave two channels.
func TestOverlappingUpdatesAreReported(t *testing.T) {
	novu := novutest.New(&upstreamtest.Recorder{})
	novu.Work = 200 * time.Millisecond
	novu.AddSubscriber("ada")
	server := httptest.NewServer(novu)
	defer server.Close()
	u, _ := url.Parse(server.URL)
	c := novuclient.New(novuclient.Config{APIKey: secret.New(novu.APIKey), URL: u})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := c.Save(context.Background(), novuclient.Connection{SubscriberID: "ada", Integration: "slack-main", WebhookURL: secret.New("https://hooks.slack.com/services/x")}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if channels, _ := novu.Channels("ada"); novu.Overlaps() != 1 || len(channels) != 2 {
		t.Errorf("got %d overlaps and channels %v, want 1 and two", novu.Overlaps(), channels)
	}
}

// What a client forgets to escape is another route that answers 200.
func TestUnescapedIDSavesNothing(t *testing.T) {
	novu := novutest.New(&upstreamtest.Recorder{})
	novu.AddSubscriber("a")
	server := httptest.NewServer(novu)
	defer server.Close()
	req, _ := http.NewRequest(http.MethodPut, server.URL+"/v1/subscribers/a#b/credentials", nil)
	req.Header.Set("Authorization", "ApiKey "+novu.APIKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if channels, _ := novu.Channels("a"); res.StatusCode != 200 || len(channels) != 0 {
		t.Errorf("got %d, %v, want 200 and no channel", res.StatusCode, channels)
	}
}
