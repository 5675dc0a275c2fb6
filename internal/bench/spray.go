//go:build linux

package main

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// helperArg makes this program one of the bare loops that the relay is compared with.
const helperArg = "spray"

// A spray sends what a relay sends to its children, by the same clock and with nothing else to do: no handshake, no check, no
// pacing by child. Each block's time it sends that block's datagrams to every address.
type spray struct {
	to        []netip.AddrPort
	datagrams int // in a block, for each address
	size      int // of each, bytes
	every     time.Duration
	segments  int // datagrams in a GSO send; 0: sendto, one by one
	pause     time.Duration
}

// helper runs a spray for ever.
func helper(args []string) int {
	f := flag.NewFlagSet(helperArg, flag.ExitOnError)
	s := &spray{}
	f.IntVar(&s.datagrams, "datagrams", 53, "")
	f.IntVar(&s.size, "size", 1228, "")
	f.DurationVar(&s.every, "every", 57600*time.Microsecond, "")
	f.DurationVar(&s.pause, "pause", 5*time.Millisecond, "between the GSO rounds of a block")
	f.IntVar(&s.segments, "segments", 0, "")
	to := f.String("to", "", "")
	_ = f.Parse(args)
	for _, a := range strings.Split(*to, ",") {
		s.to = append(s.to, netip.MustParseAddrPort(a))
	}
	conn, err := net.ListenUDP("udp6", nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = conn.SetWriteBuffer(4 << 20)
	rounds := []int{s.datagrams} // how many datagrams leave together
	if s.segments > 0 {
		rounds = rounds[:0]
		for left := s.datagrams; left > 0; left -= s.segments {
			rounds = append(rounds, min(left, s.segments))
		}
	}
	sendRound := s.sendto(conn)
	if s.segments > 0 {
		sendRound = s.gso(conn)
	}
	for next := time.Now(); ; next = next.Add(s.every) {
		for i, n := range rounds {
			time.Sleep(time.Until(next.Add(time.Duration(i) * s.pause)))
			sendRound(n)
		}
	}
}

// sendto is the loop of a Go program that does not know better: a system call a datagram.
func (s *spray) sendto(conn *net.UDPConn) func(int) {
	b := make([]byte, s.size)
	return func(n int) {
		for range n {
			for _, to := range s.to {
				_, _ = conn.WriteToUDPAddrPort(b, to)
			}
		}
	}
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// gso sends to all addresses with one sendmmsg, each message a super-packet that the kernel cuts: the least that can be done.
func (s *spray) gso(conn *net.UDPConn) func(int) {
	body := make([]byte, s.datagrams*s.size)
	headers := make([]mmsghdr, len(s.to))
	names := make([]unix.RawSockaddrInet6, len(s.to))
	vectors := make([]unix.Iovec, len(s.to))
	controls := make([][24]byte, len(s.to))
	for i, to := range s.to {
		names[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16()}
		*(*[2]byte)(unsafe.Pointer(&names[i].Port)) = [2]byte{byte(to.Port() >> 8), byte(to.Port())}
		vectors[i].Base = &body[0]
		h := &headers[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&names[i])), unix.SizeofSockaddrInet6
		h.Iov = &vectors[i]
		h.SetIovlen(1)
		cm := (*unix.Cmsghdr)(unsafe.Pointer(&controls[i]))
		cm.Level, cm.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		cm.SetLen(unix.CmsgLen(2))
		*(*uint16)(unsafe.Pointer(&controls[i][unix.CmsgLen(0)])) = uint16(s.size)
		h.Control = &controls[i][0]
		h.SetControllen(unix.CmsgSpace(2))
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		panic(err)
	}
	var left []mmsghdr
	send := func(fd uintptr) bool {
		for len(left) > 0 {
			n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&left[0])), uintptr(len(left)), unix.MSG_DONTWAIT, 0, 0)
			if errno == unix.EAGAIN {
				return false
			}
			if errno != 0 {
				n = 1
			}
			left = left[n:]
		}
		return true
	}
	return func(n int) {
		for i := range vectors {
			vectors[i].SetLen(n * s.size)
		}
		left = headers
		_ = raw.Write(send)
	}
}
