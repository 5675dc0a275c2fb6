package link

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/sixcast/sixcast/internal/vectors"
	"github.com/sixcast/sixcast/pkg/wire"
)

// vector is one handshake in docs/vectors/handshake.json. Byte strings are hex.
type vector struct {
	InitiatorAddress   string        `json:"initiator_address"`
	InitiatorStatic    vectors.Bytes `json:"initiator_static_private"`
	InitiatorPublic    vectors.Bytes `json:"initiator_static_public"`
	InitiatorEphemeral vectors.Bytes `json:"initiator_ephemeral_private"`
	InitiatorTag       vectors.Bytes `json:"initiator_tag"`
	ResponderStatic    vectors.Bytes `json:"responder_static_private"`
	ResponderPublic    vectors.Bytes `json:"responder_static_public"`
	ResponderEphemeral vectors.Bytes `json:"responder_ephemeral_private"`
	ResponderTag       vectors.Bytes `json:"responder_tag"`
	Hello              vectors.Bytes `json:"hello"`
	Cookie             vectors.Bytes `json:"cookie"` // answers hello under load
	HelloWithCookie    vectors.Bytes `json:"hello_with_cookie"`
	Answer             vectors.Bytes `json:"answer"`
	FinishMessages     vectors.Bytes `json:"finish_messages"`
	Finish             vectors.Bytes `json:"finish"`
	InitiatorKey       vectors.Bytes `json:"initiator_sealing_key"`
	ResponderKey       vectors.Bytes `json:"responder_sealing_key"`
	FromInitiator      sealedVector  `json:"sealed_by_initiator"`
	FromResponder      sealedVector  `json:"sealed_by_responder"`
}

type sealedVector struct {
	Counter  uint32        `json:"counter"`
	Messages vectors.Bytes `json:"messages"`
	Datagram vectors.Bytes `json:"datagram"`
}

// counting is n bytes that count up from first.
func counting(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func keyOf(t *testing.T, private []byte) Key {
	t.Helper()
	k, err := KeyFromPrivate([32]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// makeVector runs one handshake between two tables whose randomness is fixed.
func makeVector(t *testing.T) vector {
	v := vector{
		InitiatorAddress:   "[2001:db8::1]:6466",
		InitiatorStatic:    counting(0x00, 32),
		InitiatorEphemeral: counting(0x20, 32),
		InitiatorTag:       counting(0xa0, 8),
		ResponderStatic:    counting(0x40, 32),
		ResponderEphemeral: counting(0x60, 32),
		ResponderTag:       counting(0xb0, 8),
	}
	from, to := netip.MustParseAddrPort(v.InitiatorAddress), addr("[2001:db8::2]:6466")
	ki, kr := keyOf(t, v.InitiatorStatic), keyOf(t, v.ResponderStatic)
	v.InitiatorPublic, v.ResponderPublic = ki.Public[:], kr.Public[:]

	qi, qr := &quiet{}, &quiet{}
	// Drawn in this order: the secret of cookies, the tag, the ephemeral key,
	// the tokens of PING.
	ri := bytes.NewReader(slices.Concat(make([]byte, 32), v.InitiatorTag, v.InitiatorEphemeral, counting(0xc0, 4)))
	rr := bytes.NewReader(slices.Concat(make([]byte, 32), v.ResponderTag, v.ResponderEphemeral, counting(0xd0, 4)))
	initiator := NewTable(Config{Static: ki, Random: ri}, qi)
	responder := NewTable(Config{Static: kr, Random: rr}, qr)

	join := wire.Join{Key: [32]byte(counting(0x80, 32)), Tag: wire.TagBit | 0x0123456789abcdef, Serves: true, Uplink: 5000}
	li := initiator.Dial(0, to, join.Append)
	v.Hello = slices.Clone(qi.last)
	// What makes a cookie is the responder's own business.
	v.Cookie = slices.Concat([]byte{wire.TypeCookie, wire.Version}, v.InitiatorTag, counting(0xe0, cookieSize))
	initiator.Receive(0, to, slices.Clone(v.Cookie))
	v.HelloWithCookie = slices.Clone(qi.last)
	responder.Receive(0, from, slices.Clone(v.HelloWithCookie))
	v.Answer = slices.Clone(qr.last)
	initiator.Receive(0, to, slices.Clone(v.Answer))
	v.Finish = slices.Clone(qi.last)
	r := responder.Receive(0, from, slices.Clone(v.Finish))
	if r.Link == nil {
		t.Fatal("no link")
	}
	v.FinishMessages = slices.Clone(r.Messages)

	seal := func(l *Link, q *quiet, m []byte) sealedVector {
		c := l.counter
		l.sendMessages(0, m, false)
		return sealedVector{Counter: c, Messages: m, Datagram: slices.Clone(q.last)}
	}
	li.confirmed, li.finishSent = true, nil
	li.counter = 0x01020304
	v.FromInitiator = seal(li, qi, wire.AppendMessage(nil, wire.MsgEcho, counting(1, 8)))
	bye := wire.Bye{Reason: wire.ByeFull, Text: []byte("no room")}
	v.FromResponder = seal(r.Link, qr, bye.Append(nil))

	w := &written{t: t}
	w.run(&v)
	v.InitiatorKey, v.ResponderKey = w.first, w.second
	return v
}

func TestVectorsOfTheHandshake(t *testing.T) {
	vectors.CheckJSON(t, "handshake.json", makeVector(t))
}

// written is Noise_XX_25519_ChaChaPoly_SHA256 written out from the
// specification, beside the library that the package uses, to read the
// vectors with.
type written struct {
	t             *testing.T
	h, ck, k      []byte
	n             uint64
	first, second []byte
}

func (w *written) mixHash(b []byte) {
	s := sha256.Sum256(append(slices.Clone(w.h), b...))
	w.h = s[:]
}

func mac(key, b []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(b)
	return m.Sum(nil)
}

func (w *written) hkdf(input []byte) (a, b []byte) {
	temp := mac(w.ck, input)
	a = mac(temp, []byte{1})
	return a, mac(temp, append(slices.Clone(a), 2))
}

func (w *written) dh(private, public []byte) {
	w.t.Helper()
	p, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		w.t.Fatal(err)
	}
	q, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		w.t.Fatal(err)
	}
	secret, err := p.ECDH(q)
	if err != nil {
		w.t.Fatal(err)
	}
	w.ck, w.k = w.hkdf(secret)
	w.n = 0
}

func openAEAD(t *testing.T, key []byte, n uint64, ad, b []byte) []byte {
	t.Helper()
	c, err := chacha20poly1305.New(key)
	if err != nil {
		t.Fatal(err)
	}
	nonce := binary.LittleEndian.AppendUint64(make([]byte, 4), n)
	plain, err := c.Open(nil, nonce, b, ad)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func (w *written) decrypt(b []byte) []byte {
	w.t.Helper()
	plain := openAEAD(w.t, w.k, w.n, w.h, b)
	w.n++
	w.mixHash(b)
	return plain
}

// run follows a handshake, with the private keys of both ends at hand.
func (w *written) run(v *vector) {
	t := w.t
	t.Helper()
	public := func(private []byte) []byte {
		p, err := ecdh.X25519().NewPrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		return p.PublicKey().Bytes()
	}
	equal := func(what string, got, want []byte) {
		t.Helper()
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", what, got, want)
		}
	}
	w.h = []byte("Noise_XX_25519_ChaChaPoly_SHA256")
	w.ck = w.h
	w.mixHash(append([]byte("sixcast 1"), v.Hello[:10]...))
	if len(v.Hello) != 1200 {
		t.Fatalf("HELLO has %d bytes", len(v.Hello))
	}
	equal("tag in HELLO", v.Hello[2:10], v.InitiatorTag)
	e := v.Hello[26:58]
	equal("e of the initiator", e, public(v.InitiatorEphemeral))
	w.mixHash(e)
	w.mixHash(nil)

	again := slices.Clone(v.Hello)
	copy(again[10:26], v.Cookie[10:])
	equal("HELLO with a cookie", v.HelloWithCookie, again)

	equal("tag in ANSWER", v.Answer[2:10], v.InitiatorTag)
	re := v.Answer[10:42]
	equal("e of the responder", re, public(v.ResponderEphemeral))
	w.mixHash(re)
	w.dh(v.InitiatorEphemeral, re)
	rs := w.decrypt(v.Answer[42:90])
	equal("s of the responder", rs, v.ResponderPublic)
	w.dh(v.InitiatorEphemeral, rs)
	payload := w.decrypt(v.Answer[90:])
	a := netip.MustParseAddrPort(v.InitiatorAddress)
	ip := a.Addr().As16()
	equal("payload of ANSWER", payload, binary.BigEndian.AppendUint16(append(slices.Clone(v.ResponderTag), ip[:]...), a.Port()))

	equal("head of FINISH", v.Finish[:9], append(slices.Clone(v.ResponderTag), 4))
	is := w.decrypt(v.Finish[9:57])
	equal("s of the initiator", is, v.InitiatorPublic)
	w.dh(v.InitiatorStatic, re)
	equal("payload of FINISH", w.decrypt(v.Finish[57:]), v.FinishMessages)
	w.first, w.second = w.hkdf(nil)

	for _, s := range []struct {
		sealedVector
		key, tag []byte
	}{{v.FromInitiator, w.first, v.ResponderTag}, {v.FromResponder, w.second, v.InitiatorTag}} {
		head := binary.BigEndian.AppendUint32(append(slices.Clone(s.tag), 0x20), s.Counter)
		equal("head of a sealed datagram", s.Datagram[:13], head)
		equal("sealed messages", openAEAD(t, s.key, uint64(s.Counter), head, s.Datagram[13:]), s.Messages)
	}
}
