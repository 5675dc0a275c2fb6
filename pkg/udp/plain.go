package udp

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// plainReceiver reads datagrams one by one, for systems without recvmmsg.
type plainReceiver struct{ buf []byte }

func (r *plainReceiver) read(c *Conn, b *Batch) error {
	if r.buf == nil {
		r.buf = make([]byte, c.maxDatagram+1) // one more byte shows a longer one
	}
	n, addr, err := c.pc.ReadFromUDPAddrPort(r.buf)
	t := tally{}
	switch {
	case err == nil:
		b.split(&t, addr, r.buf[:n], 0, c.maxDatagram)
	case truncated(err):
		t.tooLong = 1
	default:
		return err
	}
	c.counters.receive(1, &t)
	return nil
}

// plainSender sends datagrams one by one, for systems without sendmmsg.
type plainSender struct {
	buf   []byte
	zones zoneCache
}

func (s *plainSender) flush(c *Conn, q *SendQueue) (sentBytes int, err error) {
	var sent, calls uint64
	var unsent [reasons]uint64
	var waited time.Duration // for room in the send buffer
	full := false
	_ = c.pc.SetWriteDeadline(time.Now().Add(c.sendWait))
	for i := range q.messages {
		m := &q.messages[i]
		for d := range m.count {
			if full {
				unsent[busy]++
				continue
			}
			if _, ok := s.zones.scope(m.to); !ok { // package net would send to an unknown zone without one
				unsent[unreachable]++
				continue
			}
			vectors, _ := q.datagram(m, d)
			s.buf = s.buf[:0]
			for _, v := range vectors {
				s.buf = appendVector(s.buf, v)
			}
			for {
				calls++
				begin := time.Now()
				_, e := c.pc.WriteToUDPAddrPort(s.buf, m.to)
				if took := time.Since(begin); took > time.Millisecond {
					waited += took
				}
				if errors.Is(e, os.ErrDeadlineExceeded) && waited < c.sendWait {
					// It was the calls that took the time, not the waiting.
					_ = c.pc.SetWriteDeadline(time.Now().Add(c.sendWait - waited))
					continue
				}
				switch {
				case e == nil:
					sent++
					sentBytes += len(s.buf)
				case errors.Is(e, net.ErrClosed):
					err = e
					unsent[failed]++
				default:
					why := sendReason(e)
					full = why == busy
					unsent[why]++
				}
				break
			}
		}
	}
	c.counters.send(sent, uint64(sentBytes), calls, sent, &unsent)
	return sentBytes, err
}

// sendReason says what became of a datagram that was sent with err.
func sendReason(err error) reason {
	var address *net.AddrError
	var errno syscall.Errno
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return busy
	case errors.As(err, &address):
		return unreachable
	case errors.As(err, &errno):
		return errnoReason(errno)
	}
	return failed
}
