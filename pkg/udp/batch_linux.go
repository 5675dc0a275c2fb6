package udp

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// groMessages and plainMessages are how many messages one recvmmsg takes with GRO, where each may be a super-packet of 64 KiB,
	// and without. Both are about what comes within a scheduling delay.
	groMessages   = 16
	plainMessages = 64

	groBuffer = 1 << 16

	// receiveControl holds the ancillary data that comes with a message: UDP_GRO, an int (24), and IPV6_PKTINFO (40).
	receiveControl = 64
)

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32 // padded by the compiler as C pads it
}

// receiver holds what recvmmsg writes to.
type receiver struct {
	headers []mmsghdr
	names   []unix.RawSockaddrInet6
	vectors []iovec
	control [][receiveControl]byte
	buffers []byte
	size    int // of each buffer

	call  func(fd uintptr) (done bool)
	got   int
	errno syscall.Errno

	zones    zoneCache
	lastName unix.RawSockaddrInet6 // mostly the next one, too
	lastAddr netip.AddrPort

	plain plainReceiver
}

func (r *receiver) init(c *Conn, b *Batch) {
	*r = receiver{}
	if !c.batched {
		return
	}
	n := plainMessages
	r.size = c.maxDatagram + 1 // one more byte shows a longer one
	if c.info.GRO {
		n, r.size = groMessages, groBuffer
	}
	r.headers = make([]mmsghdr, n)
	r.names = make([]unix.RawSockaddrInet6, n)
	r.vectors = make([]iovec, n)
	r.control = make([][receiveControl]byte, n)
	r.buffers = make([]byte, n*r.size)
	for i := range r.headers {
		r.vectors[i] = vector(r.buffers[i*r.size:][:r.size])
		h := &r.headers[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Iov = &r.vectors[i]
		h.SetIovlen(1)
		h.Control = &r.control[i][0]
	}
	r.call = func(fd uintptr) bool {
		r.got, r.errno = mmsg(unix.SYS_RECVMMSG, fd, r.headers)
		return r.errno != syscall.EAGAIN
	}
	if b.Datagrams == nil {
		b.Datagrams = make([]Datagram, 0, n*maxSegments)
	}
}

// read receives one batch; it may turn out to be empty.
func (r *receiver) read(c *Conn, b *Batch) error {
	if !c.batched {
		return r.plain.read(c, b)
	}
	for i := range r.headers {
		h := &r.headers[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(receiveControl)
	}
	if err := c.raw.Read(r.call); err != nil {
		return err
	}
	switch r.errno {
	case 0:
	case syscall.EINTR, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPROTO, syscall.EMSGSIZE:
		return nil // an ICMP error for something that was sent; nothing is wrong with the socket
	default:
		return &net.OpError{Op: "read", Net: "udp6", Addr: c.pc.LocalAddr(), Err: os.NewSyscallError("recvmmsg", r.errno)}
	}
	var t tally
	var now time.Duration
	if c.sources.table != nil {
		c.sources.mu.Lock()
		now = time.Since(c.sources.start)
	}
	for i := range r.got {
		m := &r.headers[i]
		if m.hdr.Namelen != unix.SizeofSockaddrInet6 {
			t.empty++
			continue
		}
		size, local := ancillary(r.control[i][:m.hdr.Controllen])
		payload := r.buffers[i*r.size:][:min(int(m.len), r.size)]
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			t.tooLong++
			continue
		}
		from := r.addr(&r.names[i])
		if local != nil {
			c.sources.heard(from, local, now)
		}
		b.split(&t, from, payload, size, c.maxDatagram)
	}
	if c.sources.table != nil {
		c.sources.mu.Unlock()
	}
	c.counters.receive(1, &t)
	return nil
}

// addr makes the sender's address of what the kernel wrote.
func (r *receiver) addr(name *unix.RawSockaddrInet6) netip.AddrPort {
	if *name == r.lastName {
		return r.lastAddr
	}
	a := netip.AddrFrom16(name.Addr)
	if name.Scope_id != 0 && a.IsLinkLocalUnicast() {
		a = a.WithZone(r.zones.name(name.Scope_id))
	}
	port := (*[2]byte)(unsafe.Pointer(&name.Port))
	r.lastName, r.lastAddr = *name, netip.AddrPortFrom(a, uint16(port[0])<<8|uint16(port[1]))
	return r.lastAddr
}

// ancillary finds in a message's ancillary data the length of the datagrams of a super-packet, 0 for a single one, and the
// address it was sent to, nil if that was not asked for.
func ancillary(control []byte) (segment int, local *[16]byte) {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		n := int(h.Len)
		if n < unix.SizeofCmsghdr || n > len(control) {
			break
		}
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && n >= unix.CmsgLen(4):
			segment = int(*(*int32)(unsafe.Pointer(&control[unix.CmsgLen(0)])))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && n >= unix.CmsgLen(unix.SizeofInet6Pktinfo):
			local = (*[16]byte)(control[unix.CmsgLen(0):])
		}
		control = control[min(unix.CmsgSpace(n-unix.CmsgLen(0)), len(control)):]
	}
	return segment, local
}

// mmsg does a recvmmsg or sendmmsg that does not block, and that is short: the scheduler is not told. Telling it costs more
// than the call where datagrams come one by one, for it wakes the runtime's monitor each time that all was idle.
func mmsg(trap, fd uintptr, headers []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(headers))), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
		if errno != syscall.EINTR {
			return result(n, errno)
		}
	}
}

// longMmsg is mmsg for calls that may keep this thread busy for long: the garbage collector and other goroutines go on meanwhile.
func longMmsg(trap, fd uintptr, headers []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.Syscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(headers))), uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
		if errno != syscall.EINTR {
			return result(n, errno)
		}
	}
}

func result(n uintptr, errno syscall.Errno) (int, syscall.Errno) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
