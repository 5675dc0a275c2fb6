package ts

import (
	"cmp"
	"slices"
	"time"
)

// PIDStats is what a Snapshot says of one PID. The counters count since the
// Meter was made, the rates are those of the interval.
type PIDStats struct {
	PID           PID     `json:"pid"`
	BitRate       BitRate `json:"bit_rate"`        // by the caller's clock
	StreamBitRate BitRate `json:"stream_bit_rate"` // by the stream's own clock; 0 without PCR
	Counters
}

// Snapshot is the state of a transport stream at one time, fit to be printed as
// one JSON object: bit rates in bit/s, durations in nanoseconds.
type Snapshot struct {
	Interval      time.Duration `json:"interval_ns"`    // since the snapshot before
	StreamTime    time.Duration `json:"stream_time_ns"` // media time since the first PCR
	BitRate       BitRate       `json:"bit_rate"`
	StreamBitRate BitRate       `json:"stream_bit_rate"`
	PCRPID        PID           `json:"pcr_pid"` // PIDNull while no PCR has been seen
	PCRJumps      uint64        `json:"pcr_jumps"`
	Counters
	PIDs []PIDStats `json:"pids"` // in ascending order
}

// pcrVanished is how many PCRs of other PIDs must come with none of the one
// followed before a Meter that chose that one itself takes another.
const pcrVanished = 64

// Meter measures a transport stream: continuity and rates of every PID. It is
// not safe for concurrent use; a Snapshot is a copy and may go anywhere.
type Meter struct {
	continuity Continuity
	clock      Clock
	pcrPID     PID
	chosen     bool // pcrPID was chosen by Follow
	strangers  int  // PCRs of other PIDs since the last one of pcrPID
	bytes      int64

	// At the last snapshot:
	at       time.Time
	atBytes  int64
	atStream time.Duration
	fresh    bool // the clock began after it
	packets  [PIDCount]uint64
}

// NewMeter makes a Meter whose first interval begins now.
func NewMeter(now time.Time) *Meter {
	return &Meter{at: now, pcrPID: PIDNull, fresh: true}
}

// Follow sets the PID whose PCRs are the stream's clock. Without it, or with
// PIDNull, the clock is the first PID that has one, and another when that
// one falls silent.
func (m *Meter) Follow(pid PID) {
	m.chosen = pid != PIDNull
	if pid != m.pcrPID {
		m.follow(pid)
	}
}

func (m *Meter) follow(pid PID) {
	m.pcrPID, m.strangers, m.fresh = pid, 0, true
	m.clock.Reset()
}

// Observe takes a batch of whole packets. It keeps nothing of it and does not allocate.
func (m *Meter) Observe(packets []byte) {
	m.continuity.Observe(packets)
	for off := 0; off+PacketSize <= len(packets); off += PacketSize {
		p := Packet(packets[off : off+PacketSize : off+PacketSize])
		if p[3]&0x20 != 0 {
			m.observePCR(p, m.bytes+int64(off))
		}
	}
	m.bytes += int64(len(packets) - len(packets)%PacketSize)
}

func (m *Meter) observePCR(p Packet, pos int64) {
	pcr, ok := p.PCR()
	if !ok || p.TransportError() {
		return
	}
	if pid := p.PID(); pid != m.pcrPID {
		if m.chosen {
			return
		}
		if m.strangers++; m.pcrPID != PIDNull && m.strangers < pcrVanished {
			return
		}
		m.follow(pid)
	}
	m.strangers = 0
	m.clock.Observe(pcr, p.Discontinuity(), pos)
}

// Clock is the clock of the stream, owned by the Meter. Its byte positions count what was observed.
func (m *Meter) Clock() *Clock { return &m.clock }

// Continuity holds the counters, owned by the Meter.
func (m *Meter) Continuity() *Continuity { return &m.continuity }

// Snapshot says how the stream is doing and begins the next interval.
func (m *Meter) Snapshot(now time.Time) Snapshot {
	stream := m.clock.At(m.bytes)
	if m.fresh {
		m.atStream = m.clock.At(m.atBytes)
		m.fresh = !m.clock.Running()
	}
	wall, media := now.Sub(m.at), stream-m.atStream
	s := Snapshot{
		Interval:      wall,
		StreamTime:    m.clock.Elapsed(),
		BitRate:       BitRateOf(m.bytes-m.atBytes, wall),
		StreamBitRate: BitRateOf(m.bytes-m.atBytes, media),
		PCRPID:        m.pcrPID,
		PCRJumps:      m.clock.Jumps(),
		PIDs:          make([]PIDStats, 0, m.continuity.nSeen),
	}
	for pid, c := range m.continuity.All() {
		n := int64(c.Packets-m.packets[pid]) * PacketSize
		m.packets[pid] = c.Packets
		s.Counters.add(&c)
		s.PIDs = append(s.PIDs, PIDStats{PID: pid, BitRate: BitRateOf(n, wall), StreamBitRate: BitRateOf(n, media), Counters: c})
	}
	slices.SortFunc(s.PIDs, func(a, b PIDStats) int { return cmp.Compare(a.PID, b.PID) })
	m.at, m.atBytes, m.atStream = now, m.bytes, stream
	return s
}
