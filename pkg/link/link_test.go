package link

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sixcast/sixcast/pkg/wire"
)

const ms = time.Millisecond

func TestTheFirstMessagesArriveAfterOneAndAHalfRoundTrips(t *testing.T) {
	n, a, b := pair(t, 1)
	first := message("join")
	var la *Link
	la = a.Dial(0, b.addr, func(dst []byte) []byte {
		if la.Peer() != b.Key() {
			t.Error("the peer is not known when FINISH is written")
		}
		return append(dst, first...)
	})
	n.run(75*ms, nil)
	if diff := cmp.Diff([]string{"16:join"}, b.got); diff != "" {
		t.Fatal(diff)
	}
	n.run(200*ms, nil)
	lb := b.up()
	for _, l := range []*Link{la, lb} {
		if rtt, _ := l.RTT(); rtt != 50*ms {
			t.Errorf("round-trip time %v, want 50ms", rtt)
		}
	}
	if la.finishSent != nil {
		t.Error("FINISH is kept although the responder was heard")
	}
	if la.Observed() != a.addr || lb.Addr() != a.addr || la.Addr() != b.addr {
		t.Error("wrong addresses")
	}
	if lb.Peer() != a.Key() || !la.Initiator() || lb.Initiator() {
		t.Error("wrong ends")
	}
	// HELLO, ANSWER, FINISH, PONG with PING, PONG: nobody repeats on a good network.
	if n.sent > 5 {
		t.Errorf("%d datagrams, want at most 5", n.sent)
	}
}

func TestLinksComeUpUnderLossReorderingAndDuplication(t *testing.T) {
	var worst, sum time.Duration
	const seeds = 60
	for seed := range uint64(seeds) {
		n, a, b := pair(t, seed)
		n.loss, n.double, n.delay, n.jitter = 0.3, 0.2, 5*ms, 100*ms
		a.Dial(0, b.addr, func(dst []byte) []byte { return append(dst, message("join")...) })
		a.onClosed = func(*Link, wire.ByeReason) { a.Dial(n.now, b.addr, nil) }
		ok := n.run(30*time.Second, func() bool { return b.up() != nil && a.up() != nil && a.up().confirmed })
		if !ok {
			t.Fatalf("seed %d: no link after %v", seed, n.now)
		}
		worst, sum = max(worst, n.now), sum+n.now
		if got := slices.Compact(slices.Clone(b.got)); !cmp.Equal(got, []string{"16:join"}) || len(b.got) > 1 {
			t.Errorf("seed %d: FINISH said %q", seed, b.got)
		}
		// And what is sealed arrives at most once.
		want := map[string]bool{}
		for i := range 200 {
			text := fmt.Sprint(i)
			want["16:"+text] = true
			if err := a.up().SendControl(n.now, message(text)); err != nil {
				t.Fatal(err)
			}
		}
		b.got = nil
		n.run(n.now+time.Second, nil)
		for _, g := range b.got {
			if !want[g] {
				t.Fatalf("seed %d: %q came twice or was never sent", seed, g)
			}
			delete(want, g)
		}
		if len(b.got) < 100 {
			t.Errorf("seed %d: %d of 200 arrived", seed, len(b.got))
		}
	}
	t.Logf("confirmed after %v on average, %v at most (30%% loss, 5 to 105 ms one way)", sum/seeds, worst)
	if sum/seeds > 2*time.Second || worst > 15*time.Second {
		t.Error("too slow")
	}
}

func TestHelloIsRepeatedForEver(t *testing.T) {
	n := newNetwork(t, 1)
	a := n.add("a", Config{})
	var at []Time
	n.watch = func(_, _ netip.AddrPort, b []byte) bool {
		if len(b) != HelloSize || b[0] != wire.TypeHello {
			t.Fatalf("% x", b[:10])
		}
		at = append(at, n.now)
		return true
	}
	l := a.Dial(0, addr("[2001:db8:ffff::1]:6466"), nil)
	n.run(31*time.Second, nil)
	want := []Time{0, 150 * ms, 450 * ms, 1050 * ms, 2250 * ms, 4650 * ms, 9450 * ms, 14450 * ms, 19450 * ms, 24450 * ms, 29450 * ms}
	if diff := cmp.Diff(want, at); diff != "" {
		t.Error(diff)
	}
	if l.Tries() != len(want) {
		t.Errorf("%d tries", l.Tries())
	}
	if err := l.SendControl(n.now, nil); !errors.Is(err, ErrNotEstablished) {
		t.Error(err)
	}
	a.Close(n.now, l, wire.ByeLeaving, "")
	if a.NextDeadline() != Never || a.Stats().Links != 0 || len(a.tags) != 0 || len(a.prefixes) != 0 {
		t.Error("something is left of a link that was given up")
	}
}

func TestAnIdleLinkIsKeptAliveOnceASecond(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	n.run(10*time.Second, nil)
	before := n.sent
	n.run(70*time.Second, nil)
	if perSecond := float64(n.sent-before) / 60; perSecond < 1.8 || perSecond > 4.1 {
		t.Errorf("%.1f datagrams a second on an idle link", perSecond)
	}
	if !la.Established() || !lb.Established() {
		t.Error("an idle link died")
	}
	for _, l := range []*Link{la, lb} {
		if n.now-l.pingOn > 3*time.Second {
			t.Error("the round-trip time is not kept up")
		}
	}
}

func TestTheRoundTripTimeIsKeptUpOnABusyLink(t *testing.T) {
	n, a, b := pair(t, 1)
	la, _ := n.connect(a, b)
	n.delay = 60 * ms
	for range 200 {
		n.run(n.now+200*ms, nil)
		if err := la.SendControl(n.now, message("report")); err != nil {
			t.Fatal(err)
		}
	}
	if rtt, v := la.RTT(); rtt < 100*ms || rtt > 120*ms {
		t.Errorf("round-trip time %v ± %v, want towards 120ms", rtt, v)
	}
}

func TestASilentPeerIsDeadAfterFiveSeconds(t *testing.T) {
	n, a, b := pair(t, 1)
	la, _ := n.connect(a, b)
	b.down = true
	heard := la.Heard()
	n.run(heard+deadAfter-1, nil)
	if !la.Established() {
		t.Fatal("given up too early")
	}
	n.run(heard+deadAfter, nil)
	if r, ok := a.closed[la]; !ok || r != Silent {
		t.Fatalf("closed: %v, reason %v", ok, r)
	}
	if err := la.SendControl(n.now, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if a.NextDeadline() != Never || len(a.tags) != 0 || len(a.prefixes) != 0 || a.ByPeer(b.Key()) != nil {
		t.Error("something is left of a dead link")
	}
}

func TestBareDatagramsKeepALinkAlive(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	tag := a.NewTag(la, "channel")
	n.watch = func(from, _ netip.AddrPort, d []byte) bool { return from != b.addr || d[8] == wire.TypeShard }
	for range 20 {
		n.run(n.now+time.Second, nil)
		b.Send(lb.Addr(), append(tagBytes(tag), wire.TypeShard, 1, 2))
	}
	if !la.Established() {
		t.Error("dead although shards came")
	}
	if len(a.bare) != 19 || a.bare[0] != "\x10\x01\x02" || a.lastBare != "channel" {
		t.Errorf("%d bare datagrams with value %v", len(a.bare), a.lastBare)
	}
}

func tagBytes(tag wire.Tag) []byte {
	return []byte{byte(tag >> 56), byte(tag >> 48), byte(tag >> 40), byte(tag >> 32), byte(tag >> 24), byte(tag >> 16), byte(tag >> 8), byte(tag)}
}

func TestTagsTellWhatMayComeBehindThem(t *testing.T) {
	n, a, b := pair(t, 1)
	la, _ := n.connect(a, b)
	tag := a.NewTag(la, 7)
	other := a.NewTag(la, 8)
	if tag&wire.TagBit == 0 || tag == other {
		t.Fatal("bad tags")
	}
	for _, c := range []struct {
		tag  wire.Tag
		typ  byte
		want any
	}{
		{tag, wire.TypeShard, 7},
		{tag, wire.TypeManifest, 7},
		{other, wire.TypeDescriptor, 8},
		{tag, wire.TypeBeacon, nil},
		{tag, wire.TypeSealed, nil},
		{tag, wire.TypeFinish, nil},
		{la.tag, wire.TypeShard, nil},
		{tag ^ 1, wire.TypeShard, nil},
	} {
		b := append(tagBytes(c.tag), c.typ)
		r := a.Receive(n.now, b2(c.typ), append(b, make([]byte, 40)...))
		if r.Value != c.want || (c.want != nil) != (r.Link == la && len(r.Bare) == 41) {
			t.Errorf("tag %x type %#x: %v", c.tag, c.typ, r)
		}
	}
	a.DropTag(la, tag)
	if r := a.Receive(n.now, b.addr, append(tagBytes(tag), wire.TypeShard, 0)); r.Link != nil {
		t.Error("something came behind a dropped tag")
	}
	a.Close(n.now, la, wire.ByeLeaving, "")
	if r := a.Receive(n.now, b.addr, append(tagBytes(other), wire.TypeShard, 0)); r.Link != nil {
		t.Error("something came on a closed link")
	}
	if late := a.NewTag(la, 1); a.Receive(n.now, b.addr, append(tagBytes(late), wire.TypeShard, 0)).Link != nil {
		t.Error("a closed link got a tag")
	}
}

// b2 is some address: bare datagrams may come from any.
func b2(b byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: b}), 1)
}

func TestByeEndsALinkOnBothSides(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	b.Close(n.now, lb, wire.ByeFull, "no room, "+strings.Repeat("é", 200))
	n.run(n.now+100*ms, nil)
	if r := a.closed[la]; r != wire.ByeFull || !strings.HasPrefix(a.texts[la], "no room, é") || len(a.texts[la]) > wire.MaxByeText {
		t.Errorf("reason %v, text %q", r, a.texts[la])
	}
	if len(b.closed) != 0 {
		t.Error("Close told its own caller")
	}
	if a.Stats().Links+b.Stats().Links != 0 {
		t.Error("links are left")
	}
	// A reason that is not for the wire is not believed.
	la, lb = n.connect(a, b)
	lb.bye(n.now, Self, "")
	n.run(n.now+100*ms, nil)
	if r := a.closed[la]; r != wire.ByeLeaving {
		t.Errorf("reason %v", r)
	}
}

func TestWhatCannotBeSentIsRefused(t *testing.T) {
	n, a, b := pair(t, 1)
	la, _ := n.connect(a, b)
	var longest int
	n.watch = func(_, _ netip.AddrPort, b []byte) bool { longest = max(longest, len(b)); return true }
	if err := la.SendControl(n.now, make([]byte, wire.MaxControl+1)); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
	if err := la.SendControl(n.now+time.Minute, make([]byte, wire.MaxControl)); err != nil || longest != wire.MaxDatagram {
		t.Error(err, longest)
	}
	// What does not fit into FINISH is left out by whole messages.
	c := n.add("c", Config{})
	c.Dial(n.now, b.addr, func(dst []byte) []byte {
		dst = append(dst, message("first")...)
		dst = append(dst, message(strings.Repeat("x", 900))...)
		return append(dst, message(strings.Repeat("y", 100))...)
	})
	n.run(n.now+time.Second, nil)
	if len(b.got) != 2 || b.got[0] != "16:first" || len(b.got[1]) != 903 {
		t.Errorf("%d messages", len(b.got))
	}
}

func TestAReplayedDatagramIsDropped(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	var kept [][]byte
	n.watch = func(_, to netip.AddrPort, d []byte) bool { kept = append(kept, slices.Clone(d)); return false }
	for i := range 1500 {
		_ = la.SendControl(n.now, message(fmt.Sprint(i)))
	}
	n.watch = func(netip.AddrPort, netip.AddrPort, []byte) bool { return false }
	order := rand.New(rand.NewPCG(1, 1)).Perm(1000)
	first := func(i int) []byte { return slices.Clone(kept[i]) }
	for _, i := range order {
		if r := b.Receive(n.now, a.addr, first(i)); r.Link != lb {
			t.Fatalf("%d was dropped: %v", i, b.Stats().Dropped)
		}
	}
	for _, i := range order {
		if r := b.Receive(n.now, a.addr, first(i)); r.Link != nil {
			t.Fatalf("%d came twice", i)
		}
	}
	b.Receive(n.now, a.addr, first(1499))
	if r := b.Receive(n.now, a.addr, first(1200)); r.Link == nil {
		t.Error("299 late was dropped")
	}
	s := b.Stats()
	if s.Drops(DropReplay) != 1000 || lb.Stats().Replayed != 1000 {
		t.Errorf("%d replays were counted", s.Drops(DropReplay))
	}
}

func TestTheReplayWindowAgreesWithASet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		var w replays
		seen := map[uint32]bool{}
		top, none, missing := uint32(0), true, 0
		at := random.Uint32N(5000)
		for range 5000 {
			var n uint32
			switch random.IntN(20) {
			case 0:
				at += random.Uint32N(3000)
			default:
				at += random.Uint32N(3)
			}
			n = at - min(at, random.Uint32N(1100))
			want := !seen[n] && (none || n > top || top-n < replayWindow)
			if got := w.fresh(n); got != want {
				t.Fatalf("fresh(%d) = %v with newest %d", n, got, top)
			}
			if want {
				missing += w.mark(n)
				seen[n] = true
				top, none = max(top, n), false
			}
		}
		if want := int(top) + 1 - len(seen); missing != want {
			t.Fatalf("%d missing, not %d", missing, want)
		}
	}
	var w replays
	w.mark(math.MaxUint32)
	if w.fresh(math.MaxUint32) || !w.fresh(math.MaxUint32-1) || w.fresh(math.MaxUint32-replayWindow) {
		t.Error("wrong at the end of the counter")
	}
}

func TestWhatTheWayLoses(t *testing.T) {
	count := func(counters ...uint32) *Link {
		l := new(Link)
		for _, n := range counters {
			if l.window.fresh(n) {
				l.way.count(l.window.mark(n))
			}
		}
		return l
	}
	jump := []uint32{0, 1000}
	for n := range uint32(900) {
		jump = append(jump, 999-n)
	}
	for _, c := range []struct {
		name      string
		l         *Link
		due, came float64
	}{
		{"all come", count(0, 1, 2, 3), 4, 4},
		{"two are lost", count(0, 3, 4), 5, 3},
		{"one comes late", count(0, 2, 1), 3, 3},
		{"one comes twice", count(0, 2, 1, 1), 3, 3},
		{"an outage", count(0, lossGap+1, lossGap+2), 2, 2},
		{"an outage that was none", count(jump...), 1, 1},
		{"the greatest jump", count(0, math.MaxUint32), 1, 1},
	} {
		if due, came := c.l.Sealed(100); due != c.due || came != c.came {
			t.Errorf("%s: %v of %v came, want %v of %v", c.name, came, due, c.came, c.due)
		}
	}
	l := count(0, 39)
	if due, came := l.Sealed(10); due != 10 || came != 0.5 {
		t.Errorf("%v of %v came, want 0.5 of 10", came, due)
	}
	if due, came := l.Sealed(10); due != 0 || came != 0 {
		t.Errorf("%v of %v came since", came, due)
	}
}

func TestALinkEndsBeforeItsCounterWraps(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	la.counter = math.MaxUint32 - 1
	if err := la.SendControl(n.now, message("last")); err != nil {
		t.Fatal(err)
	}
	if err := la.SendControl(n.now, message("too many")); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	n.run(n.now+time.Second, nil)
	if a.closed[la] != Exhausted || b.closed[lb] != wire.ByeLeaving || !cmp.Equal(b.got, []string{"16:last"}) {
		t.Errorf("%v %v %q", a.closed, b.closed, b.got)
	}
}

func TestAPeerMovesAfterItsNewAddressHasAnswered(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	old := a.addr
	n.moveTo(a, "[2001:db8:77::9]:7000")
	_ = la.SendControl(n.now, message("hello from elsewhere"))
	n.run(n.now+2*n.delay, nil)
	if lb.Addr() != old {
		t.Fatal("moved before the address had proved itself")
	}
	if len(b.got) != 1 {
		t.Error("what came from the new address was not read")
	}
	n.run(n.now+n.delay, nil)
	if lb.Addr() != a.addr || !cmp.Equal(b.moved, []netip.AddrPort{old}, cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })) {
		t.Fatalf("at %v, want %v", lb.Addr(), a.addr)
	}
	n.run(n.now+20*time.Second, nil)
	if !la.Established() || !lb.Established() || len(b.prefixes) != 1 || b.Stats().Moves != 1 {
		t.Error("the link did not live on at its new address")
	}
}

func TestBothPeersMoveAtOnce(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	// The old addresses still receive for a moment, as on a phone that
	// changes networks.
	olda, oldb := a.addr, b.addr
	n.moveTo(a, "[2001:db8:77::9]:7000")
	n.moveTo(b, "[2001:db8:78::9]:7000")
	n.hosts[olda], n.hosts[oldb] = a, b
	n.run(n.now+5*time.Second, nil)
	if lb.Addr() != a.addr || la.Addr() != b.addr {
		t.Errorf("at %v and %v", lb.Addr(), la.Addr())
	}
}

func TestASpoofedAddressMovesNothing(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	// Somebody on the path sends what he saw from the victim's address,
	// before it arrives from the true one.
	victim := addr("[2001:db8:bad::1]:53")
	got := map[netip.AddrPort]int{}
	sent := map[netip.AddrPort]int{}
	n.watch = func(from, to netip.AddrPort, d []byte) bool {
		got[to] += len(d)
		if to == b.addr {
			b.take(b.Receive(n.now, victim, slices.Clone(d)))
			sent[victim] += len(d)
		}
		return true
	}
	for range 50 {
		_ = la.SendControl(n.now, message("x"))
		n.run(n.now+200*ms, nil)
	}
	if lb.Addr() != a.addr || len(b.moved) > 0 {
		t.Fatal("moved to an address that never answered")
	}
	if got[victim] > 3*sent[victim] {
		t.Errorf("the victim got %d bytes for %d", got[victim], sent[victim])
	}
	if len(b.got) != 50 {
		t.Errorf("%d of 50 messages", len(b.got))
	}
	if !la.Established() || !lb.Established() {
		t.Error("the link died")
	}
	// An ECHO of another address's token is no proof.
	token := b.moveToken(n.now, 0, lb, addr("[2001:db8:bad::2]:53"))
	lb.echoCame(n.now, victim, token)
	// Nor is one that is too old.
	lb.echoCame(n.now+3*moveRenewal, victim, b.moveToken(n.now, 0, lb, victim))
	if lb.Addr() != a.addr {
		t.Error("moved by a token for another address or time")
	}
}

func TestOneOfTwoLinksStaysWhenBothDial(t *testing.T) {
	for seed := range uint64(400) {
		n, a, b := pair(t, seed)
		n.jitter = 40 * ms
		if seed%4 == 3 {
			n.loss, n.double = 0.2, 0.1
		}
		redial := func(h *host, to *host) {
			h.onClosed = func(_ *Link, r wire.ByeReason) {
				if r == Silent {
					h.Dial(n.now, to.addr, nil)
				}
			}
		}
		redial(a, b)
		redial(b, a)
		a.Dial(0, b.addr, nil)
		n.run(time.Duration(n.random.Int64N(int64(120*ms))), nil)
		b.Dial(n.now, a.addr, nil)
		n.run(n.now+20*time.Second, nil)
		la, lb := a.up(), b.up()
		if la == nil || lb == nil || la.Initiator() == lb.Initiator() || la.tag != lb.peerTag || lb.tag != la.peerTag {
			t.Fatalf("seed %d: links %v and %v, closed %v and %v", seed, la, lb, a.closed, b.closed)
		}
		if a.Stats().Links != 1 || b.Stats().Links != 1 || a.ByPeer(b.Key()) != la {
			t.Errorf("seed %d: %d and %d links", seed, a.Stats().Links, b.Stats().Links)
		}
		if seed%4 != 3 {
			for _, h := range []*host{a, b} {
				for _, r := range h.closed {
					if r != Duplicate && r != Replaced {
						t.Errorf("seed %d: a link closed for %v", seed, r)
					}
				}
			}
		}
	}
}

func TestWhenFinishesCrossTheLowerKeysLinkStays(t *testing.T) {
	for seed := range uint64(20) {
		n, a, b := pair(t, seed)
		a.Dial(0, b.addr, nil)
		b.Dial(0, a.addr, nil)
		n.run(time.Second, nil)
		low := a
		if compare(b.Key(), a.Key()) < 0 {
			low = b
		}
		if l := low.up(); l == nil || !l.Initiator() {
			t.Fatalf("seed %d: %v", seed, l)
		}
	}
}

func TestASecondAddressOfAPeerIsADuplicate(t *testing.T) {
	n, a, b := pair(t, 1)
	la, lb := n.connect(a, b)
	also := addr("[2001:db8:2::2]:6466")
	n.hosts[also] = b
	second := a.Dial(n.now, also, func([]byte) []byte { t.Error("FINISH was asked for"); return nil })
	n.run(n.now+10*time.Second, nil)
	if a.closed[second] != Duplicate || a.ByPeer(second.Peer()) != la {
		t.Errorf("reason %v", a.closed[second])
	}
	if !la.Established() || !lb.Established() || len(b.closed) != 0 || b.Stats().Links != 1 || b.Stats().HalfOpen != 0 {
		t.Error("the link that stood was disturbed")
	}
}

func TestANodeThatDialsItselfFindsOut(t *testing.T) {
	n := newNetwork(t, 1)
	a := n.add("a", Config{})
	l := a.Dial(0, a.addr, nil)
	n.run(10*time.Second, nil)
	if a.closed[l] != Self || len(a.established) != 0 {
		t.Errorf("reason %v", a.closed[l])
	}
	if s := a.Stats(); s.Links != 0 || s.HalfOpen != 0 || len(a.tags) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAPeerThatCrashedComesBack(t *testing.T) {
	for _, name := range []string{"initiator", "responder dials", "responder is dialled"} {
		t.Run(name, func(t *testing.T) {
			n, a, b := pair(t, 1)
			for _, h := range []*host{a, b} {
				k, err := GenerateKey(seeded(uint64(h.addr.Addr().As16()[5])))
				if err != nil {
					t.Fatal(err)
				}
				h.cfg.Static = k
				h.start()
			}
			la, lb := n.connect(a, b)
			n.run(10*time.Second, nil)
			switch name {
			case "initiator":
				a.cfg.Random = seeded(77)
				a.start()
				a.Dial(n.now, b.addr, nil)
				n.run(n.now+time.Second, nil)
				if b.closed[lb] != Replaced {
					t.Errorf("reason %v", b.closed[lb])
				}
			case "responder dials":
				b.cfg.Random = seeded(77)
				b.start()
				b.Dial(n.now, a.addr, nil)
				n.run(n.now+time.Second, nil)
				if a.closed[la] != Replaced {
					t.Errorf("reason %v", a.closed[la])
				}
			case "responder is dialled":
				b.cfg.Random = seeded(77)
				b.start()
				n.run(n.now+deadAfter+time.Second, nil)
				if a.closed[la] != Silent {
					t.Errorf("reason %v", a.closed[la])
				}
				a.Dial(n.now, b.addr, nil)
				n.run(n.now+time.Second, nil)
			}
			if a.up() == nil || b.up() == nil || a.Stats().Links != 1 || b.Stats().Links != 1 {
				t.Error("no link, or more than one")
			}
		})
	}
}

func TestTheSameSeedGivesTheSameDatagrams(t *testing.T) {
	trace := func() string {
		var out bytes.Buffer
		n, a, b := pair(t, 5)
		n.loss, n.jitter = 0.2, 30*ms
		n.watch = func(_, to netip.AddrPort, d []byte) bool { fmt.Fprintf(&out, "%v %v %x\n", n.now, to, d); return true }
		a.Dial(0, b.addr, nil)
		n.run(20*time.Second, nil)
		return out.String()
	}
	first, second := trace(), trace()
	if first != second {
		t.Error("two runs differ")
	}
}

func TestANullTableSendsTheSameSizes(t *testing.T) {
	sizes := func(null bool) (out []int) {
		n := newNetwork(t, 3)
		a, b := n.add("a", Config{Null: null}), n.add("b", Config{Null: null})
		n.watch = func(_, _ netip.AddrPort, d []byte) bool { out = append(out, len(d)); return true }
		a.Dial(0, b.addr, func(dst []byte) []byte { return append(dst, message("join")...) })
		n.run(5*time.Second, nil)
		if a.up() == nil || b.up() == nil {
			t.Fatal("no link")
		}
		if d := b.Stats().Dropped; d != [dropReasons]uint64{} {
			t.Errorf("dropped %v", d)
		}
		return out
	}
	if diff := cmp.Diff(sizes(false), sizes(true)); diff != "" {
		t.Error(diff)
	}
	n := newNetwork(t, 3)
	key, err := GenerateKey(seeded(1))
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := n.add("a", Config{Null: true}), n.add("b", Config{}), n.add("c", Config{Null: true, Static: key})
	a.Dial(0, b.addr, nil)
	b.Dial(0, a.addr, nil)
	n.run(10*time.Second, nil)
	if len(a.established)+len(b.established) != 0 {
		t.Error("a null table agreed with a real one")
	}
	if n.connect(a, c); c.Key() != key.Public {
		t.Error("another key")
	}
}

// With a gap HELLOs leave one by one: on a slow
// uplink what is said to who answers first does not wait behind all of them.
func TestHellosLeaveOneByOne(t *testing.T) {
	n := newNetwork(t, 1)
	a := n.add("a", Config{HelloGap: 40 * time.Millisecond})
	var at []Time
	n.watch = func(_, _ netip.AddrPort, b []byte) bool {
		if b[0] == wire.TypeHello {
			at = append(at, n.now)
		}
		return true
	}
	for i := range 6 {
		a.Dial(0, addr(fmt.Sprintf("[2001:db8:ff::%x]:1", i+1)), nil)
	}
	n.run(125*time.Millisecond, nil)
	if want := []Time{0, 40 * ms, 80 * ms, 120 * ms}; !slices.Equal(at, want) {
		t.Errorf("HELLOs at %v, want %v", at, want)
	}
}
