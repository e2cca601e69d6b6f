package novuclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Context is the context of a channel endpoint. To Novu, "acme", {"id":"acme"} and
// {"id":"acme","data":…} are the same context: it compares types and IDs alone.
// https://docs.novu.co/platform/workflow/advanced-features/contexts
type Context struct {
	JSON string // an object with sorted keys, as Novu's API takes it; empty is no context
	Key  string // equal for contexts that Novu takes for the same; empty is no context
}

const (
	maxContextEntries   = 5
	contextIDCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	maxContextID        = 100     // characters
	maxContextData      = 1 << 16 // bytes
)

// ParseContext reads a context: a JSON object of 1 to 5 entries, each of them
// "type": "id" or "type": {"id": "id", "data": {…}}. An ID has 1 to 100 letters, digits,
// - and _, and data up to 64 KB. Novu refuses anything else. Empty text and null are
// no context.
func ParseContext(text string) (Context, error) {
	if text == "" || text == "null" {
		return Context{}, nil
	}
	var entries map[string]json.RawMessage
	if !utf8.ValidString(text) || json.Unmarshal([]byte(text), &entries) != nil {
		return Context{}, errors.New("the context is not a JSON object")
	}
	if len(entries) < 1 || len(entries) > maxContextEntries {
		return Context{}, fmt.Errorf("the context has %d entries; it needs 1 to %d", len(entries), maxContextEntries)
	}
	keys := make([]string, 0, len(entries))
	for name, entry := range entries {
		id, err := contextID(entry)
		if err != nil {
			return Context{}, err
		}
		keys = append(keys, name+":"+id)
	}
	canonical, err := json.Marshal(entries) // sorts its keys
	return Context{JSON: string(canonical), Key: contextKey(keys)}, err
}

// contextKey returns the Key of a context with these entries, in Novu's form type:id.
func contextKey(entries []string) string {
	if len(entries) == 0 {
		return ""
	}
	key, err := json.Marshal(slices.Sorted(slices.Values(entries)))
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(key)
}

// contextID returns the ID of an entry of a context.
func contextID(entry json.RawMessage) (id string, err error) {
	var fields map[string]json.RawMessage // a struct would accept ID for id
	if json.Unmarshal(entry, &fields) == nil && fields != nil {
		data := fields["data"]
		if data != nil && (len(data) > maxContextData || data[0] != '{' && data[0] != '[') {
			return "", errors.New("the data of a context's entry is not an object of up to 64 KB")
		}
		entry = fields["id"]
	}
	if json.Unmarshal(entry, &id) != nil || id == "" || len(id) > maxContextID || strings.Trim(id, contextIDCharacters) != "" {
		return "", errors.New("the ID of a context's entry is not 1 to 100 letters, digits, - and _")
	}
	return id, nil
}
