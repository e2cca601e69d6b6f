package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"novu-slack-redirect/config"
	"novu-slack-redirect/service"
	"novu-slack-redirect/slackoauth"
)

const manifestHelp = `Prints the manifest of a Slack app that fits the settings, and a link that creates
the app from it.
`

// printManifest prints the Slack app's manifest. The instructions before it are YAML
// comments, so that the whole output is a manifest.
func printManifest(_ context.Context, _ []string, stdout io.Writer, _ *service.LogWriter) error {
	c, problems := config.Load()
	// Settings that come from the Slack app are missing until the app exists.
	needed := []string{"REDIRECT_URL", "APP_NAME"}
	problems = slices.DeleteFunc(problems, func(p config.Problem) bool { return p.Missing && !slices.Contains(needed, p.Name) })
	if len(problems) > 0 {
		return settingsError(problems)
	}
	yaml := slackoauth.Manifest(c.AppName, c.RedirectURL.String())
	api := "https://api." + strings.TrimPrefix(c.SlackURL.Host, "api.")
	if c.SlackURL.Scheme != "https" { // SLACK_URL is a fake
		api = "https://api.slack.com"
	}
	_, err := fmt.Fprintf(stdout, `# Create the app with one click:
#   %s/apps?new_app=1&manifest_yaml=%s
# or at %s/apps with Create New App, From a manifest.
#
# A manifest cannot turn on public distribution. Without it, workspaces other than
# your own get invalid_team_for_non_distributed_app. In the app's settings go to
# Manage Distribution, remove hard-coded information, and press Activate Public
# Distribution. Then copy Client ID and Client Secret from Basic Information.
%s`, api, url.QueryEscape(yaml), api, yaml)
	return err
}
