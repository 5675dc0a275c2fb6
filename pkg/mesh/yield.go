package mesh

import (
	"time"
)

// Below capacity not everybody can be served. Who gets too little for a
// picture takes from those who could have one: it gives all back and waits,
// the longer the less it contributes (docs/protocol.md section 6.5).

const (
	// yieldAfter is how long who contributes nothing tries to live on too few
	// feeds, yieldStream more for every stream of uplink, of which yieldMost
	// count.
	yieldAfter  = 4 * time.Second
	yieldStream = 3 * time.Second
	yieldMost   = 4.0
	// waitFirst is how long it waits then, if it contributes nothing; it
	// doubles up to waitMost.
	waitFirst = 4 * time.Second
	waitMost  = time.Minute
	// content is how long all must be well for a wait to be forgotten.
	content = 30 * time.Second
)

// yield gives all feeds and children back when too few feeds have been live
// for too long.
func (c *Channel) yield() {
	n := c.node
	if c.source || !n.exchanges() || c.group.listening {
		return
	}
	if n.now < c.waitUntil {
		return
	}
	switch {
	case c.playing() || n.now-c.silentSince < time.Second || len(c.neighbours) == 0:
		if c.waits > 0 && c.hungry == 0 && n.now-c.waitUntil > content {
			c.waits = 0
		}
		c.hungry = 0
		return
	case c.hungry == 0:
		c.hungry = n.now
	}
	streams := 0.0
	if c.rate > 0 && n.serves() {
		streams = min(yieldMost, n.capacity()/c.rate)
	}
	if n.now-c.hungry < yieldAfter+time.Duration(streams*float64(yieldStream)) {
		return
	}
	wait := min(waitFirst<<min(c.waits, 6), waitMost)
	wait = time.Duration(float64(wait) * (0.5 + n.random.Float64()) / (1 + streams))
	c.waits++
	n.stats.Waits++
	c.hungry = 0
	c.waitUntil = n.now + wait
	for i := range c.feeds {
		if c.feeds[i].from != nil {
			c.drop(i)
		}
	}
	for _, nb := range c.neighbours {
		if m := nb.push.mask; m != 0 {
			nb.push.setMask(0, n.now)
			nb.evicted(m, nil)
		}
	}
	c.countChildren()
	c.begunAt, c.caughtUp = c.waitUntil, false // then one is a newcomer
	n.out.Event(Event{Kind: EventWaiting, Channel: c.ID, Text: "the swarm has no room: trying again in " + wait.Round(time.Second).String()})
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
