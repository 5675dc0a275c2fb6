package ts

import "time"

const (
	timestampMask = 1<<33 - 1

	// loopAdjust is how much longer than by its PCRs a file may be by the time
	// stamps of a component before these are not believed.
	loopAdjust = TimestampHz

	// loopSqueeze is by how much the last PCR and the first of the next pass may
	// be closer than the bytes between them say, to make time stamps meet.
	loopSqueeze = 8

	// loopSparse is the mean distance of time stamps from which on a
	// component (subtitles, teletext pages) says nothing about the end of the file.
	loopSparse = TimestampHz / 2

	// A file whose rate between PCRs varies by less than loopConstant is of constant
	// rate: its bytes tell the time before the first and after the last PCR.
	loopConstant = 1.1
)

// Loop rewrites a file that is played again and again into one stream
// without end: PCR, OPCR, PTS and DTS go on from pass to pass, and so do the
// continuity counters of each PID. The first pass is left as it is.
//
// All clocks of the file are moved by one offset a pass, also those of several
// programmes: the duration of the longest component, or, where the PCRs do not
// allow it or it cannot be told, the time from the first PCR to the last and
// what lies before the one and after the other. Discontinuities inside the file
// stay. Not rewritten are: ESCR, DTS_next_AU, times inside sections (TDT, EIT,
// SCTE-35), PES headers that are scrambled or do not fit the packet they begin
// in, and packets with transport_error_indicator.
//
// Rewrite every packet of the file in order, Rewind at its end, and so on. It
// is large (about 0.5 MB of address space), works in place and does not allocate.
// It is not safe for concurrent use.
type Loop struct {
	pass   uint32 // from 1
	offset uint64 // of this pass, ticks of 90 kHz, below 2^33
	step   uint64 // the latest addition to offset
	pos    int64  // byte in the pass
	pids   [PIDCount]loopPID
	used   [PIDCount]PID // PIDs of this pass
	nUsed  int
}

// loopPID is what Loop knows of a PID. What belongs to a pass begins anew with it.
type loopPID struct {
	pass   uint32 // the last pass that had the PID; 0: none
	shift  uint8  // added to the continuity counters of this pass
	lastCC uint8  // as given out
	pcr    loopPCR
	pes    loopPES
}

// loopPCR sums up the PCRs of a PID in one pass, as they are in the file.
type loopPCR struct {
	n           int
	first, last uint64 // ticks of 27 MHz
	firstPos    int64
	lastPos     int64
	intervals   int   // those that are no jump,
	ticks       int64 // their duration
	bytes       int64 // and length,
	slow, fast  float64
}

// loopPES sums up the decoding time stamps of a PID in one pass, as they are in the file.
type loopPES struct {
	n           int
	video       bool
	first, last uint64 // DTS, ticks of 90 kHz
	firstPTS    uint64
	earliest    int64 // PTS shown first,
	latest      int64 // and last, both relative to firstPTS
	bytes       int64 // payload since the first one
	lastBytes   int64 // payload since the last one
}

// NewLoop makes a Loop at the start of the first pass.
func NewLoop() *Loop { return &Loop{pass: 1} }

// Rewrite moves a batch of whole packets to where they belong in the endless
// stream, in place. A piece of a packet at the end is left alone.
func (l *Loop) Rewrite(packets []byte) {
	for off := 0; off+PacketSize <= len(packets); off += PacketSize {
		p := Packet(packets[off : off+PacketSize : off+PacketSize])
		pid := p.PID()
		if pid != PIDNull && !p.TransportError() {
			l.rewrite(p, pid)
		}
		l.pos += PacketSize
	}
}

func (l *Loop) rewrite(p Packet, pid PID) {
	s := &l.pids[pid]
	if s.pass != l.pass {
		l.begin(s, p, pid)
	}
	s.lastCC = (p.Continuity() + s.shift) & 0x0f
	p[3] = p[3]&0xf0 | s.lastCC
	if pcr, ok := p.PCR(); ok {
		s.pcr.add(pcr, l.pos)
	}
	payload := p.Payload()
	if p.Scrambled() {
		payload = nil
	}
	s.pes.bytes += int64(len(payload))
	s.pes.lastBytes += int64(len(payload))
	var pts, dts []byte
	if p.PayloadStart() {
		pts, dts = pesTimestamps(payload)
	}
	if pts != nil {
		t := timestamp(pts)
		decoded := t
		if dts != nil {
			decoded = timestamp(dts)
		}
		s.pes.add(t, decoded, payload)
	}
	if l.offset == 0 {
		return
	}
	p.moveClocks(l.offset)
	for _, t := range [...][]byte{pts, dts} {
		if t != nil {
			putTimestamp(t, timestamp(t)+l.offset)
		}
	}
}

// begin starts a PID in this pass.
func (l *Loop) begin(s *loopPID, p Packet, pid PID) {
	if s.pass != 0 {
		next := s.lastCC
		if p.HasPayload() {
			next++
		}
		s.shift = (next - p.Continuity()) & 0x0f
		if a := p.Adaptation(); len(a) > 0 {
			a[0] &^= 0x80 // what went before is the end of the file: no discontinuity now
		}
	}
	s.pass, s.pcr, s.pes = l.pass, loopPCR{}, loopPES{}
	l.used[l.nUsed] = pid
	l.nUsed++
}

// Rewind says that the file has ended and its first packet comes next.
func (l *Loop) Rewind() {
	if l.pos == 0 {
		return
	}
	l.step = l.duration()
	l.offset = (l.offset + l.step) & timestampMask
	if l.pass++; l.pass == 0 {
		l.pass = 1
	}
	l.pos, l.nUsed = 0, 0
}

// Step is by how much the latest Rewind moved the clocks: the duration of the
// file, negative if its clock jumps backwards on the whole.
func (l *Loop) Step() time.Duration {
	return ticksDuration(timestampsBetween(0, l.step) * ticksPerTimestamp)
}

// duration is what the clocks of this pass have to be moved by for the next to
// follow it, in ticks of 90 kHz modulo 2^33: as long as the longest component,
// so that none overlaps or pauses, as far as the PCRs allow.
func (l *Loop) duration() uint64 {
	var clock *loopPCR
	longest, known := int64(0), false
	for _, pid := range l.used[:l.nUsed] {
		s := &l.pids[pid]
		if s.pcr.intervals > 0 && (clock == nil || s.pcr.intervals > clock.intervals) {
			clock = &s.pcr
		}
		if d, ok := s.pes.duration(); ok {
			longest, known = max(longest, d), true
		}
	}
	step := longest
	if clock != nil {
		span, outside := ticksBetween(clock.first, clock.last), clock.outside(l.pos)
		step = (span + outside) / ticksPerTimestamp
		if known && longest < step+loopAdjust {
			step = max(longest, (span+outside/loopSqueeze)/ticksPerTimestamp+1)
		}
	}
	return uint64(step) & timestampMask
}

func (c *loopPCR) add(pcr uint64, pos int64) {
	if c.n++; c.n == 1 {
		c.first, c.firstPos = pcr, pos
	} else if d, n := ticksBetween(c.last, pcr), pos-c.lastPos; d > 0 && d < clockFirst {
		c.intervals++
		c.ticks += d
		c.bytes += n
		rate := float64(n) / float64(d)
		if c.intervals == 1 {
			c.slow, c.fast = rate, rate
		}
		c.slow, c.fast = min(c.slow, rate), max(c.fast, rate)
	}
	c.last, c.lastPos = pcr, pos
}

// outside is the time before the first and after the last PCR in a file of
// size bytes, in ticks of 27 MHz.
func (c *loopPCR) outside(size int64) int64 {
	if c.fast <= c.slow*loopConstant {
		n := c.firstPos + size - c.lastPos
		return int64(float64(n) * float64(c.ticks) / float64(c.bytes))
	}
	return c.ticks / int64(c.intervals)
}

func (s *loopPES) add(pts, dts uint64, payload []byte) {
	n := int64(len(payload))
	if s.n++; s.n == 1 {
		*s = loopPES{n: 1, first: dts, firstPTS: pts, bytes: n}
		s.video = payload[3]&0xf0 == 0xe0 // table 2-22
	}
	s.last, s.lastBytes = dts, n
	shown := timestampsBetween(s.firstPTS, pts)
	s.earliest, s.latest = min(s.earliest, shown), max(s.latest, shown)
}

// duration is the time from the beginning of the first PES packet to the end
// of the last, as decoded and as shown, in ticks of 90 kHz. The last one lasts
// as long as the mean if it is a picture, else as long for its size as those before.
func (s *loopPES) duration() (int64, bool) {
	span := timestampsBetween(s.first, s.last)
	if s.n < 2 || span <= 0 || span/int64(s.n-1) > loopSparse || s.bytes <= s.lastBytes {
		return 0, false
	}
	tail := span / int64(s.n-1)
	if !s.video {
		tail = min(tail, int64(float64(span)*float64(s.lastBytes)/float64(s.bytes-s.lastBytes)))
	}
	return max(span, s.latest-s.earliest) + tail, true
}

// timestampsBetween is b−a around the wrap of 33 bits, negative if b is the earlier one.
func timestampsBetween(a, b uint64) int64 { return int64((b-a)<<31) >> 31 }

// moveClocks adds offset, in ticks of 90 kHz, to PCR and OPCR.
func (p Packet) moveClocks(offset uint64) {
	a := p.Adaptation()
	if len(a) == 0 {
		return
	}
	flags, at := a[0], 1
	for _, flag := range [...]byte{0x10, 0x08} {
		if flags&flag == 0 {
			continue
		}
		if at+6 > len(a) {
			return
		}
		f := a[at : at+6]
		base := uint64(f[0])<<25 | uint64(f[1])<<17 | uint64(f[2])<<9 | uint64(f[3])<<1 | uint64(f[4])>>7
		base = (base + offset) & timestampMask
		f[0], f[1], f[2], f[3] = byte(base>>25), byte(base>>17), byte(base>>9), byte(base>>1)
		f[4] = f[4]&0x7f | byte(base<<7)
		at += 6
	}
}

// pesTimestamps finds the 5 bytes of PTS and DTS in the PES header (13818-1
// §2.4.3.6) that payload begins with; nil for what is not there.
func pesTimestamps(payload []byte) (pts, dts []byte) {
	const fixed, stamp = 9, 5
	if len(payload) < fixed+stamp || payload[0] != 0 || payload[1] != 0 || payload[2] != 1 {
		return nil, nil
	}
	switch payload[3] { // stream_id
	case 0xbc, 0xbe, 0xbf, 0xf0, 0xf1, 0xf2, 0xf8, 0xff:
		return nil, nil // no such header
	}
	if payload[6]&0xc0 != 0x80 {
		return nil, nil
	}
	flags, length := payload[7]>>6, int(payload[8])
	switch {
	case flags == 2 && length >= stamp:
		return payload[fixed : fixed+stamp], nil
	case flags == 3 && length >= 2*stamp && len(payload) >= fixed+2*stamp:
		return payload[fixed : fixed+stamp], payload[fixed+stamp : fixed+2*stamp]
	}
	return nil, nil
}

func timestamp(b []byte) uint64 {
	return uint64(b[0]>>1&7)<<30 | uint64(b[1])<<22 | uint64(b[2]>>1)<<15 | uint64(b[3])<<7 | uint64(b[4])>>1
}

// putTimestamp writes the lower 33 bits of t, leaving prefix and marker bits.
func putTimestamp(b []byte, t uint64) {
	b[0] = b[0]&0xf1 | byte(t>>29)&0x0e
	b[1] = byte(t >> 22)
	b[2] = b[2]&1 | byte(t>>14)&0xfe
	b[3] = byte(t >> 7)
	b[4] = b[4]&1 | byte(t<<1)
}
