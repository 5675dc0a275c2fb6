package link

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// loadHalfOpen and loadHellos are what a node may have under way before
	// it asks for cookies (docs/protocol.md section 5).
	loadHalfOpen = 64
	loadHellos   = 200 // a second

	cookieRenewal = 2 * time.Minute
	// moveRenewal bounds for how long an ECHO proves an address: one or two
	// of these.
	moveRenewal = 10 * time.Second
)

// perSecond counts events in seconds of their own.
type perSecond struct {
	start     Time
	now, last int
}

func (p *perSecond) roll(now Time) {
	if past := now - p.start; past >= time.Second {
		p.last = p.now
		if past >= 2*time.Second {
			p.last = 0
		}
		p.now = 0
		p.start = now
	}
}

// add counts one event.
func (p *perSecond) add(now Time) {
	p.roll(now)
	p.now++
}

// peak is the greater count of this second and the one before.
func (p *perSecond) peak() int { return max(p.now, p.last) }

// allowance lets through so many events a second, evenly: when there are more,
// each has the same chance, whenever in the second it comes.
type allowance struct {
	credit time.Duration // what may be spent; one second is a second's worth
	last   Time
}

// allowanceBurst is how much credit piles up while nothing happens.
const allowanceBurst = 250 * time.Millisecond

func (a *allowance) take(now Time, perSecond int) bool {
	a.credit = min(a.credit+now-a.last, allowanceBurst)
	a.last = now
	cost := time.Second / time.Duration(perSecond)
	if a.credit < cost {
		return false
	}
	a.credit -= cost
	return true
}

// underLoad reports whether a HELLO has to bring a cookie.
func (t *Table) underLoad() bool {
	return len(t.halves) > loadHalfOpen || t.hellos.peak() > loadHellos
}

// mac is a keyed hash over input of a fixed length: SHA-256 of a secret of
// this table and what follows. Every use has a letter of its own.
func (t *Table) mac(use byte, epoch Time, tag wire.Tag, from netip.AddrPort) [sha256.Size]byte {
	var b [32 + 1 + 8 + 8 + 16 + 2]byte
	copy(b[:], t.secret[:])
	b[32] = use
	binary.BigEndian.PutUint64(b[33:], uint64(epoch))
	binary.BigEndian.PutUint64(b[41:], uint64(tag))
	a := from.Addr().As16()
	copy(b[49:], a[:])
	binary.BigEndian.PutUint16(b[65:], from.Port())
	return sha256.Sum256(b[:])
}

// cookie is what an address has to repeat in its HELLO under load. The tag is
// the initiator's.
func (t *Table) cookie(now Time, back Time, tag wire.Tag, from netip.AddrPort) [cookieSize]byte {
	m := t.mac('c', now/cookieRenewal-back, tag, from)
	return [cookieSize]byte(m[:])
}

func (t *Table) goodCookie(now Time, c []byte, tag wire.Tag, from netip.AddrPort) bool {
	for back := range Time(2) {
		want := t.cookie(now, back, tag, from)
		if subtle.ConstantTimeCompare(c, want[:]) == 1 {
			return true
		}
	}
	return false
}

// moveToken is what a link's peer has to ECHO from a new address. It needs no
// memory: any number of addresses can be challenged at once.
func (t *Table) moveToken(now Time, back Time, l *Link, to netip.AddrPort) uint64 {
	m := t.mac('m', now/moveRenewal-back, l.tag, to)
	return binary.BigEndian.Uint64(m[:])
}

// Prefix64 is the /64 of an address, zone included; of an IPv4 address, itself.
func Prefix64(a netip.Addr) netip.Addr {
	if a.Is4() || a.Is4In6() {
		return a.Unmap()
	}
	b := a.As16()
	clear(b[8:])
	return netip.AddrFrom16(b).WithZone(a.Zone())
}
