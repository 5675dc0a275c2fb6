package udp

import (
	"net/netip"
	"unsafe"
)

const (
	// maxSegments is the most datagrams in one GSO send: UDP_MAX_SEGMENTS of the kernels before 6.9, which later ones doubled.
	maxSegments = 64
	// maxSuper is the most payload of one GSO send, in bytes. Headers included it must stay below 64 KiB (gso_max_size), and some
	// drivers add their own.
	maxSuper = 65000
)

// SendQueue gathers datagrams for one [Conn.Flush]. The zero value is ready for use; it grows to the most that was
// ever queued between two flushes, so flush it every few hundred datagrams. It is not safe for concurrent use.
type SendQueue struct {
	messages  []message
	vectors   []iovec
	heads     []byte // arena of copied heads; vectors point into it, so it is replaced when full, never moved
	datagrams int
	bytes     int
}

// message is a run of datagrams to one address that can be one GSO send: all of size bytes, the last perhaps shorter.
type message struct {
	to     netip.AddrPort
	size   int // of the first datagram, in bytes
	bytes  int // of all
	first  int // index of its first vector
	count  int // datagrams
	per    int // vectors a datagram: 1, or 2 with a head
	closed bool
}

// Add queues one datagram: head, which is copied and meant to be a link tag or the like (up to 16 bytes), then body, which is
// not copied and must not change until Flush returns. Either may be empty; a datagram of no bytes is not queued.
//
// Datagrams to one address leave in the order of Add. Those that follow each other and have one length cost
// least, so queue by destination, not by shard.
func (q *SendQueue) Add(to netip.AddrPort, head, body []byte) {
	size := len(head) + len(body)
	if size == 0 {
		return
	}
	per := 1
	if len(head) != 0 && len(body) != 0 {
		per = 2
	}
	var m *message
	if n := len(q.messages); n > 0 {
		m = &q.messages[n-1]
		if m.closed || size > m.size || m.per != per || m.count == maxSegments || m.bytes+size > maxSuper || m.to != to {
			m = nil
		}
	}
	if m == nil {
		q.messages = append(q.messages, message{to: to, size: size, first: len(q.vectors), per: per})
		m = &q.messages[len(q.messages)-1]
	}
	m.count++
	m.bytes += size
	m.closed = size < m.size
	q.datagrams++
	q.bytes += size
	if len(head) != 0 {
		q.vectors = append(q.vectors, q.copyHead(head))
	}
	if len(body) != 0 {
		q.vectors = append(q.vectors, vector(body))
	}
}

// copyHead puts head into the arena, or finds it there: the datagrams of one link all have its tag.
func (q *SendQueue) copyHead(head []byte) iovec {
	if n := len(q.heads); n >= len(head) && string(q.heads[n-len(head):]) == string(head) {
		return vector(q.heads[n-len(head):])
	}
	if cap(q.heads)-len(q.heads) < len(head) {
		q.heads = make([]byte, 0, max(1024, 2*cap(q.heads), len(head)))
	}
	n := len(q.heads)
	q.heads = append(q.heads, head...)
	return vector(q.heads[n:])
}

// Len is the number of datagrams queued.
func (q *SendQueue) Len() int { return q.datagrams }

// Bytes is the payload queued, heads included.
func (q *SendQueue) Bytes() int { return q.bytes }

// Flush sends what is queued, and empties q. It returns the payload that the kernel took, in bytes.
//
// What cannot be sent to one destination is dropped and counted by its reason in [Stats]; the other destinations get
// theirs. A full send buffer is waited for a few milliseconds, then what is left is dropped and counted. An error means that
// the socket is closed.
func (c *Conn) Flush(q *SendQueue) (sentBytes int, err error) {
	if q.datagrams == 0 {
		return 0, nil
	}
	c.txMu.Lock()
	defer c.txMu.Unlock()
	defer q.Reset()
	return c.tx.flush(c, q)
}

// Reset forgets what is queued. Flush does it.
func (q *SendQueue) Reset() {
	clear(q.vectors) // let go of the bodies
	q.messages, q.vectors, q.heads = q.messages[:0], q.vectors[:0], q.heads[:0]
	q.datagrams, q.bytes = 0, 0
}

// datagram returns the vectors and the length of datagram i of m.
func (q *SendQueue) datagram(m *message, i int) (vectors []iovec, size int) {
	vectors = q.vectors[m.first+i*m.per:][:m.per]
	size = m.size
	if i == m.count-1 {
		size = m.bytes - i*m.size
	}
	return vectors, size
}

// vector makes the vector of b, which is not empty.
func vector(b []byte) iovec {
	v := iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}

// appendVector is the inverse of vector: it appends the bytes that v points to.
func appendVector(dst []byte, v iovec) []byte {
	return append(dst, unsafe.Slice(v.Base, int(v.Len))...)
}
