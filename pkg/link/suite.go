package link

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"
)

// PublicKey is a node's static X25519 key: what a peer is known by.
type PublicKey [32]byte

func (k PublicKey) String() string { return hex.EncodeToString(k[:]) }

// Key is a node's static key pair.
type Key struct {
	Private [32]byte
	Public  PublicKey
}

// GenerateKey makes a key pair from 32 random bytes.
func GenerateKey(random io.Reader) (Key, error) {
	kp, err := noise.DH25519.GenerateKeypair(random)
	if err != nil {
		return Key{}, fmt.Errorf("link: making a key: %w", err)
	}
	return Key{Private: [32]byte(kp.Private), Public: PublicKey(kp.Public)}, nil
}

// KeyFromPrivate is the key pair with this private half.
func KeyFromPrivate(private [32]byte) (Key, error) { return GenerateKey(bytes.NewReader(private[:])) }

// agreement counts public-key operations and turns the error for a low-order
// point into the all-zero secret and a mark. Noise (section 12.1) allows
// either; flynn/noise does not roll a handshake back after that error, and
// would leave it useless for the true peer.
type agreement struct {
	noise.DHFunc
	ops  uint64
	weak bool
}

func (a *agreement) GenerateKeypair(random io.Reader) (noise.DHKey, error) {
	a.ops++
	return a.DHFunc.GenerateKeypair(random)
}

func (a *agreement) DH(private, public []byte) ([]byte, error) {
	a.ops++
	secret, err := a.DHFunc.DH(private, public)
	if err != nil {
		a.weak = true
		return make([]byte, a.DHLen()), nil
	}
	return secret, nil
}

// nonceCipher is ChaCha20-Poly1305 with a nonce that does not escape to the
// heap at every datagram.
type nonceCipher struct {
	aead  cipher.AEAD
	nonce [chacha20poly1305.NonceSize]byte
}

type chachaPoly struct{}

func (chachaPoly) CipherName() string { return "ChaChaPoly" }

func (chachaPoly) Cipher(k [32]byte) noise.Cipher {
	aead, err := chacha20poly1305.New(k[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	return &nonceCipher{aead: aead}
}

func (c *nonceCipher) Encrypt(out []byte, n uint64, ad, plaintext []byte) []byte {
	binary.LittleEndian.PutUint64(c.nonce[4:], n)
	return c.aead.Seal(out, c.nonce[:], plaintext, ad)
}

func (c *nonceCipher) Decrypt(out []byte, n uint64, ad, ciphertext []byte) ([]byte, error) {
	binary.LittleEndian.PutUint64(c.nonce[4:], n)
	return c.aead.Open(out, c.nonce[:], ciphertext, ad)
}

// nullAgreement has private keys equal to public ones and their exclusive or
// as the secret.
type nullAgreement struct{}

func (nullAgreement) DHLen() int     { return 32 }
func (nullAgreement) DHName() string { return "null" }

func (nullAgreement) GenerateKeypair(random io.Reader) (noise.DHKey, error) {
	b := make([]byte, 32)
	if _, err := io.ReadFull(random, b); err != nil {
		return noise.DHKey{}, err
	}
	return noise.DHKey{Private: b, Public: b}, nil
}

func (nullAgreement) DH(private, public []byte) ([]byte, error) {
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = private[i] ^ public[i]
	}
	return secret, nil
}

// nullCipher leaves the plaintext as it is and appends the start of the key
// and the nonce, so that datagrams of other links are still told apart.
type nullCipher struct{ key [8]byte }

type nullCiphers struct{}

func (nullCiphers) CipherName() string { return "null" }

func (nullCiphers) Cipher(k [32]byte) noise.Cipher { return &nullCipher{[8]byte(k[:])} }

var errNull = errors.New("link: wrong authenticator")

func (c *nullCipher) Encrypt(out []byte, n uint64, _, plaintext []byte) []byte {
	out = append(out, plaintext...)
	out = append(out, c.key[:]...)
	return binary.BigEndian.AppendUint64(out, n)
}

func (c *nullCipher) Decrypt(out []byte, n uint64, _, ciphertext []byte) ([]byte, error) {
	end := len(ciphertext) - 16
	if end < 0 || [8]byte(ciphertext[end:]) != c.key || binary.BigEndian.Uint64(ciphertext[end+8:]) != n {
		return nil, errNull
	}
	return append(out, ciphertext[:end]...), nil
}
