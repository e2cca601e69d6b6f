package novuclient

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Context is the context of a channel endpoint. To Novu, "acme", {"id":"acme"} and
// {"id":"acme","data":…} are the same context: it compares types and IDs alone.
// https://docs.novu.co/platform/workflow/advanced-features/contexts
type Context struct {
	JSON string // an object with sorted keys, as Novu's API takes it; empty is no context
	Key  string // equal for contexts that Novu takes for the same; empty is no context
}

// MarshalJSON returns the context as Novu's API takes it.
func (c Context) MarshalJSON() ([]byte, error) { return []byte(c.JSON), nil }

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
	var entries map[string]jsontext.Value
	if json.Unmarshal([]byte(text), &entries) != nil {
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
	canonical, err := json.Marshal(entries, json.Deterministic(true)) // sorts the keys
	return Context{JSON: string(canonical), Key: contextKey(keys)}, err
}

// contextKey returns the Key of a context with these entries, in Novu's form type:id.
func contextKey(entries []string) string {
	if len(entries) == 0 {
		return ""
	}
	return fmt.Sprintf("%q", slices.Sorted(slices.Values(entries)))
}

// contextID returns the ID of an entry of a context.
func contextID(entry jsontext.Value) (id string, err error) {
	var fields struct {
		ID   string         `json:"id"`
		Data jsontext.Value `json:"data"`
	}
	if entry.Kind() == '{' {
		err = json.Unmarshal(entry, &fields)
	} else {
		err = json.Unmarshal(entry, &fields.ID)
	}
	data := fields.Data
	switch {
	case err != nil || fields.ID == "" || len(fields.ID) > maxContextID || strings.Trim(fields.ID, contextIDCharacters) != "":
		return "", errors.New("the ID of a context's entry is not 1 to 100 letters, digits, - and _")
	case data != nil && (len(data) > maxContextData || data.Kind() != '{' && data.Kind() != '['):
		return "", errors.New("the data of a context's entry is not an object of up to 64 KB")
	}
	return fields.ID, nil
}
