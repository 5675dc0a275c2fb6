//go:build !linux

package udp

import (
	"context"
	"net"
	"net/netip"
	"syscall"
)

// iovec is what the queue keeps of a head or body.
type iovec struct {
	Base *byte
	Len  uint
}

func (v *iovec) SetLen(n int) { v.Len = uint(n) }

type receiver struct{ plain plainReceiver }

func (r *receiver) init(*Conn, *Batch)           { *r = receiver{} }
func (r *receiver) read(c *Conn, b *Batch) error { return r.plain.read(c, b) }

// sources is for systems that can be asked for it (see source_linux.go).
type sources struct{}

func (c *Conn) rememberSources(uintptr) {}

type sender struct{ plain plainSender }

func (s *sender) init(*Conn) {}
func (s *sender) flush(c *Conn, q *SendQueue) (sentBytes int, err error) {
	return s.plain.flush(c, q)
}

// listenGroup binds the port on every address, to be shared with the group's other listeners.
func listenGroup(group netip.AddrPort, _ *net.Interface) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) { err = setReuse(fd) }); e != nil {
			return e
		}
		return err
	}}
	pc, err := lc.ListenPacket(context.Background(), "udp6", netip.AddrPortFrom(netip.IPv6Unspecified(), group.Port()).String())
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

func setShared(_, _ string, _ syscall.RawConn) error { return ErrNotShared }

func canBatch(uintptr) bool              { return false }
func setOffload(uintptr) (gso, gro bool) { return false, false }
func kernelDrops(uintptr) uint64         { return 0 }
func whoHasPort(uint16) string           { return "" }
