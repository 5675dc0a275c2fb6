// Package dht finds channels and their peers in the Mainline DHT over IPv6 (BEP 5, BEP 32): a channel's descriptor is a BEP 44 mutable
// item under the SHA-1 of its key, and its peers are announced under the same 20 bytes.
//
// github.com/anacrolix/dht/v2 keeps the routing table and the questions under way. What strangers can make it do, and where it does not
// do what the documents say, this package does itself: it stands between the socket and the library (guard), answers queries
// (responder), and walks to the nodes nearest to a target (lookup).
package dht

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anacrolix/dht/v2"
	"github.com/anacrolix/dht/v2/krpc"
	liblog "github.com/anacrolix/log"
	"github.com/anacrolix/torrent/iplist"
	"golang.org/x/time/rate"

	"github.com/sixcast/sixcast/pkg/channel"
)

// PublicBootstrap in Config.Bootstrap stands for the well-known nodes that have IPv6 addresses.
const PublicBootstrap = "public"

func publicBootstrap() []string {
	return []string{"dht.libtorrent.org:25401", "dht.transmissionbt.com:6881", "router.silotis.us:6881"}
}

// Errors.
var (
	// ErrNotFound says that the nodes nearest to a channel know no descriptor of it.
	ErrNotFound = errors.New("the DHT has no descriptor of this channel")
	// ErrAlone says that no node of the DHT has been reached.
	ErrAlone = errors.New("no node of the DHT has answered")
	// ErrStale says that a descriptor is older than the one that is published.
	ErrStale = errors.New("a newer descriptor is published already")
	// ErrFull says that MaxPublished is reached.
	ErrFull = fmt.Errorf("more than %d channels to publish", MaxPublished)
	// ErrClosed says that the node is closed.
	ErrClosed = errors.New("the DHT node is closed")
	// ErrState says that Config.State is not what State returned.
	ErrState = errors.New("not the saved state of a DHT node")
)

const (
	// MaxBootstrap is how many bootstrap nodes may be named.
	MaxBootstrap = 32
	// MaxPublished is how many announcements and descriptors a node keeps up: each is some 30 datagrams every half hour or hour.
	MaxPublished = 500
	// DefaultRate is what a home uplink bears: at most some 60 kB/s, and far less unless others ask a lot.
	DefaultRate = 50

	// Announcements and items are given again well before they are forgotten, each time up to a fifth earlier.
	announceEvery = 25 * time.Minute
	putEvery      = time.Hour
	// A failure is tried again after retryAfter, doubling.
	retryAfter = 15 * time.Second
	mostRetry  = 5 * time.Minute

	joinFirst = 500 * time.Millisecond // doubling up to checkEvery
	// What was not found is looked for again after lookAgain, doubling up to lookMost, where it may be there.
	lookAgain = 500 * time.Millisecond
	lookMost  = 2 * time.Second
	// checkEvery is how often the stores are swept, and the table is looked at.
	checkEvery = time.Minute

	maxLookups = 4 // at once; others wait
	maxGiving  = 2 // of these for what is published again, so that whoever asks need not wait for that
	tries      = 2 // of what is given to a node to keep
	// Who asks is asked back, now and then, for the table holds who has answered only.
	meetEvery = 10 * time.Minute
	maxMet    = 4096
	// What one lookup hands out.
	maxValues   = 50 // peers of one answer
	maxAllPeers = 1000
)

// Config of a Node.
type Config struct {
	// Listen is an IPv6 address and a UDP port of the node's own; [::]:0 is any.
	Listen netip.AddrPort
	// Bootstrap are nodes to begin with, "host:port". Nobody is contacted but these, those of State, and whom they name.
	Bootstrap []string
	// State is what State returned in an earlier run; nil if there was none.
	State []byte
	// Rate is how many datagrams a second are sent at most, half of them as answers, of which one /64 gets a quarter; 0 means DefaultRate.
	Rate   int
	Logger *slog.Logger
}

// Node is a node of the DHT. Its methods may be called concurrently.
type Node struct {
	cfg     Config
	id      [20]byte
	guard   *guard
	server  *dht.Server
	out     *rate.Limiter // questions
	replies *rate.Limiter
	meeting *rate.Limiter
	answers responder
	lookups chan struct{} // a place for each
	giving  chan struct{} // likewise
	saved   []node
	joined  chan struct{} // closed once somebody has answered
	// introduced: one of those that the node was told of has answered. Who knows only those who came to him may be in a corner with them.
	introduced atomic.Bool
	met        chan struct{} // somebody has, who came by himself
	ctx        context.Context
	cancel     context.CancelFunc
	work       sync.WaitGroup
	maintain   sync.WaitGroup // the library's part

	mu     sync.Mutex
	jobs   map[jobKey]*job
	closed bool
}

// CheckBootstrap reports whether s may stand in Config.Bootstrap.
func CheckBootstrap(s string) error {
	if s == PublicBootstrap {
		return nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return fmt.Errorf("bootstrap node %q: want host:port", s)
	}
	if a, err := netip.ParseAddr(host); err == nil && (!a.Is6() || a.Is4In6()) {
		return fmt.Errorf("bootstrap node %q: the DHT is used over IPv6 only", s)
	}
	if p, err := net.LookupPort("udp", port); err != nil || p == 0 {
		return fmt.Errorf("bootstrap node %q: port %q: want a number from 1 to 65535", s, port)
	}
	return nil
}

// Start opens a socket and begins. A State that does not parse is reported to the log, and done without.
func Start(cfg Config) (*Node, error) {
	if !cfg.Listen.Addr().Is6() || cfg.Listen.Addr().Is4In6() {
		return nil, fmt.Errorf("dht: %v: want an IPv6 address to listen on", cfg.Listen)
	}
	if len(cfg.Bootstrap) > MaxBootstrap {
		return nil, fmt.Errorf("dht: %d bootstrap nodes, at most %d", len(cfg.Bootstrap), MaxBootstrap)
	}
	for _, s := range cfg.Bootstrap {
		if err := CheckBootstrap(s); err != nil {
			return nil, err
		}
	}
	conn, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(cfg.Listen))
	if err != nil {
		return nil, fmt.Errorf("dht: %w", err)
	}
	return start(cfg, conn)
}

// start owns conn.
func start(cfg Config, conn net.PacketConn) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	perSecond := cmp.Or(cfg.Rate, DefaultRate)
	half := max(1, perSecond/2)
	n := &Node{
		cfg: cfg, guard: newGuard(conn, cfg.Listen.Addr().IsLoopback()),
		out: rate.NewLimiter(rate.Limit(half), half), replies: rate.NewLimiter(rate.Limit(half), half),
		meeting: rate.NewLimiter(1, k), lookups: make(chan struct{}, maxLookups), giving: make(chan struct{}, maxGiving), joined: make(chan struct{}), met: make(chan struct{}, 1), jobs: map[jobKey]*job{},
	}
	var savedID [20]byte
	if cfg.State != nil {
		var err error
		if savedID, n.saved, err = parseState(cfg.State); err != nil {
			cfg.Logger.Warn("DHT: beginning without the nodes of the last run", "err", err)
		}
	}
	n.id = newID(savedID, outward(cfg.Listen.Addr()))
	logger := liblog.NewLogger("dht").WithFilterLevel(liblog.Warning)
	logger.SetHandlers(libraryLog{cfg.Logger})
	var err error
	n.server, err = dht.NewServer(&dht.ServerConfig{
		NodeId:           n.id,
		Conn:             n.guard,
		NoSecurity:       true, // few nodes have ids that BEP 42 wants: ours has, theirs need not
		IPBlocklist:      blocklist{n.guard},
		QueryResendDelay: func() time.Duration { return answerWithin },
		DefaultWant:      []krpc.Want{krpc.WantNodes6},
		SendLimiter:      n.out,
		Logger:           logger,
	})
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("dht: %w", err)
	}
	n.answers = responder{id: n.id, peers: newPeerStore(), items: newItemStore(), nodes: n.nodes}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.work.Go(n.serve)
	n.work.Go(n.tend)
	return n, nil
}

// libraryLog passes the library's words on.
type libraryLog struct{ to *slog.Logger }

func (l libraryLog) Handle(r liblog.Record) { l.to.Debug("DHT: " + r.Text()) }

// blocklist keeps the library's own walks to hosts that can be there.
type blocklist struct{ guard *guard }

func (b blocklist) Lookup(ip net.IP) (r iplist.Range, blocked bool) {
	a, ok := netip.AddrFromSlice(ip)
	return r, !ok || !b.guard.welcome(netip.AddrPortFrom(a, 1))
}

func (blocklist) NumRanges() int { return 1 }

// outward is the address that other hosts see, as far as the host knows: of several the one that the kernel sends from. It is invalid
// where there is no route. Nothing is sent.
func outward(listen netip.Addr) netip.Addr {
	if !listen.IsUnspecified() {
		return listen
	}
	c, err := net.Dial("udp6", "[2001:db8::1]:9")
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	if a, ok := c.LocalAddr().(*net.UDPAddr); ok {
		return a.AddrPort().Addr()
	}
	return netip.Addr{}
}

// newID is the saved id if it may be had at an address, or a new one (BEP 42: an id follows from the /64, but for some bits of chance).
func newID(saved [20]byte, ip netip.Addr) (id krpc.ID) {
	if saved != [20]byte{} && (!ip.IsValid() || dht.NodeIdSecure(saved, ip.AsSlice())) {
		return saved
	}
	_, _ = rand.Read(id[:])
	if ip.IsValid() {
		dht.SecureNodeId(&id, ip.AsSlice())
	}
	return id
}

// ID is the node's id.
func (n *Node) ID() [20]byte { return n.id }

// Addr is where the node listens.
func (n *Node) Addr() netip.AddrPort {
	if a, ok := n.guard.LocalAddr().(*net.UDPAddr); ok {
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// nodes are those of the table that have answered not long ago.
func (n *Node) nodes() (all []node) {
	for _, i := range n.server.Nodes() {
		if a := addrPort(i.Addr); usable(a) {
			all = append(all, node{i.ID, a})
		}
	}
	return all
}

// libraryAddr is an address as the library wants it.
func libraryAddr(a netip.AddrPort) dht.Addr { return dht.NewAddr(net.UDPAddrFromAddrPort(a)) }

// serve answers.
func (n *Node) serve() {
	met := map[netip.AddrPort]time.Time{}
	asked, second := tally{}, time.Now() // what each /64 has asked since
	share := max(1, n.replies.Burst()/4)
	var buf []byte
	for {
		var a arrival
		select {
		case <-n.ctx.Done():
			return
		case a = <-n.guard.queries:
		}
		now := time.Now()
		if now.Sub(second) >= time.Second {
			clear(asked)
			second = now
		}
		net64 := network(a.from.Addr())
		var q query
		if !q.parse(a.data) || q.id == n.id || reach(a.from.Addr()) == 2 && asked[net64] >= share || !n.replies.AllowN(now, 1) {
			n.guard.dropped.Add(1)
			continue
		}
		asked[net64]++
		buf = n.answers.answer(buf[:0], now, a.from, &q)
		_, _ = n.guard.WriteTo(buf, net.UDPAddrFromAddrPort(a.from))
		if t, ok := met[a.from]; q.readOnly || ok && now.Sub(t) < meetEvery || !n.meeting.AllowN(now, 1) || !n.out.AllowN(now, 1) {
			continue
		}
		if len(met) >= maxMet {
			clear(met)
		}
		met[a.from] = now
		// The library's table takes who answers.
		n.work.Go(func() {
			n.server.Query(n.ctx, libraryAddr(a.from), methodPing, dht.QueryInput{RateLimiting: dht.QueryRateLimiting{NotAny: true}})
			select {
			case n.met <- struct{}{}:
			default:
			}
		})
	}
}

// tend joins the DHT, joins it again when it is lost, and sweeps the stores.
func (n *Node) tend() {
	wait := joinFirst
	joined := false
	for {
		if len(n.nodes()) == 0 {
			n.introduced.Store(false)
		}
		if !n.settled() {
			_, err := n.run(n.ctx, n.id, methodFindNode, krpc.MsgArgs{Target: n.id}, nil)
			if err != nil {
				n.cfg.Logger.Debug("DHT: joining", "err", err)
			} else if len(n.cfg.Bootstrap) == 0 {
				n.introduced.Store(true)
			}
		}
		nodes, met := len(n.nodes()), n.met
		if nodes > 0 && !joined {
			joined = true
			close(n.joined)
			n.cfg.Logger.Info("DHT: joined", "nodes", nodes)
			n.maintain.Go(n.server.TableMaintainer)
		}
		if nodes > 0 {
			met = nil
		}
		if n.settled() {
			wait = checkEvery
		} else {
			wait = min(2*wait, checkEvery)
		}
		now := time.Now()
		n.answers.peers.sweep(now)
		n.answers.items.sweep(now)
		select {
		case <-n.ctx.Done():
			return
		case <-met:
		case <-time.After(wait):
		}
	}
}

// settled reports whether the node knows the network, and not only a corner of it: one of those that it was told of has answered, who may
// have come as late as we, and it knows as many as a lookup ends with. In a network that has fewer it joins again and again, ever more seldom.
func (n *Node) settled() bool { return n.introduced.Load() && len(n.nodes()) >= k }

// first gives a lookup those to begin with.
func (n *Node) first(ctx context.Context, l *lookup) error {
	nodes := n.nodes()
	slices.SortFunc(nodes, func(a, b node) int { return nearer(a.id, b.id, l.target) })
	for _, x := range nodes[:min(len(nodes), maxContacts/2)] {
		l.add(x, true, nil)
	}
	if len(l.contacts) > 0 && n.introduced.Load() {
		return nil
	}
	for _, x := range n.saved[:min(len(n.saved), maxContacts/2)] {
		l.add(x, true, nil)
	}
	var failed error
	for _, s := range n.cfg.Bootstrap {
		names := []string{s}
		if s == PublicBootstrap {
			names = publicBootstrap()
		}
		for _, name := range names {
			all, err := resolve(ctx, name)
			failed = errors.Join(failed, err)
			for _, a := range all {
				l.add(node{addr: a}, false, nil)
				l.roots = append(l.roots, a)
			}
		}
	}
	if len(l.contacts) == 0 {
		if failed != nil {
			return fmt.Errorf("%w: %w", ErrAlone, failed)
		}
		return ErrAlone
	}
	return nil
}

// resolve looks a bootstrap node up; at most four addresses of one name are taken.
func resolve(ctx context.Context, name string) (all []netip.AddrPort, err error) {
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		return nil, err
	}
	p, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip6", host)
	for _, ip := range ips[:min(len(ips), 4)] {
		all = append(all, netip.AddrPortFrom(ip.WithZone(""), uint16(p)))
	}
	return all, err
}

// ready waits until the node has joined.
func (n *Node) ready(ctx context.Context) error {
	select {
	case <-n.joined:
		return nil
	case <-n.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrAlone, ctx.Err())
	}
}

// while makes a context of ctx that ends with the node, too.
func (n *Node) while(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.ctx, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// Get looks for a channel's descriptor: the newest that the nodes nearest to it know, verified. It waits until the node has joined.
// Errors wrap ErrNotFound, ErrAlone, ErrClosed or that of ctx.
func (n *Node) Get(ctx context.Context, id channel.ID) (channel.Descriptor, error) {
	best, _, err := n.get(ctx, id)
	return best, err
}

func (n *Node) get(ctx context.Context, id channel.ID) (best channel.Descriptor, l *lookup, err error) {
	if err := n.ready(ctx); err != nil {
		return best, nil, err
	}
	ctx, done := n.while(ctx)
	defer done()
	target := id.SwarmID()
	l, err = n.persist(ctx, func() (*lookup, bool, error) {
		l, err := n.run(ctx, target, methodGet, krpc.MsgArgs{Target: target}, func(_ *contact, r *krpc.Return) {
			d, ok := descriptor(id, r)
			if ok && (best.Item == nil || d.Seq > best.Seq) {
				best = d
			}
		})
		return l, best.Item != nil, err
	})
	switch {
	case err != nil:
		return channel.Descriptor{}, nil, err
	case best.Item == nil:
		return best, l, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	return best, l, nil
}

// persist looks again, a few times, where nothing was found and it is too early to say that there is nothing: the node had not settled
// when it began, so that those that were asked may be a corner of the network, or some of the nearest did not answer, who may have been asked
// too much just then. It returns the last lookup.
func (n *Node) persist(ctx context.Context, look func() (l *lookup, found bool, err error)) (*lookup, error) {
	for wait := lookAgain; ; wait *= 2 {
		early := !n.settled()
		l, found, err := look()
		if found || err != nil || !early && !l.unheard() || wait > lookMost {
			return l, err
		}
		select {
		case <-ctx.Done():
			return l, nil
		case <-time.After(wait):
		}
	}
}

// descriptor makes the item of a reply to get, if there is one and it is of the channel.
func descriptor(id channel.ID, r *krpc.Return) (d channel.Descriptor, ok bool) {
	if r.Seq == nil || len(r.V) == 0 || len(r.V) > channel.MaxValues || r.K != id {
		return d, false
	}
	item := make([]byte, 0, channel.MaxItem)
	item = appendString(append(item, "d1:k"...), r.K[:]...)
	item = appendInt(append(item, "3:seq"...), *r.Seq)
	item = appendString(append(item, "3:sig"...), r.Sig[:]...)
	item = append(append(append(item, "1:v"...), r.V...), 'e')
	d, err := channel.ParseDescriptor(item)
	return d, err == nil && d.ID == id
}

// Peers looks for those who have announced themselves for a channel. found gets them batch by batch while the lookup goes on, on the
// caller's goroutine, each peer once; the slice is its own. It waits until the node has joined. Errors wrap ErrAlone, ErrClosed or
// that of ctx; that there are none is no error. Anybody can have announced anything.
func (n *Node) Peers(ctx context.Context, id channel.ID, found func([]netip.AddrPort)) error {
	_, err := n.getPeers(ctx, id, found)
	return err
}

func (n *Node) getPeers(ctx context.Context, id channel.ID, found func([]netip.AddrPort)) (*lookup, error) {
	if err := n.ready(ctx); err != nil {
		return nil, err
	}
	ctx, done := n.while(ctx)
	defer done()
	target := id.SwarmID()
	seen := map[netip.AddrPort]bool{}
	take := func(from *contact, r *krpc.Return) {
		var batch []netip.AddrPort
		for _, v := range r.Values[:min(len(r.Values), maxValues)] {
			a := addrPort(v)
			if seen[a] || !tellable(from.addr, a) || !n.guard.welcome(a) || len(seen) >= maxAllPeers {
				continue
			}
			seen[a] = true
			batch = append(batch, a)
		}
		if len(batch) > 0 && found != nil {
			found(batch)
		}
	}
	return n.persist(ctx, func() (*lookup, bool, error) {
		l, err := n.run(ctx, target, methodGetPeers, krpc.MsgArgs{InfoHash: target}, take)
		return l, len(seen) > 0, err
	})
}

// Stats is what a node has seen.
type Stats struct {
	Nodes                      int    // in the table, that answer
	DatagramsIn, DatagramsOut  uint64 // UDP
	BytesIn, BytesOut          uint64 // payload: each datagram has 48 bytes of headers besides
	Dropped                    uint64 // datagrams that were malformed, or too many
	Swarms, Peers, Descriptors int    // kept for others; all BEP 44 items count as descriptors
}

// Stats returns counts since Start.
func (n *Node) Stats() Stats {
	s := Stats{
		Nodes: len(n.nodes()), DatagramsIn: n.guard.datagramsIn.Load(), DatagramsOut: n.guard.datagramsOut.Load(),
		BytesIn: n.guard.bytesIn.Load(), BytesOut: n.guard.bytesOut.Load(), Dropped: n.guard.dropped.Load(), Descriptors: n.answers.items.len(),
	}
	s.Swarms, s.Peers = n.answers.peers.len()
	return s
}

// Close ends all and waits for it, up to 2 s: the library's table waits for the answers to its pings.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	n.work.Wait()
	// The library is closed while it waits for a datagram: one that it was given just then would have it leave without a word, and nobody
	// could tell that it has.
	err := n.guard.Close()
	<-n.guard.ended
	n.server.Close()
	close(n.guard.leave)
	n.maintain.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

// The saved state: stateMark, the node's id, nodes of nodeSize bytes.
const (
	stateMark = "6cdht1"
	maxSaved  = 200
)

// State is what a next run begins with: the node's id and some nodes that answer. At most 8 kB.
func (n *Node) State() []byte {
	nodes := n.nodes()
	if len(nodes) == 0 {
		nodes = slices.Clone(n.saved) // the network was away
	}
	mrand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	b := append([]byte(stateMark), n.id[:]...)
	for _, x := range nodes[:min(len(nodes), maxSaved)] {
		b = appendAddress(append(b, x.id[:]...), x.addr)
	}
	return b
}

// parseState reads what State wrote. Addresses that cannot be used are left out.
func parseState(b []byte) (id [20]byte, nodes []node, err error) {
	text, ok := strings.CutPrefix(string(b), stateMark)
	if !ok || len(text) < len(id) || (len(text)-len(id))%nodeSize != 0 || len(text) > len(id)+maxSaved*nodeSize {
		return id, nil, ErrState
	}
	r := strings.NewReader(text)
	_, _ = io.ReadFull(r, id[:])
	var x [nodeSize]byte
	for r.Len() > 0 {
		_, _ = io.ReadFull(r, x[:])
		if n := (node{[20]byte(x[:20]), parseAddress(x[20:])}); usable(n.addr) {
			nodes = append(nodes, n)
		}
	}
	return id, nodes, nil
}
