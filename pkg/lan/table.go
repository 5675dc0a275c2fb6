package lan

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	maxChannels = 1024 // remembered
	maxPeers    = 64   // a channel
	maxPorts    = 8    // of one address in a channel: as many viewers on one host
	maxGroups   = 4    // a channel
	maxWanted   = 64   // channels that were asked for and always find room
	maxSources  = 1024 // addresses whose pace is watched
)

// The paces that are taken; what is beyond is dropped without a word.
var (
	allDatagrams = limit{1000, 2000} // from all together
	oneDatagrams = limit{50, 150}    // from one address: a host may run some dozens of nodes, which all start at once
	allChecks    = limit{100, 300}   // signatures: a hundredth of a core
	oneChecks    = limit{5, 64}
	oneChannels  = limit{1, 64} // channels that nobody had spoken of
)

// entry is a channel that somebody here has spoken of.
type entry struct {
	id         channel.ID
	descriptor channel.Descriptor // without Item: none has come
	peers      []peer
	groups     []heardGroup
	heard      time.Duration

	// What the callbacks have not been told yet.
	untold    bool // in engine.untold
	described bool
	news      []netip.AddrPort
	newGroups []Group
}

// peer is a node that takes part.
type peer struct {
	addr   netip.AddrPort
	sender uint64
	link   *link
	heard  time.Duration
	source bool
}

type heardGroup struct {
	Group
	by    netip.AddrPort
	link  *link
	heard time.Duration
}

// source is an address whose pace is watched.
type source struct {
	datagrams, checks, channels bucket
	heard                       time.Duration
}

// sourceOf is what is known of an address. Of too many the one that was silent for longest is forgotten.
func (e *engine) sourceOf(now time.Duration, a netip.Addr) *source {
	s := e.sources[a]
	if s == nil {
		if len(e.sources) >= maxSources {
			var oldest netip.Addr
			at := now + 1
			for a, s := range e.sources {
				if s.heard < at || s.heard == at && a.Less(oldest) {
					oldest, at = a, s.heard
				}
			}
			delete(e.sources, oldest)
		}
		s = &source{}
		e.sources[a] = s
	}
	s.heard = now
	return s
}

// channelOf is the entry of a channel, nil if there is no room for it. What this node has asked for, or takes part in, finds room.
func (e *engine) channelOf(now time.Duration, s *source, id channel.ID) *entry {
	if c := e.channels[id]; c != nil {
		return c
	}
	wanted := e.wants(id)
	if !wanted && (len(e.channels) >= maxChannels || !s.channels.take(now, oneChannels)) {
		e.stats.full++
		return nil
	}
	if len(e.channels) >= maxChannels {
		var oldest *entry
		for _, c := range e.channels {
			if !e.wants(c.id) && (oldest == nil || c.heard < oldest.heard || c.heard == oldest.heard && bytes.Compare(c.id[:], oldest.id[:]) < 0) {
				oldest = c
			}
		}
		e.drop(oldest)
	}
	c := &entry{id: id, heard: now}
	e.channels[id] = c
	c.described = true
	e.tell(c)
	return c
}

func (e *engine) wants(id channel.ID) bool {
	return e.self != nil && e.self.Channel == id || slices.Contains(e.wanted, id)
}

// want keeps room for a channel.
func (e *engine) want(id channel.ID) {
	if slices.Contains(e.wanted, id) {
		return
	}
	if len(e.wanted) == maxWanted {
		e.wanted = slices.Delete(e.wanted, 0, 1)
	}
	e.wanted = append(e.wanted, id)
}

func (e *engine) drop(c *entry) {
	delete(e.channels, c.id)
	c.news, c.newGroups, c.described = nil, nil, false
}

// tell has the callbacks hear of a channel.
func (e *engine) tell(c *entry) {
	if !c.untold {
		c.untold = true
		e.untold = append(e.untold, c)
	}
}

// put notes a peer, and has it told if it was not known, or if its channel is being looked for. Where there is no room it takes the
// place of who has missed an announcement.
func (e *engine) put(now time.Duration, c *entry, p peer) {
	same, stale := 0, -1
	for i := range c.peers {
		q := &c.peers[i]
		if q.addr == p.addr {
			*q = p
			if e.looking(now, c.id) && !c.shadowed(p) {
				e.news(c, p.addr)
			}
			return
		}
		if q.addr.Addr() == p.addr.Addr() {
			same++
		}
		if now-q.heard > q.link.gap()*3/2 && (stale < 0 || q.heard < c.peers[stale].heard) {
			stale = i
		}
	}
	switch {
	case same >= maxPorts:
		e.stats.full++
		return
	case len(c.peers) < maxPeers:
		c.peers = append(c.peers, p)
	case stale >= 0:
		c.peers[stale] = p
	default:
		e.stats.full++
		return
	}
	if !c.shadowed(p) {
		e.news(c, p.addr)
	}
}

func (e *engine) news(c *entry, a netip.AddrPort) {
	if !slices.Contains(c.news, a) && len(c.news) < maxPeers {
		c.news = append(c.news, a)
		e.tell(c)
	}
}

// shadowed reports whether p is the link-local address of a node whose routable one is known: that is good for others, too.
func (c *entry) shadowed(p peer) bool {
	return p.addr.Addr().IsLinkLocalUnicast() && slices.ContainsFunc(c.peers, func(q peer) bool {
		return q.sender == p.sender && q.link == p.link && q.addr.Port() == p.addr.Port() && !q.addr.Addr().IsLinkLocalUnicast()
	})
}

// addrs lists the peers of a channel, who was heard last first.
func (c *entry) addrs() []netip.AddrPort {
	sorted := slices.Clone(c.peers)
	slices.SortStableFunc(sorted, func(a, b peer) int { return cmp.Compare(b.heard, a.heard) })
	var out []netip.AddrPort
	for _, p := range sorted {
		if !c.shadowed(p) {
			out = append(out, p.addr)
		}
	}
	return out
}

// join notes a group that by sends to.
func (e *engine) join(now time.Duration, c *entry, l *link, g Group, by netip.AddrPort) {
	g.Interface = l.name
	for i := range c.groups {
		if c.groups[i].Group == g {
			c.groups[i].heard, c.groups[i].by = now, by
			return
		}
	}
	if len(c.groups) == maxGroups {
		e.stats.full++
		return
	}
	c.groups = append(c.groups, heardGroup{g, by, l, now})
	c.newGroups = append(c.newGroups, g)
	e.tell(c)
}

// leave takes a peer off, and the groups that it sent to.
func (c *entry) leave(a netip.AddrPort) {
	c.peers = slices.DeleteFunc(c.peers, func(p peer) bool { return p.addr == a })
	c.groups = slices.DeleteFunc(c.groups, func(g heardGroup) bool { return g.by == a })
	c.news = slices.DeleteFunc(c.news, func(n netip.AddrPort) bool { return n == a })
}

// sweep forgets who has not been heard for two and a half intervals, and who was there on an interface that is no more.
func (e *engine) sweep(now time.Duration) {
	gone := func(l *link, heard time.Duration) bool { return !l.up || now-heard > l.life() }
	longest := 5 * minGap / 2
	for _, l := range e.links {
		longest = max(longest, l.life())
		life := l.life()
		for s, a := range l.announcers {
			if now-a.heard > life {
				delete(l.announcers, s)
			}
		}
	}
	for _, c := range e.channels {
		c.peers = slices.DeleteFunc(c.peers, func(p peer) bool { return gone(p.link, p.heard) })
		c.groups = slices.DeleteFunc(c.groups, func(g heardGroup) bool { return gone(g.link, g.heard) })
		if len(c.peers) == 0 && len(c.groups) == 0 && now-c.heard > longest {
			e.drop(c)
		}
	}
	for a, s := range e.sources {
		if now-s.heard > time.Minute {
			delete(e.sources, a)
		}
	}
}
