package mesh

import (
	"time"

	"github.com/sixcast/sixcast/pkg/block"
)

// Who promised feeds, went on to call them live, and pushed nothing: it is
// asked no more for a while, its claims count for nothing, and what it takes
// goes to others first (docs/protocol.md section 6.6).

const (
	// lieTime is how long a liar is no parent; it doubles each time. For
	// suspectTime, or until it delivers, it is served last.
	lieTime     = 5 * time.Second
	suspectTime = 10 * time.Minute
	// betrayedTime is for how long one is careful after a promise was broken.
	betrayedTime = 20 * time.Second
	// maxExcuses is how often a child may refuse what it says that it has.
	maxExcuses = 3
	// unanswered requests in a row, and a neighbour that is no parent is asked
	// nothing for unansweredTime.
	unanswered     = 3
	unansweredTime = 10 * time.Second
	// proveEvery is how often a child is tried, and proveAgain how often one
	// and the same.
	proveEvery = 100 * time.Millisecond
	proveAgain = 5 * time.Second
)

// lied remembers that nb promised and brought nothing.
func (nb *neighbour) lied() {
	c := nb.ch
	c.node.stats.Lies++
	c.liars.note(nb)
	nb.recall()
	c.hungry = 0 // it is not for want of room that we have too little
	if nb.push.mask != 0 && !c.source && c.node.exchanges() {
		nb.dismiss(nil)
		c.countChildren()
	}
}

// betrayed reports whether somebody promised and did not deliver a moment ago:
// then all should not hang on one copy of the manifests.
func (c *Channel) betrayed() bool {
	for i := range c.liars {
		if c.node.now-c.liars[i].at < betrayedTime {
			return true
		}
	}
	return false
}

// prove tries whether children pass anything on that say they could and have
// not shown it: of each a feed that it does not have from us, for one shard.
func (c *Channel) prove() {
	n := c.node
	if c.source || !n.exchanges() || n.now < c.proveAt || len(c.trials) >= maxTrials || !c.begun {
		return
	}
	c.proveAt = n.now + proveEvery
	var of *neighbour
	for _, nb := range c.neighbours {
		if !nb.suspect() && (nb.push.mask == 0 || nb.delivered || nb.held.Slots == 0) || !nb.serves || !nb.parentable() ||
			c.wantOf(nb) != 0 || n.now-nb.triedAt < proveAgain && nb.triedAt != 0 {
			continue
		}
		if of == nil || nb.triedAt < of.triedAt {
			of = nb
		}
	}
	if of == nil {
		return
	}
	of.triedAt = n.now
	for k, start := 0, n.random.IntN(block.Stripes); k < block.Stripes; k++ {
		if i := (start + k) % block.Stripes; of.offers(i) {
			c.trials = append(c.trials, trial{of: of, feed: i, until: n.now + auditTime})
			of.change()
			return
		}
	}
}

// recall tells a neighbour's past from its key.
func (nb *neighbour) recall() {
	if l := nb.ch.liars.of(nb); l != nil {
		nb.shady = l.at + suspectTime
		nb.notBefore = max(nb.notBefore, l.at+lieTime<<(l.times-1))
	}
}

// honest forgets what nb did: it delivers.
func (nb *neighbour) honest() {
	nb.shady, nb.excuses = 0, 0
	c := nb.ch
	if l := c.liars.of(nb); l != nil {
		*l = c.liars[len(c.liars)-1]
		c.liars = c.liars[:len(c.liars)-1]
	}
}

// suspect reports whether nb promised us what it did not deliver, of late.
func (nb *neighbour) suspect() bool { return nb.ch.node.now < nb.shady }
