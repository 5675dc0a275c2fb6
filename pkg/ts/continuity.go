package ts

import (
	"bytes"
	"iter"
)

// Counters count packets of one PID, or of all.
type Counters struct {
	Packets         uint64 `json:"packets"`
	Errors          uint64 `json:"continuity_errors"` // a counter that does not follow the one before
	Duplicates      uint64 `json:"duplicates"`        // packets that repeat the one before
	Repeats         uint64 `json:"repeats"`           // those of them past the one that is allowed
	Discontinuities uint64 `json:"discontinuities"`   // discontinuity_indicators
	TransportErrors uint64 `json:"transport_errors"`  // transport_error_indicators
	Scrambled       uint64 `json:"scrambled"`
}

// Bytes is the length of the packets counted.
func (c Counters) Bytes() int64 { return int64(c.Packets) * PacketSize }

func (c *Counters) add(o *Counters) {
	c.Packets += o.Packets
	c.Errors += o.Errors
	c.Duplicates += o.Duplicates
	c.Repeats += o.Repeats
	c.Discontinuities += o.Discontinuities
	c.TransportErrors += o.TransportErrors
	c.Scrambled += o.Scrambled
}

// Continuity checks the continuity counters of all PIDs (13818-1 §2.4.3.3): a
// counter goes up by one with each packet that has a payload and stays
// without; a packet may be sent twice, its PCR then being the only thing
// that may differ; the discontinuity_indicator excuses any value; null
// packets have none. A packet with the transport_error_indicator is counted
// and otherwise left out, so that it shows as the loss it is.
//
// It is large (about 2.2 MB of address space, of which only what belongs to
// PIDs that occur is touched): make it once with NewContinuity. It is
// not safe for concurrent use.
type Continuity struct {
	pids  [PIDCount]pidState
	seen  [PIDCount]PID // the PIDs that occurred, in order of appearance
	nSeen int

	batch  uint32
	inUse  [PIDCount]PID // PIDs of this batch
	before [PIDCount][PacketSize]byte
}

// clearPayload is the fourth byte of a packet without its continuity counter:
// a payload that is not scrambled, and no adaptation field.
const clearPayload = 0x10

type pidState struct {
	Counters
	batch  uint32 // the batch that holds the last packet; else it is in before
	offset int    // where in it
	next   byte   // the fourth byte of the packet that is most likely to come; 0 = none
	cc     uint8
	known  bool // cc is
	twice  bool // the last packet repeated the one before
}

// NewContinuity makes a Continuity.
func NewContinuity() *Continuity { return new(Continuity) }

// Observe counts a batch of whole packets, as Sync gives them out; a piece of
// a packet at the end is ignored. It keeps nothing of the batch and does not
// allocate.
func (c *Continuity) Observe(packets []byte) {
	c.batch++
	if c.batch == 0 { // wrapped: 0 is what no PID has yet been in
		for i := range c.pids {
			c.pids[i].batch = 0
		}
		c.batch = 1
	}
	used := 0
	for off := 0; off+PacketSize <= len(packets); off += PacketSize {
		p := Packet(packets[off : off+PacketSize : off+PacketSize])
		pid := p.PID()
		s := &c.pids[pid%PIDCount]
		if h := p[3]; s.next == h && s.batch == c.batch && !p.TransportError() {
			// Nearly every packet: payload only, in the clear, in order.
			s.Packets++
			s.next = clearPayload | (h+1)&0x0f
			s.cc, s.twice, s.offset = h&0x0f, false, off
			continue
		}
		if s.Packets == 0 {
			c.seen[c.nSeen] = pid
			c.nSeen++
		}
		s.Packets++
		if p.TransportError() {
			s.TransportErrors++
			continue
		}
		flags := p[3]
		if flags&0xc0 != 0 {
			s.Scrambled++
		}
		if pid == PIDNull {
			continue
		}
		excused := false
		if flags&0x20 != 0 && p.Discontinuity() {
			s.Discontinuities++
			excused = true
		}
		cc := flags & 0x0f
		twice := false
		if s.known {
			expected := (s.cc + flags>>4&1) & 0x0f
			if cc != expected {
				if cc == s.cc && c.repeated(s, pid, p, packets) {
					s.Duplicates++
					if s.twice {
						s.Repeats++
					}
					twice = true
				} else if !excused {
					s.Errors++
				}
			}
		}
		s.cc, s.known, s.twice = cc, true, twice
		s.next = clearPayload | (cc+1)&0x0f
		if s.batch != c.batch {
			s.batch = c.batch
			c.inUse[used] = pid
			used++
		}
		s.offset = off
	}
	for _, pid := range c.inUse[:used] {
		copy(c.before[pid][:], packets[c.pids[pid].offset:])
	}
}

// repeated reports whether p is the last packet of its PID again.
func (c *Continuity) repeated(s *pidState, pid PID, p Packet, packets []byte) bool {
	last := c.before[pid][:]
	if s.batch == c.batch {
		last = packets[s.offset : s.offset+PacketSize]
	}
	skip := 1
	if _, ok := p.PCR(); ok {
		if !bytes.Equal(p[1:6], last[1:6]) {
			return false
		}
		skip = 12 // header, length and flags, PCR
	}
	return bytes.Equal(p[skip:], last[skip:])
}

// PID returns the counters of one PID.
func (c *Continuity) PID(pid PID) Counters { return c.pids[pid%PIDCount].Counters }

// Total adds up the counters of all PIDs.
func (c *Continuity) Total() Counters {
	var t Counters
	for _, pid := range c.seen[:c.nSeen] {
		t.add(&c.pids[pid].Counters)
	}
	return t
}

// All yields the counters of the PIDs that occurred, in the order of their first packets.
func (c *Continuity) All() iter.Seq2[PID, Counters] {
	return func(yield func(PID, Counters) bool) {
		for _, pid := range c.seen[:c.nSeen] {
			if !yield(pid, c.pids[pid].Counters) {
				return
			}
		}
	}
}
