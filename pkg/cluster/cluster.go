// Package cluster joins the trackers of one operator, and pulls between operators. It carries channel descriptors and who is a member, never peers.
//
// Cluster: hashicorp/memberlist says who is there. A descriptor that is news is gossiped; what gossip lost, or what happened on the other side of a
// partition, is found by comparing digests (sync.go) and fetched: two members that can talk to each other end with the same set, the greatest seq of
// each channel. Nothing is believed but signatures: every item goes through Store.Put.
//
// Without a secret memberlist trusts whoever reaches the port. Give all trackers the same Secret, or bind to an address that only they can reach. Who
// gets in without being one of them cannot forge a descriptor. He can appear as a member (with a tracker's address that people may be shown), be
// counted against MaxMembers, accuse members of being dead (they say that they are not), have the store fed with descriptors of channels of his own
// until it is full, and eat the allowances below; what is fetched from members that answer right goes on.
//
// Puller: fetches from the program lists of other operators what has changed since the last time.
package cluster

import (
	"context"
	"crypto/hkdf"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	// MaxMembers is how many members there can be, those included that left within the last minutes.
	MaxMembers = 128
	// maxTracker is the longest address of a tracker that a member may give, in bytes.
	maxTracker = 260
	// Who left counts for memberKept, about as long as memberlist remembers him.
	memberKept = 3 * time.Minute

	// Gossiped items are verified at putsASecond, with bursts of twice as many; memberlist does not say whom they are from.
	putsASecond = 500
	// inboxSize is how many of them wait to be verified, seenSize how many are known again without it.
	inboxSize = 512
	seenSize  = 8192
	// maxQueued is how many items wait to be gossiped; beyond manyQueued members are told to ask.
	maxQueued  = 1024
	manyQueued = 32

	leaveTime = time.Second
	// One packet goes to each of gossipTo members every gossipEvery if there is anything to say. Everybody to whom something was news says it so many
	// times, times log10 of the members: who is a member more often than items, which are compared too.
	gossipEvery   = 50 * time.Millisecond
	gossipTo      = 4
	repeatItems   = 6
	repeatMembers = 8
	// Every probeEvery one member is probed, every statesEvery one is told of all members.
	probeEvery  = time.Second
	probeTime   = 600 * time.Millisecond // longer than a round trip around the world
	statesEvery = 10 * time.Second
	streamTime  = 20 * time.Second
	deadTime    = 30 * time.Second // for which the dead are told what is new, lest they live
	reclaimTime = 30 * time.Second // after which a dead member's name may come from another address
)

// Errors of Start.
var (
	ErrName    = fmt.Errorf("a member's name is 1 to %d printable characters without a slash", maxName)
	ErrAddress = errors.New("not an IPv6 address that others can reach")
	ErrTracker = errors.New("want host:port of a tracker")
	ErrJoin    = errors.New("want host:port of a member")
)

// Store is where descriptors are kept; it is used from several goroutines.
type Store interface {
	// Put verifies an item and keeps it if it is newer than what is known; fresh: it was. Errors of a malformed or forged one wrap
	// channel.ErrDescriptor or channel.ErrSignature; after any other error the item is not offered again for an hour. The
	// argument is copied if it is kept. What another member or operator knows is not thereby published: catalog.Catalog.Merge is a Put.
	Put(item []byte) (fresh bool, err error)
	// Since returns items that changed after version, at most max, the oldest first, and the version to go on from. They are not written to.
	Since(version uint64, max int) (items [][]byte, next uint64)
}

// Meta is what a member says of itself.
type Meta struct {
	// Tracker is where clients reach its tracker, host:port; may be empty. Another member's is a claim.
	Tracker string
}

// Member of the cluster.
type Member struct {
	Name string
	Addr netip.AddrPort
	Meta Meta
	Self bool
}

// Config of a Cluster.
type Config struct {
	// Name is this member's, unique; made up if empty.
	Name string
	// Bind is the IPv6 address for memberlist's TCP and UDP; port 0: a free one.
	Bind netip.AddrPort
	// Advertise is how others reach it; the zero value: Bind, or where that is [::], a global address of this host. Port 0: the one of Bind.
	Advertise netip.AddrPort
	// Join are other members, host:port, tried again and again while one of their addresses is not a member's.
	Join []string
	// Secret, of any length, the same for all members; empty: none.
	Secret []byte
	Meta   Meta
	Store  Store
	// OnMembers gets the members, sorted, after each change; calls do not overlap, and the slice is its own. It must not call Close.
	OnMembers func([]Member)
	Logger    *slog.Logger
	Now       func() time.Time
}

// Stats counts since the start.
type Stats struct {
	Members int // now

	Published uint64 // items sent into the gossip: own ones and those passed on
	Received  uint64 // items that came by gossip
	Fetched   uint64 // items that came by comparing
	Fresh     uint64 // of both, those that were news
	Stale     uint64 // valid, but known already or not wanted
	Forged    uint64 // malformed or with a wrong signature
	Dropped   uint64 // gossip beyond the allowance, not looked at
	Malformed uint64 // messages

	Syncs       uint64 // comparisons with a member
	SyncsFailed uint64
	Served      uint64 // items given to members that compared
	Shunned     uint64 // times a member that answered with garbage was left alone

	PacketsRefused uint64 // before memberlist saw them
	StreamsRefused uint64
}

type counters struct {
	published, received, fetched, fresh, stale, forged, dropped, malformed atomic.Uint64
	syncs, syncsFailed, served, shunned, packetsRefused, streamsRefused    atomic.Uint64
}

// tuning is what tests shorten.
type tuning struct {
	probeEvery, syncEvery, joinWait, joinMost, deadTime, leaveTime time.Duration
	link                                                           func(to netip.AddrPort) (time.Duration, bool)
}

// untuned is what is not shortened.
func untuned() tuning {
	return tuning{probeEvery: probeEvery, syncEvery: syncEvery, joinWait: joinWait, joinMost: joinMost, deadTime: deadTime, leaveTime: leaveTime}
}

// Cluster is one member.
type Cluster struct {
	cfg       Config
	tune      tuning
	meta      []byte
	transport *transport
	log       *logWriter
	list      *memberlist.Memberlist
	queue     memberlist.TransmitLimitedQueue
	index     *index
	stats     counters
	ctx       context.Context
	cancel    context.CancelFunc
	work      sync.WaitGroup
	closing   sync.Once
	inbox     chan []byte
	changed   chan struct{} // members
	soon      chan struct{} // wakes the one who compares

	mu      sync.Mutex
	members map[string]Member
	left    map[string]time.Time // names of those that left, and when
	gossip  allowance
	seen    map[fingerprint]struct{}
	order   []fingerprint // of seen, a ring
	oldest  int

	sync syncer
	join joiner
}

// Start opens the sockets and begins. Errors are ErrName, ErrAddress, ErrTracker, ErrJoin and those of the sockets.
func Start(cfg Config) (*Cluster, error) {
	return start(cfg, untuned())
}

func start(cfg Config, tune tuning) (*Cluster, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Name == "" {
		var b [8]byte
		_, _ = crand.Read(b[:])
		cfg.Name = hex.EncodeToString(b[:])
	}
	if !nameOK(cfg.Name) {
		return nil, fmt.Errorf("%q: %w", cfg.Name, ErrName)
	}
	if cfg.Meta.Tracker != "" && !trackerOK(cfg.Meta.Tracker) {
		return nil, fmt.Errorf("%q: %w", cfg.Meta.Tracker, ErrTracker)
	}
	if len(cfg.Join) > MaxMembers {
		return nil, fmt.Errorf("%d members to join, at most %d", len(cfg.Join), MaxMembers)
	}
	for _, j := range cfg.Join {
		if !trackerOK(j) {
			return nil, fmt.Errorf("%q: %w", j, ErrJoin)
		}
	}
	if !cfg.Bind.Addr().IsValid() {
		cfg.Bind = netip.AddrPortFrom(netip.IPv6Unspecified(), cfg.Bind.Port())
	}
	if a := cfg.Bind.Addr(); !a.IsUnspecified() && !reachable(a) || !a.Is6() || a.Is4In6() {
		return nil, fmt.Errorf("%s: %w", cfg.Bind, ErrAddress)
	}
	c := &Cluster{
		cfg: cfg, tune: tune, log: &logWriter{to: cfg.Logger, now: cfg.Now}, meta: []byte(cfg.Meta.Tracker), index: newIndex(cfg.Store, cfg.Now),
		inbox: make(chan []byte, inboxSize), changed: make(chan struct{}, 1), soon: make(chan struct{}, 1),
		members: map[string]Member{}, left: map[string]time.Time{}, gossip: allowance{rate: putsASecond, burst: 2 * putsASecond},
		seen: map[fingerprint]struct{}{}, order: make([]fingerprint, seenSize),
	}
	c.queue = memberlist.TransmitLimitedQueue{NumNodes: c.size, RetransmitMult: repeatItems}
	c.sync.init()
	c.join.targets = map[netip.AddrPort]*target{}
	c.ctx, c.cancel = context.WithCancel(context.Background())

	c.transport = &transport{secret: len(cfg.Secret) > 0, stats: &c.stats, link: tune.link, member: c.isMember, now: cfg.Now}
	if err := c.transport.listen(cfg.Bind); err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		c.cancel()
		c.log.close()
		_ = c.transport.Shutdown()
		return nil, err
	}
	return c, nil
}

// begin makes the member on open sockets.
func (c *Cluster) begin() (err error) {
	a := c.cfg.Advertise
	if !a.Addr().IsValid() || a.Addr().IsUnspecified() {
		ip := c.transport.bound.Addr()
		if ip.IsUnspecified() {
			ip = ourAddress()
		}
		a = netip.AddrPortFrom(ip, a.Port())
	}
	if a.Port() == 0 {
		a = netip.AddrPortFrom(a.Addr(), c.transport.bound.Port())
	}
	if !reachable(a.Addr()) {
		return fmt.Errorf("to be advertised: %w", ErrAddress)
	}
	c.transport.advertise = a

	conf := memberlist.DefaultLANConfig()
	conf.Name, conf.Label, conf.Transport = c.cfg.Name, label, c.transport
	conf.BindAddr, conf.BindPort = c.transport.bound.Addr().String(), int(c.transport.bound.Port())
	conf.AdvertiseAddr, conf.AdvertisePort = a.Addr().String(), int(a.Port())
	conf.Delegate, conf.Events, conf.Alive = delegate{c}, events{c}, alive{c}
	conf.UDPBufferSize, conf.EnableCompression = packetSize, false
	conf.GossipInterval, conf.GossipNodes, conf.GossipToTheDeadTime = gossipEvery, gossipTo, c.tune.deadTime
	conf.RetransmitMult = repeatMembers
	conf.ProbeInterval, conf.ProbeTimeout = c.tune.probeEvery, min(probeTime, c.tune.probeEvery)
	conf.PushPullInterval, conf.TCPTimeout = statesEvery, streamTime
	conf.DeadNodeReclaimTime = reclaimTime
	conf.Logger, conf.LogOutput = c.log.logger(), nil
	if len(c.cfg.Secret) > 0 {
		if conf.SecretKey, err = hkdf.Key(sha256.New, c.cfg.Secret, nil, "sixcast tracker cluster", 32); err != nil {
			return err
		}
	}
	c.transport.serve()
	if c.list, err = memberlist.Create(conf); err != nil {
		return err
	}
	c.work.Go(c.readGossip)
	c.work.Go(c.tellMembers)
	c.work.Go(c.compare)
	for range servers {
		c.work.Go(c.serve)
	}
	for _, name := range c.cfg.Join {
		c.work.Go(func() { c.lookUp(name) })
	}
	c.work.Go(c.keepJoined)
	return nil
}

func nameOK(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' })
}

func trackerOK(s string) bool {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || host == "" || len(s) > maxTracker {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' })
}

// reachable tells whether an address means the same host to all members.
func reachable(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.Zone() == "" && (a.IsGlobalUnicast() || a.IsLoopback())
}

// Name is this member's.
func (c *Cluster) Name() string { return c.cfg.Name }

// Addr is where others reach it.
func (c *Cluster) Addr() netip.AddrPort { return c.transport.advertise }

// Publish gossips an item that is news and that the store has. It may be called for every item that the store takes: one that came from here is
// not gossiped twice.
func (c *Cluster) Publish(item []byte) {
	if id, _, ok := channel.PeekItem(item); ok && !c.sawBefore(item) {
		c.spread(id, item)
	}
}

// spread queues an item.
func (c *Cluster) spread(id channel.ID, item []byte) {
	if c.size() < 2 {
		return // who joins asks
	}
	c.stats.published.Add(1)
	c.queue.QueueBroadcast(&broadcast{string(id[:]), append([]byte{kindItem}, item...)})
	n := c.queue.NumQueued()
	if n > maxQueued {
		c.queue.Prune(maxQueued)
	}
	if n > manyQueued {
		c.tellNews()
	}
}

// sawBefore remembers an item, and tells whether it was remembered.
func (c *Cluster) sawBefore(item []byte) bool {
	f := fingerprintOf(item)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.seen[f]; ok {
		return true
	}
	delete(c.seen, c.order[c.oldest])
	c.order[c.oldest] = f
	c.oldest = (c.oldest + 1) % seenSize
	c.seen[f] = struct{}{}
	return false
}

// put gives an item to the store and counts. It marks it as seen before, so that a store that publishes what is put does not make it gossip.
func (c *Cluster) put(item []byte) (fresh bool, err error) {
	c.sawBefore(item)
	fresh, err = c.cfg.Store.Put(item)
	switch {
	case forged(err):
		c.stats.forged.Add(1)
	case err == nil && fresh:
		c.stats.fresh.Add(1)
	default:
		c.stats.stale.Add(1)
	}
	return fresh && err == nil, err
}

// forged tells whether a store's error is one that no honest member or source would cause.
func forged(err error) bool {
	return errors.Is(err, channel.ErrSignature) || errors.Is(err, channel.ErrDescriptor)
}

// readGossip verifies what was gossiped and passes on what is news.
func (c *Cluster) readGossip() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case item := <-c.inbox:
			id, _, ok := channel.PeekItem(item)
			if !ok {
				c.stats.forged.Add(1)
				continue
			}
			if fresh, _ := c.put(item); fresh {
				c.spread(id, item)
			}
		}
	}
}

// gossiped takes an item from memberlist.
func (c *Cluster) gossiped(item []byte) {
	c.stats.received.Add(1)
	f := fingerprintOf(item)
	c.mu.Lock()
	_, known := c.seen[f]
	allowed := known || len(item) <= channel.MaxItem && c.gossip.take(c.cfg.Now(), 1)
	c.mu.Unlock()
	switch {
	case known:
		c.stats.stale.Add(1)
	case !allowed:
		c.stats.dropped.Add(1)
	default:
		select {
		case c.inbox <- slices.Clone(item):
		default:
			c.stats.dropped.Add(1)
		}
	}
}

// size is how many members there are.
func (c *Cluster) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.members)
}

func (c *Cluster) isMember(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.Addr.Addr() == a {
			return true
		}
	}
	return false
}

// Members are those that are there, this one among them, sorted by name.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Values(c.members), func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
}

// others are the members without this one, in no order.
func (c *Cluster) others() (all []Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if !m.Self {
			all = append(all, m)
		}
	}
	return all
}

// tellMembers says who has come and gone.
func (c *Cluster) tellMembers() {
	known := map[string]Member{}
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.changed:
		}
		all := c.Members()
		now := map[string]Member{}
		for _, m := range all {
			now[m.Name] = m
			if old, ok := known[m.Name]; !m.Self && (!ok || old.Addr != m.Addr) {
				c.cfg.Logger.Info(fmt.Sprintf("cluster: %s joined from %s", m.Name, m.Addr))
			}
		}
		for name := range known {
			if _, ok := now[name]; !ok {
				c.cfg.Logger.Info("cluster: " + name + " is gone")
			}
		}
		known = now
		if c.cfg.OnMembers != nil {
			c.cfg.OnMembers(all)
		}
	}
}

// Stats are the counters now.
func (c *Cluster) Stats() Stats {
	s := &c.stats
	return Stats{
		Members: c.size(), Published: s.published.Load(), Received: s.received.Load(), Fetched: s.fetched.Load(), Fresh: s.fresh.Load(),
		Stale: s.stale.Load(), Forged: s.forged.Load(), Dropped: s.dropped.Load(), Malformed: s.malformed.Load(), Syncs: s.syncs.Load(),
		SyncsFailed: s.syncsFailed.Load(), Served: s.served.Load(), Shunned: s.shunned.Load(), PacketsRefused: s.packetsRefused.Load(),
		StreamsRefused: s.streamsRefused.Load(),
	}
}

// Close tells the others, waits a second at most for that to go out, and ends.
func (c *Cluster) Close() error {
	var err error
	c.closing.Do(func() {
		c.cancel()
		_ = c.list.Leave(c.tune.leaveTime) // an error says that nobody may have heard it: they will find out
		c.log.close()
		err = c.list.Shutdown()
		c.work.Wait()
	})
	return err
}

// broadcast is an item that is gossiped; a newer one of its channel takes its place.
type broadcast struct {
	name string
	msg  []byte
}

func (b *broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*broadcast)
	return ok && o.name == b.name
}
func (b *broadcast) Name() string    { return b.name }
func (b *broadcast) Message() []byte { return b.msg }
func (b *broadcast) Finished()       {}

// delegate is what memberlist calls with messages.
type delegate struct{ c *Cluster }

func (d delegate) NodeMeta(limit int) []byte { return d.c.meta[:min(limit, len(d.c.meta))] }

func (d delegate) NotifyMsg(b []byte) {
	if len(b) > 1 && b[0] == kindItem {
		d.c.gossiped(b[1:])
		return
	}
	d.c.received(b)
}

func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.c.queue.GetBroadcasts(overhead, limit)
}

// There is no state in memberlist's exchanges of members: it would be all of it, each time.
func (d delegate) LocalState(bool) []byte        { return nil }
func (d delegate) MergeRemoteState([]byte, bool) {}

// events and alive are called under memberlist's lock.
type events struct{ c *Cluster }

func memberOf(n *memberlist.Node) Member {
	a, _ := netip.AddrFromSlice(n.Addr)
	m := Member{Name: n.Name, Addr: netip.AddrPortFrom(a, n.Port)}
	if t := string(n.Meta); trackerOK(t) {
		m.Meta.Tracker = t
	}
	return m
}

func (e events) NotifyJoin(n *memberlist.Node) {
	e.NotifyUpdate(n)
	if n.Name != e.c.cfg.Name {
		e.c.greet(n.Name)
	}
}

func (e events) NotifyUpdate(n *memberlist.Node) {
	c := e.c
	m := memberOf(n)
	m.Self = m.Name == c.cfg.Name
	c.mu.Lock()
	c.members[m.Name] = m
	delete(c.left, m.Name)
	c.mu.Unlock()
	poke(c.changed)
}

func (e events) NotifyLeave(n *memberlist.Node) {
	c := e.c
	m := memberOf(n)
	c.mu.Lock()
	delete(c.members, m.Name)
	c.left[m.Name] = c.cfg.Now()
	c.mu.Unlock()
	if c.sync.forget(m.Name) {
		c.join.remember(m.Addr, false, c.cfg.Now())
	}
	poke(c.changed)
}

type alive struct{ c *Cluster }

var errMember = errors.New("not a member that can be")

// NotifyAlive keeps out of the list what memberlist would take: members without number, other address families, and versions that would make the
// exchanges of all others fail.
func (a alive) NotifyAlive(n *memberlist.Node) error {
	c := a.c
	ip, _ := netip.AddrFromSlice(n.Addr)
	const version = memberlist.ProtocolVersion2Compatible
	if !nameOK(n.Name) || !reachable(ip) || n.Port == 0 || len(n.Meta) > maxTracker ||
		n.PCur != version || n.PMin > version || n.PMax < version || n.DCur != 0 || n.DMin != 0 {
		return errMember
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.members[n.Name]; ok || n.Name == c.cfg.Name {
		return nil
	}
	if _, ok := c.left[n.Name]; ok {
		if len(c.members) >= MaxMembers {
			return errMember
		}
		return nil
	}
	if len(c.members)+len(c.left) >= MaxMembers {
		now := c.cfg.Now()
		maps.DeleteFunc(c.left, func(_ string, at time.Time) bool { return now.Sub(at) > memberKept })
		if len(c.members)+len(c.left) >= MaxMembers {
			return errMember
		}
	}
	return nil
}

// poke wakes who listens to ch.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// allowance is a token bucket; the zero time begins with a full one.
type allowance struct {
	rate, burst float64 // a second
	left        float64
	at          time.Time
}

func (a *allowance) fill(now time.Time) {
	if a.at.IsZero() {
		a.left = a.burst
	} else if d := now.Sub(a.at); d > 0 {
		a.left = min(a.burst, a.left+a.rate*d.Seconds())
	}
	a.at = now
}

// take takes n if they are there.
func (a *allowance) take(now time.Time, n float64) bool {
	a.fill(now)
	if a.left < n {
		return false
	}
	a.left -= n
	return true
}

// owe takes n in any case, and says how long to wait until they are there.
func (a *allowance) owe(now time.Time, n float64) time.Duration {
	a.fill(now)
	a.left -= n
	return time.Duration(max(-a.left, 0) / a.rate * float64(time.Second))
}
