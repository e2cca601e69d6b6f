package outbox

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"

	"novu-slack-redirect/secret"
)

var errSealed = errors.New("the entry was sealed with a secret that STORE_SECRET does not have")

// seals are AES-256-GCM keys: all open, the first seals. The destination is the
// associated data, so that an entry moved to another one does not open there.
type seals []cipher.AEAD

// newSeals derives a key from each secret (HKDF-SHA256, RFC 5869).
func newSeals(secrets []secret.String) (seals, error) {
	var s seals
	for _, text := range secrets {
		if text.Empty() {
			return nil, errors.New("outbox: an empty secret seals nothing")
		}
		key, err := hkdf.Key(sha256.New, []byte(text.Reveal()), nil, "novu-slack-redirect outbox", 32)
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
		return nil, errors.New("outbox: there is no secret to seal with")
	}
	return s, nil
}

func (s seals) seal(text []byte, d Destination) []byte {
	return s[0].Seal(nil, nil, text, []byte(d.String()))
}

func (s seals) open(sealed []byte, d Destination) ([]byte, error) {
	for _, aead := range s {
		if text, err := aead.Open(nil, nil, sealed, []byte(d.String())); err == nil {
			return text, nil
		}
	}
	return nil, errSealed
}
