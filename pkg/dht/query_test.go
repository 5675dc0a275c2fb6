package dht

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"

	"github.com/sixcast/sixcast/pkg/channel"
)

// ask has a responder answer what the library would send, as the library reads it.
func ask(t *testing.T, r *responder, now time.Time, from netip.AddrPort, method string, a krpc.MsgArgs) (m krpc.Msg, size int) {
	t.Helper()
	a.ID = krpc.ID{1, 2, 3}
	data := bencode.MustMarshal(krpc.Msg{T: "tx", Y: "q", Q: method, A: &a})
	var q query
	if kind(data) != 'q' || !q.parse(data) {
		t.Fatalf("%q does not parse", data)
	}
	b := r.answer(nil, now, from, &q)
	if err := bencode.Unmarshal(b, &m); err != nil || m.T != "tx" {
		t.Fatalf("%q: %v", b, err)
	}
	return m, len(b)
}

func newResponder(nodes ...node) *responder {
	return &responder{id: [20]byte{9}, peers: newPeerStore(), items: newItemStore(), nodes: func() []node { return nodes }}
}

func code(m krpc.Msg) int {
	if m.E == nil {
		return 0
	}
	return m.E.Code
}

func TestResponder(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	me, target := home(1), [20]byte{0x80}
	var nodes []node
	for i := range 20 {
		nodes = append(nodes, node{[20]byte{byte(0x80 + i), 1}, home(10 + i)})
	}
	nodes = append(nodes, node{[20]byte{0x80}, netip.MustParseAddrPort("[fd00::1]:5")}, node{[20]byte{0x80}, me})
	r := newResponder(nodes...)
	m, _ := ask(t, r, now, me, methodPing, krpc.MsgArgs{})
	if m.R == nil || m.R.ID != (krpc.ID{9}) || addrPort(m.IP) != me {
		t.Errorf("ping: %+v", m)
	}
	m, _ = ask(t, r, now, me, methodFindNode, krpc.MsgArgs{Target: target})
	if len(m.R.Nodes6) != k {
		t.Fatalf("find_node: %d nodes", len(m.R.Nodes6))
	}
	for i, n := range m.R.Nodes6 {
		if addrPort(n.Addr) != home(10+i) {
			t.Errorf("find_node: %d is %v: neither the asker nor private addresses are named, and the nearest come first", i, n)
		}
	}
	if m, _ = ask(t, r, now, me, methodFindNode, krpc.MsgArgs{Target: target, Want: []krpc.Want{krpc.WantNodes}}); len(m.R.Nodes6) != 0 {
		t.Error("who wants IPv4 nodes got others")
	}
	// Peers: a token first, and only the asker's own address.
	port := 7000
	if m, _ = ask(t, r, now, me, methodAnnounce, krpc.MsgArgs{InfoHash: target, Port: &port, Token: "nonsense"}); code(m) != 203 {
		t.Errorf("announce_peer with a bad token: %+v", m.E)
	}
	m, _ = ask(t, r, now, me, methodGetPeers, krpc.MsgArgs{InfoHash: target})
	token := *m.R.Token
	if m, _ = ask(t, r, now, home(2), methodAnnounce, krpc.MsgArgs{InfoHash: target, Port: &port, Token: token}); code(m) != 203 {
		t.Errorf("announce_peer with somebody else's token: %+v", m.E)
	}
	if m, _ = ask(t, r, now.Add(9*time.Minute), me, methodAnnounce, krpc.MsgArgs{InfoHash: target, Port: &port, Token: token}); m.R == nil {
		t.Errorf("announce_peer: %+v", m.E)
	}
	if m, _ = ask(t, r, now.Add(21*time.Minute), me, methodAnnounce, krpc.MsgArgs{InfoHash: target, Port: &port, Token: token}); code(m) != 203 {
		t.Errorf("announce_peer with an old token: %+v", m.E)
	}
	m, _ = ask(t, r, now.Add(21*time.Minute), home(3), methodGetPeers, krpc.MsgArgs{InfoHash: target})
	if len(m.R.Values) != 1 || addrPort(m.R.Values[0]) != netip.AddrPortFrom(me.Addr(), 7000) || len(m.R.Nodes6) != k {
		t.Errorf("get_peers: %v", m.R.Values)
	}
	if m, _ = ask(t, r, now.Add(time.Hour), home(3), methodGetPeers, krpc.MsgArgs{InfoHash: target}); len(m.R.Values) != 0 {
		t.Error("a peer is named after an hour")
	}
	if m, _ = ask(t, r, now, me, "vote", krpc.MsgArgs{}); code(m) != 204 {
		t.Errorf("an unknown method: %+v", m.E)
	}
}

func TestResponderKeepsItems(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := newResponder()
	key := newKey(t)
	me := home(1)
	put := func(d channel.Descriptor, change func(*krpc.MsgArgs)) int {
		t.Helper()
		m, _ := ask(t, r, now, me, methodGet, krpc.MsgArgs{Target: key.ID().SwarmID()})
		a := putArgs(d)
		a.Token = *m.R.Token
		if change != nil {
			change(&a)
		}
		m, _ = ask(t, r, now, me, methodPut, a)
		return code(m)
	}
	get := func(now time.Time) (channel.Descriptor, bool) {
		m, n := ask(t, r, now, me, methodGet, krpc.MsgArgs{Target: key.ID().SwarmID()})
		if n > maxReply {
			t.Errorf("a reply of %d bytes", n)
		}
		return descriptor(key.ID(), m.R)
	}
	first, second := sign(t, key, 5, "One"), sign(t, key, 6, "Two")
	twin := sign(t, key, 6, "Twin")
	for _, x := range []struct {
		what string
		d    channel.Descriptor
		with func(*krpc.MsgArgs)
		want int
	}{
		{"a bad token", first, func(a *krpc.MsgArgs) { a.Token = "x" }, 203},
		{"a bad signature", first, func(a *krpc.MsgArgs) { a.Sig[0] ^= 1 }, 206},
		{"another seq than was signed", first, func(a *krpc.MsgArgs) { s := int64(7); a.Seq = &s }, 206},
		{"a salt that was not signed", first, func(a *krpc.MsgArgs) { a.Salt = []byte("salt") }, 206},
		{"a long salt", first, func(a *krpc.MsgArgs) { a.Salt = make([]byte, 65) }, 207},
		{"a long value", first, func(a *krpc.MsgArgs) { a.V = strings.Repeat("x", 1000) }, 205},
		{"no seq", first, func(a *krpc.MsgArgs) { a.Seq = nil }, 203},
		{"a descriptor", first, nil, 0},
		{"it once more", first, nil, 0},
		{"a cas that does not match", second, func(a *krpc.MsgArgs) { a.Cas = 4 }, 301},
		{"a newer one", second, func(a *krpc.MsgArgs) { a.Cas = 5 }, 0},
		{"the older one", first, nil, 302},
		{"another with the same seq", twin, nil, 302},
	} {
		if got := put(x.d, x.with); got != x.want {
			t.Errorf("%s: %d, want %d", x.what, got, x.want)
		}
	}
	if d, ok := get(now.Add(119 * time.Minute)); !ok || !bytes.Equal(d.Item, second.Item) {
		t.Errorf("it has %+v", d)
	}
	if _, ok := get(now.Add(2 * time.Hour)); ok {
		t.Error("it has it after two hours")
	}
	seq := int64(6)
	if m, _ := ask(t, r, now, me, methodGet, krpc.MsgArgs{Target: key.ID().SwarmID(), Seq: &seq}); m.R.V != nil || m.R.Seq == nil || *m.R.Seq != 6 {
		t.Errorf("who has seq 6 got %+v", m.R)
	}
	// The largest there is comes whole, and in one packet.
	seq = 7
	large, err := channel.SignDescriptor(key, seq, channel.Values{Name: "x", Description: strings.Repeat("d", 980)})
	if err != nil {
		t.Fatal(err)
	}
	if got := put(large, nil); got != 0 {
		t.Errorf("the largest: %d", got)
	}
	if d, ok := get(now); !ok || !bytes.Equal(d.Item, large.Item) {
		t.Error("the largest does not come back")
	}
	// Immutable items of others.
	m, _ := ask(t, r, now, me, methodGet, krpc.MsgArgs{Target: krpc.ID{1}})
	if m, _ = ask(t, r, now, me, methodPut, krpc.MsgArgs{V: "Hello World!", Token: *m.R.Token}); m.R == nil {
		t.Fatalf("immutable: %+v", m.E)
	}
	want := krpc.IdFromString("\xe5\xf9\x6f\x6f\x38\x32\x0f\x0f\x33\x95\x9c\xb4\xd3\xd6\x56\x45\x21\x17\xaa\xdb") // BEP 44, test 3
	if m, _ = ask(t, r, now, me, methodGet, krpc.MsgArgs{Target: want}); string(m.R.V) != "12:Hello World!" {
		t.Errorf("immutable: %q", m.R.V)
	}
}

// The test vectors of BEP 44.
func TestItemsOfBEP44(t *testing.T) {
	key := unhex(t, "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548")
	for _, x := range []struct{ salt, sig, target string }{
		{"", "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01", "4a533d47ec9c7d95b1ad75f576cffc641853b750"},
		{"foobar", "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17ddf9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08", "411eba73b6f087ca51a3795d9c8c938d365e32c1"},
	} {
		i := item{key: key, sig: unhex(t, x.sig), seq: 1, value: []byte("12:Hello World!")}
		if x.salt != "" {
			i.salt = []byte(x.salt)
		}
		if why := i.check(); why != nil || i.target() != [20]byte(unhex(t, x.target)) {
			t.Errorf("salt %q: %v, target %x", x.salt, why, i.target())
		}
	}
}

func FuzzQuery(f *testing.F) {
	for _, s := range poison {
		f.Add([]byte(s))
	}
	port, seq := 80, int64(3)
	for _, m := range []string{methodPing, methodFindNode, methodGetPeers, methodAnnounce, methodGet, methodPut} {
		f.Add(bencode.MustMarshal(krpc.Msg{T: "a", Y: "q", Q: m, A: &krpc.MsgArgs{ID: krpc.ID{1}, InfoHash: krpc.ID{2}, Port: &port, Seq: &seq, V: "x",
			K: [32]byte{1}, Sig: [64]byte{2}, Salt: []byte("s"), Token: "t", Want: []krpc.Want{"n4", "n6"}}}))
	}
	r := newResponder(node{[20]byte{1}, home(1)})
	now := time.Unix(1_800_000_000, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		if k := kind(b); k == 0 {
			return
		}
		_ = digestible(b)
		var q query
		if !q.parse(b) {
			return
		}
		out := r.answer(nil, now, home(2), &q)
		if len(out) == 0 || len(out) > maxReply {
			t.Errorf("%q: %q", b, out)
		}
		if kind(out) == 0 || !digestible(out) {
			t.Errorf("%q is answered with %q", b, out)
		}
	})
}

// No lookup fails at a reply, and nothing comes out of one that was not signed.
func FuzzReply(f *testing.F) {
	for _, s := range poison {
		f.Add([]byte(s))
	}
	l := &liar{}
	for n := range 5 {
		f.Add(l.answer(home(1), &query{transaction: []byte("a"), method: methodGet}, n))
	}
	id := channel.ID{1}
	f.Fuzz(func(t *testing.T, b []byte) {
		g := newGuard(nil, false)
		if !g.take(home(1), b) {
			return
		}
		var m krpc.Msg
		_ = bencode.Unmarshal(b, &m)
		if m.R == nil {
			return
		}
		if d, ok := descriptor(id, m.R); ok {
			t.Errorf("%+v", d)
		}
		l := newLookup([20]byte{7}, [20]byte{8}, g.welcome)
		l.add(node{addr: home(1)}, false, nil)
		c, _ := l.next()
		l.take(outcome{of: c, reply: m.R})
		if len(l.contacts) > 1+maxTold {
			t.Errorf("%d contacts", len(l.contacts))
		}
		for _, c := range l.contacts {
			if !usable(c.addr) {
				t.Errorf("%v", c.addr)
			}
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(stateMark + strings.Repeat("x", 20)))
	f.Add([]byte(stateMark + strings.Repeat("x", 20+2*nodeSize)))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, nodes, err := parseState(b)
		if len(nodes) > maxSaved || err != nil && nodes != nil {
			t.Errorf("%d, %v", len(nodes), err)
		}
	})
}
