// Package pace decides how fast a node may send: to each child, and in all.
//
//	what is sent ─▶ Path (one a child) ◀── REPORTs: when a few of our datagrams arrived, how many did
//	                  │ queue and delivery on this path
//	                  ▼
//	                Uplink (one a node): the queue that stands on nearly all paths at once is our own uplink's,
//	                                     the rest of a path's queue is its child's downlink's
//
// The uplink's rate is learnt. A [Train] tells what it is about before it is used. Then it grows while it is used to the
// full and no queue stands (fast until the first queue is met, slowly around the rate at which the last one was, faster beyond), and comes down to what is delivered when a queue
// stands for longer than a burst does, before a household's other traffic suffers: the target is below that of LEDBAT (RFC
// 6817). Traffic that keeps a queue standing whatever we do, as a TCP does, presses us down to a floor, a share of what
// has been seen to pass, and no further. An idle uplink is believed to be what it was. Loss alone is not congestion, as
// lossy links must keep their rate; loss that comes with more rate and goes with less is (RFC 8085: a short buffer or a
// policer has no other way to say that it is full). Above all stands the hard cap, if there is one: everything counts.
//
// [Arrivals] is the child's part: it notes what comes and fills REPORT (docs/protocol.md section 6).
//
// Nothing here holds a socket, a clock or a goroutine, and nothing is allocated after the first datagrams of a path. Values
// are not safe for concurrent use.
package pace

import "time"

// Time is a time on the node's own clock, since any epoch.
type Time = time.Duration

// Rate is in bytes a second at the IP layer: IPv6 and UDP headers count.
type Rate float64

const (
	// NoCap is the rate of a cap that is none.
	NoCap Rate = -1
	// Unlimited is a rate above every other.
	Unlimited Rate = 1e15
)

// over is how long it takes to send so many bytes at r.
func (r Rate) over(bytes float64) time.Duration {
	if r <= 0 {
		return time.Hour
	}
	return time.Duration(min(bytes/float64(r), 3600) * float64(time.Second))
}

// in is how many bytes r sends in d.
func (r Rate) in(d time.Duration) float64 { return float64(r) * d.Seconds() }

const (
	// datagram is the largest we send, in bytes at the IP layer.
	datagram = 1280
	// debtTime is how long what was sent beyond a rate is paid for: control
	// messages are never held back, and who makes us say much must not
	// silence us for longer.
	debtTime = time.Second
)

// bucket is a token bucket that may go into debt.
type bucket struct {
	rate   Rate          // negative: no limit
	depth  time.Duration // of rate, that may leave in one go
	least  float64       // and at least so many bytes
	credit float64
	last   Time
}

func (b *bucket) size() float64 { return max(b.rate.in(b.depth), b.least) }

func (b *bucket) refill(now Time) {
	if b.rate < 0 || now <= b.last {
		return
	}
	b.credit = min(b.credit+b.rate.in(now-b.last), b.size())
	b.last = now
}

// spend takes bytes, into debt if need be.
func (b *bucket) spend(now Time, bytes float64) {
	if b.rate < 0 {
		return
	}
	b.refill(now)
	b.credit = max(b.credit-bytes, -b.rate.in(debtTime))
}

func (b *bucket) open() bool { return b.rate < 0 || b.credit > 0 }

// wait is how long it takes until half of what may leave in one go has
// gathered: fewer and fuller sends are what a sender's CPU asks for.
func (b *bucket) wait() time.Duration {
	if b.rate < 0 || b.credit > 0 {
		return 0
	}
	return b.rate.over(b.size()/2 - b.credit)
}
