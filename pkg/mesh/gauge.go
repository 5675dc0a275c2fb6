package mesh

import (
	"time"

	"github.com/sixcast/sixcast/pkg/pace"
	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// A first train of gaugeFirst short datagrams finds out who has next to
	// nothing: below gaugeLittle that will do. Others send one of gaugeMost
	// long ones.
	gaugeFirst            = 3
	gaugeShort            = 400 // bytes at the IP layer
	gaugeMost             = 10
	gaugeLittle pace.Rate = 60_000
	gaugeShare            = 0.9 // of what a train shows is believed
	gaugeWait             = 600 * time.Millisecond
	gaugeTries            = 3
	// Who has less than poorTimes the channel serves nobody: what he says
	// himself takes a good part of it. He looks again with somebody else after
	// gaugeSoon, since one word may be a lie, and then every gaugeAgain.
	poorTimes  = 0.25
	gaugeSoon  = 2 * time.Second
	gaugeAgain = time.Minute
	// What is answered on one link, datagrams and those a second.
	arrivedBurst = 2 * (gaugeFirst + gaugeMost)
	arrivedRate  = 2
)

// gauge learns what our uplink takes before anything is promised: who
// promised what he does not have would fill his own queue with it, who
// promised less would serve nobody while a crowd waits (section 6.7).
type gauge struct {
	with  *peer // who answers, or did last
	train pace.Train
	id    uint8
	sent  uint8 // datagrams of this train
	tries uint8 // trains that brought nothing
	at    Time  // this one was sent
	again time.Duration
	rate  pace.Rate
	known bool // rate is
	taken bool // and told to the bucket
}

// learns reports whether our uplink is to be found out: nobody has told us.
func (n *Node) learns() bool {
	return n.exchanges() && (n.cfg.Upload < 0 || n.cfg.Uplink > 0 && n.cfg.Uplink < n.cfg.Upload)
}

// measureUplink sends a train when it is time.
func (n *Node) measureUplink() {
	g := &n.gauge
	if !g.known && g.tries >= gaugeTries || g.known && g.sent == 0 && (!n.poor || n.now-g.at < g.again) || !n.learns() {
		return
	}
	if g.sent != 0 {
		if n.now-g.at < gaugeWait {
			return
		}
		if n.gauged(); g.sent != 0 || g.known {
			return
		}
	}
	var to *peer
	for _, p := range n.order {
		if p.link.Established() && len(p.joined) > 0 && (to == nil || to == g.with) {
			to = p // somebody else where there is anybody
		}
	}
	if to != nil {
		n.sendTrain(to, gaugeFirst)
	}
}

// sendTrain sends a train to a peer.
func (n *Node) sendTrain(p *peer, datagrams uint8) {
	g := &n.gauge
	g.with, g.sent, g.at = p, datagrams, n.now
	g.id++
	size := wire.MaxDatagram + wire.IPOverhead
	if datagrams == gaugeFirst {
		size = gaugeShort
	}
	g.train.Begin(size)
	var buf [wire.MaxControl]byte
	for i := range datagrams {
		m := wire.Train{Train: g.id, Index: i}
		if p.link.SendControl(n.now, m.Append(buf[:0], size-wire.IPOverhead-wire.SealedOverhead)) != nil {
			return
		}
	}
}

// gauged takes what has come of a train.
func (n *Node) gauged() {
	g := &n.gauge
	rate, ok := g.train.Rate()
	switch {
	case !ok:
		g.tries++
		g.sent = 0
		return
	case g.sent == gaugeFirst && rate > gaugeLittle:
		n.sendTrain(g.with, gaugeMost)
		return
	}
	if g.again = gaugeAgain; !g.known {
		g.again = gaugeSoon
	}
	g.rate, g.known, g.taken = rate*gaugeShare, true, false
	g.sent, g.tries = 0, 0
	if n.cfg.Link.HelloGap == 0 {
		gap := helloGap
		if rate <= gaugeLittle {
			gap = helloGapSlow
		}
		n.links.SetHelloGap(gap)
	}
	for _, c := range n.channels {
		c.expect()
	}
}

// onTrain answers one datagram of somebody's train.
func (p *peer) onTrain(m *wire.Train) {
	n := p.node
	if p.trains.take(n.now) {
		p.tell((&wire.Arrived{Train: m.Train, Index: m.Index, Arrival: uint32(n.now / time.Microsecond)}).Append)
	}
}

// onArrived takes the answer to one datagram of ours.
func (p *peer) onArrived(m *wire.Arrived) {
	n := p.node
	g := &n.gauge
	if p != g.with || m.Train != g.id || m.Index >= g.sent {
		return
	}
	if g.train.Came(m.Index, m.Arrival); m.Index == g.sent-1 {
		n.gauged()
	}
}

// useGauge takes what was found out for what our uplink takes, where a channel
// takes whole bytes a second.
func (n *Node) useGauge(whole float64) {
	g := &n.gauge
	if g.taken {
		return
	}
	g.taken = true
	n.bucket.Measured(min(g.rate, pace.Rate(expectTold*whole)))
	n.poor = float64(g.rate) < poorTimes*whole
}
