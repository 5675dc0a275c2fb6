package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxSlots is how many messages one sendmmsg is given: enough that the call costs nothing a datagram even without GSO.
	maxSlots = 64

	// A message's ancillary data: UDP_SEGMENT, a u16, and behind it IPV6_PKTINFO, an address and an interface. Either may be left out.
	segmentControl = 24
	sourceControl  = 40
	sendControl    = segmentControl + sourceControl

	// A destination that refused GSO (no checksum offload on its device, IPsec, a tunnel) is sent single datagrams until this
	// time is over; a route may change. At most maxRefused of them are remembered.
	refusedFor = time.Minute
	maxRefused = 1024
)

// slot says what one header of a sendmmsg call stands for: datagrams from … from+count−1 of a message.
type slot struct {
	message, from, count, bytes int
	source                      bool // the source address is given
}

// sender holds what sendmmsg reads. It is guarded by Conn.txMu.
type sender struct {
	headers []mmsghdr
	names   []unix.RawSockaddrInet6
	control [][sendControl]byte
	slots   []slot
	next    int // first slot not done
	end     int // slots filled

	send       func(fd uintptr) (done bool) // tries once
	sendOrWait func(fd uintptr) (done bool) // also waits for room
	got        int
	errno      syscall.Errno

	// The next datagram of the queue that has no slot yet.
	message, datagram int
	unsendable        int // messages before this one are counted where no slot can be made of them

	zones       zoneCache
	gsoRefused  map[netip.AddrPort]struct{}
	gsoRefusedT time.Time // when the first of them was remembered

	// What this flush has done.
	sent, bytes, calls, messages, offloadRefused uint64
	unsent                                       [reasons]uint64

	plain plainSender
}

func (s *sender) init(c *Conn) {
	if !c.batched {
		return
	}
	s.headers = make([]mmsghdr, maxSlots)
	s.names = make([]unix.RawSockaddrInet6, maxSlots)
	s.control = make([][sendControl]byte, maxSlots)
	s.slots = make([]slot, maxSlots)
	for i := range s.headers {
		h := &s.headers[i].hdr
		s.names[i].Family = unix.AF_INET6
		h.Name = (*byte)(unsafe.Pointer(&s.names[i]))
		h.Namelen = unix.SizeofSockaddrInet6
		segment := (*unix.Cmsghdr)(unsafe.Pointer(&s.control[i]))
		segment.Level, segment.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		segment.SetLen(unix.CmsgLen(2))
		source := (*unix.Cmsghdr)(unsafe.Pointer(&s.control[i][unix.CmsgSpace(2)]))
		source.Level, source.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
		source.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	}
	s.send = func(fd uintptr) bool {
		s.sendmmsg(fd)
		return true
	}
	s.sendOrWait = func(fd uintptr) bool {
		s.sendmmsg(fd)
		return s.errno != syscall.EAGAIN
	}
}

// shortSend is how many bytes a kernel takes in some 20 µs: over loopback a send includes the receiver's half of the way.
const shortSend = 32 << 10

func (s *sender) sendmmsg(fd uintptr) {
	call, bytes := mmsg, 0
	for _, sl := range s.slots[s.next:s.end] {
		if bytes += sl.bytes; bytes > shortSend {
			call = longMmsg
			break
		}
	}
	s.got, s.errno = call(unix.SYS_SENDMMSG, fd, s.headers[s.next:s.end])
}

func (s *sender) flush(c *Conn, q *SendQueue) (sentBytes int, err error) {
	if !c.batched {
		return s.plain.flush(c, q)
	}
	s.message, s.datagram, s.unsendable = 0, 0, 0
	s.sent, s.bytes, s.calls, s.messages, s.offloadRefused, s.unsent = 0, 0, 0, 0, 0, [reasons]uint64{}
	var patience time.Time // until when to wait for room; set when there first is none
	call := s.send
	for err == nil {
		if s.next >= s.end {
			if s.fill(c, q); s.end == 0 {
				break
			}
		}
		s.calls++
		if err = c.raw.Write(call); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			err = nil
			s.dropRest(q, busy)
			break
		}
		switch s.errno {
		case 0:
			s.done()
		case syscall.EAGAIN, syscall.ENOBUFS:
			now := time.Now()
			if patience.IsZero() {
				patience = now.Add(c.sendWait)
				_ = c.pc.SetWriteDeadline(patience)
				call = s.sendOrWait
			} else if !now.Before(patience) {
				s.dropRest(q, busy)
				break
			}
			if s.errno == syscall.ENOBUFS { // of a device queue, which no poll tells about
				time.Sleep(c.sendWait / 8)
			}
		default:
			s.refuse(c, q)
		}
	}
	if !patience.IsZero() {
		_ = c.pc.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		s.dropRest(q, failed)
		if !errors.Is(err, net.ErrClosed) {
			err = &net.OpError{Op: "write", Net: "udp6", Addr: c.pc.LocalAddr(), Err: err}
		}
	}
	c.counters.send(s.sent, s.bytes, s.calls, s.messages, &s.unsent)
	c.counters.offloadRefused.Add(s.offloadRefused)
	return int(s.bytes), err
}

// fill makes slots of the next datagrams of q.
func (s *sender) fill(c *Conn, q *SendQueue) {
	s.next, s.end = 0, 0
	var now time.Duration
	if c.sources.table != nil {
		c.sources.mu.Lock()
		defer c.sources.mu.Unlock()
		now = time.Since(c.sources.start)
	}
	for s.message < len(q.messages) && s.end < maxSlots {
		m := &q.messages[s.message]
		scope, ok := s.zones.scope(m.to)
		if !ok {
			if s.message >= s.unsendable { // fill may come by again, see again
				s.unsent[unreachable] += uint64(m.count)
				s.unsendable = s.message + 1
			}
			s.message++
			continue
		}
		var local *[16]byte
		if c.sources.table != nil {
			local = c.sources.local(m.to, now)
		}
		if m.count > 1 && s.datagram == 0 && c.info.GSO && !s.refusesGSO(m.to) {
			s.slot(q, m, scope, local, m.count, m.bytes)
			s.message++
			continue
		}
		for s.datagram < m.count && s.end < maxSlots {
			_, size := q.datagram(m, s.datagram)
			s.slot(q, m, scope, local, 1, size)
			s.datagram++
		}
		if s.datagram == m.count {
			s.message, s.datagram = s.message+1, 0
		}
	}
}

// slot makes a slot of count datagrams of m, the current message, from the current one on.
func (s *sender) slot(q *SendQueue, m *message, scope uint32, local *[16]byte, count, bytes int) {
	s.slots[s.end] = slot{s.message, s.datagram, count, bytes, local != nil}
	name := &s.names[s.end]
	name.Addr = m.to.Addr().As16()
	name.Scope_id = scope
	port := (*[2]byte)(unsafe.Pointer(&name.Port))
	port[0], port[1] = byte(m.to.Port()>>8), byte(m.to.Port())
	h := &s.headers[s.end].hdr
	h.Iov = &q.vectors[m.first+s.datagram*m.per]
	h.SetIovlen(count * m.per)

	control := s.control[s.end][:]
	source := unix.CmsgSpace(2) // where that begins
	from, to := source, source
	if count > 1 {
		from = 0
		*(*uint16)(unsafe.Pointer(&control[unix.CmsgLen(0)])) = uint16(m.size)
	}
	if local != nil {
		to += unix.CmsgSpace(unix.SizeofInet6Pktinfo)
		copy(control[source+unix.CmsgLen(0):], local[:])
	}
	h.Control = nil
	if from < to {
		h.Control = &control[from]
	}
	h.SetControllen(to - from)
	s.end++
}

// done takes note of what the kernel took.
func (s *sender) done() {
	for _, sl := range s.slots[s.next:][:s.got] {
		s.sent += uint64(sl.count)
		s.bytes += uint64(sl.bytes)
	}
	s.messages += uint64(s.got)
	s.next += s.got
}

// refuse deals with s.errno, with which the kernel refused the next slot.
func (s *sender) refuse(c *Conn, q *SendQueue) {
	sl := s.slots[s.next]
	m := &q.messages[sl.message]
	if sl.source && s.errno != syscall.EMSGSIZE {
		// The address may have gone from this host, or its route: again from here, and let the kernel choose.
		c.sources.forget(m.to)
		s.again(sl)
		return
	}
	if sl.count > 1 {
		switch s.errno {
		case syscall.EINVAL, syscall.EIO, syscall.EOPNOTSUPP, syscall.EMSGSIZE, syscall.ENOPROTOOPT:
			// Again from here, one by one. EMSGSIZE need not be GSO's fault, and then says so again.
			s.offloadRefused++
			s.refuseGSO(m.to)
			s.again(sl)
			return
		}
	}
	if m.to.Addr().Zone() != "" {
		s.zones.forget() // its interface may have come back with another index
	}
	s.unsent[errnoReason(s.errno)] += uint64(sl.count)
	s.next++
}

// again has fill go on from the first datagram of sl.
func (s *sender) again(sl slot) {
	s.message, s.datagram = sl.message, sl.from
	s.next, s.end = 0, 0
}

func (s *sender) refusesGSO(to netip.AddrPort) bool {
	if len(s.gsoRefused) == 0 {
		return false
	}
	if time.Since(s.gsoRefusedT) > refusedFor {
		clear(s.gsoRefused)
		return false
	}
	_, ok := s.gsoRefused[to]
	return ok
}

func (s *sender) refuseGSO(to netip.AddrPort) {
	if s.gsoRefused == nil {
		s.gsoRefused = make(map[netip.AddrPort]struct{})
	}
	if len(s.gsoRefused) >= maxRefused {
		clear(s.gsoRefused)
	}
	if len(s.gsoRefused) == 0 {
		s.gsoRefusedT = time.Now()
	}
	s.gsoRefused[to] = struct{}{}
}

// dropRest gives up what has not been sent.
func (s *sender) dropRest(q *SendQueue, why reason) {
	for _, sl := range s.slots[s.next:s.end] {
		s.unsent[why] += uint64(sl.count)
	}
	for ; s.message < len(q.messages); s.message, s.datagram = s.message+1, 0 {
		s.unsent[why] += uint64(q.messages[s.message].count - s.datagram)
	}
	s.next, s.end = 0, 0
}
