package cluster

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sixcast/sixcast/pkg/channel"
)

// How members compare. Each one asks for itself, and believes only answers to what it asked, from where the member it asked is:
//
//	ask ▶ ◀ digest      a sum over (id, seq) for each of 1,024 parts of the ids: where they are equal, nothing is to be had
//	have ▶ ◀ items      for the parts that differ: what I hold; what of yours I lack, as much as fits into 1 MiB; and so on from there
//
// One asks when a member joins, every syncEvery one that is drawn by lot, and who says that he has much news. Who has what the other lacks does
// nothing: the other asks too. So if nothing changes any more and all can talk, then after a few rounds all sums are equal, and with them the sets.
const (
	syncEvery = 5 * time.Second
	// A member is asked every askEvery at most, and first greetTime after it joined, when it knows us too.
	askEvery  = time.Second
	greetTime = 250 * time.Millisecond
	tickEvery = 100 * time.Millisecond
	// News go every newsEvery at most, to newsTo members.
	newsEvery = time.Second
	newsTo    = 8
	// maxSyncs go on at once, each for syncTime at most; a digest is waited for digestTime, items for itemsTime.
	maxSyncs   = 4
	syncTime   = 5 * time.Minute
	digestTime = 6 * time.Second
	itemsTime  = 20 * time.Second
	// Fetched items are verified at fetchASecond, all members together.
	fetchASecond = 5000
	fetchStep    = 64
	// Who differs and yet has nothing for us, or does not answer, for patience times, is asked less and less, down to every seldom.
	patience = 3
	seldom   = 5 * time.Minute
	// Who answers with what no member sends is not asked for shunTime.
	shunTime = 10 * time.Minute

	// servers answer at once, a member gets serveASecond bytes.
	servers      = 4
	serveASecond = 16 << 20
	maxRequests  = 16
)

var (
	errGarbage  = errors.New("answered with what no member sends")
	errNoAnswer = errors.New("did not answer")
)

// peer is what is to be done about another member.
type peer struct {
	due       bool // to be asked
	busy      bool // being asked
	notBefore time.Time
	vain      int // times in a row that asking brought nothing
	answered  bool
	serving   int // answers under way: one, and one that is all but gone
	served    allowance
}

type syncer struct {
	requests chan []byte

	mu      sync.Mutex
	peers   map[string]*peer
	calls   map[nonce]chan []byte // answers that are waited for
	shunned map[netip.AddrPort]time.Time
	running int
	pace    allowance
	news    bool
	told    time.Time // when news were told last
}

func (s *syncer) init() {
	s.requests = make(chan []byte, maxRequests)
	s.peers, s.calls, s.shunned = map[string]*peer{}, map[nonce]chan []byte{}, map[netip.AddrPort]time.Time{}
	s.pace = allowance{rate: fetchASecond, burst: fetchASecond}
}

// peer is that of a member. Called with the lock held.
func (s *syncer) peer(name string) *peer {
	p := s.peers[name]
	if p == nil {
		p = &peer{served: allowance{rate: serveASecond, burst: 2 * serveASecond}}
		s.peers[name] = p
	}
	return p
}

// forget tells whether who is gone has ever answered.
func (s *syncer) forget(name string) (answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[name]
	delete(s.peers, name)
	return p != nil && p.answered
}

// greet has a member asked that has just joined. Called under memberlist's lock.
func (c *Cluster) greet(name string) {
	s := &c.sync
	s.mu.Lock()
	p := s.peer(name)
	p.due, p.vain, p.notBefore = true, 0, c.cfg.Now().Add(greetTime)
	s.mu.Unlock()
}

// tellNews has others told that they should ask.
func (c *Cluster) tellNews() {
	c.sync.mu.Lock()
	c.sync.news = true
	c.sync.mu.Unlock()
	poke(c.soon)
}

// member is one by its name, not this one.
func (c *Cluster) member(name string) (Member, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.members[name]
	return m, ok && !m.Self
}

// received takes a message that is not an item.
func (c *Cluster) received(b []byte) {
	s := &c.sync
	kind := byte(0)
	if len(b) > nonceSize && len(b) <= maxMessage || len(b) > 0 && b[0] == kindNews {
		kind = b[0]
	}
	switch kind {
	case kindNews:
		name, err := parseNews(b)
		if err != nil {
			c.stats.malformed.Add(1)
			return
		}
		if _, ok := c.member(name); ok {
			s.mu.Lock()
			s.peer(name).due = true
			s.mu.Unlock()
			poke(c.soon)
		}
	case kindAsk, kindHave:
		select {
		case s.requests <- slices.Clone(b):
		default:
			c.stats.dropped.Add(1)
		}
	case kindDigest, kindItems:
		n := nonce(b[1:])
		s.mu.Lock()
		ch := s.calls[n]
		delete(s.calls, n)
		s.mu.Unlock()
		if ch == nil {
			c.stats.malformed.Add(1)
			return
		}
		ch <- slices.Clone(b)
	default:
		c.stats.malformed.Add(1)
	}
}

// compare asks whoever is due.
func (c *Cluster) compare() {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	var lot time.Time
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		case <-c.soon:
		}
		now := c.cfg.Now()
		others := c.others()
		if len(others) == 0 {
			continue
		}
		rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		s := &c.sync
		s.mu.Lock()
		if !now.Before(lot) {
			s.peer(others[0].Name).due = true
			lot = now.Add(c.tune.syncEvery*4/5 + rand.N(c.tune.syncEvery*2/5))
		}
		maps.DeleteFunc(s.shunned, func(_ netip.AddrPort, until time.Time) bool { return !now.Before(until) })
		for _, m := range others {
			p := s.peers[m.Name]
			if p == nil || !p.due || p.busy || s.running == maxSyncs || now.Before(p.notBefore) {
				continue
			}
			if _, ok := s.shunned[m.Addr]; ok {
				continue
			}
			p.due, p.busy, p.notBefore = false, true, now.Add(askEvery)
			s.running++
			c.work.Go(func() { c.ask(m, p) })
		}
		news := s.news && now.Sub(s.told) >= newsEvery
		if news {
			s.news, s.told = false, now
		}
		s.mu.Unlock()
		if news {
			for _, m := range others[:min(len(others), newsTo)] {
				_ = c.list.SendBestEffort(nodeOf(m), appendNews(nil, c.cfg.Name)) // lost ones are made up for by lot
			}
		}
	}
}

func nodeOf(m Member) *memberlist.Node {
	return &memberlist.Node{Name: m.Name, Addr: m.Addr.Addr().AsSlice(), Port: m.Addr.Port()}
}

// ask compares with a member, and judges him.
func (c *Cluster) ask(m Member, p *peer) {
	ctx, cancel := context.WithTimeout(c.ctx, syncTime)
	defer cancel()
	c.stats.syncs.Add(1)
	differs, fresh, err := c.fetch(ctx, m)
	if c.ctx.Err() != nil {
		return
	}
	if fresh > 0 {
		c.tellNews()
	}
	s := &c.sync
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	p.busy = false
	p.answered = p.answered || err == nil
	now := c.cfg.Now()
	if fresh > 0 || err == nil && !differs {
		p.vain = 0
	} else if p.vain++; p.vain >= patience {
		p.notBefore = now.Add(min(c.tune.syncEvery<<min(p.vain-patience, 10), seldom))
	}
	if err == nil {
		return
	}
	c.stats.syncsFailed.Add(1)
	if errors.Is(err, errGarbage) {
		c.stats.shunned.Add(1)
		s.shunned[m.Addr] = now.Add(shunTime)
		c.cfg.Logger.Warn(fmt.Sprintf("cluster: %s at %s %v: not asked for %v", m.Name, m.Addr, err, shunTime))
		return
	}
	p.due = true
	c.cfg.Logger.Debug("cluster: comparing failed", "member", m.Name, "err", err)
}

// call sends a request and waits for its answer.
func (c *Cluster) call(ctx context.Context, m Member, n nonce, request []byte, within time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	s := &c.sync
	answer := make(chan []byte, 1)
	s.mu.Lock()
	s.calls[n] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.calls, n)
		s.mu.Unlock()
	}()
	if err := c.list.SendReliable(nodeOf(m), request); err != nil {
		return nil, err
	}
	select {
	case b := <-answer:
		return b, nil
	case <-ctx.Done():
		return nil, errNoAnswer
	}
}

func newNonce() (n nonce) {
	_, _ = crand.Read(n[:])
	return n
}

// fetch gets from a member what this one lacks: whether they differed, and how many items were news.
func (c *Cluster) fetch(ctx context.Context, m Member) (differs bool, fresh int, err error) {
	n := newNonce()
	b, err := c.call(ctx, m, n, appendAsk(nil, n, c.cfg.Name), digestTime)
	if err != nil {
		return false, 0, err
	}
	var d digest
	if parseDigest(b, &d) != nil {
		return false, 0, errGarbage
	}
	set, differs := c.index.differing(&d)
	for h := (have{name: c.cfg.Name, buckets: set}); differs; {
		h.nonce, h.known = newNonce(), c.index.full()
		c.index.list(&h)
		b, err := c.call(ctx, m, h.nonce, h.append(nil), itemsTime)
		if err != nil {
			return differs, fresh, err
		}
		var got items
		if got.parse(b) != nil || !answers(&h, &got, len(b)) {
			return differs, fresh, errGarbage
		}
		k, err := c.take(ctx, got.items)
		fresh += k
		if err != nil {
			return differs, fresh, err
		}
		if got.through == highest {
			break
		}
		h.from = next(got.through)
	}
	return differs, fresh, nil
}

// answers tells whether items of so many bytes may answer h: nothing but what was asked for, and enough of it.
func answers(h *have, m *items, size int) bool {
	less := func(a, b *channel.ID) bool { return bytes.Compare(a[:], b[:]) < 0 }
	if less(&m.through, &h.from) || less(&h.to, &m.through) || m.through != h.to && size < maxMessage/2 {
		return false
	}
	listed := h.entries
	for i := range m.items {
		e := &m.items[i]
		if less(&e.id, &h.from) || less(&m.through, &e.id) || !h.buckets.has(bucketOf(&e.id)) {
			return false
		}
		for len(listed) > 0 && less(&listed[0].id, &e.id) {
			listed = listed[1:]
		}
		known := len(listed) > 0 && listed[0].id == e.id
		if known && listed[0].seq >= e.seq || !known && h.known {
			return false
		}
	}
	return true
}

// take puts fetched items, as fast as is allowed.
func (c *Cluster) take(ctx context.Context, all []entry) (fresh int, err error) {
	for i, e := range all {
		if i%fetchStep == 0 {
			c.sync.mu.Lock()
			wait := c.sync.pace.owe(c.cfg.Now(), float64(min(fetchStep, len(all)-i)))
			c.sync.mu.Unlock()
			select {
			case <-ctx.Done():
				return fresh, ctx.Err()
			case <-time.After(wait):
			}
		}
		c.stats.fetched.Add(1)
		isFresh, err := c.put(e.item)
		switch {
		case forged(err):
			return fresh, errGarbage
		case err != nil:
			c.index.refuse(e.id, e.seq)
		case isFresh:
			fresh++
		}
	}
	return fresh, nil
}

// serve answers requests.
func (c *Cluster) serve() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case b := <-c.sync.requests:
			c.answer(b)
		}
	}
}

func (c *Cluster) answer(b []byte) {
	var h have
	var n nonce
	var name string
	var err error
	if b[0] == kindAsk {
		n, name, err = parseAsk(b)
	} else {
		err = h.parse(b)
		name = h.name
	}
	if err != nil {
		c.stats.malformed.Add(1)
		return
	}
	m, ok := c.member(name)
	if !ok {
		return
	}
	s := &c.sync
	s.mu.Lock()
	p := s.peer(name)
	if p.serving == 2 || !p.served.take(c.cfg.Now(), 0) {
		s.mu.Unlock()
		c.stats.dropped.Add(1)
		return
	}
	p.serving++
	s.mu.Unlock()

	var out []byte
	if b[0] == kindAsk {
		var d digest
		c.index.digest(&d)
		out = appendDigest(nil, n, &d)
	} else {
		a := c.index.answer(&h)
		c.stats.served.Add(uint64(len(a.items)))
		out = a.append(nil)
	}
	if err := c.list.SendReliable(nodeOf(m), out); err != nil && c.ctx.Err() == nil {
		c.cfg.Logger.Debug("cluster: answering failed", "member", name, "err", err)
	}
	s.mu.Lock()
	p.serving--
	p.served.owe(c.cfg.Now(), float64(len(out)))
	s.mu.Unlock()
}
