package udp

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

type iovec = unix.Iovec

// listenGroup binds a socket to the group itself, so that neither unicast nor other groups reach it, and to the interface.
// Package net turns a multicast address into the wildcard, hence the detour.
func listenGroup(group netip.AddrPort, on *net.Interface) (*net.UDPConn, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "udp6")
	defer f.Close() // FilePacketConn keeps a duplicate
	for _, o := range []struct{ level, option, value int }{
		{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1},
		// With SO_REUSEADDR every socket gets every datagram of its group; SO_REUSEPORT would ask for one owner of all of them.
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	// Only what this socket joined, not what others on this host did: Linux 4.20.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
	// A membership does not tie the socket to the interface it names. Linux 5.7 lets everybody do this; before, the
	// same group on another interface gets through where somebody joined it there.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, on.Index)
	sa := &unix.SockaddrInet6{Addr: group.Addr().As16(), Port: int(group.Port()), ZoneId: uint32(on.Index)}
	if err := unix.Bind(fd, sa); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// buffers tries harder for the sizes asked for, where this process may, and returns the actual ones in bytes.
func buffers(fd uintptr, cfg Config) (receive, send int) {
	actual := func(option, force, asked int) int {
		// The kernel keeps twice what it is asked for, to have room for its own bookkeeping.
		n, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option)
		if n/2 < asked && unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, force, asked) == nil {
			n, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option)
		}
		return n / 2
	}
	return actual(unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, cfg.ReceiveBuffer), actual(unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, cfg.SendBuffer)
}

// setShared lets other sockets have the port too; all of them must ask for it, and belong to one user.
func setShared(_, _ string, c syscall.RawConn) (err error) {
	if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}

func setDontFragment(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
}

// canBatch reports whether sendmmsg and recvmmsg are there: some sandboxes do without.
func canBatch(fd uintptr) bool {
	_, sendErr := mmsg(unix.SYS_SENDMMSG, fd, nil)
	_, receiveErr := mmsg(unix.SYS_RECVMMSG, fd, nil)
	return sendErr == 0 && (receiveErr == 0 || receiveErr == syscall.EAGAIN)
}

// setOffload turns on what the kernel has: GSO since Linux 4.18, GRO since 5.0.
func setOffload(fd uintptr) (gso, gro bool) {
	_, err := unix.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT)
	gso = err == nil
	gro = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	return gso, gro
}

// rememberSources has answers leave from the address that was written to, where the socket has more than one.
func (c *Conn) rememberSources(fd uintptr) {
	if c.batched && c.info.Local.Addr().IsUnspecified() &&
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1) == nil {
		c.sources.init()
	}
}

// kernelDrops asks how many datagrams the kernel has dropped for this socket.
func kernelDrops(fd uintptr) uint64 {
	const drops = 8 // SK_MEMINFO_DROPS of linux/sock_diag.h
	var info [drops + 1]uint32
	n := uint32(unsafe.Sizeof(info))
	_, _, errno := syscall.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return 0
	}
	return uint64(info[drops])
}

func whoHasPort(port uint16) string {
	return "; `ss -ulnp sport = :" + strconv.Itoa(int(port)) + "` shows who has this one"
}
