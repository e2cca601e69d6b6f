package novuclient

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
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
	err = c.do(ctx, "look up environment", http.MethodGet, "/environments/me", nil, into(&e))
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

// findIntegration returns the environment's Slack integration with the identifier, which
// need not be active. It is empty if there is none.
func (c *Client) findIntegration(ctx context.Context, identifier string) (Integration, error) {
	for _, path := range []string{"/integrations/active", "/integrations"} {
		list, err := c.listIntegrations(ctx, path)
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

// listIntegrations returns the environment's Slack integrations in one of Novu's lists.
func (c *Client) listIntegrations(ctx context.Context, path string) ([]Integration, error) {
	var all []Integration
	if err := c.do(ctx, "look up integrations", http.MethodGet, path, nil, into(&all)); err != nil {
		return nil, err
	}
	if all == nil { // null is not an empty list
		return nil, &Error{Op: "look up integrations", Reason: NotNovu, Err: errors.New("the answer has no list")}
	}
	all = slices.DeleteFunc(all, func(in Integration) bool {
		return in.Channel != "chat" || in.ProviderID != "slack"
	})
	if len(all) > 0 {
		own, err := c.Environment(ctx)
		if AsError(err).Temporary() && slices.ContainsFunc(all, func(in Integration) bool { return in.EnvironmentID != all[0].EnvironmentID }) {
			return nil, err // an integration of another environment could be taken for one of ours
		}
		if err == nil {
			all = slices.DeleteFunc(all, func(in Integration) bool { return in.EnvironmentID != "" && in.EnvironmentID != own.ID })
		}
	}
	return all, nil
}

const (
	readyFor    = time.Minute     // how long a list of integrations is cached
	retryPause  = 5 * time.Second // the same after an error or without a match, so that a correction takes effect soon
	readyBudget = 1500 * time.Millisecond
)

// integrationCache holds the result of the last look-up of integrations.
type integrationCache struct {
	lookup singleflight.Group

	mu   sync.Mutex
	at   time.Time
	err  error
	list []Integration // of the last look-up without an error
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
	identifier, fresh, err := c.chooseCached(integration, only)
	if fresh {
		return identifier, err
	}
	_, _, _ = c.integrations.lookup.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyBudget)
		defer cancel()
		list, err := c.Integrations(ctx)
		if err == nil && c.config.SaveEndpoints {
			if _, missing := c.Endpoints(ctx, "none", ""); AsError(missing).Reason == NoEndpoints {
				list, err = nil, missing
			}
		}
		cache := &c.integrations
		cache.mu.Lock()
		defer cache.mu.Unlock()
		cache.at, cache.err = time.Now(), err
		if err == nil || AsError(err).Reason == NoEndpoints {
			cache.list = list
		}
		return nil, nil
	})
	identifier, _, err = c.chooseCached(integration, only)
	return identifier, err
}

// chooseCached chooses from the cached list, and reports whether the list is fresh. If
// the last look-up failed, its error is returned, unless the list has the integration.
func (c *Client) chooseCached(integration string, only bool) (identifier string, fresh bool, err error) {
	cache := &c.integrations
	cache.mu.Lock()
	defer cache.mu.Unlock()
	identifier, err = choose(cache.list, integration, c.config.SaveEndpoints || only)
	ttl := readyFor
	if err != nil || cache.err != nil {
		ttl = retryPause
	}
	if err != nil && cache.err != nil {
		err = cache.err
	}
	return identifier, time.Since(cache.at) < ttl, err
}

// integrationID returns the ID of an integration in the cached list, or nothing.
func (c *Client) integrationID(identifier string) string {
	cache := &c.integrations
	cache.mu.Lock()
	defer cache.mu.Unlock()
	for _, in := range cache.list {
		if in.Identifier == identifier {
			return in.ID
		}
	}
	return ""
}

func choose(list []Integration, integration string, only bool) (identifier string, err error) {
	if integration != "" {
		list = slices.DeleteFunc(slices.Clone(list), func(in Integration) bool { return in.Identifier != integration })
	}
	switch {
	case len(list) == 0:
		return "", &Error{Op: "look up integrations", Reason: NoIntegration}
	case len(list) > 1 && only:
		return "", &Error{Op: "look up integrations", Reason: ManyIntegrations}
	}
	newest := slices.MaxFunc(list, func(a, b Integration) int { return strings.Compare(a.ID, b.ID) }) // Mongo's IDs begin with the time
	return newest.Identifier, nil
}
