package udp

import "sync/atomic"

// Stats counts what a socket did since it was opened. Bytes are UDP payload.
type Stats struct {
	Sent      uint64 `json:"sent"` // datagrams the kernel took
	SentBytes uint64 `json:"sent_bytes"`
	SendCalls uint64 `json:"send_calls"` // system calls
	// SendMessages is what those calls carried: a GSO super-packet is one, however many datagrams it is.
	SendMessages uint64 `json:"send_messages"`

	// Datagrams that were not sent, by reason.
	Unreachable uint64 `json:"unreachable"` // no route, no such host, no such zone
	Refused     uint64 `json:"refused"`     // the other host has nobody at that port
	Forbidden   uint64 `json:"forbidden"`   // by a firewall of this host
	TooBig      uint64 `json:"too_big"`     // for the path: nothing is fragmented
	Busy        uint64 `json:"busy"`        // no room in the send buffer within the wait of one Flush
	Failed      uint64 `json:"failed"`      // other reasons

	OffloadRefused uint64 `json:"offload_refused"` // GSO sends that had to be repeated one by one

	Received      uint64 `json:"received"` // datagrams passed on
	ReceivedBytes uint64 `json:"received_bytes"`
	ReceiveCalls  uint64 `json:"receive_calls"`
	Empty         uint64 `json:"empty"`        // dropped: no payload
	TooLong       uint64 `json:"too_long"`     // dropped: longer than Config.MaxDatagram
	KernelDrops   uint64 `json:"kernel_drops"` // dropped by the kernel, mostly for a full receive buffer (Linux; 32 bits wide)
}

// Unsent is the number of datagrams that were not sent, whatever the reason.
func (s Stats) Unsent() uint64 {
	return s.Unreachable + s.Refused + s.Forbidden + s.TooBig + s.Busy + s.Failed
}

// Stats returns the counters. It asks the kernel for its drops, so call it by the second, not by the datagram.
func (c *Conn) Stats() Stats {
	n := &c.counters
	s := Stats{
		Sent: n.sent.Load(), SentBytes: n.sentBytes.Load(), SendCalls: n.sendCalls.Load(), SendMessages: n.sendMessages.Load(),
		Unreachable:    n.unsent[unreachable].Load(),
		Refused:        n.unsent[refused].Load(),
		Forbidden:      n.unsent[forbidden].Load(),
		TooBig:         n.unsent[tooBig].Load(),
		Busy:           n.unsent[busy].Load(),
		Failed:         n.unsent[failed].Load(),
		OffloadRefused: n.offloadRefused.Load(),
		Received:       n.received.Load(), ReceivedBytes: n.receivedBytes.Load(), ReceiveCalls: n.receiveCalls.Load(),
		Empty: n.empty.Load(), TooLong: n.tooLong.Load(),
	}
	_ = c.raw.Control(func(fd uintptr) { n.kernelDrops.Store(kernelDrops(fd)) }) // a closed socket keeps the last figure
	s.KernelDrops = n.kernelDrops.Load()
	return s
}

// reason is why datagrams were not sent.
type reason int

const (
	unreachable reason = iota
	refused
	forbidden
	tooBig
	busy
	failed
	reasons
)

// counters are bumped once a batch.
type counters struct {
	sent, sentBytes                       atomic.Uint64
	sendCalls, sendMessages               atomic.Uint64
	unsent                                [reasons]atomic.Uint64
	offloadRefused                        atomic.Uint64
	received, receivedBytes, receiveCalls atomic.Uint64
	empty, tooLong, kernelDrops           atomic.Uint64
}

func (n *counters) receive(calls uint64, t *tally) {
	n.receiveCalls.Add(calls)
	n.received.Add(t.datagrams)
	n.receivedBytes.Add(t.bytes)
	if t.empty|t.tooLong != 0 {
		n.empty.Add(t.empty)
		n.tooLong.Add(t.tooLong)
	}
}

func (n *counters) send(sent, bytes, calls, messages uint64, unsent *[reasons]uint64) {
	n.sendCalls.Add(calls)
	n.sendMessages.Add(messages)
	n.sent.Add(sent)
	n.sentBytes.Add(bytes)
	for why, count := range unsent {
		if count != 0 {
			n.unsent[why].Add(count)
		}
	}
}
