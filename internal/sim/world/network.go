package world

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// One-way delays in milliseconds on the map, a unit square with mean
	// distance 0.52: 5 to 150, mean 60.
	nearest  = 5.0
	across   = 105.5
	farthest = 150.0
	shortWay = 10.0

	port = 6466
	// jitterEvery is how long a path takes to wander from one delay to
	// another.
	jitterEvery = 100 * time.Millisecond
	// burstTime is how long a burst of loss lasts in the mean.
	burstTime = 30 * time.Millisecond
	// crossOn and crossOff are how long other traffic on an uplink lasts and
	// pauses in the mean.
	crossOn  = 10 * time.Second
	crossOff = 20 * time.Second
)

// address is where a node is reached: a /48 of its own, a region in the /32,
// and a generation that counts its changes of address.
func (w *World) address(id uint32, generation uint8) netip.AddrPort {
	q := &w.peers[id]
	var b [16]byte
	b[0], b[1] = 0xfd, 0x06
	b[2], b[3] = byte(q.x*8), byte(q.y*8)
	binary.BigEndian.PutUint32(b[4:], id)
	b[8] = generation
	b[15] = 1
	return netip.AddrPortFrom(netip.AddrFrom16(b), port)
}

// locate is the inverse of address.
func (w *World) locate(a netip.AddrPort) (id uint32, generation uint8, ok bool) {
	b := a.Addr().As16()
	id = binary.BigEndian.Uint32(b[4:])
	return id, b[8], b[0] == 0xfd && b[1] == 0x06 && int(id) < len(w.peers) && a.Port() == port
}

// leastDelay is how long every datagram takes at least: nothing that happens
// in one such window concerns another node in the same one.
func (p *plan) leastDelay() time.Duration {
	if p.Short {
		return time.Duration(shortWay * float64(time.Millisecond))
	}
	return time.Duration(nearest * float64(time.Millisecond))
}

// delay is how long a datagram takes that leaves at the given time. It wanders
// slowly, so that the datagrams of one path stay in order.
func (w *World) delay(from, to uint32, at Time) time.Duration {
	ms := shortWay
	if !w.Short {
		a, b := &w.peers[from], &w.peers[to]
		dx, dy := float64(a.x-b.x), float64(a.y-b.y)
		ms = min(nearest+across*math.Sqrt(dx*dx+dy*dy), farthest)
	}
	t := time.Duration(ms * float64(time.Millisecond))
	if w.Jitter > 0 {
		k := uint64(at / jitterEvery)
		part := float64(at%jitterEvery) / float64(jitterEvery)
		a, b := w.wander(from, to, k), w.wander(from, to, k+1)
		t += time.Duration((a + (b-a)*part) * float64(w.Jitter))
	}
	return t
}

func (w *World) wander(from, to uint32, k uint64) float64 {
	h := mix(w.Seed ^ mix(uint64(from)<<32|uint64(to)+k*0x9e3779b97f4a7c15))
	return float64(h>>11) / (1 << 53)
}

// access is one direction of a node's access link: a FIFO queue that drops at
// its tail.
type access struct {
	perByte float64 // ns
	busy    Time    // its last bit leaves
}

func newAccess(bits float64) access { return access{perByte: 8e9 / bits} }

// send puts a datagram at the end of the queue; it returns how long that is
// and when the datagram's last bit leaves.
func (a *access) send(now Time, size int, most time.Duration) (wait time.Duration, out Time, ok bool) {
	start := max(now, a.busy)
	if wait = start - now; wait > most {
		return wait, 0, false
	}
	a.busy = start + Time(float64(size)*a.perByte)
	return wait, a.busy, true
}

// cross is what others send over an uplink: on and off for exponential times,
// each time another share of it.
type cross struct {
	dice  dice
	at    Time // how far the queue has been reckoned
	until Time // of this phase
	share float64
}

// advance reckons the others' part of the queue up to now.
func (c *cross) advance(a *access, now Time, most time.Duration) {
	for c.at < now {
		to := min(now, c.until)
		if c.share > 0 {
			// A fluid: what came in between, less what left.
			queue := max(0, a.busy-c.at) - Time((1-c.share)*float64(to-c.at))
			a.busy = to + min(max(0, queue), most)
		}
		c.at = to
		if c.at == c.until {
			mean := float64(crossOff)
			if c.share > 0 {
				c.share = 0
			} else {
				c.share = 0.3 + 0.6*c.dice.float()
				mean = float64(crossOn)
			}
			c.until += 1 + Time(c.dice.exp()*mean)
		}
	}
}

// stalls are the times at which a node stands still, one at a time.
type stalls struct {
	span
	dice dice
}

// next draws the one that begins after t.
func (s *stalls) next(t Time, o *Options) {
	if o.Stalls == 0 {
		s.from, s.to = Never, Never
		return
	}
	s.from = t + Time(s.dice.exp()/o.Stalls*float64(time.Second))
	s.to = s.from + min(Time(s.dice.exp()*float64(o.Stall)), 4*o.Stall)
}

// over is when something that is due at t can be done.
func (s *stalls) over(t Time, o *Options) Time {
	for t >= s.to {
		s.next(s.to, o)
	}
	if s.has(t) {
		return s.to
	}
	return t
}

// burst is the state of a node's link when that loses in bursts.
type burst struct {
	bad   bool
	until Time
}

// loses moves the link on to a time and says whether it loses then.
func (b *burst) loses(d *dice, at Time, loss float64) bool {
	good := float64(burstTime) * (1 - loss) / loss
	if b.until == 0 {
		b.bad = d.float() >= loss // turned over below
		b.until = at
	}
	for b.until <= at {
		b.bad = !b.bad
		mean := good
		if b.bad {
			mean = float64(burstTime)
		}
		b.until += 1 + Time(d.exp()*mean)
	}
	return b.bad
}

// sort tells datagrams apart in what is measured.
type sort uint8

const (
	shards sort = iota
	manifests
	control
	sorts
)

// sortOf is that of a datagram, behind the link tag if it has one.
func sortOf(b []byte) sort {
	if b[0]&0x80 != 0 && len(b) > wire.TagSize {
		switch b[wire.TagSize] {
		case wire.TypeShard:
			return shards
		case wire.TypeManifest:
			return manifests
		}
	}
	return control
}
