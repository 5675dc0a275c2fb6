package netem

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Switch is an Ethernet switch in user space with a [Link] up and a Link down on every port. It learns addresses and
// floods groups; a frame passes the sender's uplink once and then each receiver's downlink on its own, so that
// losses are independent at each receiver.
//
// One loop on one thread carries everything. Frames are read and written in batches through AF_PACKET sockets with
// virtio headers, so that nobody computes checksums, and delivered never early and, on a machine that is
// not overloaded, at most about 0.5 ms late.
type Switch struct {
	start time.Time
	seed  uint64
	mtu   int
	epoll int
	wake  int // eventfd

	mu     sync.Mutex // held for a round of the loop
	ports  []*Port
	macs   map[[6]byte]int
	queue  eventQueue
	free   []*frame
	made   int
	touch  []int // ports with frames to send
	closed bool
	thread int // of Run
	late   Lateness

	rx      [batch]*frame
	vectors [batch]unix.Iovec
	msgs    [batch]mmsghdr
}

// Port is one port of a switch. Its methods may be called concurrently.
type Port struct {
	sw       *Switch
	index    int
	name     string
	fd       int
	up, down *Link
	traffic  Traffic
	out      []*frame
	capture  *pcap
	rewrite  func(ip []byte) bool
	watch    func(ip []byte, sent bool)
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

const (
	batch = 64
	// rounds of batches are read from one port before the others get their turn.
	rounds = 8
	// maxFrames bounds the memory of a network: about 100 MB of frames under way.
	maxFrames = 1 << 16
	// maxMACs bounds what is learned.
	maxMACs = 1 << 12
	// grid is what deliveries are put off to, so that one wake-up serves several: wake-ups are most of what this costs.
	grid = 250 * time.Microsecond
	// socketBuffer holds what comes in while the loop is not scheduled.
	socketBuffer = 16 << 20
)

// ErrClosed is returned by a switch that was closed.
var ErrClosed = errors.New("netem: switch closed")

// NewSwitch makes a switch for frames that carry up to mtu bytes (0: 1500).
func NewSwitch(seed uint64, mtu int) (*Switch, error) {
	if mtu == 0 {
		mtu = 1500
	}
	if mtu < 1280 || mtu > 65000 {
		return nil, fmt.Errorf("netem: MTU %d: IPv6 needs 1280 or more", mtu)
	}
	s := &Switch{start: time.Now(), seed: seed, mtu: mtu, macs: make(map[[6]byte]int)}
	var err error
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("netem: epoll: %w", err)
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(s.epoll)
		return nil, fmt.Errorf("netem: eventfd: %w", err)
	}
	if err = s.watch(s.wake, -1); err != nil {
		unix.Close(s.epoll)
		unix.Close(s.wake)
		return nil, err
	}
	return s, nil
}

func (s *Switch) watch(fd int, port int32) error {
	err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: port})
	if err != nil {
		return fmt.Errorf("netem: epoll: %w", err)
	}
	return nil
}

// AddPort connects the switch to a network interface of the calling thread's namespace, by index. The interface's
// peer (a veth pair's other end) must have gso_max_segs 1. Links are seeded by the port's name.
func (s *Switch) AddPort(name string, ifindex int, up, down Params) (*Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	p := &Port{sw: s, index: len(s.ports), name: name}
	var err error
	if p.up, err = NewLink(s.seed, name+" up", up); err != nil {
		return nil, fmt.Errorf("netem: uplink of %s: %w", name, err)
	}
	if p.down, err = NewLink(s.seed, name+" down", down); err != nil {
		return nil, fmt.Errorf("netem: downlink of %s: %w", name, err)
	}
	if p.fd, err = packetSocket(ifindex); err != nil {
		return nil, fmt.Errorf("netem: port %s: %w", name, err)
	}
	if err := s.watch(p.fd, int32(p.index)); err != nil {
		unix.Close(p.fd)
		return nil, err
	}
	s.ports = append(s.ports, p)
	return p, nil
}

func packetSocket(ifindex int) (int, error) {
	// Protocol 0 until it is bound: nothing of other interfaces may come in before.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	set := func(level, option, value int) {
		if err == nil {
			err = unix.SetsockoptInt(fd, level, option, value)
		}
	}
	set(unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	set(unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	if err == nil && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil {
		set(unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
	}
	if err == nil && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
		set(unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
	}
	if err == nil {
		const allBigEndian = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allBigEndian, Ifindex: ifindex})
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return fd, nil
}

// Run carries frames until Close.
func (s *Switch) Run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer hurry()()
	s.mu.Lock()
	s.thread = unix.Gettid()
	s.mu.Unlock()
	var ready [batch]unix.EpollEvent
	var read time.Duration // when frames were read last
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil
		}
		now := time.Since(s.start)
		s.advance(now)
		wait := time.Duration(-1)
		if len(s.queue.heap) > 0 {
			at := s.queue.heap[0].at
			wait = (at + grid - 1).Truncate(grid) - now
		}
		s.mu.Unlock()
		n, err := epollWait(s.epoll, ready[:], wait)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("netem: epoll: %w", err)
		}
		if n <= 0 {
			continue
		}
		// A lone frame is read at once; in a stream, one wake-up reads what came during a step of the grid.
		if now = time.Since(s.start); now-read < grid {
			pause := unix.NsecToTimespec(int64(grid - now%grid))
			unix.Nanosleep(&pause, nil)
		}
		s.mu.Lock()
		for i := range n {
			if port := int(ready[i].Fd); port >= 0 && !s.closed {
				s.receive(s.ports[port])
			}
		}
		read = time.Since(s.start)
		s.mu.Unlock()
	}
}

// hurry ranks the calling thread before the programs under test, where that is allowed: they wait for it anyway. The
// result undoes it.
func hurry() func() {
	realtime := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Flags: unix.SCHED_FLAG_RESET_ON_FORK, Priority: 1}
	if unix.SchedSetAttr(0, &realtime, 0) != nil {
		return func() {}
	}
	return func() { unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0) }
}

// Close ends Run and closes the ports. Frames under way are lost.
func (s *Switch) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	var errs []error
	for _, p := range s.ports {
		p.count()
		unix.Close(p.fd)
		if p.capture != nil {
			errs = append(errs, p.capture.flush())
		}
	}
	return errors.Join(errs...)
}

// Release frees what Run waits on; call it when Run has returned.
func (s *Switch) Release() {
	unix.Close(s.epoll)
	unix.Close(s.wake)
}

// receive reads what came in from a port's host and enters it into the uplink.
func (s *Switch) receive(p *Port) {
	for range rounds {
		n := 0
		for ; n < batch; n++ {
			if s.rx[n] == nil {
				if s.rx[n] = s.newFrame(); s.rx[n] == nil {
					break
				}
			}
			buf := s.rx[n].buf
			s.vectors[n] = unix.Iovec{Base: &buf[0]}
			s.vectors[n].SetLen(len(buf))
			s.msgs[n] = mmsghdr{hdr: unix.Msghdr{Iov: &s.vectors[n], Iovlen: 1}}
		}
		if n == 0 { // too many under way: this one is lost
			var b [1]byte
			if _, _, err := unix.Recvfrom(p.fd, b[:], 0); err != nil {
				return
			}
			p.traffic.Overruns++
			continue
		}
		got, err := mmsg(unix.SYS_RECVMMSG, p.fd, s.msgs[:n])
		if err != nil {
			return
		}
		now := time.Since(s.start) // after the read: nothing is delivered early
		for i := range got {
			f, m := s.rx[i], &s.msgs[i]
			if f.n = int(m.len); m.hdr.Flags&unix.MSG_TRUNC != 0 || f.n < vnetHeader+etherHeader || f.buf[vnetGSOType] != 0 {
				p.traffic.Supers++
				continue
			}
			s.rx[i] = nil
			f.refs = 1
			if !p.rewritten(f) {
				s.release(f)
				continue
			}
			size := p.traffic.Sent.add(f.ethernet())
			p.show(f, true)
			if p.capture != nil {
				p.capture.write(s.start.Add(now), f)
			}
			s.schedule(p.up.Submit(now, size), event{frame: f, port: p.index})
			s.release(f)
		}
		if got < n {
			return
		}
	}
}

func (s *Switch) schedule(d Deliveries, e event) {
	for i := range d.Copies {
		e.at = d.At[i]
		e.frame.refs++
		s.queue.push(e)
	}
}

// advance does everything that is due at now.
func (s *Switch) advance(now time.Duration) {
	for len(s.queue.heap) > 0 && s.queue.heap[0].at <= now {
		e := s.queue.pop()
		if !e.deliver {
			s.forward(e)
			s.release(e.frame)
			continue
		}
		s.late.add(now - e.at)
		p := s.ports[e.port]
		if len(p.out) == 0 {
			s.touch = append(s.touch, e.port)
		}
		p.out = append(p.out, e.frame)
	}
	for _, port := range s.touch {
		s.send(s.ports[port], now)
	}
	s.touch = s.touch[:0]
}

// forward takes a frame from an uplink to the downlinks of those it is for.
func (s *Switch) forward(e event) {
	ether := e.frame.ethernet()
	to, from := [6]byte(ether[0:6]), [6]byte(ether[6:12])
	if known, ok := s.macs[from]; !ok && len(s.macs) < maxMACs || ok && known != e.port {
		s.macs[from] = e.port
	}
	size := len(ether) - etherHeader
	down := func(p *Port) {
		s.schedule(p.down.Submit(e.at, size), event{frame: e.frame, port: p.index, deliver: true})
	}
	const group = 1
	if port, ok := s.macs[to]; ok && to[0]&group == 0 {
		if port != e.port {
			down(s.ports[port])
		}
		return
	}
	for _, p := range s.ports {
		if p.index != e.port {
			down(p)
		}
	}
}

// send gives a port's host the frames that wait for it.
func (s *Switch) send(p *Port, now time.Duration) {
	for rest := p.out; len(rest) > 0; {
		n := min(batch, len(rest))
		for i, f := range rest[:n] {
			s.vectors[i] = unix.Iovec{Base: &f.buf[0]}
			s.vectors[i].SetLen(f.n)
			s.msgs[i] = mmsghdr{hdr: unix.Msghdr{Iov: &s.vectors[i], Iovlen: 1}}
		}
		sent, err := mmsg(unix.SYS_SENDMMSG, p.fd, s.msgs[:n])
		if err != nil {
			p.traffic.Overruns++
			sent = 1 // go on behind the one that cannot be sent
		} else {
			for _, f := range rest[:sent] {
				p.traffic.Received.add(f.ethernet())
				p.show(f, false)
				if p.capture != nil {
					p.capture.write(s.start.Add(now), f)
				}
			}
		}
		for _, f := range rest[:sent] {
			s.release(f)
		}
		rest = rest[sent:]
	}
	p.out = p.out[:0]
}

func (s *Switch) newFrame() *frame {
	if n := len(s.free); n > 0 {
		f := s.free[n-1]
		s.free = s.free[:n-1]
		return f
	}
	if s.made == maxFrames {
		return nil
	}
	s.made++
	return &frame{buf: make([]byte, vnetHeader+etherHeader+4+s.mtu)} // 4: a VLAN tag
}

func (s *Switch) release(f *frame) {
	if f.refs--; f.refs == 0 {
		s.free = append(s.free, f)
	}
}

// mmsg calls recvmmsg or sendmmsg, which never block here: the runtime need not know.
func mmsg(call uintptr, fd int, msgs []mmsghdr) (int, error) {
	n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// epollWait waits with a precision that milliseconds do not give. A negative timeout is for ever.
func epollWait(fd int, events []unix.EpollEvent, timeout time.Duration) (int, error) {
	var spec *unix.Timespec
	if timeout >= 0 {
		ts := unix.NsecToTimespec(int64(timeout))
		spec = &ts
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(fd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(unsafe.Pointer(spec)), 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.ENOSYS: // before Linux 5.11
		ms := -1
		if timeout >= 0 {
			ms = int((timeout + time.Millisecond - 1) / time.Millisecond)
		}
		return unix.EpollWait(fd, events, ms)
	default:
		return 0, errno
	}
}

// Up returns the parameters of the direction from the host.
func (p *Port) Up() Params {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.up.Params()
}

// Down returns the parameters of the direction to the host.
func (p *Port) Down() Params {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.down.Params()
}

// SetUp changes the direction from the host.
func (p *Port) SetUp(params Params) error {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.up.SetParams(params)
}

// SetDown changes the direction to the host.
func (p *Port) SetDown(params Params) error {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.down.SetParams(params)
}

// CutFor cuts both directions for a time. 0 mends a cut.
func (p *Port) CutFor(d time.Duration) {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	until := time.Since(p.sw.start) + d
	p.up.CutUntil(until)
	p.down.CutUntil(until)
}

// Stats returns what the links of the port did.
func (p *Port) Stats() (up, down Stats) {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.up.Stats(), p.down.Stats()
}

// Traffic returns what the host sent and received.
func (p *Port) Traffic() Traffic {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	if !p.sw.closed {
		p.count()
	}
	return p.traffic
}

// count adds what the kernel dropped before the loop read it.
func (p *Port) count() {
	if stats, err := unix.GetsockoptTpacketStats(p.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
		p.traffic.Overruns += uint64(stats.Drops)
	}
}

// Capture writes what the host sends and receives from now on to w, as a capture file. w is the switch's until Close,
// which flushes but does not close it.
func (p *Port) Capture(w io.Writer) {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	p.capture = newPcap(w)
}

// Backlog is how long a frame that the host sends now would stand in the queue of its uplink.
func (p *Port) Backlog() time.Duration {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	return p.up.Backlog(time.Since(p.sw.start))
}

// Rewrite shows every IPv6 packet that the host sends to f, before it is counted and enters the uplink: f may change it behind
// its IPv6 header (but not its length), or have it vanish by returning false. What f does to a UDP datagram, its checksum does not
// betray. f runs in the switch's loop: it must be short and must not call the switch. nil ends it.
func (p *Port) Rewrite(f func(ip []byte) bool) {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	p.rewrite = f
}

// Watch shows every IPv6 packet of the host to f as it is counted: those it sends before its uplink loses any, those it gets when
// they are delivered. f runs in the switch's loop: it must be short, must not call the switch, and must not keep or change
// the packet. nil ends it.
func (p *Port) Watch(f func(ip []byte, sent bool)) {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	p.watch = f
}

func (p *Port) show(f *frame, sent bool) {
	if p.watch == nil {
		return
	}
	if ip := f.ipv6(); ip != nil {
		p.watch(ip, sent)
	}
}

// rewritten lets the port's function at a frame and tells whether it goes on.
func (p *Port) rewritten(f *frame) bool {
	if p.rewrite == nil {
		return true
	}
	ip := f.ipv6()
	if ip == nil {
		return true
	}
	if !p.rewrite(ip) {
		return false
	}
	renewChecksum(f.buf[:f.n])
	return true
}

// Lateness is how late frames were delivered, against the times that their links gave them: what the emulator itself, or a
// machine without time for it, adds to their delay.
type Lateness struct {
	Frames uint64        `json:"frames"`
	Above  uint64        `json:"above"` // more than LateAbove
	Sum    time.Duration `json:"sum_ns"`
	Max    time.Duration `json:"max_ns"`
}

// LateAbove is what Lateness counts as late: four times what the switch promises.
const LateAbove = 2 * time.Millisecond

func (l *Lateness) add(d time.Duration) {
	l.Frames++
	l.Sum += d
	l.Max = max(l.Max, d)
	if d > LateAbove {
		l.Above++
	}
}

// Minus is what was counted since an earlier look; Max is that of all times.
func (l Lateness) Minus(earlier Lateness) Lateness {
	return Lateness{l.Frames - earlier.Frames, l.Above - earlier.Above, l.Sum - earlier.Sum, l.Max}
}

// Load returns the processor time that the switch's loop took so far, and how late it was.
func (s *Switch) Load() (cpu time.Duration, late Lateness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var t unix.Timespec
	const perThread, sched = 4, 2 // the clock id of a thread, see pthread_getcpuclockid(3)
	if s.thread != 0 && !s.closed && unix.ClockGettime(int32(^s.thread<<3|perThread|sched), &t) == nil {
		cpu = time.Duration(t.Nano())
	}
	return cpu, s.late
}
