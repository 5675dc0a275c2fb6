// Package node runs the peer engine (package mesh) on real sockets and a real
// clock. One lock guards the engine; it is taken once a batch of datagrams,
// never once a datagram.
//
//	socket ─▶ ReadBatch ─┐
//	group  ─▶ ReadBatch ─┼─▶ lock ─▶ mesh ─▶ send queue ─▶ Flush (GSO) ─▶ socket
//	pipe   ─▶ Feed ──────┤              └─▶ OnBlock, OnEvent
//	timer  ─▶ Tick ──────┘
package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/link"
	"github.com/sixcast/sixcast/pkg/mesh"
	"github.com/sixcast/sixcast/pkg/udp"
)

// Port is the UDP port of multicast groups (docs/protocol.md section 1).
const Port = 6466

// Event is what happened; see mesh.
type Event = mesh.Event

// Multicast says how a channel's group is used.
type Multicast struct {
	// Interface sends or listens on this interface. It must be named.
	Interface string
	// Source makes the group source-specific: the address that sends.
	Source netip.Addr
	// Group overrides the group that follows from the channel.
	Group netip.AddrPort
	// Scope of the group that follows from the channel; site by default.
	Scope channel.Scope
	// Send feeds the group, otherwise it is listened to.
	Send bool
}

func (m *Multicast) group(id channel.ID) netip.AddrPort {
	if m.Group.IsValid() {
		return m.Group
	}
	scope := m.Scope
	if scope == 0 {
		scope = channel.ScopeSite
	}
	if m.Source.IsValid() {
		return netip.AddrPortFrom(id.GroupSSM(scope), Port)
	}
	return netip.AddrPortFrom(id.Group(scope), Port)
}

// Config of a Node.
type Config struct {
	// Listen is the unicast address; the zero value is a free port of every
	// address.
	Listen netip.AddrPort
	// Channel to take part in; zero for a source, which learns it from what
	// it is fed.
	Channel channel.ID
	// Peers to begin with; more can be had by Dial.
	Peers []netip.AddrPort
	// Multicast is nil where no group is used.
	Multicast *Multicast
	// Upload caps what is sent in bit/s, headers included; negative: no cap,
	// zero: nobody is served.
	Upload int64
	// Uplink is what the uplink is believed to take, in bit/s, before it is
	// known; 0 for a cautious guess.
	Uplink int64
	// Patience is how long a missing block is asked for; Keep how long blocks
	// are kept at least and KeepBytes how much at most. Zero: as in mesh.
	Patience  time.Duration
	Keep      time.Duration
	KeepBytes int
	// NoExchange keeps to Peers, to whom Dial names and to those who dial us:
	// no addresses are exchanged.
	NoExchange bool
	// NoOffload does without GSO and GRO.
	NoOffload bool
	Logger    *slog.Logger
	// OnBlock gets each block that can be decoded, once, in any order; it
	// runs under the node's lock: copy what you keep and return at once.
	OnBlock func(at time.Time, b *block.Block)
	// OnEvent likewise.
	OnEvent func(Event)
}

// Node is a running peer. Its methods may be called concurrently, but not from
// OnBlock or OnEvent.
type Node struct {
	cfg   Config
	start time.Time

	mu        sync.Mutex
	engine    *mesh.Node
	ch        *mesh.Channel
	now       mesh.Time
	queue     udp.SendQueue
	groupOut  udp.SendQueue
	groupAddr netip.AddrPort
	described channel.Descriptor // the last one that was asked for
	timer     *time.Timer
	timerAt   mesh.Time // when it goes off
	clockAt   mesh.Time
	closed    bool

	conn      *udp.Conn
	groupSend *udp.Conn // nil: conn sends to the group too
	groupRecv *udp.Conn
	readers   sync.WaitGroup
}

// Start opens the sockets and begins.
func Start(cfg Config) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{cfg: cfg, start: time.Now()}
	uc := udp.Config{Listen: cfg.Listen, ReceiveBuffer: buffer, SendBuffer: buffer, NoOffload: cfg.NoOffload}
	mc := cfg.Multicast
	if mc != nil && mc.Send && !mc.Source.IsValid() {
		uc.MulticastInterface = mc.Interface
	}
	var err error
	if n.conn, err = udp.Listen(uc); err != nil {
		return nil, err
	}
	if mc != nil && mc.Send && mc.Source.IsValid() {
		n.groupSend, err = udp.Listen(udp.Config{
			Listen: netip.AddrPortFrom(mc.Source, 0), SendBuffer: buffer, MulticastInterface: mc.Interface, NoOffload: cfg.NoOffload,
		})
		if err != nil {
			n.conn.Close()
			return nil, err
		}
	}
	var seed [8]byte
	rand.Read(seed[:])
	lc := link.Config{}
	if mc != nil && mc.Send {
		lc.MaxLinksPer64 = lanLinks
	}
	n.engine = mesh.New(mesh.Config{
		Link: lc, Start: n.start, Seed: binary.BigEndian.Uint64(seed[:]), Upload: cfg.Upload, Uplink: cfg.Uplink,
		Patience: cfg.Patience, Keep: cfg.Keep, KeepBytes: cfg.KeepBytes, NoExchange: cfg.NoExchange, Logger: cfg.Logger,
	}, (*output)(n))
	n.mu.Lock()
	n.timerAt = mesh.Never
	n.timer = time.AfterFunc(time.Hour, n.tick)
	if !cfg.Channel.IsZero() {
		if err := n.open(cfg.Channel); err != nil {
			n.mu.Unlock()
			n.Close()
			return nil, err
		}
	}
	n.read(n.conn, n.engine.Receive)
	n.now = time.Since(n.start)
	n.engine.Tick(n.now)
	n.leave()
	return n, nil
}

// lanLinks is how many receivers of one LAN, which is one /64, may ask for
// repairs of a multicast group.
const lanLinks = 512

const buffer = 4 << 20 // bytes asked of the kernel for each direction

// open makes the node take part in a channel. Called with the lock held.
func (n *Node) open(id channel.ID) error {
	ch, err := n.engine.Open(id)
	if err != nil {
		return err
	}
	n.ch = ch
	if mc := n.cfg.Multicast; mc != nil {
		if mc.Send {
			n.groupAddr = mc.group(id)
			repair := netip.AddrPort{}
			if n.groupSend != nil {
				repair = netip.AddrPortFrom(netip.IPv6Unspecified(), n.conn.LocalAddr().Port())
			}
			ch.SendToGroup(repair)
		} else if err := n.listen(mc); err != nil {
			return err
		}
	}
	for _, p := range n.cfg.Peers {
		n.engine.Dial(n.now, ch, p)
	}
	return nil
}

// listen joins the channel's group. Called with the lock held.
func (n *Node) listen(m *Multicast) (err error) {
	group := m.group(n.ch.ID)
	n.groupRecv, err = udp.ListenGroup(group, m.Interface, m.Source, udp.Config{ReceiveBuffer: buffer, NoOffload: n.cfg.NoOffload})
	if err != nil {
		return err
	}
	n.groupAddr = group
	n.ch.ListenToGroup()
	n.read(n.groupRecv, func(now mesh.Time, from netip.AddrPort, b []byte) {
		n.engine.ReceiveGroup(now, n.ch, from, b)
	})
	return nil
}

// JoinGroup has a node that uses no group, and does not feed the channel, listen to one that somebody sends to. joined is false if it does
// use one. Errors are those of udp.ListenGroup.
func (n *Node) JoinGroup(m Multicast) (joined bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.ch == nil || n.groupAddr.IsValid() {
		return false, nil
	}
	err = n.listen(&m)
	return err == nil, err
}

// read starts the goroutine that takes batches from a socket.
func (n *Node) read(c *udp.Conn, take func(mesh.Time, netip.AddrPort, []byte)) {
	n.readers.Go(func() {
		c.Serve(func(datagrams []udp.Datagram) {
			if !n.enter() {
				return
			}
			for _, d := range datagrams {
				take(n.now, d.Addr, d.Data)
			}
			n.engine.Flush(n.now)
			n.leave()
		}, func(err error) { n.cfg.Logger.Debug("reading a socket", "err", err) })
	})
}

// enter takes the lock and reads the clock. It returns false, without the
// lock, once the node is closed.
func (n *Node) enter() bool {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return false
	}
	n.now = time.Since(n.start)
	return true
}

// leave sends what was queued, arms the timer and releases the lock.
func (n *Node) leave() {
	n.flush()
	// Setting a timer costs a system call at times, and what comes is as a rule later than what it is set to: then it is
	// let go off early, once.
	if at := n.engine.Deadline(); at < n.timerAt {
		n.timerAt = at
		n.timer.Reset(max(at-time.Since(n.start), 0))
	}
	n.mu.Unlock()
}

func (n *Node) flush() {
	if n.queue.Len() > 0 {
		n.conn.Flush(&n.queue)
	}
	if n.groupOut.Len() > 0 {
		n.groupSend.Flush(&n.groupOut)
	}
}

func (n *Node) tick() {
	if !n.enter() {
		return
	}
	n.timerAt = mesh.Never
	if n.engine.Deadline() > n.now {
		n.leave() // set to what has been put off since
		return
	}
	if n.now >= n.clockAt {
		// Suspended machines and stepped clocks: the engine's UTC follows.
		n.clockAt = n.now + time.Minute
		n.engine.SetUTC(n.now, time.Now())
	}
	n.engine.Tick(n.now)
	n.leave()
}

// ErrOtherChannel is returned by Feed for a block stream of another channel
// than the node has.
var ErrOtherChannel = errors.New("node: the block stream is of another channel")

// ErrClosed is returned by Feed once the node is closed.
var ErrClosed = errors.New("node: closed")

// Feed takes datagrams of a block stream (docs/protocol.md section 3), in
// order: the node is the source of the channel that the first descriptor
// names. Datagrams before that are dropped. They are read during the call only.
func (n *Node) Feed(datagrams ...[]byte) error {
	if !n.enter() {
		return ErrClosed
	}
	defer n.leave()
	for _, b := range datagrams {
		if len(b) == 0 {
			continue
		}
		if b[0] == block.TypeDescriptor {
			item, err := channel.ParseDatagram(b)
			if err != nil {
				continue // a flipped bit: the next one comes in a second
			}
			d, err := channel.ParseDescriptor(item)
			if err != nil {
				continue
			}
			if n.ch == nil {
				if err := n.open(d.ID); err != nil {
					return err
				}
			}
			if d.ID != n.ch.ID {
				return fmt.Errorf("%w: it is of %v, not of %v", ErrOtherChannel, d.ID, n.ch.ID)
			}
		}
		if n.ch != nil {
			n.ch.Feed(n.now, b)
		}
	}
	n.engine.Flush(n.now)
	return nil
}

// Hint tells of peers that a tracker or the like names; nothing happens while the channel is unknown.
func (n *Node) Hint(peers []netip.AddrPort) {
	if !n.enter() {
		return
	}
	if n.ch != nil {
		n.engine.Hint(n.now, n.ch, peers)
	}
	n.leave()
}

// Parents are the addresses of those who feed the node.
func (n *Node) Parents() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		return nil
	}
	return n.ch.ParentAddrs()
}

// Addr is the unicast address that the node listens on.
func (n *Node) Addr() netip.AddrPort { return n.conn.LocalAddr() }

// Group is the multicast group in use and what its socket got; ok is false
// without one.
func (n *Node) Group() (group netip.AddrPort, info udp.Info, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.groupRecv != nil:
		info = n.groupRecv.Info()
	case n.groupSend != nil:
		info = n.groupSend.Info()
	default:
		info = n.conn.Info()
	}
	return n.groupAddr, info, n.groupAddr.IsValid()
}

// Socket tells what the unicast socket got.
func (n *Node) Socket() udp.Info { return n.conn.Info() }

// Channel is the channel's key, zero while it is unknown.
func (n *Node) Channel() channel.ID {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		return channel.ID{}
	}
	return n.ch.ID
}

// Descriptor is the channel's descriptor; ok is false while it is unknown.
func (n *Node) Descriptor() (d channel.Descriptor, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil || n.ch.Descriptor() == nil {
		return d, false
	}
	item, err := channel.ParseDatagram(n.ch.Descriptor())
	if err != nil {
		return d, false
	}
	if !bytes.Equal(item, n.described.Item) { // to verify it once is enough
		if d, err = channel.ParseDescriptor(bytes.Clone(item)); err != nil {
			return d, false
		}
		n.described = d
	}
	return n.described, true
}

// Stats is a reading of a node's counters.
type Stats struct {
	mesh.Stats
	Sockets  udp.Stats `json:"socket"`
	Unsent   uint64    `json:"unsent"`       // datagrams the kernel did not take
	Dropped  uint64    `json:"kernel_drops"` // datagrams lost in our receive buffers
	Rate     float64   `json:"stream_bps"`
	Loss     float64   `json:"loss"`
	Recorded bool      `json:"recorded"`
	Parents  int       `json:"parents"`
	Parent   string    `json:"parent,omitempty"` // of them, the one that most comes from
}

// Stats takes a reading.
func (n *Node) Stats() Stats {
	n.mu.Lock()
	s := Stats{Stats: n.engine.Stats()}
	if n.ch != nil {
		s.Rate, s.Loss, s.Recorded, s.Parents = n.ch.Rate(), n.ch.Loss(), n.ch.Recorded(), n.ch.Parents()
		if p := n.ch.Parent(); p.IsValid() {
			s.Parent = p.String()
		}
	}
	n.mu.Unlock()
	s.Sockets = n.conn.Stats()
	s.Unsent, s.Dropped = s.Sockets.Unsent(), s.Sockets.KernelDrops
	return s
}

// Close says goodbye to every peer and closes the sockets.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.timer.Stop()
	n.now = time.Since(n.start)
	n.engine.Close(n.now)
	n.flush()
	n.mu.Unlock()
	for _, c := range []*udp.Conn{n.conn, n.groupSend, n.groupRecv} {
		if c != nil {
			c.Close()
		}
	}
	n.readers.Wait()
	return nil
}

// output is the node as the engine sees it: called with the lock held.
type output Node

func (o *output) Send(to netip.AddrPort, head, body []byte) { o.queue.Add(to, head, body) }

func (o *output) SendGroup(_ channel.ID, body []byte) {
	if o.groupSend != nil {
		o.groupOut.Add(o.groupAddr, nil, body)
		return
	}
	o.queue.Add(o.groupAddr, nil, body)
}

func (o *output) Block(b *block.Block) {
	if o.cfg.OnBlock != nil {
		o.cfg.OnBlock(o.start.Add(o.now), b)
	}
}

func (o *output) Event(e mesh.Event) {
	o.cfg.Logger.Debug("mesh", "event", e.Kind.String(), "peer", e.Peer, "text", e.Text)
	if o.cfg.OnEvent != nil {
		o.cfg.OnEvent(e)
	}
}

// ResolvePeer turns "[addr]:port" or "host:port" into an address. Literals
// never touch DNS; names are looked up for IPv6 addresses only.
func ResolvePeer(ctx context.Context, s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(s); err == nil {
		if !a.Addr().Is6() || a.Addr().Is4In6() {
			return netip.AddrPort{}, fmt.Errorf("peer %q: sixcast speaks IPv6 only", s)
		}
		return a, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("peer %q: want [address]:port", s)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return netip.AddrPort{}, fmt.Errorf("peer %q: %q is no port", s, port)
	}
	addrs, err := udp.LookUp(ctx, host)
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("peer %q: %w", s, err)
	case len(addrs) == 0:
		return netip.AddrPort{}, fmt.Errorf("peer %q has no IPv6 address", s)
	}
	return netip.AddrPortFrom(addrs[0], uint16(p)), nil
}
