package mesh

import (
	"net/netip"
	"time"

	"github.com/sixcast/sixcast/pkg/link"
	"github.com/sixcast/sixcast/pkg/wire"
)

// Who we know: peer exchange, and enough neighbours to choose from
// (docs/protocol.md section 6.3).

const (
	// fewNeighbours that serve, and more are looked for; a node with none of
	// its feeds looks faster.
	fewNeighbours = 12
	// manyNeighbours, and one that neither gives nor takes is let go every
	// idleEvery; uplinkNeighbours more for every stream that we can send.
	manyNeighbours   = 16
	uplinkNeighbours = 3
	mostNeighbours   = 128
	idleEvery        = time.Second
	idleAfter        = 5 * time.Second
	// exchangeEvery is the mean time between two PEERS.
	exchangeEvery = 2 * time.Second
	// maxBook bounds the addresses that are known and not neighbours, and
	// maxFromOne those of them that one neighbour named.
	maxBook    = 64
	maxFromOne = 16
	// dialRate bounds what others can make us dial, a second. A HELLO is as
	// long as a shard, and in a crowd everybody is sent to somebody all the time.
	dialRate  = 2
	dialBurst = 16
	// tryAgain is when an address that did not answer may be tried again, at
	// first; it doubles, and after tries the address is forgotten.
	tryAgain = 20 * time.Second
	tries    = 3
	// halfOpen is how long a peer that others named may take to answer.
	halfOpen = 2 * time.Second
	// maxMisnamed peers that one neighbour named and that did not answer, less
	// one every misnamedFor, and nobody is dialled by its word (misnamedGood of
	// one that has delivered: who many leave names some who are gone); nobody at
	// all in a /64 where maxVoid did not answer within voidTime and no neighbour
	// is. So what others say makes nobody a crowd's victim.
	maxMisnamed  = 6
	misnamedGood = 24
	misnamedFor  = 10 * time.Second
	maxVoid      = 3
	voidTime     = 30 * time.Second
	// hintedNeighbours are had of what trackers name, without peer exchange.
	hintedNeighbours = 8
)

// void is where somebody was named and nobody answered.
type void struct {
	net netip.Addr // a /64
	at  Time
}

// misnames reports whether too many of those that nb named did not answer.
func (nb *neighbour) misnames() bool {
	if nb == nil {
		return false
	}
	for nb.misnamed > 0 && nb.ch.node.now-nb.misnamedAt >= misnamedFor {
		nb.misnamed--
		nb.misnamedAt += misnamedFor
	}
	if nb.delivered {
		return nb.misnamed >= misnamedGood
	}
	return nb.misnamed >= maxMisnamed
}

// deserted reports whether nobody answers where an address is.
func (c *Channel) deserted(a netip.Addr) bool {
	k, net := 0, link.Prefix64(a)
	for _, v := range c.voids {
		if v.at != 0 && v.net == net && c.node.now-v.at < voidTime {
			k++
		}
	}
	if k < maxVoid {
		return false
	}
	for _, nb := range c.neighbours {
		if nb.peer.link.Established() && link.Prefix64(nb.peer.link.Addr().Addr()) == net {
			return false
		}
	}
	return true
}

// unanswering notes that a peer that was named does not answer.
func (c *Channel) unanswering(nb *neighbour) {
	c.voids[c.voidAt%len(c.voids)] = void{link.Prefix64(nb.peer.addr.Addr()), c.node.now}
	c.voidAt++
	if by := nb.namedBy; by != nil {
		if by.misnamed == 0 {
			by.misnamedAt = c.node.now
		}
		by.misnamed = min(by.misnamed+1, misnamedGood)
	}
}

// contact is an address that somebody named.
type contact struct {
	addr  netip.AddrPort
	from  *neighbour // who named it; nil once that is gone
	tried Time       // when it was last dialled; 0 never
	tries uint8
	good  bool
}

// exchanges reports whether we tell others of peers and let ourselves be told.
func (n *Node) exchanges() bool { return !n.cfg.NoExchange }

// dialable reports whether an address that somebody named may be dialled:
// this machine only where he is on it.
func dialable(a netip.AddrPort, by netip.AddrPort) bool {
	ip := a.Addr()
	return a.Port() != 0 && ip.Is6() && !ip.Is4In6() && !ip.IsMulticast() && !ip.IsUnspecified() && !ip.IsLinkLocalUnicast() &&
		(!ip.IsLoopback() || by.Addr().IsLoopback())
}

// onPeers remembers whom a neighbour names.
func (nb *neighbour) onPeers(m *wire.Peers) {
	n, c := nb.ch.node, nb.ch
	if !nb.joined || !n.exchanges() || !nb.naming.take(n.now) || nb.misnames() {
		return
	}
	for _, p := range m.Peers[:m.N] {
		if dialable(p.Addr, nb.peer.link.Addr()) && !n.linked(p.Addr) {
			c.know(p.Addr, nb, p.Good)
		}
	}
	c.seek()
}

// Hint tells of peers that a tracker or the like names. They are dialled as those are that neighbours name: as many as are needed,
// and forgotten where nobody answers. Without peer exchange the first of them are dialled as if the user had named them.
func (n *Node) Hint(now Time, c *Channel, peers []netip.AddrPort) {
	n.at(now)
	for _, p := range peers {
		switch {
		case !dialable(p, p) || n.linked(p):
		case n.exchanges():
			c.know(p, nil, false)
		case len(c.neighbours) < hintedNeighbours:
			n.dial(c, p)
		}
	}
	c.seek()
	n.finish()
}

// linked reports whether there is a link to an address, or one begun.
func (n *Node) linked(to netip.AddrPort) bool {
	for _, p := range n.order {
		if p.addr == to || p.link.Addr() == to {
			return true
		}
	}
	return false
}

func (c *Channel) know(a netip.AddrPort, from *neighbour, good bool) {
	mine, oldest := 0, -1
	for i := range c.book {
		k := &c.book[i]
		if k.addr == a {
			k.good = k.good || good
			return
		}
		if k.from == from {
			mine++
			if oldest < 0 {
				oldest = i
			}
		}
	}
	k := contact{addr: a, from: from, good: good}
	switch {
	case mine >= maxFromOne:
		c.book[oldest] = k
	case len(c.book) >= maxBook:
		c.book[c.node.random.IntN(len(c.book))] = k
	default:
		c.book = append(c.book, k)
	}
}

// servers is how many neighbours serve us or could.
func (c *Channel) servers() (k int) {
	for _, nb := range c.neighbours {
		if (nb.joined && nb.serves || !nb.peer.link.Established()) && nb.denied == 0 && !nb.suspect() {
			k++
		}
	}
	return k
}

// seek dials somebody from the book where there are too few to choose from.
func (c *Channel) seek() {
	n := c.node
	if c.source || !n.exchanges() || len(c.book) == 0 {
		return
	}
	for c.servers() < fewNeighbours {
		best := -1
		score := 0
		start := n.random.IntN(len(c.book))
		for j := range c.book {
			i := (start + j) % len(c.book)
			k := &c.book[i]
			if k.tried != 0 && n.now-k.tried < tryAgain<<(k.tries-1) {
				continue
			}
			s := 1
			if k.tried == 0 {
				s += 4
			}
			if k.good {
				s++
			}
			s -= min(3, c.alike(k.addr.Addr()))
			if best < 0 || s > score {
				best, score = i, s
			}
		}
		if best < 0 || !c.redirects.take(n.now) {
			return
		}
		k := &c.book[best]
		k.tried = n.now
		k.tries++
		to, by := k.addr, k.from
		linked := n.linked(to)
		if linked || k.tries >= tries {
			c.book = append(c.book[:best], c.book[best+1:]...)
		}
		if !linked {
			n.dialNamed(c, to, by)
		}
		if len(c.book) == 0 {
			return
		}
	}
}

// dialNamed dials whom a neighbour, nil for one that is gone, has named. Those
// whom we were told to dial stay what they are. It is nil where nobody is
// dialled by that word, or there.
func (n *Node) dialNamed(c *Channel, to netip.AddrPort, by *neighbour) *neighbour {
	for _, nb := range c.neighbours {
		if nb.dialled && (nb.peer.addr == to || nb.peer.link.Addr() == to) {
			return nb
		}
	}
	if !n.linked(to) && (by.misnames() || c.deserted(to.Addr())) {
		return nil
	}
	nb := n.dial(c, to)
	nb.lead, nb.namedBy = true, by
	return nb
}

// alike is how many neighbours are of the same /48.
func (c *Channel) alike(a netip.Addr) (k int) {
	x := a.As16()
	for _, nb := range c.neighbours {
		if y := nb.peer.link.Addr().Addr().As16(); [6]byte(x[:6]) == [6]byte(y[:6]) {
			k++
		}
	}
	return k
}

// namePeers tells nb of others, at most most of them.
func (c *Channel) namePeers(nb *neighbour, most int) {
	n := c.node
	if !n.exchanges() || len(c.neighbours) < 2 {
		return
	}
	m := wire.Peers{Channel: c.tag}
	start := n.random.IntN(len(c.neighbours))
	// Those first who have room and have delivered, then those who serve.
	for _, want := range [2]bool{true, false} {
		for j := range c.neighbours {
			o := c.neighbours[(start+j)%len(c.neighbours)]
			good := o.delivered && o.held.Slots > 0
			if o == nb || good != want || !o.joined || !o.serves || o.denied > 0 || o.suspect() || !o.peer.link.Established() ||
				o.silence() > mute || m.N >= most || !dialable(o.peer.link.Addr(), nb.peer.link.Addr()) {
				continue
			}
			m.Peers[m.N] = wire.Peer{Addr: o.peer.link.Addr(), Free: o.held.Slots > 0, Good: o.delivered}
			m.N++
		}
	}
	if m.N > 0 {
		nb.peer.tell(m.Append)
	}
}

// mingle is peer exchange and the care for the number of neighbours.
func (c *Channel) mingle() {
	n := c.node
	if n.exchanges() && n.now >= c.mingleAt && len(c.neighbours) > 0 {
		c.mingleAt = n.now + exchangeEvery*3/4 + time.Duration(n.random.Int64N(int64(exchangeEvery/2)))
		if nb := c.neighbours[n.random.IntN(len(c.neighbours))]; nb.joined && nb.peer.link.Established() {
			c.namePeers(nb, 4)
		}
	}
	if n.now >= c.seekAt && n.now >= c.waitUntil {
		c.seekAt = n.now + 500*time.Millisecond
		c.seek()
	}
	for i := 0; i < len(c.neighbours); i++ {
		if nb := c.neighbours[i]; nb.lead && !nb.peer.link.Established() && n.now-nb.since > halfOpen {
			c.unanswering(nb)
			n.hangUp(nb)
			i--
		}
	}
	if n.now < c.idleAt {
		return
	}
	c.idleAt = n.now + idleEvery
	most := manyNeighbours
	if up := n.capacity(); up > 0 && c.rate > 0 {
		most = min(mostNeighbours, most+int(uplinkNeighbours*up/c.rate))
	}
	over := len(c.neighbours) - most
	for i := 0; i < len(c.neighbours) && over > 0; i++ {
		// Those stay whom we were told to dial, and all on whom anything
		// depends here or there.
		nb := c.neighbours[i]
		if nb.joined && (nb.lead || !nb.dialled) && nb.asked == 0 && nb.push.mask == 0 && c.feedsOf(nb) == 0 && n.now-max(nb.since, nb.push.since, nb.leftAt) > idleAfter {
			n.hangUp(nb)
			over -= 4 // a quarter of what is too much at a time
			i--
		}
	}
}

// hangUp leaves a neighbour that others had named.
func (n *Node) hangUp(nb *neighbour) {
	p := nb.peer
	if len(p.joined) > 1 || n.peers[p.link] != p {
		return
	}
	n.links.Close(n.now, p.link, wire.ByeIdle, "")
	n.forget(p)
}
