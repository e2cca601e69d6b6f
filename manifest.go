package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"novu-slack-redirect/slackoauth"
)

const manifestHelp = `usage: novu-slack-redirect manifest

Prints the manifest of a Slack app that fits the settings, and a link that creates
the app from it.

example:
  novu-slack-redirect manifest > slack-app.yaml
`

// manifest prints the Slack app's manifest. What surrounds it is YAML comments, so
// that all of the output is one.
func manifest(_ context.Context, _ []string, stdout, stderr io.Writer) int {
	c, found := loadConfig()
	found = withoutCredentials(found)
	for _, p := range found {
		fmt.Fprintln(stderr, p)
	}
	if len(found) > 0 {
		return exitUsage
	}
	yaml := slackoauth.Manifest(c.brand.Name, c.redirectURL.String())
	api := "https://api." + strings.TrimPrefix(c.slackURL.Host, "api.")
	if c.slackURL.Scheme != "https" { // a fake
		api = "https://api.slack.com"
	}
	fmt.Fprintf(stdout, `# Create the app with one click:
#   %s/apps?new_app=1&manifest_yaml=%s
# or at %s/apps with Create New App, From a manifest.
#
# A manifest cannot turn on public distribution. Without it, workspaces other than
# your own get invalid_team_for_non_distributed_app. In the app's settings go to
# Manage Distribution, remove hard-coded information, and press Activate Public
# Distribution. Then copy Client ID and Client Secret from Basic Information.
%s`, api, url.QueryEscape(yaml), api, yaml)
	return exitOK
}

// withoutCredentials leaves out what is missing as long as there is no app.
func withoutCredentials(found problems) problems {
	return slices.DeleteFunc(found, func(p string) bool {
		return strings.HasPrefix(p, "SLACK_CLIENT_ID: is missing") || strings.HasPrefix(p, "SLACK_CLIENT_SECRET: is missing") || strings.HasPrefix(p, "NOVU_API_KEY: is missing")
	})
}
