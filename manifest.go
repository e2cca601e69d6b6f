package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
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
func manifest(_ context.Context, args []string, stdout, stderr io.Writer) int {
	if !noArgs("manifest", args, stderr) {
		return exitUsage
	}
	c, found := loadConfig()
	found = withoutSlackApp(found)
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

// withoutSlackApp leaves out that the app's credentials are missing: there is no
// app yet.
func withoutSlackApp(found problems) (rest problems) {
	for _, p := range found {
		if !strings.HasPrefix(p, "SLACK_CLIENT_ID: is missing") && !strings.HasPrefix(p, "SLACK_CLIENT_SECRET: is missing") {
			rest = append(rest, p)
		}
	}
	return rest
}
