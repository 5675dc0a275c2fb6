// Package lan finds channels and peers of this network with nothing configured: nodes announce themselves to a well-known multicast group
// on every interface, in link and in site scope, and answer who asks. Who starts hears of others within a second, usually within 20 ms.
//
//	viewer                                        others of the channel
//	  │── QUERY channel, ANNOUNCE ──▶ group ─────▶  each waits 0..100 ms, by lot
//	  │◀─ ANNOUNCE (and descriptor) ── group ◀──── four or so speak; the others, who hear them, keep silent
//	  │                                             then each every 30 s, seldomer where there are many: 2 datagrams a second in all
//	  └── GONE ─────────────────────▶ group ─────▶
//
// Nothing that is heard is believed further than it proves itself: descriptors are signed by their channel, and an announcement names
// nobody but the address that it came from. Whether a node is there, and of the channel, shows when it is dialled. That somebody on this
// network can keep others from being heard, by talking in their place, is not prevented; other ways to find peers are for that.
// Everybody on the network sees who takes part in which channel.
//
// The engine (engine.go) has neither sockets nor clocks; docs/protocol.md describes the messages.
package lan

import (
	"cmp"
	"context"
	crand "crypto/rand"
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

	"golang.org/x/net/ipv6"

	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/udp"
)

const (
	// rescan is how often interfaces are looked for.
	rescan = 10 * time.Second
	// maxLinks bounds them.
	maxLinks = 16
	// A reader that is flooded, or whose socket fails, rests for restWait: the kernel drops what comes meanwhile.
	restWait = 10 * time.Millisecond
	buffer   = 256 << 10
)

// ErrAnnouncement is wrapped by the errors about what a node is to say of itself.
var ErrAnnouncement = errors.New("cannot be announced")

// Announcement is what a node says of itself.
type Announcement struct {
	Channel channel.ID
	// Port is where the node listens; others take the address from the datagram.
	Port uint16
	// Source says that the node feeds the channel.
	Source bool
	// Group is the one it sends to, if its Scope is not 0. Groups that do not follow from the channel cannot be announced.
	Group Group
	// Item is the channel's signed descriptor, nil while it is not known: that of others is used then, or where theirs is newer.
	Item []byte
}

// Channel is one that nodes of this network take part in.
type Channel struct {
	ID channel.ID
	// Descriptor is the newest that was heard, verified. Item is nil if none was; its strings may hold anything. It is not to be changed.
	Descriptor channel.Descriptor
	// Peers are at most 64 that take part, who was heard last first. Link-local ones, for nodes that have no other address, have their zone.
	Peers []netip.AddrPort
	// Groups are those that somebody sends to.
	Groups []Group
	// Source says that somebody here claims to feed it.
	Source bool
	// Heard is when it was last heard of.
	Heard time.Time
}

// Config of an Announcer. The callbacks run one at a time on a goroutine of the Announcer; they may call its methods but Close, and delay
// announcements while they last. What they get is theirs.
type Config struct {
	// Interfaces to use. None: all that are up and can do multicast, without loopback and point-to-point ones (VPNs, mobile networks); new
	// ones are found within 10 s.
	Interfaces []string
	// Self is what this node is announced as; nil: it only listens and asks.
	Self *Announcement
	// OnChannel is told of a channel that was not known, and of a newer descriptor.
	OnChannel func(Channel)
	// OnPeers is told of peers when they are first heard, and of known ones that are heard within 2 s of a Query.
	OnPeers func(channel.ID, []netip.AddrPort)
	// OnGroup is told when somebody begins to send to a multicast group of the channel.
	OnGroup func(channel.ID, Group)
	Logger  *slog.Logger
}

// Announcer announces a node and listens to others. Its methods may be called concurrently.
type Announcer struct {
	cfg    Config
	system system
	start  time.Time
	conn   *net.UDPConn
	packet *ipv6.PacketConn
	told   bool // the system tells hop limit, destination and interface of what comes
	ctx    context.Context
	cancel context.CancelFunc
	writer sync.WaitGroup // run
	reader sync.WaitGroup // read
	wake   chan struct{}

	// Of the goroutine that runs.
	joined []joined
	failed map[string]bool // what was logged

	mu     sync.Mutex
	engine *engine
	nets   []network
}

// system is what tests put in the place of the real one.
type system struct {
	interfaces func(names []string) ([]net.Interface, error)
	rescan     time.Duration
}

// joined is an interface on which the groups are listened to.
type joined struct {
	port
	ifi net.Interface
}

// network is a prefix of an interface, where the system does not tell which one a datagram came by.
type network struct {
	prefix netip.Prefix
	link   int
}

// Start opens a socket and begins; a node that is announced asks for its channel at once. It is an error (udp.ErrInterface) if one of
// Interfaces cannot be used, and none if no interface can at the moment. Other programs of this host may do the same, but all must share
// the port.
func Start(cfg Config) (*Announcer, error) {
	return start(cfg, system{interfaces, rescan})
}

func start(cfg Config, sys system) (*Announcer, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if _, err := sys.interfaces(cfg.Interfaces); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: shared}
	pc, err := lc.ListenPacket(context.Background(), "udp6", netip.AddrPortFrom(netip.IPv6Unspecified(), Port).String())
	if err != nil {
		return nil, fmt.Errorf("listen to announcements on this network (UDP port %d, which another program may have for itself): %w", Port, err)
	}
	a := &Announcer{
		cfg: cfg, system: sys, start: time.Now(), conn: pc.(*net.UDPConn), wake: make(chan struct{}, 1), failed: make(map[string]bool),
	}
	if err := a.open(); err != nil {
		return nil, errors.Join(err, pc.Close())
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	var seed [32]byte
	_, _ = crand.Read(seed[:])
	a.engine = newEngine(rand.New(rand.NewChaCha8(seed)))
	if cfg.Self != nil {
		if err := a.Update(*cfg.Self); err != nil {
			a.cancel()
			return nil, errors.Join(err, pc.Close())
		}
		a.Query(cfg.Self.Channel)
	}
	a.scan()
	a.reader.Go(a.read)
	a.writer.Go(a.run)
	return a, nil
}

// open sets the options of the socket.
func (a *Announcer) open() error {
	_ = a.conn.SetReadBuffer(buffer)
	a.packet = ipv6.NewPacketConn(a.conn)
	a.told = a.packet.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst|ipv6.FlagInterface, true) == nil
	if err := a.packet.SetMulticastHopLimit(linkHops); err != nil {
		return fmt.Errorf("multicast hop limit: %w", err)
	}
	if err := a.packet.SetMulticastLoopback(true); err != nil {
		return fmt.Errorf("loop multicast back to this host: %w", err)
	}
	return nil
}

// interfaces are those of these names, or all that will do.
func interfaces(names []string) (list []net.Interface, err error) {
	if len(names) > 0 {
		for _, name := range names {
			ifi, e := udp.Interface(name)
			if e != nil {
				err = errors.Join(err, e)
				continue
			}
			list = append(list, *ifi)
		}
		return list, err
	}
	list, err = udp.MulticastInterfaces()
	return slices.DeleteFunc(list, func(i net.Interface) bool { return i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 }), err
}

// scan joins the groups on interfaces that have come, and forgets those that have gone.
func (a *Announcer) scan() {
	list, err := a.system.interfaces(a.cfg.Interfaces)
	if err != nil {
		a.fail("interfaces", err) // of those named, the others are used
	}
	a.joined = slices.DeleteFunc(a.joined, func(j joined) bool {
		stays := slices.ContainsFunc(list, func(i net.Interface) bool { return i.Index == j.index && i.Name == j.name })
		if !stays {
			for _, s := range scopes {
				_ = a.packet.LeaveGroup(&j.ifi, &net.UDPAddr{IP: groupOf(s).AsSlice()}) // it may be gone already
			}
		}
		return !stays
	})
	for _, i := range list {
		if len(a.joined) == maxLinks || slices.ContainsFunc(a.joined, func(j joined) bool { return j.index == i.Index }) {
			continue
		}
		if err := a.join(&i); err != nil {
			a.fail(i.Name, err)
			continue
		}
		delete(a.failed, i.Name)
		a.joined = append(a.joined, joined{port{i.Index, i.Name, i.Flags&net.FlagLoopback != 0}, i})
	}
	var ports []port
	var nets []network
	for _, j := range a.joined {
		ports = append(ports, j.port)
		if !a.told {
			nets = append(nets, networks(&j.ifi)...)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.nets = nets
	a.engine.setLinks(a.now(), ports)
}

// join joins the groups of all scopes on an interface.
func (a *Announcer) join(ifi *net.Interface) error {
	for i, s := range scopes {
		if err := a.packet.JoinGroup(ifi, &net.UDPAddr{IP: groupOf(s).AsSlice()}); err != nil {
			for _, s := range scopes[:i] {
				_ = a.packet.LeaveGroup(ifi, &net.UDPAddr{IP: groupOf(s).AsSlice()})
			}
			return fmt.Errorf("join the group of announcements on %s: %w", ifi.Name, err)
		}
	}
	return nil
}

// networks are the prefixes of an interface.
func networks(ifi *net.Interface) (list []network) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.To4() != nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP); ok && !ip.IsLinkLocalUnicast() {
			bits, _ := n.Mask.Size()
			list = append(list, network{netip.PrefixFrom(ip, bits).Masked(), ifi.Index})
		}
	}
	return list
}

// fail logs what is wrong, once.
func (a *Announcer) fail(what string, err error) {
	if !a.failed[what] {
		a.failed[what] = true
		a.cfg.Logger.Warn("announcements on this network: " + err.Error())
	}
}

func (a *Announcer) now() time.Duration { return time.Since(a.start) }

// poke has run look again.
func (a *Announcer) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run sends what is due and tells the callbacks, until the end, which it announces.
func (a *Announcer) run() {
	next := a.now() + a.system.rescan
	for {
		if a.now() >= next {
			a.scan()
			next = a.now() + a.system.rescan
		}
		a.mu.Lock()
		now := a.now()
		a.engine.poll(now)
		out := a.engine.out
		a.engine.out = nil
		events := a.engine.take()
		at := min(a.engine.deadline(), next)
		a.mu.Unlock()
		a.send(out)
		a.tell(events)
		timer := time.NewTimer(max(at-a.now(), time.Millisecond))
		select {
		case <-a.ctx.Done():
			timer.Stop()
			a.mu.Lock()
			a.engine.goodbye()
			out = a.engine.out
			a.mu.Unlock()
			a.send(out)
			return
		case <-a.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (a *Announcer) send(out []datagram) {
	for _, d := range out {
		i := slices.IndexFunc(a.joined, func(j joined) bool { return j.index == d.link })
		if i < 0 {
			continue
		}
		err := a.packet.SetMulticastInterface(&a.joined[i].ifi)
		if err == nil {
			_, err = a.conn.WriteToUDPAddrPort(d.body, netip.AddrPortFrom(groupOf(d.scope), Port))
		}
		if err != nil {
			a.cfg.Logger.Debug("announcing", "interface", a.joined[i].name, "err", err)
		}
	}
}

func (a *Announcer) tell(events []event) {
	for _, e := range events {
		if e.fresh && a.cfg.OnChannel != nil {
			a.cfg.OnChannel(a.public(e.channel, e.heard))
		}
		if len(e.peers) > 0 && a.cfg.OnPeers != nil {
			a.cfg.OnPeers(e.id, e.peers)
		}
		for _, g := range e.groups {
			if a.cfg.OnGroup != nil {
				a.cfg.OnGroup(e.id, g)
			}
		}
	}
}

func (a *Announcer) public(c Channel, heard time.Duration) Channel {
	c.Heard = a.start.Add(heard)
	return c
}

// read takes what comes.
func (a *Announcer) read() {
	buf := make([]byte, maxDatagram+1) // one more byte shows a longer one
	for {
		n, cm, src, err := a.packet.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) || err != nil && a.ctx.Err() != nil {
			return
		}
		rest := err != nil
		if u, ok := src.(*net.UDPAddr); err == nil && ok {
			a.mu.Lock()
			if from, ok := a.arrival(cm, u.AddrPort().Addr()); ok {
				rest = !a.engine.receive(a.now(), from, buf[:n])
			}
			busy := len(a.engine.untold) > 0 || a.engine.deadline() < a.now()+longestWait
			a.mu.Unlock()
			if busy {
				a.poke()
			}
		}
		if rest {
			select {
			case <-a.ctx.Done():
				// Close has the socket closed.
			case <-time.After(restWait):
			}
		}
	}
}

// arrival tells how a datagram came; false if it was not sent to one of the groups. A system that does not tell the destination (Windows)
// leaves only what came from the prefixes of this host's own interfaces.
func (a *Announcer) arrival(cm *ipv6.ControlMessage, from netip.Addr) (arrival, bool) {
	if cm != nil {
		dst, _ := netip.AddrFromSlice(cm.Dst)
		for _, s := range scopes {
			if dst == groupOf(s) {
				return arrival{cm.IfIndex, s, from, cm.HopLimit}, true
			}
		}
		return arrival{}, false
	}
	if a.told {
		return arrival{}, false
	}
	if zone := from.Zone(); zone != "" {
		for _, l := range a.engine.links {
			if l.name == zone {
				return arrival{l.index, channel.ScopeLink, from, hopsUnknown}, true
			}
		}
		return arrival{}, false
	}
	for _, n := range a.nets {
		if n.prefix.Contains(from) {
			return arrival{n.link, channel.ScopeLink, from, hopsUnknown}, true
		}
	}
	return arrival{}, false
}

// Query asks who takes part in a channel; the zero ID asks what channels there are. It is repeated while nobody is heard, three times within
// 4 s.
// Answers come to the callbacks. Questions are sent at most 4 a second, the same one at most every 100 ms.
func (a *Announcer) Query(id channel.ID) {
	q := query{kind: askChannel, id: id}
	if id.IsZero() {
		q.kind = askAll
	}
	a.ask(q)
}

// QueryName asks for channels of a name, whose case does not matter. What answers has a descriptor, and OnChannel is told
// of it unless it was known; any key can be behind a name.
func (a *Announcer) QueryName(name string) {
	if strings.TrimSpace(name) != "" {
		a.ask(query{kind: askName, name: hashName(name)})
	}
}

func (a *Announcer) ask(q query) {
	a.mu.Lock()
	a.engine.ask(a.now(), q)
	a.mu.Unlock()
	a.poke()
}

// Update changes what this node is announced as. Others hear of another port or group within a second, and of another descriptor if Source is
// set, else when it is asked for or the next time. The zero Announcement withdraws it. Errors wrap ErrAnnouncement, or are those of channel.ParseDescriptor.
func (a *Announcer) Update(self Announcement) error {
	var d channel.Descriptor
	p := &self
	switch {
	case self.Channel.IsZero():
		p = nil
	case self.Port == 0:
		return fmt.Errorf("channel %s %w: the port is missing", self.Channel, ErrAnnouncement)
	case self.Group.Scope != 0 && !self.Group.possible():
		return fmt.Errorf("channel %s %w: group of scope %d, port %d, source %s", self.Channel, ErrAnnouncement, self.Group.Scope, self.Group.Port, self.Group.Source)
	case len(self.Item) > 0:
		var err error
		self.Item = slices.Clone(self.Item)
		if d, err = channel.ParseDescriptor(self.Item); err != nil {
			return err
		}
		if d.ID != self.Channel {
			return fmt.Errorf("channel %s %w: the descriptor is of %s", self.Channel, ErrAnnouncement, d.ID)
		}
	}
	if self.Group.Scope == 0 {
		self.Group = Group{}
	}
	self.Group.Interface = ""
	a.mu.Lock()
	a.engine.update(a.now(), p, d)
	a.mu.Unlock()
	a.poke()
	return nil
}

// Channels lists what is known, in the order of their IDs.
func (a *Announcer) Channels() []Channel {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []Channel
	for _, c := range a.engine.channels {
		list = append(list, a.public(c.channel(), c.heard))
	}
	slices.SortFunc(list, func(x, y Channel) int { return cmp.Compare(string(x.ID[:]), string(y.ID[:])) })
	return list
}

// Channel is what is known of one; false if nobody has spoken of it.
func (a *Announcer) Channel(id channel.ID) (Channel, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.engine.channels[id]; c != nil {
		return a.public(c.channel(), c.heard), true
	}
	return Channel{}, false
}

// Close says that the node is gone, and waits for the goroutines. No callback runs after it.
func (a *Announcer) Close() error {
	a.cancel()
	a.writer.Wait() // it says goodbye
	err := a.conn.Close()
	a.reader.Wait()
	return err
}
