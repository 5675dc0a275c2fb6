package input

import (
	"time"

	"github.com/pion/rtp"

	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	payloadMP2T = 33 // RFC 3551 table 5

	reorderSlots = 64                    // datagrams held while one before them is missing; a power of two
	reorderWait  = 40 * time.Millisecond // how long the oldest is held
	rtpJump      = 1000                  // sequence numbers; more is another stream (RFC 3550 appendix A.1: MAX_DROPOUT is 3000)
)

// RTPStats counts RTP datagrams. The counters stay zero on a raw input.
type RTPStats struct {
	Packets   uint64 `json:"packets"`
	Lost      uint64 `json:"lost"`      // sequence numbers that never came
	Reordered uint64 `json:"reordered"` // came late and were put in their place
	Late      uint64 `json:"late"`      // came too late or twice, dropped
	Switches  uint64 `json:"switches"`  // changes of SSRC, and jumps of the sequence number
}

// A depacketizer takes datagrams that are raw transport stream or RTP (RFC 2250), each recognised by itself, and gives out
// their payload, RTP in the order of its sequence numbers. Time comes in as an argument.
type depacketizer struct {
	stats   RTPStats
	started bool
	ssrc    uint32
	next    uint16 // sequence number to give out next

	held  int
	since time.Time // when the oldest of those held came
	slots [reorderSlots]slot
}

type slot struct {
	full bool
	data []byte
}

// add appends to dst what datagram b, come at now, makes available. jumped says that the stream does not go on from before.
func (d *depacketizer) add(dst, b []byte, now time.Time) (_ []byte, jumped bool) {
	if isRaw(b) {
		return append(dst, b...), false
	}
	payload, h, ok := parseRTP(b)
	if !ok {
		return append(dst, b...), false // Sync will see what it is worth
	}
	d.stats.Packets++
	if !d.started || h.SSRC != d.ssrc {
		jumped = d.started
		dst = d.drain(dst)
		d.started, d.ssrc, d.next = true, h.SSRC, h.SequenceNumber
	}
	ahead := int16(h.SequenceNumber - d.next)
	if ahead > rtpJump || ahead < -rtpJump {
		jumped = true
		dst = d.drain(dst)
		d.next, ahead = h.SequenceNumber, 0
	}
	if jumped {
		d.stats.Switches++
	}
	if ahead < 0 {
		d.stats.Late++
		return dst, jumped
	}
	if ahead == 0 {
		if d.held > 0 {
			d.stats.Reordered++
		}
		d.next++
		return d.release(append(dst, payload...)), jumped
	}
	for int(h.SequenceNumber-d.next) >= reorderSlots {
		dst = d.skip(dst)
	}
	if h.SequenceNumber == d.next {
		d.next++
		return d.release(append(dst, payload...)), jumped
	}
	s := &d.slots[h.SequenceNumber%reorderSlots]
	if s.full {
		d.stats.Late++ // a duplicate
		return dst, jumped
	}
	s.full, s.data = true, append(s.data[:0], payload...)
	if d.held++; d.held == 1 {
		d.since = now
	}
	return dst, jumped
}

// release appends what is held in sequence from next on.
func (d *depacketizer) release(dst []byte) []byte {
	for s := &d.slots[d.next%reorderSlots]; s.full; s = &d.slots[d.next%reorderSlots] {
		dst = append(dst, s.data...)
		s.full = false
		d.held--
		d.next++
	}
	return dst
}

// skip gives up on the number that is next.
func (d *depacketizer) skip(dst []byte) []byte {
	d.stats.Lost++
	d.next++
	return d.release(dst)
}

// expire appends what was held too long at now.
func (d *depacketizer) expire(dst []byte, now time.Time) []byte {
	if d.held == 0 || now.Sub(d.since) < reorderWait {
		return dst
	}
	for d.held > 0 && !d.slots[d.next%reorderSlots].full {
		d.stats.Lost++
		d.next++
	}
	dst = d.release(dst)
	d.since = now // a further gap gets its own wait
	return dst
}

// drain appends everything held.
func (d *depacketizer) drain(dst []byte) []byte {
	for d.held > 0 {
		dst = d.skip(dst)
	}
	return dst
}

// wake is when expire has something to do; zero if never.
func (d *depacketizer) wake() time.Time {
	if d.held == 0 {
		return time.Time{}
	}
	return d.since.Add(reorderWait)
}

func isRaw(b []byte) bool {
	return len(b) >= ts.PacketSize && b[0] == ts.SyncByte && (len(b) == ts.PacketSize || b[len(b)-len(b)%ts.PacketSize-ts.PacketSize] == ts.SyncByte)
}

// wholePackets tells whether b is made of whole packets, so that none needs the bytes after it.
func wholePackets(b []byte) bool {
	if len(b) == 0 || len(b)%ts.PacketSize != 0 {
		return false
	}
	for off := 0; off < len(b); off += ts.PacketSize {
		if b[off] != ts.SyncByte {
			return false
		}
	}
	return true
}

func parseRTP(b []byte) (payload []byte, h rtp.Header, ok bool) {
	if len(b) < 12 || b[0]>>6 != 2 {
		return nil, h, false
	}
	n, err := h.Unmarshal(b)
	if err != nil || n > len(b) {
		return nil, h, false
	}
	payload = b[n:]
	if h.Padding {
		pad := int(b[len(b)-1])
		if pad == 0 || pad > len(payload) {
			return nil, h, false
		}
		payload = payload[:len(payload)-pad]
	}
	return payload, h, h.PayloadType == payloadMP2T || len(payload) > 0 && payload[0] == ts.SyncByte
}
