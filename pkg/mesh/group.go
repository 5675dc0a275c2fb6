package mesh

import (
	"net/netip"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// groupStripes are what the group carries unless repairs show that more
	// is needed.
	groupStripes wire.StripeMask = 1<<14 - 1
	// groupBackoff bounds the random wait before a repair is asked for.
	groupBackoff = 30 * time.Millisecond
	// groupHold is how long a request waits for others like it.
	groupHold = 8 * time.Millisecond
	// groupSilent is how long a group may be silent before its receivers
	// fall back to unicast.
	groupSilent = 1500 * time.Millisecond
	// groupTrust is how long it has been heard before they live on it alone.
	groupTrust = 2 * time.Second
	// maxAsked bounds the requests that are held: they are compared with each
	// other.
	maxAsked = 512
)

// group is a channel's multicast group: one more child where this node feeds
// it, one more parent where it listens.
type group struct {
	// Sending.
	sending  bool
	push     pusher
	beaconAt Time
	tellAt   Time
	repair   netip.AddrPort
	asked    []groupAsk
	groupDue Time
	pressure float64 // repairs asked for, against shards sent

	// Receiving.
	listening   bool
	latest      block.Number
	latestAt    Time
	heardAt     Time
	broughtAt   Time // when it last brought something of the channel
	since       Time // when that began
	told        bool // the event has been said
	groupVerify allowance
	repairer    *neighbour
	repairAddr  netip.AddrPort
	namedBy     netip.AddrPort // whose beacon named that
	feeder      netip.AddrPort // who last sent a new signed manifest
	wanted      askOnce        // a manifest to be asked for, and when
}

// groupAsk is one receiver's request, held for a moment.
type groupAsk struct {
	from     *neighbour
	s        *slot
	want     uint64
	manifest bool
}

func (g *group) init() {
	g.groupDue = Never
	g.groupVerify = fullAllowance(verifyRate, verifyBurst)
}

// SendToGroup makes the node feed the channel's multicast group. repair is
// where receivers ask for what they missed; zero: the source of the datagrams.
func (c *Channel) SendToGroup(repair netip.AddrPort) {
	c.group.sending = true
	c.group.repair = repair
	c.group.push.mask = wire.FeedMask(groupStripes) | wire.Manifest | wire.Second
	c.countChildren()
	c.group.push.base, c.group.push.backlog = c.next, c.next
}

// ListenToGroup makes the node take the channel's multicast group for a
// parent.
func (c *Channel) ListenToGroup() { c.group.listening = true }

// receiving reports whether the group brings the channel now.
func (g *group) receiving(now Time) bool {
	return g.listening && g.heardAt != 0 && now-g.heardAt < groupSilent
}

// ahead reports whether a neighbour says that it has what we lack.
func (nb *neighbour) ahead() bool {
	p, c := nb.theirs, nb.ch
	return p.Run > c.run || p.Run == c.run && c.begun && p.Newest != wire.NoNumber && p.Newest >= c.next
}

func (c *Channel) fromGroup(from netip.AddrPort, b []byte) {
	n, g := c.node, &c.group
	if len(b) == 0 || !g.listening {
		return
	}
	switch b[0] {
	case wire.TypeBeacon:
		var m wire.Beacon
		if m.Decode(b) != nil || m.Channel != c.tag {
			n.stats.Refused++
			return
		}
		c.onBeacon(from, &m)
	case wire.TypeShard:
		if sh, err := block.DecodeShard(b); err == nil && sh.Tag == c.tag && sh.Name.Run == c.run && c.slot(sh.Name.Number) != nil {
			g.heard(sh.Name.Number, n.now)
		}
		c.shard(nil, b)
	case wire.TypeManifest, wire.TypeDescriptor:
		before := n.stats.ManifestsIn
		c.bare(nil, b)
		if n.stats.ManifestsIn != before {
			g.feeder = from
		}
		if s := c.slot(c.next - 1); s != nil && c.begun {
			g.heard(c.next-1, n.now)
		}
	default:
		n.stats.Refused++
	}
}

func (g *group) heard(number block.Number, now Time) {
	if g.broughtAt == 0 || now-g.broughtAt > groupSilent {
		g.since = now
	}
	g.heardAt, g.broughtAt = now, now
	if number > g.latest || beyond(g.latest, number, window/2+1) {
		g.latest, g.latestAt = number, now
	}
}

// onBeacon learns where repairs are to be had. A beacon is not signed: once
// somebody has shown that he feeds the group, by manifests that are new, only
// his beacons count.
func (c *Channel) onBeacon(from netip.AddrPort, m *wire.Beacon) {
	n, g := c.node, &c.group
	if g.feeder.IsValid() && from != g.feeder {
		n.stats.Refused++
		return
	}
	to := from
	if a := m.Repair.Addr(); a.IsValid() && !a.IsUnspecified() {
		if a.IsLinkLocalUnicast() {
			a = a.WithZone(from.Addr().Zone())
		}
		to = netip.AddrPortFrom(a, to.Port())
	}
	if p := m.Repair.Port(); p != 0 {
		to = netip.AddrPortFrom(to.Addr(), p)
	}
	if n.now-g.heardAt < groupSilent || g.heardAt == 0 {
		if m.Run == 0 || m.Newest == wire.NoNumber || m.Run == c.run && c.begun && m.Newest <= g.latest {
			g.heardAt = n.now // nothing to be heard is not silence
		}
	}
	if !to.IsValid() || to.Port() == 0 || to.Addr().IsMulticast() || to.Addr().IsUnspecified() {
		return
	}
	if g.repairer != nil && g.repairAddr != to && g.namedBy != from && g.feeder.IsValid() {
		c.dropRepairer() // it was named by somebody else
	}
	if g.repairer == nil {
		g.namedBy = from
		c.dialRepair(to)
	}
}

// dropRepairer leaves the neighbour that repairs were asked of.
func (c *Channel) dropRepairer() {
	n, nb := c.node, c.group.repairer
	c.group.repairer = nil
	p := nb.peer
	if !p.beacon || c.feedsOf(nb) != 0 || len(p.joined) > 1 {
		return // here for other things too
	}
	n.links.Close(n.now, p.link, wire.ByeLeaving, "")
	n.forget(p)
}

// dialRepair opens the link on which repairs are asked for. It is not a
// candidate for a parent until the group falls silent.
func (c *Channel) dialRepair(to netip.AddrPort) {
	n, g := c.node, &c.group
	for _, r := range c.redials {
		if r.to == to {
			return // soon
		}
	}
	for _, nb := range c.neighbours {
		if nb.peer.addr == to || nb.peer.link.Addr() == to {
			g.repairer, g.repairAddr = nb, to
			return
		}
	}
	g.repairAddr = to
	links := len(n.order)
	g.repairer = n.dial(c, to)
	g.repairer.peer.beacon = len(n.order) > links
}

// ask holds a receiver's request for a moment: what two ask for is worth a
// datagram to everybody.
func (g *group) ask(nb *neighbour, s *slot, want uint64, manifest bool, now Time) {
	for i := range g.asked {
		// The same link again is not somebody else.
		if a := &g.asked[i]; a.from == nb && a.s == s {
			a.want |= want
			a.manifest = a.manifest || manifest
			return
		}
	}
	if len(g.asked) >= maxAsked {
		return
	}
	g.asked = append(g.asked, groupAsk{nb, s, want, manifest})
	if g.groupDue == Never {
		g.groupDue = now + groupHold
	}
}

// settleGroupRepairs answers the requests that were held.
func (c *Channel) settleGroupRepairs() {
	n, g := c.node, &c.group
	asked := g.asked
	g.asked, g.groupDue = nil, Never
	for i, a := range asked {
		if a.s == nil || a.s.b == nil || c.slot(a.s.number) != a.s {
			continue
		}
		// What others asked for of the same block.
		var once, twice uint64
		manifests := 0
		for _, o := range asked {
			if o.s == a.s {
				twice |= once & o.want
				once |= o.want
				if o.manifest {
					manifests++
				}
			}
		}
		first := true
		for _, o := range asked[:i] {
			if o.s == a.s {
				first = false
			}
		}
		if d := g.push.debt(a.s.number); d != nil && first {
			again := twice & a.s.b.Have()
			for w := again; w != 0; w &= w - 1 {
				n.stats.GroupRepairs++
			}
			d.sent &^= again
			g.push.owe(d, again)
			if manifests > 1 {
				g.push.oweManifest(d, manifestWanted)
			}
		}
		a.from.resend(a.s, a.want&^twice, a.manifest && manifests < 2)
		g.pressure++
	}
}

// housekeep says beacons and descriptors, and falls back to unicast when a
// group that we listen to is silent.
func (g *group) housekeep(c *Channel) {
	n := c.node
	if g.sending {
		if n.now >= g.beaconAt {
			g.beaconAt = n.now + beaconEvery
			p := c.Progress()
			b := wire.Beacon{Stripes: g.push.mask.Stripes(), Channel: c.tag, Run: p.Run, Newest: p.Newest, RAP: p.RAP, Repair: g.repair}
			c.sendOne(&g.push, b.Append(nil))
		}
		if n.now >= g.tellAt && c.descriptor != nil {
			g.tellAt = n.now + describeEvery
			c.sendOne(&g.push, c.descriptor)
			// More stripes where many repairs are asked for, fewer again
			// where none are.
			blocks := max(1, c.rate/14400)
			switch {
			case g.pressure/blocks > 0.5 && g.push.mask.Stripes() != wire.AllStripes:
				g.push.mask |= 1 << (highest(g.push.mask) + 1)
			case g.pressure/blocks < 0.02 && g.push.mask.Stripes() != groupStripes:
				g.push.mask &^= 1 << highest(g.push.mask)
			}
			c.countChildren()
			g.pressure = 0
		}
	}
	if !g.listening {
		return
	}
	if w := g.wanted; w.at != 0 && n.now >= w.at {
		g.wanted = askOnce{}
		if s := c.slot(w.name.Number); g.repairer != nil && (w.name.Run != c.run || !c.begun || w.name.Number >= c.next || s != nil && s.b == nil) {
			g.repairer.askFor(w.name)
		}
	}
	if r := g.repairer; !g.receiving(n.now) {
		g.told = false
		c.reassign = c.reassign || r != nil && r.joined && r.ahead()
	} else if (c.taken() != 0 || !g.told) && g.broughtAt != 0 && n.now-g.since > groupTrust {
		// The group is there for good.
		for i := range c.feeds {
			c.drop(i)
		}
		g.told = true
		n.out.Event(Event{Kind: EventParent, Channel: c.ID, Text: "multicast group"})
	}
}
