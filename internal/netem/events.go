package netem

import (
	"encoding/binary"
	"time"
)

// frame is one Ethernet frame under way, shared by all its receivers. Only the switch's loop touches it.
type frame struct {
	buf  []byte // virtio_net_hdr, then the frame
	n    int    // bytes of buf in use
	refs int
}

func (f *frame) ethernet() []byte { return f.buf[vnetHeader:f.n] }

// ipv6 is the IPv6 packet in the frame, nil if it holds something else.
func (f *frame) ipv6() []byte {
	ether := f.ethernet()
	if len(ether) < etherHeader+ipv6Header || binary.BigEndian.Uint16(ether[12:]) != etherTypeIPv6 {
		return nil
	}
	return ether[etherHeader:]
}

// event is a frame that leaves a link: the uplink of port (arrives at the switch) or, if deliver, the downlink to port.
type event struct {
	at      time.Duration
	entry   uint64 // breaks ties: first in, first out
	frame   *frame
	port    int
	deliver bool
}

func (e *event) before(f *event) bool { return e.at < f.at || e.at == f.at && e.entry < f.entry }

// eventQueue is a binary heap by time and entry.
type eventQueue struct {
	heap    []event
	entries uint64
}

func (q *eventQueue) push(e event) {
	e.entry = q.entries
	q.entries++
	q.heap = append(q.heap, e)
	h := q.heap
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h[i].before(&h[parent]) {
			break
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
}

func (q *eventQueue) pop() event {
	h := q.heap
	first, last := h[0], len(h)-1
	h[0] = h[last]
	h[last] = event{} // the frame
	h = h[:last]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if h[child].before(&h[least]) {
				least = child
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	q.heap = h
	return first
}
