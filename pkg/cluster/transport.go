package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// memberlist trusts whoever reaches its port: it makes room for a million members because a header says so, unpacks 40 MiB out of a packet, and
// takes any number of connections. What comes in is looked at here first.
const (
	// label is before all that members send: others that talk memberlist are not ours.
	label = "sixcast/1"

	// packetSize is what memberlist fills packets up to; with its checksum (5 bytes), UDP and IPv6 they take 1280 bytes, the MTU of every IPv6 path.
	packetSize = 1280 - 40 - 8 - 5
	maxPacket  = 1500
	// maxStream is what is read of one connection, in bytes.
	maxStream = maxMessage + 64<<10
	// maxNodes is how many members, dead ones among them, one may tell of at once.
	maxNodes = 1024
	// maxStreams are open at once, maxStrangers of them to and from addresses of no member, which get maxStrangersEach.
	maxStreams       = 192
	maxStrangers     = 64
	maxStrangersEach = 16
	// An address gets so many packets and connections a second; of more than maxSources addresses in a second the rest is not heard.
	packetsASecond = 1000
	streamsASecond = 100
	maxSources     = 4096

	dialTimeout = 5 * time.Second
	// writeTime is how long one may take to read what it is sent.
	writeTime = 30 * time.Second
	bindTries = 10
)

// What memberlist's messages begin with.
const (
	mlPing     = 0
	mlAck      = 2
	mlPushPull = 6
	mlCompound = 7
	mlUser     = 8
	mlCompress = 9
	mlEncrypt  = 10
	mlChecksum = 12
	mlError    = 13
	mlLabel    = 244
)

var errStream = errors.New("not what a member sends")

// transport is memberlist's way to the network: IPv6 sockets.
type transport struct {
	bound, advertise netip.AddrPort
	secret           bool // all is encrypted
	stats            *counters
	tcp              *net.TCPListener
	udp              *net.UDPConn
	packets          chan *memberlist.Packet
	streams          chan net.Conn
	ctx              context.Context
	cancel           context.CancelFunc
	work             sync.WaitGroup
	// link is what tests put between members: how long a way takes and whether it is cut.
	link func(to netip.AddrPort) (delay time.Duration, cut bool)

	// member tells whether a member has an address.
	member func(netip.Addr) bool
	now    func() time.Time

	mu        sync.Mutex
	conns     map[*conn]struct{}
	strangers int                // of them
	each      map[netip.Addr]int // of the strangers
	second    int64
	heard     map[netip.Addr]*heard // in this second
}

// heard is what came from an address within a second.
type heard struct{ packets, streams int }

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// listen opens both sockets on one port.
func (t *transport) listen(at netip.AddrPort) error {
	for try := 1; ; try++ {
		tcp, err := net.ListenTCP("tcp6", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		local := tcp.Addr().(*net.TCPAddr).AddrPort()
		udp, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), local.Port())))
		if err == nil {
			_ = udp.SetReadBuffer(1 << 20)
			t.tcp, t.udp, t.bound = tcp, udp, netip.AddrPortFrom(at.Addr(), local.Port())
			break
		}
		tcp.Close()
		if at.Port() != 0 || try == bindTries {
			return err
		}
	}
	t.packets, t.streams = make(chan *memberlist.Packet), make(chan net.Conn)
	t.conns, t.each, t.heard = map[*conn]struct{}{}, map[netip.Addr]int{}, map[netip.Addr]*heard{}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return nil
}

// serve begins to read.
func (t *transport) serve() {
	t.work.Go(t.readPackets)
	t.work.Go(t.accept)
}

// ourAddress is one that others may reach this host at: a global one rather than a unique local one.
func ourAddress() (best netip.Addr) {
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if ip := p.Addr(); err == nil && ip.Is6() && !ip.Is4In6() && ip.IsGlobalUnicast() && (!best.IsValid() || best.IsPrivate() && !ip.IsPrivate()) {
			best = ip
		}
	}
	return best
}

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

// of are the packets and connections of an address in this second; nil if there are too many addresses. Called with the lock held.
func (t *transport) of(from netip.Addr) *heard {
	if s := t.now().Unix(); s != t.second {
		t.second = s
		clear(t.heard)
	}
	h := t.heard[from]
	if h == nil && len(t.heard) < maxSources {
		h = new(heard)
		t.heard[from] = h
	}
	return h
}

func (t *transport) readPackets() {
	b := make([]byte, maxPacket+1)
	for {
		n, from, err := t.udp.ReadFromUDPAddrPort(b)
		if t.ctx.Err() != nil {
			return
		}
		if err != nil { // such as an answer of ICMP to what was sent
			select {
			case <-t.ctx.Done():
			case <-time.After(time.Millisecond):
			}
			continue
		}
		t.mu.Lock()
		h := t.of(from.Addr())
		ok := h != nil && h.packets < packetsASecond
		if ok {
			h.packets++
		}
		t.mu.Unlock()
		if !ok || !t.packetOK(b[:n]) {
			t.stats.packetsRefused.Add(1)
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), b[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
		select {
		case t.packets <- p:
		case <-t.ctx.Done():
			return
		}
	}
}

// packetOK tells whether a packet may be one of ours.
func (t *transport) packetOK(b []byte) bool {
	if len(b) > maxPacket || len(b) < 2+len(label)+1 || b[0] != mlLabel || int(b[1]) != len(label) || string(b[2:2+len(label)]) != label {
		return false
	}
	b = b[2+len(label):]
	if t.secret {
		return true
	}
	if b[0] == mlChecksum && len(b) > 5 {
		b = b[5:]
	}
	if b[0] != mlCompound {
		return b[0] != mlCompress
	}
	if len(b) < 2 || len(b) < 2+2*int(b[1]) {
		return false
	}
	parts := b[2+2*int(b[1]):]
	for i := range int(b[1]) {
		n := int(binary.BigEndian.Uint16(b[2+2*i:]))
		if n == 0 || n > len(parts) || parts[0] == mlCompress || parts[0] == mlCompound {
			return false
		}
		parts = parts[n:]
	}
	return true
}

func (t *transport) accept() {
	for {
		c, err := t.tcp.AcceptTCP()
		if t.ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return
		}
		if err != nil { // such as too many open files
			select {
			case <-t.ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		w := t.track(c, true)
		if w == nil {
			t.stats.streamsRefused.Add(1)
			c.Close()
			continue
		}
		select {
		case t.streams <- w:
		case <-t.ctx.Done():
			w.Close()
			return
		}
	}
}

// track keeps a connection until it is closed; nil if there are too many.
func (t *transport) track(c net.Conn, inbound bool) *conn {
	a, _ := c.RemoteAddr().(*net.TCPAddr)
	peer := a.AddrPort().Addr()
	stranger := !t.member(peer)
	t.mu.Lock()
	defer t.mu.Unlock()
	if inbound {
		h := t.of(peer)
		if h == nil || h.streams >= streamsASecond {
			return nil
		}
		h.streams++
	}
	if t.conns == nil || len(t.conns) >= maxStreams || stranger && (t.strangers >= maxStrangers || t.each[peer] >= maxStrangersEach) {
		return nil
	}
	if stranger {
		t.strangers++
		t.each[peer]++
	}
	w := &conn{Conn: c, t: t, peer: peer, inbound: inbound, stranger: stranger, left: maxStream}
	t.conns[w] = struct{}{}
	return w
}

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return time.Time{}, err
	}
	if t.link != nil {
		delay, cut := t.link(to)
		if cut {
			return time.Now(), nil
		}
		if delay > 0 {
			time.AfterFunc(delay, func() { _, _ = t.udp.WriteToUDPAddrPort(b, to) })
			return time.Now(), nil
		}
	}
	_, err = t.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, min(timeout, dialTimeout))
	defer cancel()
	if t.link != nil {
		to, err := netip.ParseAddrPort(a.Addr)
		if err != nil {
			return nil, err
		}
		delay, cut := t.link(to)
		if cut {
			return nil, &net.OpError{Op: "dial", Net: "tcp6", Err: errors.New("the link is cut")}
		}
		select {
		case <-time.After(3 * delay): // there, back, and the first bytes
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var d net.Dialer
	if ip := t.bound.Addr(); !ip.IsUnspecified() {
		d.LocalAddr = &net.TCPAddr{IP: ip.AsSlice()}
	}
	c, err := d.DialContext(ctx, "tcp6", a.Addr)
	if err != nil {
		return nil, err
	}
	w := t.track(c, false)
	if w == nil {
		c.Close()
		return nil, errors.New("too many connections")
	}
	_ = w.SetDeadline(time.Now().Add(writeTime))
	return w, nil
}

// Shutdown closes the sockets and connections.
func (t *transport) Shutdown() error {
	t.cancel()
	t.tcp.Close()
	t.udp.Close()
	t.mu.Lock()
	conns := t.conns
	t.conns = nil
	t.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
	t.work.Wait()
	return nil
}

// conn is a connection that ends after maxStream bytes, and whose first bytes must be what a member may send.
type conn struct {
	net.Conn
	t        *transport
	peer     netip.Addr
	inbound  bool
	stranger bool
	left     int // bytes that may still be read
	head     []byte
	checked  bool
	closed   sync.Once
}

func (c *conn) Read(b []byte) (int, error) {
	if !c.checked {
		if err := c.check(); err != nil {
			c.t.stats.streamsRefused.Add(1)
			return 0, err
		}
		c.checked = true
	}
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	if c.left == 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", errStream, maxStream)
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// check reads as much as it takes to judge.
func (c *conn) check() error {
	var b [128]byte
	for n := 0; ; {
		k, err := c.Conn.Read(b[n:])
		n += k
		c.left -= k
		done, ok := c.judge(b[:n])
		if done && ok {
			c.head = b[:n]
			return nil
		}
		if done || n == len(b) {
			return errStream
		}
		if err != nil {
			if n > 0 {
				return errStream
			}
			return err
		}
	}
}

// judge tells whether a stream that begins with b is allowed, if that can be said yet.
func (c *conn) judge(b []byte) (done, ok bool) {
	r := header{b: b}
	if c.inbound {
		if !r.expect(append([]byte{mlLabel, byte(len(label))}, label...)) {
			return !r.short, false
		}
	}
	kind := r.byte()
	switch {
	case r.short:
		return false, false
	case c.t.secret:
		n := r.uint(4)
		return !r.short, kind == mlEncrypt && n <= maxStream
	case kind == mlPing && c.inbound, (kind == mlAck || kind == mlError) && !c.inbound:
		return true, true
	case kind == mlUser && c.inbound:
		ok = r.expect([]byte("\x81\xaaUserMsgLen")) && r.number() <= maxMessage
		return !r.short, ok
	case kind == mlPushPull:
		// We have no user state: what the trackers tell each other goes in messages.
		ok = r.expect([]byte("\x83\xa4Join")) && r.byte()|1 == 0xc3 && r.expect([]byte("\xa5Nodes")) && r.number() <= maxNodes &&
			r.expect([]byte("\xacUserStateLen")) && r.number() == 0
		return !r.short, ok
	}
	return true, false
}

// header reads the beginning of a stream; short says that more of it is needed.
type header struct {
	b     []byte
	short bool
}

func (r *header) expect(want []byte) bool {
	n := min(len(want), len(r.b))
	if string(r.b[:n]) != string(want[:n]) {
		return false
	}
	r.b = r.b[n:]
	r.short = n < len(want)
	return !r.short
}

func (r *header) byte() byte { return byte(r.uint(1)) }

func (r *header) uint(size int) (n uint64) {
	if len(r.b) < size {
		r.short = true
		return 0
	}
	for _, c := range r.b[:size] {
		n = n<<8 | uint64(c)
	}
	r.b = r.b[size:]
	return n
}

// number is a msgpack integer; a negative one is huge.
func (r *header) number() uint64 {
	switch c := r.byte(); {
	case r.short:
		return 0
	case c < 0x80:
		return uint64(c)
	case c >= 0xcc && c <= 0xcf:
		return r.uint(1 << (c - 0xcc))
	case c >= 0xd0 && c <= 0xd3:
		size := 1 << (c - 0xd0)
		n := r.uint(size)
		if n>>(8*size-1) != 0 {
			return 1 << 63
		}
		return n
	}
	return 1 << 63
}

func (c *conn) Close() error {
	c.closed.Do(func() {
		c.t.mu.Lock()
		delete(c.t.conns, c)
		if c.stranger {
			c.t.strangers--
			if c.t.each[c.peer]--; c.t.each[c.peer] == 0 {
				delete(c.t.each, c.peer)
			}
		}
		c.t.mu.Unlock()
	})
	return c.Conn.Close()
}
