package novuclient

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"
)

// Integration is a Slack integration. Novu's answer may hold provider
// secrets; no other field of it is decoded.
type Integration struct {
	ID            string `json:"_id"`
	EnvironmentID string `json:"_environmentId"`
	Identifier    string `json:"identifier"`
	ProviderID    string `json:"providerId"`
	Channel       string `json:"channel"`
	Active        bool   `json:"active"`
}

// Environment is the environment that the API key belongs to.
type Environment struct {
	ID   string `json:"_id"`
	Name string `json:"name"`
}

// Environment returns the environment of the API key.
func (c *Client) Environment(ctx context.Context) (e Environment, err error) {
	e, _, err = do[Environment](ctx, c, "look up environment", http.MethodGet, "/environments/me", nil)
	if err == nil && e.ID == "" {
		err = &Error{Op: "look up environment", Reason: NotNovu, Err: errors.New("the answer has no ID")}
	}
	return e, err
}

// Integrations returns the environment's active Slack integrations. Older versions of
// Novu also return those of other environments. They are left out, unless this Novu has
// no route that returns the environment of the key.
func (c *Client) Integrations(ctx context.Context) ([]Integration, error) {
	all, err := c.listIntegrations(ctx, "/integrations/active")
	return slices.DeleteFunc(all, func(in Integration) bool { return !in.Active }), err
}

// listIntegrations returns the environment's Slack integrations in one of Novu's lists.
func (c *Client) listIntegrations(ctx context.Context, path string) ([]Integration, error) {
	all, _, err := do[[]Integration](ctx, c, "look up integrations", http.MethodGet, path, nil)
	all = slices.DeleteFunc(all, func(in Integration) bool {
		return in.Channel != "chat" || in.ProviderID != "slack"
	})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	own, err := c.Environment(ctx)
	switch {
	case err == nil:
		return slices.DeleteFunc(all, func(in Integration) bool { return in.EnvironmentID != "" && in.EnvironmentID != own.ID }), nil
	case AsError(err).Temporary() && slices.ContainsFunc(all, func(in Integration) bool { return in.EnvironmentID != all[0].EnvironmentID }):
		return nil, err // an integration of another environment could be taken for one of ours
	}
	return all, nil
}

// findIntegration returns the environment's Slack integration with the identifier, which
// need not be active. It is empty if there is none.
func (c *Client) findIntegration(ctx context.Context, identifier string) (Integration, error) {
	const active, all = "/integrations/active", "/integrations"
	for _, path := range []string{active, all} {
		list, err := c.listIntegrations(ctx, path)
		if AsError(err).Reason == BadURL && path == all {
			break // this Novu lists active ones alone
		}
		if err != nil {
			return Integration{}, err
		}
		for _, in := range list {
			if in.Identifier == identifier {
				return in, nil
			}
		}
	}
	return Integration{}, nil
}

const (
	readyFor    = time.Minute     // how long a list of integrations is cached
	retryPause  = 5 * time.Second // the same after an error or without a match, so that a correction takes effect soon
	readyBudget = 1500 * time.Millisecond
)

// lookUpResult is the result of the last look-up of integrations.
type lookUpResult struct {
	at   time.Time
	list []Integration // of the last look-up without an error
	err  error
}

// ResolveIntegration returns the identifier of the integration in which to save a
// connection: the named one, or, if integration is empty, the only active one. If several
// are active, it returns the newest for credentials, as Novu itself does.
//
// The *Error is for NoIntegration if Novu has no such active Slack integration, and for
// ManyIntegrations if several are active and a channel endpoint needs one by name, or only
// is set: the newest need not be the one that somebody wants to disconnect. It is for
// NoEndpoints if this Novu has no channel endpoints and Save writes them. Any other reason
// means that Novu did not say.
//
// Results are cached for one minute, errors for five seconds; concurrent callers share
// one look-up, which takes 1.5 s at most. If it fails, the choice is made from the last list
// that Novu returned; an integration that is not in it gets the error of the look-up.
func (c *Client) ResolveIntegration(ctx context.Context, integration string, only bool) (identifier string, err error) {
	only = only || c.config.SaveEndpoints
	identifier, fresh, err := c.last.Load().choose(integration, only)
	if fresh {
		return identifier, err
	}
	_, _, _ = c.lookUp.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyBudget)
		defer cancel()
		list, err := c.Integrations(ctx)
		if err == nil && c.config.SaveEndpoints {
			if _, missing := c.Endpoints(ctx, "none", ""); AsError(missing).Reason == NoEndpoints {
				list, err = nil, missing
			}
		}
		if err != nil && AsError(err).Reason != NoEndpoints {
			list = c.last.Load().list
		}
		c.last.Store(&lookUpResult{time.Now(), list, err})
		return nil, nil
	})
	identifier, _, err = c.last.Load().choose(integration, only)
	return identifier, err
}

// choose returns the identifier of the newest integration, or of the named one, and whether
// the result is fresh. With only, there must not be several. If the look-up failed, its error
// is returned, unless the list has the integration.
func (r *lookUpResult) choose(integration string, only bool) (identifier string, fresh bool, err error) {
	found, newest := 0, ""
	for _, in := range r.list {
		if integration != "" && in.Identifier != integration {
			continue
		}
		found++
		if in.ID >= newest { // Mongo's IDs begin with the time
			newest, identifier = in.ID, in.Identifier
		}
	}
	switch {
	case found == 0:
		err = &Error{Op: "look up integrations", Reason: NoIntegration}
	case found > 1 && only:
		err = &Error{Op: "look up integrations", Reason: ManyIntegrations}
	}
	if err != nil {
		identifier, err = "", cmp.Or(r.err, err)
	}
	ttl := readyFor
	if err != nil || r.err != nil {
		ttl = retryPause
	}
	return identifier, time.Since(r.at) < ttl, err
}
