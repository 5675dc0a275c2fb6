package mesh

import (
	"time"

	"github.com/sixcast/sixcast/pkg/pace"
)

// bucket is what the node may send: --upload, which nothing exceeds, and what
// the uplink was found to take (package pace). Control messages are never held
// back but paid for all the same.
type bucket struct{ pace.Uplink }

// init sets the cap, negative for none, and what is believed at first, 0 for
// no idea; bit/s.
func (b *bucket) init(cap, first int64) {
	r := pace.NoCap
	if cap >= 0 {
		r = pace.Rate(cap) / 8
	}
	b.Init(r)
	if first > 0 {
		b.Start(pace.Rate(first) / 8)
	}
}

func (b *bucket) refill(now Time) { b.Refill(now) }

func (b *bucket) spend(now Time, bytes int) { b.Spend(now, bytes) }

// open reports whether something may be sent to a child now.
func (b *bucket) open() bool { return b.Open() }

// wait is how long it takes until it is worth while to send to a child.
func (b *bucket) wait() time.Duration { return b.Wait() }

// open reports whether p may be sent something now.
func (n *Node) open(p *pusher) bool {
	if p.owner == nil {
		return n.bucket.OpenGroup()
	}
	return n.bucket.open()
}

// wait is how long it takes until it is worth while to send to p.
func (n *Node) wait(p *pusher) time.Duration {
	if p.owner == nil {
		return n.bucket.WaitGroup()
	}
	return n.bucket.wait()
}
