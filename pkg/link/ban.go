package link

import (
	"bytes"
	"net/netip"
	"time"
)

const (
	// banFirst is how long the first offence of an identity is remembered;
	// each further one doubles it, up to banMost (docs/protocol.md section 8).
	banFirst = time.Minute
	banMost  = time.Hour
	// banMemory is how long after its end a ban still counts as an offence.
	banMemory = time.Hour
	// maxBans bounds what is remembered; the ban that ends first makes room.
	maxBans = 4096
)

// offender is what a ban is about: a key, an address and port, or a /64.
type offender struct {
	kind byte // 'k', 'a', 'p'
	key  PublicKey
	addr netip.AddrPort
}

type ban struct {
	strikes int
	until   Time
	forget  Time
}

// bans remembers misbehaviour. Identities are cheap, so a ban is by key and,
// before any public-key operation is spent, by address and port; and a /64
// that has had as many of its identities banned as it may have links is
// refused as a whole, links that stand excepted.
type bans map[offender]ban

func byKey(k PublicKey) offender       { return offender{kind: 'k', key: k} }
func byAddr(a netip.AddrPort) offender { return offender{kind: 'a', addr: a} }
func byPrefix(a netip.AddrPort) offender {
	return offender{kind: 'p', addr: netip.AddrPortFrom(Prefix64(a.Addr()), 0)}
}

func banFor(strikes int) time.Duration {
	return min(banFirst<<min(strikes-1, 16), banMost)
}

// offence notes one; the first free ones have no consequence.
func (b bans) offence(now Time, o offender, free int) ban {
	x := b[o]
	if now >= x.forget {
		x = ban{}
	}
	x.strikes++
	if x.strikes > free {
		x.until = now + banFor(x.strikes-free)
	}
	x.forget = max(now, x.until) + banMemory
	b.put(o, x)
	return x
}

func (b bans) put(o offender, x ban) {
	if _, known := b[o]; !known && len(b) >= maxBans {
		b.evict()
	}
	b[o] = x
}

// evict forgets the entry that would be forgotten first.
func (b bans) evict() {
	var least offender
	first := true
	for o, x := range b {
		if first || sooner(x, o, b[least], least) {
			least, first = o, false
		}
	}
	delete(b, least)
}

// sooner orders entries by when they are forgotten, and ties by what they are
// about: the order of a map must not show.
func sooner(x ban, o offender, y ban, p offender) bool {
	if x.forget != y.forget {
		return x.forget < y.forget
	}
	if o.kind != p.kind {
		return o.kind < p.kind
	}
	if c := bytes.Compare(o.key[:], p.key[:]); c != 0 {
		return c < 0
	}
	return o.addr.Compare(p.addr) < 0
}

// until is when a ban ends, 0 if there is none.
func (b bans) until(now Time, o offender) Time {
	if len(b) == 0 {
		return 0
	}
	if x := b[o]; now < x.until {
		return x.until
	}
	return 0
}

// Ban remembers that l's peer misbehaved. For 60 s, doubling with each
// offence up to an hour, its key is refused, and HELLOs from its address and
// port are dropped unread; so are those from its /64 once MaxLinksPer64
// identities there have been banned. The link itself stays until Close.
func (t *Table) Ban(now Time, l *Link) {
	if l.state == dialling {
		return // nobody has proved anything yet
	}
	x := t.bans.offence(now, byKey(l.peer), 0)
	t.bans.put(byAddr(l.addr), x)
	if x.strikes == 1 && !l.addr.Addr().IsLoopback() {
		t.bans.offence(now, byPrefix(l.addr), t.cfg.MaxLinksPer64-1)
	}
}

// Banned is how much longer a peer's key is refused, 0 if it is not.
func (t *Table) Banned(now Time, k PublicKey) time.Duration {
	return max(t.bans.until(now, byKey(k))-now, 0)
}

// Refused is how much longer HELLOs from an address are dropped unread, 0 if
// they are not.
func (t *Table) Refused(now Time, from netip.AddrPort) time.Duration {
	if len(t.bans) == 0 {
		return 0
	}
	return max(t.bans.until(now, byAddr(from)), t.bans.until(now, byPrefix(from)), now) - now
}
