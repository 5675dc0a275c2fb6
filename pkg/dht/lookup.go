package dht

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/anacrolix/dht/v2"
	"github.com/anacrolix/dht/v2/krpc"
)

const (
	// alpha is how many questions of a lookup wait for an answer at once. One that is slow does not count any more.
	alpha     = 4
	slowAfter = 500 * time.Millisecond
	// answerWithin is when a question is given up.
	answerWithin = 1500 * time.Millisecond

	maxQuestions  = 160 // of a lookup
	maxContacts   = 128 // that a lookup knows, the nearest
	maxTold       = 16  // nodes taken from one answer; 8 is what it should have
	maxPer64Nodes = 3   // of a lookup, if they are global: one network is not to be all that is asked
	maxMisled     = 3   // a node of whom so many contacts failed, and none answered, has made them up
)

// contact is a node that a lookup knows of.
type contact struct {
	node
	named  bool // the id is known
	state  state
	since  time.Time // when it was asked
	slow   bool
	token  string
	hops   int
	teller *contact // nil for the first
	misled int      // contacts of his that did not answer
	led    int      // those that did
}

type state uint8

const (
	unasked state = iota
	asked
	answered
	failed
)

// lookup goes to the nodes nearest to a target (BEP 5). It belongs to one goroutine.
//
// The library's own is not used: it panics at a reply with k but no seq, forgets what told it of whom, and waits two seconds for each
// node that is gone.
type lookup struct {
	self     [20]byte
	target   [20]byte
	welcome  func(netip.AddrPort) bool
	contacts []*contact // by distance, those without an id first
	known    map[netip.AddrPort]bool
	of64     tally
	roots    []netip.AddrPort // of the contacts, those that the node was told of
	flying   int              // asked, and not slow
	sent     int
}

// outcome is what became of a question; without a reply it has failed.
type outcome struct {
	of    *contact
	reply *krpc.Return
}

// introduced reports whether one of the roots has answered.
func (l *lookup) introduced() bool {
	return slices.ContainsFunc(l.contacts, func(c *contact) bool { return c.state == answered && slices.Contains(l.roots, c.addr) })
}

func newLookup(self, target [20]byte, welcome func(netip.AddrPort) bool) *lookup {
	return &lookup{self: self, target: target, welcome: welcome, known: map[netip.AddrPort]bool{}, of64: tally{}}
}

// add takes a node to ask. teller is nil for those that we know ourselves.
func (l *lookup) add(n node, named bool, teller *contact) {
	if l.known[n.addr] || named && n.id == l.self || !l.welcome(n.addr) {
		return
	}
	c := &contact{node: n, named: named, teller: teller, hops: 1}
	if teller != nil {
		c.hops = teller.hops + 1
		if !tellable(teller.addr, n.addr) {
			return
		}
		if net := network(n.addr.Addr()); reach(n.addr.Addr()) == 2 {
			if l.of64[net] >= maxPer64Nodes {
				return
			}
			l.of64[net]++
		}
	}
	l.known[n.addr] = true
	l.contacts = append(l.contacts, c)
	l.sort()
	if len(l.contacts) > maxContacts {
		last := l.contacts[maxContacts]
		l.contacts = l.contacts[:maxContacts]
		if last.state == asked && !last.slow {
			l.flying--
		}
		last.state = failed
	}
}

func (l *lookup) sort() {
	slices.SortStableFunc(l.contacts, func(a, b *contact) int {
		switch {
		case a.named && b.named:
			return nearer(a.id, b.id, l.target)
		case a.named:
			return 1
		case b.named:
			return -1
		}
		return 0
	})
}

// next is whom to ask now, nil for nobody. done says that the k nearest have answered, or that there is nobody left.
func (l *lookup) next() (c *contact, done bool) {
	near, waiting := 0, false
	for _, c := range l.contacts {
		switch c.state {
		case answered:
			if near++; near == k {
				return nil, !waiting
			}
		case asked:
			waiting = true
		case unasked:
			if t := c.teller; t != nil && t.misled >= maxMisled && t.led == 0 || l.sent >= maxQuestions {
				c.state = failed
				continue
			}
			if l.flying < alpha {
				c.state = asked
				l.flying++
				l.sent++
				return c, false
			}
			return nil, false
		}
	}
	return nil, !waiting
}

// lapse finds who is slow, and how long it is until somebody else is; slowAfter if nobody waits.
func (l *lookup) lapse(now time.Time) (next time.Duration) {
	next = slowAfter
	for _, c := range l.contacts {
		if c.state != asked || c.slow {
			continue
		}
		if left := c.since.Add(slowAfter).Sub(now); left > 0 {
			next = min(next, left)
			continue
		}
		c.slow = true
		l.flying--
	}
	return next
}

// take records an outcome. It reports whether the reply is one of the node that was asked.
func (l *lookup) take(o outcome) bool {
	c := o.of
	if c.state != asked {
		return false
	}
	if !c.slow {
		l.flying--
	}
	// Who has another id than the teller said is not who was sought: ids are cheap to invent.
	if o.reply == nil || c.named && [20]byte(o.reply.ID) != c.id || [20]byte(o.reply.ID) == l.self || o.reply.ID.IsZero() {
		c.state = failed
		if c.teller != nil {
			c.teller.misled++
		}
		return false
	}
	c.state = answered
	if c.teller != nil {
		c.teller.led++
	}
	if !c.named {
		c.named, c.id = true, o.reply.ID
		l.sort()
	}
	if o.reply.Token != nil {
		c.token = *o.reply.Token
	}
	for _, n := range o.reply.Nodes6[:min(len(o.reply.Nodes6), maxTold)] {
		l.add(node{n.ID, addrPort(n.Addr)}, true, c)
	}
	return true
}

// nearest are the k nearest that have answered.
func (l *lookup) nearest() (all []*contact) {
	for _, c := range l.contacts {
		if c.state == answered && len(all) < k {
			all = append(all, c)
		}
	}
	return all
}

// unheard reports whether one of those that would be the k nearest did not answer.
func (l *lookup) unheard() bool {
	near := 0
	for _, c := range l.contacts {
		switch {
		case c.state == failed && c.named:
			return true
		case c.state == answered:
			near++
		}
		if near == k {
			break
		}
	}
	return false
}

// addrPort is invalid for what is no IPv6 address.
func addrPort(a krpc.NodeAddr) netip.AddrPort {
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok || a.Port < 0 || a.Port > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, uint16(a.Port))
}

// run looks up target with a method and its arguments. each gets every answer, on the caller's goroutine.
func (n *Node) run(ctx context.Context, target [20]byte, method string, args krpc.MsgArgs, each func(*contact, *krpc.Return)) (*lookup, error) {
	select {
	case n.lookups <- struct{}{}:
		defer func() { <-n.lookups }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l := newLookup(n.id, target, n.guard.welcome)
	if err := n.first(ctx, l); err != nil {
		return nil, err
	}
	args.Want = []krpc.Want{krpc.WantNodes6}

	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	outcomes := make(chan outcome, maxQuestions) // nobody ever blocks on it
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(l.lapse(time.Now()))
		c, done := l.next()
		if done {
			if l.introduced() {
				n.introduced.Store(true)
			}
			return l, nil
		}
		if c != nil {
			if n.out.Wait(ctx) != nil { // also where the deadline would pass meanwhile
				return nil, cmp.Or(context.Cause(ctx), context.DeadlineExceeded)
			}
			c.since = time.Now()
			work.Go(func() { outcomes <- n.question(ctx, c, method, args) })
			continue
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timer.C:
		case o := <-outcomes:
			if l.take(o) && each != nil {
				each(o.of, o.reply)
			}
		}
	}
}

// question asks one node.
func (n *Node) question(ctx context.Context, c *contact, method string, args krpc.MsgArgs) outcome {
	res := n.server.Query(ctx, libraryAddr(c.addr), method, dht.QueryInput{MsgArgs: args, RateLimiting: dht.QueryRateLimiting{NotAny: true}})
	if res.Err != nil || res.Reply.Y != krpc.YResponse || res.Reply.R == nil {
		return outcome{of: c}
	}
	return outcome{of: c, reply: res.Reply.R}
}
