package state

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"novu-slack-redirect/secret"
)

// ErrSealed means that a record cannot be opened: it was sealed with a secret that this
// Store does not have, or it was modified or moved.
var ErrSealed = errors.New("state: the record cannot be opened: it was sealed with a secret that is not in STORE_SECRET, or was changed")

// seals are AES-256-GCM keys: all open, the first seals.
type seals []cipher.AEAD

// newSeals derives a key from each secret (HKDF-SHA256, RFC 5869).
func newSeals(secrets []secret.String) (seals, error) {
	var s seals
	for _, text := range secrets {
		if text.Empty() {
			return nil, errors.New("state: a secret is empty")
		}
		key, err := hkdf.Key(sha256.New, []byte(text.Reveal()), nil, "novu-slack-redirect store", 32)
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, err
		}
		s = append(s, aead)
	}
	if len(s) == 0 {
		return nil, errors.New("state: there is no secret to seal with")
	}
	return s, nil
}

// associatedData returns the associated data of a sealed part: it opens only under the key, in the
// phase and with the number that it was sealed for. While Working the number does not count,
// because the code is sealed before the flow has one.
func associatedData(key Key, phase Phase, number int64) []byte {
	if phase == Working {
		number = 0
	}
	b := make([]byte, 0, 64)
	b = append(b, key...)
	b = append(b, byte(phase))
	return strconv.AppendInt(b, number, 10)
}

// looseText lets texts of others hold what is not UTF-8. It is replaced.
var looseText = jsontext.AllowInvalidUTF8(true)

// seal seals v as JSON.
func (s seals) seal(v any, data []byte) []byte {
	text, err := json.Marshal(v, looseText)
	if err != nil {
		panic(err) // structs of strings always marshal
	}
	return s[0].Seal(nil, nil, text, data)
}

// open reads into v what seal sealed, or returns ErrSealed.
func (s seals) open(sealed, data []byte, v any) error {
	for _, aead := range s {
		if text, err := aead.Open(nil, nil, sealed, data); err == nil {
			return json.Unmarshal(text, v, looseText)
		}
	}
	return ErrSealed
}
