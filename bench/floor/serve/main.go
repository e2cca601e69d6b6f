// Command serve runs the benchmark's floor. NOT FOR USE: see package floor.
package main

import (
	"log"
	"net/http"
	"os"
	"time"

	"github.com/rs/zerolog"

	"novu-slack-redirect/bench/floor"
)

func main() {
	client, err := floor.Redis(os.Getenv("REDIS_URL"))
	if err != nil {
		log.Fatal("REDIS_URL is not a Redis URL")
	}
	server := &http.Server{Addr: ":" + os.Getenv("PORT"), ReadHeaderTimeout: 5 * time.Second, Handler: floor.New(floor.Config{
		Redis: client, Slack: os.Getenv("SLACK_URL"), Novu: os.Getenv("NOVU_API_URL"),
		ClientID: os.Getenv("SLACK_CLIENT_ID"), ClientSecret: os.Getenv("SLACK_CLIENT_SECRET"), APIKey: os.Getenv("NOVU_API_KEY"),
		LinkSecret: os.Getenv("LINK_SECRET"), RedirectURL: os.Getenv("REDIRECT_URL"), To: os.Getenv("RETURN_URLS"),
		Log: zerolog.New(os.Stderr).With().Timestamp().Logger(),
	})}
	log.Fatal(server.ListenAndServe())
}
