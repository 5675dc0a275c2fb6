package mesh

import (
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

// Whether those who get stripes from the source pass them on: the source draws
// neighbours by lot and has them try (docs/protocol.md section 6.4). What
// somebody says of himself, or of others without having been drawn, counts for
// nothing.

const (
	// auditEvery is how often the source orders an audit, and auditTime how
	// long the auditor tries.
	auditEvery = 100 * time.Millisecond
	auditTime  = 1500 * time.Millisecond
	// verdicts that decide; auditAgain after a good end all begins anew.
	verdicts   = 4
	auditAgain = 20 * time.Second
	// restTime is how long a root that does not pass on gets nothing; it
	// grows eightfold each time, up to restMost doublings.
	restTime  = 20 * time.Second
	restShift = 3
	restMost  = 9
	// maxTrials bounds how many audits a node carries out at once.
	maxTrials = 3
)

// proof is what the source knows of a root.
type proof struct {
	yes, no int
	proven  bool
	looked  Time // when the last audit was ordered
	decided Time
}

// order is an audit that the source has ordered.
type order struct {
	auditor, root *neighbour
	feed          uint8
	at            Time
}

// trial is an audit that this node carries out.
type trial struct {
	by      *neighbour // who ordered it; nil: we want to know ourselves
	of      *neighbour
	feed    int
	until   Time
	granted bool
}

// audit orders an audit of the root that was looked at longest ago.
func (c *Channel) audit() {
	n := c.node
	if !c.source || !n.exchanges() || n.now < c.auditAt || len(c.neighbours) < smallSwarm {
		return
	}
	c.auditAt = n.now + auditEvery
	c.orders = slices.DeleteFunc(c.orders, func(o order) bool { return n.now-o.at >= 2*auditTime })
	var root *neighbour
	for _, nb := range c.neighbours {
		if nb.push.mask.Stripes() == 0 || !nb.serves || n.now-nb.push.since < 300*time.Millisecond ||
			nb.proof.proven && n.now-nb.proof.decided < auditAgain || !nb.peer.link.Established() {
			continue
		}
		if root == nil || nb.proof.looked < root.proof.looked {
			root = nb
		}
	}
	if root == nil || !dialable(root.peer.link.Addr(), root.peer.link.Addr()) {
		return
	}
	feed := 0
	for k, start := 0, n.random.IntN(block.Stripes); k < block.Stripes; k++ {
		if feed = (start + k) % block.Stripes; root.push.mask.Has(feed) {
			break
		}
	}
	root.proof.looked = n.now
	// Who has proved itself is believed first: where all roots are full, the
	// others say nothing, and slanderers are all that is heard.
	only := c.proven() > verdicts
	start := n.random.IntN(len(c.neighbours))
	for k := range c.neighbours {
		a := c.neighbours[(start+k)%len(c.neighbours)]
		if a == root || only && !a.proof.proven || !a.joined || a.push.mask.Has(feed) || !a.peer.link.Established() || a.silence() > mute || c.ordered(a, root) {
			continue
		}
		c.orders = append(c.orders, order{a, root, uint8(feed), n.now})
		a.peer.tell((&wire.Audit{Channel: c.tag, Feed: uint8(feed), Addr: root.peer.link.Addr()}).Append)
		return
	}
}

// proven is how many neighbours have proved that they pass on what they get.
func (c *Channel) proven() (k int) {
	for _, nb := range c.neighbours {
		if nb.proof.proven {
			k++
		}
	}
	return k
}

func (c *Channel) ordered(a, root *neighbour) bool {
	for _, o := range c.orders {
		if o.auditor == a && o.root == root {
			return true
		}
	}
	return false
}

// onVerdict counts what an auditor found, if it was asked.
func (nb *neighbour) onVerdict(m *wire.Verdict) {
	n, c := nb.ch.node, nb.ch
	for i, o := range c.orders {
		if o.auditor != nb || o.feed != m.Feed || o.root.peer.link.Addr() != m.Addr {
			continue
		}
		c.orders = append(c.orders[:i], c.orders[i+1:]...)
		p := &o.root.proof
		if m.Passes {
			p.yes++
		} else {
			p.no++
		}
		if p.yes+p.no < verdicts && p.no-p.yes < verdicts-1 {
			return
		}
		bad := p.no > p.yes
		*p = proof{proven: !bad, looked: n.now, decided: n.now}
		if bad {
			c.condemn(o.root)
		}
		return
	}
}

// condemn takes all from a root that passes nothing on.
func (c *Channel) condemn(nb *neighbour) {
	n := c.node
	n.stats.Condemned++
	nb.push.setMask(0, n.now)
	c.countChildren()
	nb.reason = wire.GrantFull
	m := nb.subscribed(0, wire.GrantFull)
	nb.peer.tell(m.Append)
	c.hoarders.note(nb)
}

// rests reports whether nb gets nothing because it passed nothing on.
func (nb *neighbour) rests() bool {
	c := nb.ch
	o := c.hoarders.of(nb)
	return o != nil && c.node.now < o.at+restTime<<min(restShift*(o.times-1), restMost)
}

// onAudit tries whether somebody passes a feed on.
func (nb *neighbour) onAudit(m *wire.Audit) {
	n, c := nb.ch.node, nb.ch
	i := int(m.Feed)
	if c.source || !nb.joined || i >= block.Stripes || !n.exchanges() || !dialable(m.Addr, nb.peer.link.Addr()) || len(c.trials) >= maxTrials || !nb.auditing.take(n.now) {
		return
	}
	of := n.dialNamed(c, m.Addr, nb)
	if of == nil || of == nb {
		return
	}
	t := trial{by: nb, of: of, feed: i, until: n.now + auditTime}
	if f := &c.feeds[i]; f.from == of && f.granted && f.last != 0 && n.now-f.last < c.fresh() {
		c.verdict(&t, true)
		return
	}
	if c.tried(of).Has(i) {
		return
	}
	c.trials = append(c.trials, t)
	of.change()
}

// verdict says how a trial ended.
func (c *Channel) verdict(t *trial, passes bool) {
	if t.by == nil {
		if passes {
			t.of.delivered = true
			t.of.honest()
		} else {
			t.of.lied()
		}
		return
	}
	if t.by.joined && t.by.peer.link.Established() {
		t.by.peer.tell((&wire.Verdict{Channel: c.tag, Feed: uint8(t.feed), Passes: passes, Addr: t.of.peer.link.Addr()}).Append)
	}
}

// tried is what nb is on trial for.
func (c *Channel) tried(nb *neighbour) (m wire.FeedMask) {
	for i := range c.trials {
		if c.trials[i].of == nb {
			m |= 1 << c.trials[i].feed
		}
	}
	return m
}

// trialsAnswered notes what nb promised, and refused, of what it is on trial for.
func (c *Channel) trialsAnswered(nb *neighbour, granted, refused wire.FeedMask) {
	for k := 0; k < len(c.trials); k++ {
		t := &c.trials[k]
		switch {
		case t.of != nb:
		case granted.Has(t.feed):
			t.granted = true
		case refused.Has(t.feed):
			k--
			c.endTrial(nb, t.feed, false, false)
		}
	}
}

// endTrial ends the trial of nb on a feed, if there is one; told says whether
// there is a verdict, and passes which.
func (c *Channel) endTrial(nb *neighbour, feed int, told, passes bool) {
	for k := range c.trials {
		if t := c.trials[k]; t.of == nb && t.feed == feed {
			c.trials = append(c.trials[:k], c.trials[k+1:]...)
			if told {
				c.verdict(&t, passes)
			} else if t.by == nil && nb.held.Slots > 0 && nb.held.Live.Has(feed) {
				// It has room, it says, and the feed.
				if nb.excuses++; nb.excuses >= maxExcuses {
					nb.excuses = 0
					nb.lied()
				}
			}
			nb.leftAt = c.node.now
			nb.change()
			return
		}
	}
}

// settleTrials ends those whose time is over: who granted and brought
// nothing, or was not even there, passes nothing on.
func (c *Channel) settleTrials() {
	n := c.node
	for k := 0; k < len(c.trials); k++ {
		t := c.trials[k]
		switch {
		case n.now >= t.until:
			k--
			c.endTrial(t.of, t.feed, t.granted || !t.of.joined, false)
		case t.of.joined && !t.of.acked && n.now-t.of.askedAt >= t.of.rtt()+100*time.Millisecond:
			t.of.peer.tell(t.of.appendSubscribe)
		}
	}
}

// forgetTrials drops what concerns a neighbour that is gone.
func (c *Channel) forgetTrials(nb *neighbour) {
	for k := 0; k < len(c.trials); k++ {
		if t := c.trials[k]; t.of == nb || t.by == nb {
			c.trials = append(c.trials[:k], c.trials[k+1:]...)
			k--
			if t.of == nb && t.by != nb && t.by != nil {
				c.verdict(&t, false)
			}
		}
	}
	c.orders = slices.DeleteFunc(c.orders, func(o order) bool { return o.auditor == nb || o.root == nb })
}
