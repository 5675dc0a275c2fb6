package find

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/udp"
)

const scheme = "udp://"

const (
	// MaxTrackers is how many are asked at once.
	MaxTrackers = 16
	// wantPeers is how many one answer is to name.
	wantPeers = 50
	// A name is looked up again after lookUpAgain, after firstLookUp where that failed, doubling.
	lookUpAgain = 10 * time.Minute
	firstLookUp = time.Second
	mostLookUp  = time.Minute
	// Of the addresses of one name, at most maxAddresses, so many list a swarm; goneAfter requests without an answer, and the next
	// one is asked instead, until the name is looked up again.
	listedBy     = 2
	maxAddresses = 64
	goneAfter    = 2
)

// TrackersConfig says what a node tells its trackers.
type TrackersConfig struct {
	Swarm announce.SwarmID
	// Listen is the address that trackers are asked from; its port is not used. They list the one that they see.
	Listen netip.Addr
	// Port is where the node listens.
	Port uint16
	// Names of trackers; what CheckTracker does not want is left out, and what is beyond MaxTrackers. One with several addresses is several trackers of one operator, of which two list
	// a swarm: which, everybody chooses alike (rendezvous hashing).
	Names []string
	// Seeder says that the node feeds the channel.
	Seeder bool
	// OnPeers gets the peers of each answer; it runs on a goroutine of Trackers, and the slice is its own.
	OnPeers func([]netip.AddrPort)
	Logger  *slog.Logger

	lookUp func(ctx context.Context, name string) ([]netip.AddrPort, error) // resolve, but for tests
}

// Trackers announces a node to its trackers until it is closed.
type Trackers struct {
	cfg    TrackersConfig
	client announce.ClientConfig
	random *rand.Rand
	start  time.Time
	conn   *udp.Conn
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	wake   chan struct{}

	mu      sync.Mutex
	names   []*named
	item    []byte // the channel's descriptor, once it is known
	queue   udp.SendQueue
	closing bool
}

// named is the trackers of one name.
type named struct {
	name   string
	addrs  []netip.AddrPort // of it, in the order that everybody has for this swarm
	slots  []*slot
	failed string // what was last said about it
	well   bool   // it has answered
}

// slot is one of the addresses that list us.
type slot struct {
	addr   netip.AddrPort
	client *announce.Client
}

// URL is how a URI names a tracker that CheckTracker takes.
func URL(tracker string) string { return scheme + strings.TrimPrefix(tracker, scheme) }

// CheckTracker reports whether s is "host:port" or "udp://host:port".
func CheckTracker(s string) error {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(s, scheme))
	if err != nil || host == "" {
		return fmt.Errorf("tracker %q: want host:port", s)
	}
	if a, err := netip.ParseAddr(host); err == nil && (!a.Is6() || a.Is4In6()) {
		return fmt.Errorf("tracker %q: sixcast is IPv6 only", s)
	}
	if _, err := net.LookupPort("udp", port); err != nil || port == "0" {
		return fmt.Errorf("tracker %q: port %q: want a number from 1 to 65535", s, port)
	}
	return nil
}

// StartTrackers opens a socket and begins.
func StartTrackers(cfg TrackersConfig) (*Trackers, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.lookUp == nil {
		cfg.lookUp = resolve
	}
	conn, err := udp.Listen(udp.Config{Listen: netip.AddrPortFrom(cfg.Listen, 0), ReceiveBuffer: 1 << 18, SendBuffer: 1 << 18, NoOffload: true})
	if err != nil {
		return nil, err
	}
	ts := &Trackers{cfg: cfg, start: time.Now(), conn: conn, wake: make(chan struct{}, 1)}
	ts.ctx, ts.cancel = context.WithCancel(context.Background())
	var seed [32]byte
	_, _ = crand.Read(seed[:])
	ts.random = rand.New(rand.NewChaCha8(seed))
	ts.client = announce.ClientConfig{Swarm: cfg.Swarm, Key: ts.random.Uint32(), Port: cfg.Port, Want: wantPeers, Seeder: cfg.Seeder}
	copy(ts.client.Peer[:], "-6C0001-")
	_, _ = crand.Read(ts.client.Peer[8:])
	ts.Add(cfg.Names)
	ts.work.Go(ts.read)
	ts.work.Go(ts.run)
	return ts, nil
}

// Add has further trackers asked: those that can be and are not yet, MaxTrackers in all.
func (ts *Trackers) Add(names []string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, name := range names {
		name = strings.TrimPrefix(name, scheme)
		if ts.closing || len(ts.names) == MaxTrackers || CheckTracker(name) != nil || slices.ContainsFunc(ts.names, func(t *named) bool { return t.name == name }) {
			continue
		}
		t := &named{name: name}
		ts.names = append(ts.names, t)
		ts.work.Go(func() { ts.lookUp(t) })
	}
}

// lookUp keeps a tracker's addresses.
func (ts *Trackers) lookUp(t *named) {
	wait := firstLookUp
	for {
		addrs, err := ts.cfg.lookUp(ts.ctx, t.name)
		ts.mu.Lock()
		if err == nil {
			t.addrs, wait = order(ts.cfg.Swarm, addrs), lookUpAgain
			ts.choose(t)
		} else {
			ts.fail(t, err.Error())
			if len(t.addrs) > 0 {
				wait = lookUpAgain
			}
		}
		ts.mu.Unlock()
		ts.poke()
		select {
		case <-ts.ctx.Done():
			return
		case <-time.After(wait):
		}
		if wait < lookUpAgain {
			wait = min(2*wait, mostLookUp)
		}
	}
}

func resolve(ctx context.Context, name string) (addrs []netip.AddrPort, err error) {
	host, port, err := net.SplitHostPort(strings.TrimPrefix(name, scheme))
	if err != nil {
		return nil, err
	}
	p, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	ips, err := udp.LookUp(ctx, host)
	if err == nil && len(ips) == 0 {
		err = errors.New("no IPv6 address")
	}
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip, uint16(p)))
	}
	return addrs, err
}

// order puts addresses into the order in which a swarm prefers them: by SHA-256 of the swarm's id and the 16 bytes of the address, the greatest
// first (rendezvous hashing). When one goes or comes, only the swarms that it lists move.
func order(swarm announce.SwarmID, addrs []netip.AddrPort) []netip.AddrPort {
	type scored struct {
		score [sha256.Size]byte
		addr  netip.AddrPort
	}
	all := make([]scored, 0, len(addrs))
	for _, a := range addrs {
		b := a.Addr().As16()
		all = append(all, scored{sha256.Sum256(slices.Concat(swarm[:], b[:])), a})
	}
	slices.SortFunc(all, func(a, b scored) int { return -bytes.Compare(a.score[:], b.score[:]) })
	ordered := make([]netip.AddrPort, 0, len(all))
	for _, s := range all {
		ordered = append(ordered, s.addr)
	}
	ordered = slices.Compact(ordered)
	return ordered[:min(len(ordered), maxAddresses)]
}

// choose has the first addresses list us, even if they failed before. Called with the lock held.
func (ts *Trackers) choose(t *named) {
	first := t.addrs[:min(len(t.addrs), listedBy)]
	kept := t.slots[:0:0]
	for _, s := range t.slots {
		if slices.Contains(first, s.addr) {
			kept = append(kept, s)
		}
	}
	for _, a := range first {
		if !slices.ContainsFunc(kept, func(s *slot) bool { return s.addr == a }) {
			kept = append(kept, ts.slot(a))
		}
	}
	t.slots = kept
}

func (ts *Trackers) slot(a netip.AddrPort) *slot {
	s := &slot{a, announce.NewClient(ts.client, ts.random)}
	if ts.item != nil {
		s.client.Publish(ts.now(), ts.item)
	}
	return s
}

// replace takes the next address of a tracker for a slot that does not answer. Called with the lock held.
func (ts *Trackers) replace(t *named, s *slot) {
	at := slices.Index(t.addrs, s.addr)
	for i := 1; i < len(t.addrs); i++ {
		a := t.addrs[(at+i)%len(t.addrs)]
		if !slices.ContainsFunc(t.slots, func(o *slot) bool { return o.addr == a }) {
			*s = *ts.slot(a)
			return
		}
	}
}

// fail says what is wrong with a tracker, once. Called with the lock held.
func (ts *Trackers) fail(t *named, why string) {
	if why != t.failed {
		t.failed = why
		ts.cfg.Logger.Warn("tracker " + t.name + ": " + why)
	}
}

// poke has run look again.
func (ts *Trackers) poke() {
	select {
	case ts.wake <- struct{}{}:
	default:
	}
}

func (ts *Trackers) now() time.Duration { return time.Since(ts.start) }

// run sends what is due.
func (ts *Trackers) run() {
	for {
		next := ts.send()
		timer := time.NewTimer(min(max(next-ts.now(), time.Millisecond), time.Hour))
		select {
		case <-ts.ctx.Done():
			timer.Stop()
			return
		case <-ts.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// send polls all clients, and returns when the next wants to be polled.
func (ts *Trackers) send() (next time.Duration) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	next = announce.Never
	now := ts.now()
	for _, t := range ts.names {
		for _, s := range t.slots {
			if s.client.Unanswered() >= goneAfter && now >= s.client.Deadline() && !ts.closing {
				ts.replace(t, s)
			}
			if b := s.client.Poll(now, nil); len(b) > 0 {
				ts.queue.Add(s.addr, nil, b)
			}
			next = min(next, s.client.Deadline())
		}
	}
	_, _ = ts.conn.Flush(&ts.queue)
	return next
}

// read takes answers.
func (ts *Trackers) read() {
	var r announce.Reply
	ts.conn.Serve(func(datagrams []udp.Datagram) {
		for _, d := range datagrams {
			if r.Decode(d.Data) == nil {
				ts.answer(d.Addr, &r)
			}
		}
		ts.poke()
	}, func(err error) { ts.cfg.Logger.Debug("reading a socket", "err", err) })
}

// answer gives a reply to the client of the tracker that it comes from.
func (ts *Trackers) answer(from netip.AddrPort, r *announce.Reply) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.names {
		for _, s := range t.slots {
			if s.addr == from {
				ts.answered(t, s.client, s.client.Receive(ts.now(), r))
			}
		}
	}
}

func (ts *Trackers) answered(t *named, c *announce.Client, peers []netip.AddrPort) {
	switch {
	case c.Failure == announce.ConnectAgain: // which is no trouble: it was started anew, or our address has changed
	case c.Failure != "":
		ts.fail(t, c.Failure)
	case c.Refusal != "" && c.Refusal != t.failed:
		// One of others, which knows no such request, says so too; it names peers all the same.
		t.failed = c.Refusal
		ts.cfg.Logger.Info("tracker " + t.name + " does not list the channel: " + c.Refusal)
	case c.Answered > 0 && !t.well:
		t.well = true
		ts.cfg.Logger.Info(fmt.Sprintf("tracker %s: %d in the swarm", t.name, c.Counts.Seeders+c.Counts.Leechers))
	}
	if len(peers) > 0 && !ts.closing {
		ts.cfg.OnPeers(slices.Clone(peers))
	}
}

// Publish has all trackers list a channel's descriptor, a signed item. It keeps item.
func (ts *Trackers) Publish(item []byte) {
	ts.mu.Lock()
	if !bytes.Equal(ts.item, item) {
		ts.item = item
		now := ts.now()
		for _, t := range ts.names {
			for _, s := range t.slots {
				s.client.Publish(now, item)
			}
		}
	}
	ts.mu.Unlock()
	ts.poke()
}

// Soon has all trackers asked again now: the node is alone, or its address has changed. Call it no more often than every few seconds.
func (ts *Trackers) Soon() {
	ts.mu.Lock()
	now := ts.now()
	for _, t := range ts.names {
		for _, s := range t.slots {
			s.client.Soon(now)
		}
	}
	ts.mu.Unlock()
	ts.poke()
}

// Close tells the trackers that the node is gone, and ends.
func (ts *Trackers) Close() error {
	ts.mu.Lock()
	ts.closing = true
	now := ts.now()
	for _, t := range ts.names {
		for _, s := range t.slots {
			s.client.Stop(now)
		}
	}
	ts.mu.Unlock()
	ts.send()
	ts.cancel()
	err := ts.conn.Close()
	ts.work.Wait()
	return err
}
