package mesh

import (
	"time"

	"github.com/sixcast/sixcast/pkg/block"
)

// Below capacity not everybody can be served. Who gets too little for a
// picture takes from those who could have one: it gives all back and waits,
// the longer the less it contributes (docs/protocol.md section 6.5).

const (
	// yieldAfter is how long who contributes nothing tries to live on too few
	// feeds, yieldStream more for every stream of uplink, of which yieldMost
	// count.
	yieldAfter  = 2500 * time.Millisecond
	yieldStream = 1500 * time.Millisecond
	yieldMost   = 4.0
	// waitFirst is how long it waits then, if it contributes nothing; it
	// grows fourfold up to waitMost.
	waitFirst = 3 * time.Second
	waitMost  = time.Minute
	// maxWaits times that it waits at most where nobody says that he has room.
	maxWaits = 2
	// patient is how long a newcomer counts nothing: in a crowd all starve at
	// first.
	patient = 8 * time.Second
	// Who lacks no more than almost feeds takes almostSlow times as long to
	// give up.
	almost     = 2
	almostSlow = 3
	// hopefulSlow times as long takes who is told of room for him.
	hopefulSlow = 10
	// forgiving is how much longer all must be well than it was not, until
	// that is forgotten; content how long until a wait is.
	forgiving = 6
	content   = 30 * time.Second
)

// yield gives all feeds and children back when too few feeds have been live
// for too long.
func (c *Channel) yield() {
	n := c.node
	if c.source || !n.exchanges() || c.group.listening {
		return
	}
	streams := 0.0
	if c.rate > 0 && n.serves() {
		streams = min(yieldMost, n.capacity()/c.rate)
	}
	if c.waits > 0 && n.now < c.waitUntil {
		if c.roomFor(2) && n.random.IntN(20) == 0 { // others wait too
			c.waitUntil, c.looked = n.now, n.now
			c.begunAt = n.now
		} else if c.waitUntil-n.now <= houseEvery && streams < 1 && n.now < c.tryBy && !c.roomFor(1) {
			// To try would take from those who play.
			c.waitUntil += time.Duration(n.random.Int64N(int64(waitFirst)))
			c.looked, c.begunAt = c.waitUntil, c.waitUntil
		}
		return
	}
	switch {
	case n.now-c.silentSince < time.Second || c.waits == 0 && n.now-c.begunAt < patient || len(c.neighbours) == 0:
		c.hungry, c.looked = 0, n.now
		return
	case c.playing():
		// What is well for a moment now and then is not well.
		c.hungry = max(0, c.hungry-(n.now-c.looked)/forgiving)
		c.looked = n.now
		if c.waits > 0 && c.hungry == 0 && n.now-c.waitUntil > content {
			c.waits = 0
		}
		return
	}
	switch d := n.now - c.looked; {
	case c.roomFor(1):
		c.hungry += d / hopefulSlow // it is their word
	case onesCount(c.live().Stripes()) >= c.data()-almost:
		c.hungry += d / almostSlow
	default:
		c.hungry += d
	}
	c.looked = n.now
	if c.hungry < yieldAfter+time.Duration(streams*float64(yieldStream)) {
		return
	}
	wait := min(waitFirst<<(2*min(c.waits, 3)), waitMost)
	wait = time.Duration(float64(wait) * (0.5 + n.random.Float64()) / (1 + streams))
	c.waits++
	n.stats.Waits++
	c.hungry, c.looked = 0, n.now+wait
	c.waitUntil, c.tryBy = n.now+wait, n.now+maxWaits*wait
	for i := range c.feeds {
		if c.feeds[i].from != nil {
			c.drop(i)
		}
	}
	for _, nb := range c.neighbours {
		if nb.push.mask != 0 {
			nb.dismiss(nil)
		}
	}
	c.countChildren()
	c.begunAt, c.caughtUp = c.waitUntil, false // then one is a newcomer
	n.out.Event(Event{Kind: EventWaiting, Channel: c.ID, Text: "the swarm has no room: trying again in " + wait.Round(time.Second).String()})
}

// roomFor reports whether those who have delivered say that they have room
// for so many like us, and hold what we lack.
func (c *Channel) roomFor(times int) bool {
	k, most := 0, c.wanted/2
	if len(c.neighbours) < wellKnown {
		most = c.wanted // one may have most of what there is
	}
	live := c.live()
	for _, nb := range c.neighbours {
		if !nb.delivered || nb.suspect() || !nb.parentable() {
			continue
		}
		has := 0
		for i := range block.Stripes {
			if !live.Has(i) && nb.offers(i) {
				has++
			}
		}
		k += min(nb.room(), most, has)
	}
	return k >= times*(c.wanted-onesCount(live.Stripes()))
}

// giveUp lets go of the blocks that are missing: those who have room need it.
func (c *Channel) giveUp() {
	for k := c.low; k < c.next; k++ {
		if s := c.slot(k); s != nil && !s.decoded && !s.dead {
			s.dead = true
			c.node.stats.BlocksLost++
		}
	}
	c.advanceLow()
}
