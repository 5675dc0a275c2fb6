// Package channel holds what a channel is: its public key and everything that follows from it (tag, swarm id,
// multicast groups), the file its secret key lies in, the URI that people pass on, and the signed descriptor.
//
// docs/protocol.md section 1 is the wire contract; docs/vectors/channel.json holds vectors for other implementations.
package channel

import (
	"crypto/ed25519"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Sizes of keys and signatures in bytes.
const (
	IDSize        = ed25519.PublicKeySize
	SignatureSize = ed25519.SignatureSize
)

// Port is the UDP port of every channel's multicast groups.
const Port = 6466

// Scope is a multicast scope (RFC 4291 section 2.7, RFC 7346).
type Scope uint8

// The scopes that channels use.
const (
	ScopeLink         Scope = 2
	ScopeSite         Scope = 5 // the default
	ScopeOrganisation Scope = 8
)

// ErrKey is wrapped by every error about the written form of a channel key.
var ErrKey = errors.New("not a channel key")

// ID is a channel: an Ed25519 public key (RFC 8032). The zero ID names no channel.
type ID [IDSize]byte

const encodedIDLen = 52 // base32 characters of 32 bytes

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// IsZero tells whether id names no channel.
func (id ID) IsZero() bool { return id == ID{} }

// Tag is the channel tag: it tells channels apart in one multicast group or link and proves nothing.
// It costs a hash; callers on a hot path keep it.
func (id ID) Tag() uint32 {
	h := hash("sixcast channel tag", id)
	return binary.BigEndian.Uint32(h[:4])
}

// SwarmID is SHA-1 of the key: the id for announces, and the target of the channel's BEP 44 item.
func (id ID) SwarmID() [20]byte { return sha1.Sum(id[:]) }

// Group is the channel's any-source multicast group in a scope.
func (id ID) Group(s Scope) netip.Addr {
	h := hash("sixcast group", id)
	a := [16]byte{0: 0xff, 1: 0x10 | byte(s)&0x0f}
	copy(a[2:], h[:14])
	return netip.AddrFrom16(a)
}

// GroupSSM is the channel's source-specific multicast group (RFC 4607) in a scope.
func (id ID) GroupSSM(s Scope) netip.Addr {
	h := hash("sixcast group", id)
	a := [16]byte{0: 0xff, 1: 0x30 | byte(s)&0x0f}
	copy(a[12:], h[:4])
	a[12] |= 0x80 // 0x80000000 and up is dynamic: RFC 4607 section 4.3
	return netip.AddrFrom16(a)
}

func hash(context string, id ID) [sha256.Size]byte {
	var buf [64]byte
	return sha256.Sum256(append(append(buf[:0], context...), id[:]...))
}

// String is the key in lower-case unpadded base32: 52 characters.
func (id ID) String() string { return encoding.EncodeToString(id[:]) }

// MarshalText is String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is ParseID.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// ParseID reads a key as String writes it. Since keys get read aloud and retyped, upper case is accepted, and so are
// 0 for o and 8 for b, which can be nothing else; 1 is refused, as it may be i or l. Errors wrap ErrKey.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != encodedIDLen {
		return id, fmt.Errorf("%w: it has %d characters, a key has %d", ErrKey, len(s), encodedIDLen)
	}
	var lower [encodedIDLen]byte
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c == '0':
			c = 'o'
		case c == '8':
			c = 'b'
		}
		switch {
		case c == '1':
			return id, fmt.Errorf("%w: character %d is the digit 1, which no key has: is it i or l?", ErrKey, i+1)
		case (c < 'a' || c > 'z') && (c < '2' || c > '7'):
			return id, fmt.Errorf("%w: character %d is %q; only a to z and 2 to 7 occur", ErrKey, i+1, rune(s[i]))
		}
		lower[i] = c
	}
	if _, err := encoding.Decode(id[:], lower[:]); err != nil {
		return ID{}, fmt.Errorf("%w: %v", ErrKey, err)
	}
	// 52 characters hold 260 bits: the last four must be zero, or one key would have sixteen names.
	if last := lower[encodedIDLen-1]; last != 'a' && last != 'q' {
		return ID{}, fmt.Errorf("%w: the last character is %q; it is a or q in every key", ErrKey, rune(last))
	}
	return id, nil
}

// Verify tells whether sig is the channel's signature over prefix followed by msg.
// It does not allocate for messages of datagram size.
func (id ID) Verify(prefix string, msg, sig []byte) bool {
	if len(sig) != SignatureSize {
		return false
	}
	var buf [signBuffer]byte
	return ed25519.Verify(id[:], append(append(buf[:0], prefix...), msg...), sig)
}

// signBuffer holds the largest signed datagram (1232 bytes) and its prefix.
const signBuffer = 1280
