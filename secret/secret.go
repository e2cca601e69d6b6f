// Package secret holds strings that never print: keys, OAuth codes, webhook URLs.
//
// Whatever formats, logs or marshals a String shows "[secret]"; only Reveal
// gives the text, and Reveal belongs where the bytes leave the process.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
)

// String is a secret text. The zero value is the empty one.
//
// The text sits behind a function rather than in a field, because fmt reads
// unexported fields by reflection without asking their Format method: a struct
// that holds a String prints an address. For the same reason two Strings do
// not compare with ==; use Equal.
type String struct{ text func() string }

const shown = "[secret]"

// New makes a String of text.
func New(text string) String {
	if text == "" {
		return String{}
	}
	return String{func() string { return text }}
}

// Reveal returns the text.
func (s String) Reveal() string {
	if s.text == nil {
		return ""
	}
	return s.text()
}

// Empty reports whether there is no text.
func (s String) Empty() bool { return s.text == nil }

// Equal compares in constant time. An empty secret equals nothing.
func (s String) Equal(text string) bool {
	return !s.Empty() && subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(text)) == 1
}

// Format prints "[secret]" for every verb and flag.
func (String) Format(f fmt.State, _ rune) { io.WriteString(f, shown) }

// String returns "[secret]".
func (String) String() string { return shown }

// MarshalText returns "[secret]", also inside JSON and in log fields.
func (String) MarshalText() ([]byte, error) { return []byte(shown), nil }

// UnmarshalText takes text as the secret; it never fails.
func (s *String) UnmarshalText(text []byte) error {
	*s = New(string(text))
	return nil
}
