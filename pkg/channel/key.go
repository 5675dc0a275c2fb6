package channel

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
)

// Key is a channel's Ed25519 private key: whoever has it can broadcast as the channel.
// It prints and logs as its public half.
type Key struct {
	private ed25519.PrivateKey
	id      ID
}

// SeedSize is the size in bytes of the seed that a private key is made from.
const SeedSize = ed25519.SeedSize

// GenerateKey makes a channel from 32 bytes of rand, which is crypto/rand.Reader but in tests.
func GenerateKey(rand io.Reader) (Key, error) {
	var seed [SeedSize]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return Key{}, fmt.Errorf("making a channel key: %w", err)
	}
	return KeyFromSeed(seed), nil
}

// KeyFromSeed is the key that RFC 8032 makes from seed.
func KeyFromSeed(seed [SeedSize]byte) Key {
	k := Key{private: ed25519.NewKeyFromSeed(seed[:])}
	copy(k.id[:], k.private[SeedSize:])
	return k
}

// ID is the channel.
func (k Key) ID() ID { return k.id }

// IsZero tells whether k holds no key. Such a key must not sign.
func (k Key) IsZero() bool { return k.private == nil }

// Sign is the 64-byte signature over prefix followed by msg. It panics if k is zero.
func (k Key) Sign(prefix string, msg []byte) []byte {
	var buf [signBuffer]byte
	return ed25519.Sign(k.private, append(append(buf[:0], prefix...), msg...))
}

// String is the public half, so that no log ever shows the secret.
func (k Key) String() string { return "key of " + k.id.String() }

// GoString is String, for %#v.
func (k Key) GoString() string { return k.String() }

// LogValue is String.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
