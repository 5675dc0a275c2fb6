package link

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/wire"
)

// randomAddr is somewhere in the global unicast range.
func randomAddr(r *rand.Rand) netip.AddrPort {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:], r.Uint64())
	binary.BigEndian.PutUint64(a[8:], r.Uint64())
	a[0] = 0x20
	return netip.AddrPortFrom(netip.AddrFrom16(a), uint16(1+r.IntN(65535)))
}

// forgedHello is a HELLO that would be answered.
func forgedHello(r *rand.Rand) []byte {
	b := make([]byte, HelloSize)
	for i := range helloNoise + 32 {
		b[i] = byte(r.Uint32())
	}
	b[0], b[1] = wire.TypeHello, wire.Version
	b[2] |= 0x80
	return b
}

func TestAFloodOfHellosCostsLittleAndDisturbsNothing(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	c := n.add("c", Config{})
	before := b.Stats()
	in, out := map[netip.AddrPort]int{}, map[netip.AddrPort]int{}
	n.watch = func(from, to netip.AddrPort, d []byte) bool {
		if from == b.addr && n.hosts[to] == nil {
			out[to] += len(d)
			return false
		}
		return true
	}
	var link *Link
	const count = 100_000
	start := n.now
	wall := time.Now()
	for i := range count {
		from := randomAddr(n.random)
		d := forgedHello(n.random)
		switch i % 4 {
		case 0: // noise
			d = d[:1+n.random.IntN(wire.MaxDatagram-40)]
			for j := range min(len(d), 64) {
				d[j] = byte(n.random.Uint32())
			}
		case 1: // the same once more
			b.Receive(n.now, from, slices.Clone(d))
			in[from] += len(d)
		}
		in[from] += len(d)
		if r := b.Receive(n.now, from, d); r.Link != nil {
			t.Fatal("a flood came through")
		}
		if i == 5000 {
			link = c.Dial(n.now, b.addr, nil)
		}
		if i%100 == 0 {
			n.run(n.now+10*ms, nil) // 10,000 a second
		}
		if i%1000 == 0 {
			_ = la.SendControl(n.now, message("still here"))
		}
	}
	took := time.Since(wall)
	after := b.Stats()
	spent := float64(n.now-start) / float64(time.Second)
	ops := after.PublicKeyOps - before.PublicKeyOps
	t.Logf("%d datagrams in %.0f s (%v of computing): %d public-key operations, %d cookies, dropped %v", count, spent, took.Round(ms), ops, after.Cookies, after.Dropped)
	// Three operations an ANSWER; no more ANSWERs than may be half-open
	// without a cookie, as often as those die.
	if most := uint64((spent/halfOpenLife.Seconds() + 1) * (loadHalfOpen + 1) * 3); ops > most+4 {
		t.Errorf("%d public-key operations, at most %d expected", ops, most)
	}
	if !la.Established() || !lb.Established() || len(b.got) != count/1000 {
		t.Errorf("the standing link suffered: %d of %d messages", len(b.got), count/1000)
	}
	if !link.Established() || b.ByPeer(c.Key()) == nil {
		t.Error("a true peer did not get through")
	}
	for to, bytes := range out {
		if bytes > 3*in[to] {
			t.Errorf("%v was sent %d bytes for %d", to, bytes, in[to])
		}
	}
	n.run(n.now+6*time.Second, nil)
	if s := b.Stats(); s.HalfOpen != 0 || len(b.tags) != s.Links || len(b.prefixes) != s.Links || len(b.accepted) != s.Links {
		t.Errorf("something is left of the flood: %+v", s)
	}
}

func TestGoodCookiesDoNotFillTheTable(t *testing.T) {
	n, a, b := pair(t, 1)
	n.connect(a, b)
	// Somebody who can receive at every address of a /32 and never finishes.
	cookies := map[netip.AddrPort][]byte{}
	n.watch = func(from, to netip.AddrPort, d []byte) bool {
		if from == b.addr && d[0] == wire.TypeCookie {
			cookies[to] = slices.Clone(d)
		}
		return true
	}
	c := n.add("c", Config{})
	var link *Link
	before := b.Stats().PublicKeyOps
	for i := range 2_500 { // 500 a second
		from := randomAddr(n.random)
		d := forgedHello(n.random)
		b.Receive(n.now, from, slices.Clone(d))
		if cookie, ok := cookies[from]; ok {
			copy(d[helloPrologue:helloNoise], cookie[helloPrologue:])
			b.Receive(n.now, from, d)
		}
		if i%25 == 0 {
			n.run(n.now+50*ms, nil)
		}
		if i == 500 {
			link = c.Dial(n.now, b.addr, nil)
		}
		if s := b.Stats(); s.HalfOpen > 256 {
			t.Fatalf("%d half-open", s.HalfOpen)
		}
	}
	ops := b.Stats().PublicKeyOps - before
	t.Logf("5 s: %d public-key operations", ops)
	if ops > 6*256*3+4 {
		t.Errorf("%d public-key operations in 5 s", ops)
	}
	if !link.Established() {
		t.Error("a true peer did not get through")
	}
}

func TestCookiesAreGoodForAnAddressATagAndAFewMinutes(t *testing.T) {
	_, a, _ := pair(t, 1)
	from, tag := addr("[2001:db8::1]:5"), wire.TagBit|5
	now := 10*time.Minute + time.Second
	c := a.cookie(now, 0, tag, from)
	for _, k := range []struct {
		at   Time
		from string
		tag  wire.Tag
		want bool
	}{
		{now, "[2001:db8::1]:5", tag, true},
		{now + 2*time.Minute, "[2001:db8::1]:5", tag, true},
		{now + 4*time.Minute, "[2001:db8::1]:5", tag, false},
		{now, "[2001:db8::1]:6", tag, false},
		{now, "[2001:db8::2]:5", tag, false},
		{now, "[2001:db8::1]:5", tag + 1, false},
	} {
		if got := a.goodCookie(k.at, c[:], k.tag, addr(k.from)); got != k.want {
			t.Errorf("%+v: %v", k, got)
		}
	}
	if a.goodCookie(now, make([]byte, cookieSize), tag, from) {
		t.Error("no cookie is a good cookie")
	}
}

// handshakeOf captures the datagrams of one handshake and one sealed datagram
// each way, none of which has reached b (or a) yet.
type handshakeOf struct {
	n             *network
	a, b          *host
	la            *Link
	hello, answer []byte
	finish        []byte
}

func capture(t testing.TB, seed uint64) *handshakeOf {
	n, a, b := pair(t, seed)
	c := &handshakeOf{n: n, a: a, b: b}
	var last []byte
	n.watch = func(_, _ netip.AddrPort, d []byte) bool { last = slices.Clone(d); return false }
	c.la = a.Dial(0, b.addr, func(dst []byte) []byte { return append(dst, message("join")...) })
	c.hello = last
	b.Receive(0, a.addr, slices.Clone(c.hello))
	c.answer = last
	return c
}

func (c *handshakeOf) giveAnswer() {
	c.n.watch = func(_, _ netip.AddrPort, d []byte) bool {
		if c.finish == nil {
			c.finish = slices.Clone(d)
		}
		return false
	}
	c.a.Receive(0, c.b.addr, slices.Clone(c.answer))
}

func TestATamperedAnswerLeavesTheDialIntact(t *testing.T) {
	c := capture(t, 1)
	for i := range c.answer {
		d := slices.Clone(c.answer)
		d[i] ^= 1
		c.a.Receive(0, c.b.addr, d)
		if c.la.Established() {
			t.Fatalf("established with byte %d changed", i)
		}
	}
	for i := range c.answer {
		c.a.Receive(0, c.b.addr, slices.Clone(c.answer[:i]))
	}
	c.giveAnswer()
	if !c.la.Established() {
		t.Error("the true ANSWER came too late")
	}
}

func TestAnAnswerWithoutAKeyLeavesTheDialIntact(t *testing.T) {
	n, a, b := pair(t, 1)
	la := a.Dial(0, b.addr, nil)
	d := make([]byte, AnswerSize)
	d[0], d[1] = wire.TypeAnswer, wire.Version
	binary.BigEndian.PutUint64(d[2:], uint64(la.tag))
	a.Receive(0, b.addr, d)
	n.run(time.Second, nil)
	if !la.Established() {
		t.Error("a low-order key spoiled the handshake")
	}
}

func TestATamperedFinishLeavesTheHalfOpenIntact(t *testing.T) {
	c := capture(t, 1)
	c.giveAnswer()
	for i := range c.finish {
		d := slices.Clone(c.finish)
		d[i] ^= 1
		if r := c.b.Receive(0, c.a.addr, d); r.Link != nil || len(c.b.established) != 0 {
			t.Fatalf("established with byte %d changed", i)
		}
	}
	for i := range c.finish {
		if r := c.b.Receive(0, c.a.addr, slices.Clone(c.finish[:i])); r.Link != nil {
			t.Fatalf("established with %d bytes", i)
		}
	}
	if r := c.b.Receive(0, addr("[2001:db8:bad::1]:1"), slices.Clone(c.finish)); r.Link != nil {
		t.Error("established from another address")
	}
	if r := c.b.Receive(0, c.a.addr, slices.Clone(c.finish)); r.Link == nil || r.Link.Peer() != c.a.Key() || len(r.Messages) == 0 {
		t.Error("the true FINISH came too late")
	}
	if r := c.b.Receive(0, c.a.addr, slices.Clone(c.finish)); r.Link != nil || len(c.b.established) != 1 {
		t.Error("FINISH counted twice")
	}
}

func TestATamperedFinishCostsNoMoreThanOneOperation(t *testing.T) {
	c := capture(t, 1)
	c.giveAnswer()
	before := c.b.Stats().PublicKeyOps
	for i := range 1000 {
		d := slices.Clone(c.finish)
		d[finishHead+i%48] ^= byte(1 + i/48)
		c.b.Receive(0, c.a.addr, d)
	}
	if ops := c.b.Stats().PublicKeyOps - before; ops != 0 {
		t.Errorf("%d operations for FINISHes whose key does not decrypt", ops)
	}
}

func TestATamperedHelloMakesNoLink(t *testing.T) {
	base := capture(t, 1)
	for i := range helloNoise + 32 {
		n, a, b := pair(t, 1)
		n.watch = func(_, _ netip.AddrPort, d []byte) bool {
			if d[0] == wire.TypeHello {
				if i == 0 && string(d) != string(base.hello) {
					t.Fatal("not the same HELLO")
				}
				d = slices.Clone(d)
				d[i] ^= 1
				b.Receive(n.now, a.addr, d)
				return false
			}
			return true
		}
		la := a.Dial(0, b.addr, nil)
		n.run(100*ms, nil)
		// The cookie is no part of what the two agree on, and means nothing
		// without load; every other byte counts.
		want := i >= helloPrologue && i < helloNoise
		if la.Established() != want || (len(b.established) == 1) != want {
			t.Errorf("byte %d: established %v", i, la.Established())
		}
	}
	n, a, b := pair(t, 1)
	for size := range HelloSize + 33 {
		if size != HelloSize {
			b.Receive(n.now, a.addr, append(slices.Clone(base.hello), make([]byte, 33)...)[:size])
		}
	}
	if s := b.Stats(); s.HalfOpen != 0 || s.PublicKeyOps > 1 {
		t.Errorf("a HELLO of the wrong length: %+v", s)
	}
}

// Every PING is answered by a peer that sends few of them, not by one that
// wants to be sent to.
func TestAFloodOfPingsIsNotAnsweredInFull(t *testing.T) {
	n, a, b := pair(t, 42)
	la, lb := n.connect(a, b)
	before := lb.Stats().SealedOut
	for range 5000 {
		la.SendControl(n.now, wire.AppendMessage(nil, wire.MsgPing, []byte("ping")))
		n.run(n.now+time.Millisecond, nil)
	}
	if sent := lb.Stats().SealedOut - before; sent > 6*maxReplies {
		t.Errorf("%d datagrams answer 5,000 PINGs of 5 s", sent)
	}
	if !la.Established() || !lb.Established() {
		t.Error("the link is gone")
	}
}

func TestATamperedSealedDatagramIsDropped(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	var kept []byte
	n.watch = func(_, _ netip.AddrPort, d []byte) bool { kept = slices.Clone(d); return false }
	_ = la.SendControl(n.now, message("hello"))
	n.watch = func(netip.AddrPort, netip.AddrPort, []byte) bool { t.Error("answered"); return false }
	other := addr("[2001:db8:bad::1]:1")
	for i := range kept {
		d := slices.Clone(kept)
		d[i] ^= 1
		if r := b.Receive(n.now, other, d); r.Link != nil {
			t.Fatalf("accepted with byte %d changed", i)
		}
		if r := b.Receive(n.now, other, slices.Clone(kept[:i])); r.Link != nil {
			t.Fatalf("accepted with %d bytes", i)
		}
	}
	n.watch = nil
	if r := b.Receive(n.now, a.addr, kept); r.Link != lb {
		t.Error("the true datagram was dropped")
	}
}

func TestWhatIsNoDatagramOfOursIsCounted(t *testing.T) {
	_, a, _ := pair(t, 1)
	hello := forgedHello(rand.New(rand.NewPCG(1, 1)))
	old := slices.Clone(hello)
	old[1] = 2
	for _, c := range []struct {
		b    []byte
		want DropReason
	}{
		{nil, DropSize},
		{[]byte{1}, DropSize},
		{make([]byte, 1233), DropSize},
		{make([]byte, 100), DropType},
		{[]byte("\x10 a shard without a tag"), DropType},
		{[]byte("\x12 a beacon without a group"), DropType},
		{[]byte("\x20 sealed without a tag"), DropType},
		{old, DropVersion},
		{hello[:1199], DropSize},
		{append(slices.Clone(hello), 0), DropSize},
		{[]byte("\x02\x01\x80234567812345678123456781"), DropSize},
		{[]byte("\x02\x01\x8023456781234567812345678"), DropTag},
		{[]byte("\x03\x01\x802345678"), DropSize},
		{append([]byte("\x03\x01\x802345678"), make([]byte, 122)...), DropTag},
		{append([]byte("\x03\x02\x802345678"), make([]byte, 122)...), DropVersion},
		{[]byte("\x80tagged\x00\x10"), DropTag},
	} {
		before := a.Stats()
		a.Receive(0, addr("[2001:db8:9::1]:1"), c.b)
		after := a.Stats()
		if after.Drops(c.want) != before.Drops(c.want)+1 {
			t.Errorf("%.20q: not counted as %v: %v", c.b, c.want, after.Dropped)
		}
	}
	if DropRate.String() != "rate" || DropReason(200).String() != "unknown" {
		t.Error("names")
	}
}

func TestLimitsOfAPrefixAndOfTheNode(t *testing.T) {
	n := newNetwork(t, 1)
	b := n.add("b", Config{MaxLinks: 24})
	neighbours := func(count int, prefix byte) (up int) {
		for i := range count {
			h := n.add("x", Config{})
			a := h.addr.Addr().As16()
			clear(a[4:])
			a[6], a[15] = prefix, byte(i+1)
			n.moveTo(h, netip.AddrPortFrom(netip.AddrFrom16(a), 1).String())
			l := h.Dial(n.now, b.addr, nil)
			n.run(n.now+500*ms, nil)
			if l.Established() {
				up++
			}
		}
		return up
	}
	if up := neighbours(20, 1); up != 16 {
		t.Errorf("%d links from one /64", up)
	}
	if up := neighbours(20, 2); up != 8 {
		t.Errorf("%d links beside them", up)
	}
	if s := b.Stats(); s.Links != 24 || s.Drops(DropFull) == 0 {
		t.Errorf("%+v", s)
	}
	before := b.Stats().PublicKeyOps
	full := b.Dial(n.now, addr("[2001:db8:9::1]:1"), nil)
	n.run(n.now+ms, nil)
	if b.closed[full] != wire.ByeFull || b.Stats().PublicKeyOps != before {
		t.Error("dialled beyond the limit")
	}

	// Half-open: 16 a /64 as well.
	c := n.add("c", Config{})
	for i := range 40 {
		from := netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}), 9)
		c.Receive(n.now, from, forgedHello(n.random))
	}
	if s := c.Stats(); s.HalfOpen != 16 {
		t.Errorf("%d half-open from one /64", s.HalfOpen)
	}
}

func TestBansGrowAndAreForgotten(t *testing.T) {
	n, a, b := pair(t, 1)
	want := time.Minute
	for range 8 {
		la, lb := n.connect(a, b)
		b.Ban(n.now, lb)
		b.Close(n.now, lb, wire.ByeMisbehaviour, "")
		n.run(n.now+100*ms, nil)
		if a.closed[la] != wire.ByeMisbehaviour {
			t.Error(a.closed[la])
		}
		if got := b.Banned(n.now-100*ms, a.Key()); got != want {
			t.Fatalf("refused for %v, want %v", got, want)
		}
		ops := b.Stats().PublicKeyOps
		tried := a.Dial(n.now, b.addr, nil)
		n.run(n.now+want-time.Second, nil)
		if tried.Established() || b.Stats().PublicKeyOps != ops {
			t.Fatal("a banned address cost something")
		}
		a.Close(n.now, tried, wire.ByeLeaving, "")
		// From another port the handshake is answered, the key refused.
		if want == time.Minute {
			n.moveTo(a, "[2001:db8:1::1]:7777")
			l := a.Dial(n.now, b.addr, nil)
			n.run(n.now+300*ms, nil)
			if a.closed[l] != wire.ByeRefused || len(b.established) != 1 {
				t.Error("a banned key got a link")
			}
			if b.Refused(n.now, a.addr) == 0 {
				t.Error("its new address is worth another handshake")
			}
		}
		n.run(n.now+time.Second, nil)
		want = min(2*want, time.Hour)
	}
	if want != time.Hour {
		t.Fatal("not doubled")
	}
	n.run(n.now+3*time.Hour, nil)
	_, lb := n.connect(a, b)
	b.Ban(n.now, lb)
	if got := b.Banned(n.now, a.Key()); got != time.Minute {
		t.Errorf("after hours of silence refused for %v", got)
	}
}

func TestOneDoesNotDialWhomOneBanned(t *testing.T) {
	n, a, b := pair(t, 1)
	la, _ := n.connect(a, b)
	a.Ban(n.now, la)
	a.Close(n.now, la, wire.ByeMisbehaviour, "")
	n.run(n.now+time.Second, nil)
	sent := n.sent
	l := a.Dial(n.now, b.addr, nil)
	n.run(n.now+50*time.Second, nil)
	if n.sent != sent {
		t.Error("dialled during the ban")
	}
	n.run(n.now+20*time.Second, nil)
	if !l.Established() {
		t.Error("not dialled after the ban")
	}
	// Elsewhere the banned key is recognised by its ANSWER.
	a.Ban(n.now, l)
	a.Close(n.now, l, wire.ByeMisbehaviour, "")
	n.moveTo(b, "[2001:db8:2::99]:1")
	l = a.Dial(n.now, b.addr, nil)
	n.run(n.now+time.Second, nil)
	if a.closed[l] != wire.ByeRefused {
		t.Errorf("reason %v", a.closed[l])
	}
}

func TestAPrefixOfManyBannedIdentitiesIsRefused(t *testing.T) {
	n := newNetwork(t, 1)
	b := n.add("b", Config{MaxLinksPer64: 4})
	for i := range 4 {
		h := n.add("x", Config{})
		n.moveTo(h, netip.AddrPortFrom(netip.MustParseAddr("2001:db8:666::1"), uint16(i+1)).String())
		if wait := b.Refused(n.now, h.addr); wait != 0 {
			t.Fatalf("refused after %d", i)
		}
		_, l := n.connect(h, b)
		b.Ban(n.now, l)
		b.Close(n.now, l, wire.ByeMisbehaviour, "")
	}
	if b.Refused(n.now, addr("[2001:db8:666::abcd]:9")) == 0 {
		t.Error("the /64 is not refused")
	}
	if b.Refused(n.now, addr("[2001:db8:667::abcd]:9")) != 0 {
		t.Error("its neighbour is")
	}
	if b.Refused(n.now+time.Minute, addr("[2001:db8:666::abcd]:9")) != 0 {
		t.Error("for ever")
	}
}

func TestBansAreBounded(t *testing.T) {
	b := make(bans)
	for i := range maxBans + 100 {
		var k PublicKey
		binary.BigEndian.PutUint64(k[:], uint64(i))
		b.offence(Time(i)*time.Millisecond, byKey(k), 0)
	}
	if len(b) != maxBans {
		t.Errorf("%d bans", len(b))
	}
	var last PublicKey
	binary.BigEndian.PutUint64(last[:], maxBans+99)
	if b.until(0, byKey(last)) == 0 || b.until(0, byKey(PublicKey{})) != 0 {
		t.Error("the newest made room for the oldest")
	}
}

func TestTimersComeUpInOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 3))
	var h timers
	all := make([]*timer, 300)
	for i := range all {
		all[i] = &timer{index: -1}
	}
	for range 20_000 {
		x := all[random.IntN(len(all))]
		switch random.IntN(4) {
		case 0:
			h.remove(x)
		case 1:
			h.sooner(x, Time(random.IntN(1000)))
		default:
			h.set(x, Time(random.IntN(1000)))
		}
		least, count := Never, 0
		for i, y := range all {
			if y.index >= 0 {
				if h[y.index] != y {
					t.Fatalf("timer %d is not where it says", i)
				}
				least = min(least, y.at)
				count++
			}
		}
		if h.next() != least || count != len(h) {
			t.Fatalf("next %v, want %v", h.next(), least)
		}
	}
}

func FuzzReceive(f *testing.F) {
	c := capture(f, 1)
	c.giveAnswer()
	f.Add(c.hello, uint16(0))
	f.Add(c.answer, uint16(1))
	f.Add(c.finish, uint16(2))
	f.Add([]byte("\x02\x01\x8023456781234567812345678"), uint16(3))
	f.Add(append(make([]byte, 8), wire.TypeSealed, 0, 0, 0, 1, 2, 3), uint16(4))
	f.Fuzz(func(t *testing.T, b []byte, how uint16) {
		n := newNetwork(t, 1)
		x, y := n.add("x", Config{Null: true}), n.add("y", Config{Null: true})
		lx, ly := n.connect(x, y)
		z := y.Dial(n.now, addr("[2001:db8:9::1]:1"), nil)
		y.Receive(n.now, addr("[2001:db8:8::1]:1"), forgedHello(n.random))
		in, out := len(b), 0
		from := addr("[2001:db8:7::1]:1")
		n.watch = func(_, to netip.AddrPort, d []byte) bool {
			if to == from {
				out += len(d)
			}
			return true
		}
		// Put a live tag in front, so that more than the first test is reached.
		if len(b) >= 10 {
			switch how % 5 {
			case 1:
				copy(b, tagBytes(ly.tag))
			case 2:
				copy(b, tagBytes(y.NewTag(ly, 1)))
			case 3:
				copy(b[2:], tagBytes(z.tag))
			case 4:
				for tag, to := range y.tags {
					if to.half != nil {
						copy(b, tagBytes(tag))
					}
				}
			}
		}
		r := y.Receive(n.now, from, b)
		if r.Messages != nil {
			t.Error("unauthenticated messages came through")
		}
		if out > 3*in {
			t.Errorf("%d bytes for %d", out, in)
		}
		// Plaintext that a peer with a key might send.
		ly.control(n.now, from, b)
		if out > 3*(in+wire.SealedOverhead) {
			t.Errorf("%d bytes for %d sealed ones", out, in)
		}
		if lx.state == open && ly.state == open {
			n.run(n.now+2*time.Second, nil)
		}
	})
}

func seededRand() *rand.Rand { return rand.New(rand.NewPCG(7, 7)) }

func TestManyNodesOfOneMachineMayLink(t *testing.T) {
	n := newNetwork(t, 1)
	b := n.add("b", Config{})
	n.moveTo(b, "[::1]:6466")
	for i := range 40 {
		h := n.add("x", Config{})
		n.moveTo(h, netip.AddrPortFrom(netip.IPv6Loopback(), uint16(7000+i)).String())
		h.Dial(n.now, b.addr, nil)
		n.run(n.now+200*ms, nil)
	}
	if s := b.Stats(); s.Links != 40 {
		t.Errorf("%d of 40 links over loopback", s.Links)
	}
}
