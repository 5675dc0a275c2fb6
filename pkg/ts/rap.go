package ts

import "bytes"

// verdictPackets is how many packets of its PID a candidate may take before it
// is decided with what is known: 64 · 184 bytes are more than any parameter
// sets and SEI messages that stand before the first slice.
const verdictPackets = 64

type verdict uint8

const (
	undecided verdict = iota
	isRAP
	notRAP
)

// How a stream shows its random access points.
type method uint8

const (
	byFlag     method = iota // only by random_access_indicator
	everyStart               // audio: every access unit is one
	byH264
	byHEVC
	byMPEG2
)

func methodFor(s Stream) method {
	switch {
	case s.Kind == KindAudio:
		return everyStart
	case s.Codec == "h264":
		return byH264
	case s.Codec == "hevc":
		return byHEVC
	case s.Codec == "mpeg2video", s.Codec == "mpeg1video":
		return byMPEG2
	}
	return byFlag
}

// A track looks for the random access points of one elementary stream. Between
// a verdict and the next start of a PES packet it reads nothing.
type track struct {
	pid    PID
	method method

	scanning bool
	flagged  bool // random_access_indicator of the candidate
	left     int  // packets that the candidate may still take
	index    uint64

	raps uint64
	last uint64 // index of the latest one

	// The payload read last, to know a packet that was sent twice.
	payload [PacketSize]byte
	size    int
	cc      uint8

	// PES header (13818-1 §2.4.3.6)
	pes    [9]byte
	pesLen int // bytes of pes that have come
	skip   int // bytes of the header behind them

	// Elementary stream
	window    uint32 // the last bytes
	unit      unit
	unitLen   int // bytes of it in bits, emulation prevention left out
	zeros     int // zero bytes that the unit read so far ends with
	bits      [8]byte
	parameter bool // H.264: SPS; MPEG-2: sequence header
	recovery  bool // H.264: recovery point SEI
	sei       seiState
	seiType   int
	seiSize   int
}

// What stands behind the latest start code.
type unit uint8

const (
	unitNone   unit = iota // nothing that matters, or no start code yet
	unitHeader             // the byte that tells is next
	unitSlice              // H.264: slice header
	unitSEI                // H.264
	unitPicture
)

type seiState uint8

const (
	seiTypeNext seiState = iota
	seiSizeNext
	seiBody
)

// push takes a packet of the track. It reports whether it is a candidate, and
// the verdict on it or, if it is not one, on the candidate before. index is
// the number of the packet.
func (t *track) push(p Packet, index uint64) (candidate bool, v verdict) {
	start := p.PayloadStart()
	if !start && !t.scanning {
		return false, undecided
	}
	payload := p.Payload()
	if len(payload) == 0 || p.TransportError() {
		return false, t.expire()
	}
	cc := p.Continuity()
	if t.size == len(payload) && t.cc == cc && bytes.Equal(t.payload[:t.size], payload) {
		return false, undecided // sent twice
	}
	lost := cc != (t.cc+1)&0x0f
	t.size, t.cc = copy(t.payload[:], payload), cc

	if start {
		candidate = true
		v = t.begin(p, payload)
		t.index = index
	} else {
		if lost {
			t.window, t.unit = 0xffff_ffff, unitNone
		}
		v = t.read(p, payload)
	}
	t.scanning = true
	switch v {
	case undecided:
		v = t.expire()
	case isRAP:
		t.raps++
		t.last = t.index
		t.scanning = false
	case notRAP:
		t.scanning = false
	}
	return candidate, v
}

// expire counts a packet and gives up on a candidate that has had enough of
// them: whatever shows a random access point would have confirmed it.
func (t *track) expire() verdict {
	if !t.scanning {
		return undecided
	}
	if t.left--; t.left > 0 {
		return undecided
	}
	t.scanning = false
	return notRAP
}

func (t *track) begin(p Packet, payload []byte) verdict {
	t.flagged = p.RandomAccess()
	t.left = verdictPackets
	t.pesLen, t.skip = 0, 0
	t.window, t.unit = 0xffff_ffff, unitNone
	t.parameter, t.recovery = false, false
	if t.method == everyStart && p.Scrambled() {
		return isRAP
	}
	return t.read(p, payload)
}

func (t *track) byFlag() verdict {
	if t.flagged {
		return isRAP
	}
	return notRAP
}

// read goes on with a candidate at its next payload.
func (t *track) read(p Packet, payload []byte) verdict {
	if p.Scrambled() {
		return t.byFlag()
	}
	if n := copy(t.pes[t.pesLen:], payload); n > 0 {
		t.pesLen += n
		payload = payload[n:]
		if t.pesLen < len(t.pes) {
			return undecided
		}
		if t.pes[0] != 0 || t.pes[1] != 0 || t.pes[2] != 1 || t.pes[6]&0xc0 != 0x80 {
			return notRAP // no PES packet, or one that carries no access unit
		}
		t.skip = int(t.pes[8])
		switch {
		case t.method == everyStart:
			return isRAP
		case t.method == byFlag || t.pes[6]&0x30 != 0: // PES_scrambling_control
			return t.byFlag()
		}
	}
	if t.skip >= len(payload) {
		t.skip -= len(payload)
		return undecided
	}
	payload = payload[t.skip:]
	t.skip = 0
	return t.scan(payload)
}

// scan looks for start codes and for what behind them decides. All state
// between bytes is in t, so that payloads may end anywhere.
func (t *track) scan(es []byte) verdict {
	for i := 0; i < len(es); i++ {
		if t.unit == unitNone && byte(t.window) != 0 { // only a zero byte can matter
			n := bytes.IndexByte(es[i:], 0)
			if n < 0 {
				t.window = 0xffff_ffff
				break
			}
			i += n
			t.window = 0xffff_ffff
		}
		b := es[i]
		t.window = t.window<<8 | uint32(b)
		if t.window&0x00ff_ffff == 1 {
			if t.unit == unitSlice { // ended before it told its type
				return notRAP
			}
			t.unit, t.unitLen, t.zeros = unitHeader, 0, 0
			continue
		}
		if t.unit == unitNone {
			continue
		}
		if v := t.unitByte(b); v != undecided {
			return v
		}
	}
	return undecided
}

func (t *track) unitByte(b byte) verdict {
	switch t.unit {
	case unitHeader:
		t.unit = unitNone
		switch t.method {
		case byH264:
			return t.h264Header(b)
		case byHEVC:
			return hevcHeader(b)
		default:
			return t.mpeg2Header(b)
		}
	case unitSlice, unitSEI:
		if t.zeros >= 2 && b == 3 { // emulation_prevention_three_byte
			t.zeros = 0
			return undecided
		}
		if b == 0 {
			t.zeros++
		} else {
			t.zeros = 0
		}
		if t.unit == unitSEI {
			return t.seiByte(b)
		}
		t.bits[t.unitLen] = b
		t.unitLen++
		return t.slice()
	case unitPicture:
		t.bits[t.unitLen] = b
		if t.unitLen++; t.unitLen == 2 {
			// picture_coding_type behind the 10 bits of temporal_reference (13818-2 §6.2.3)
			if t.bits[1]>>3&7 == 1 {
				return isRAP
			}
			return notRAP
		}
	}
	return undecided
}

// h264Header takes the first byte of a NAL unit (H.264 §7.3.1).
func (t *track) h264Header(b byte) verdict {
	switch b & 0x1f {
	case 5: // slice of an IDR picture
		return isRAP
	case 7:
		t.parameter = true
	case 6:
		t.unit, t.sei = unitSEI, seiTypeNext
		t.seiType, t.seiSize = 0, 0
	case 1, 2: // slice, partition A of a slice
		if !t.parameter {
			return notRAP
		}
		t.unit = unitSlice
		return undecided
	}
	return t.recovered()
}

// recovered: a recovery point with the parameter sets beside it is where an
// open group of pictures, or a gradual refresh, may be joined.
func (t *track) recovered() verdict {
	if t.parameter && t.recovery {
		return isRAP
	}
	return undecided
}

// seiByte reads the list of SEI messages (H.264 §7.3.2.3) for a recovery point.
func (t *track) seiByte(b byte) verdict {
	const recoveryPoint = 6
	switch t.sei {
	case seiTypeNext:
		t.seiType += int(b)
		if b != 0xff {
			t.sei = seiSizeNext
		}
	case seiSizeNext:
		t.seiSize += int(b)
		if b == 0xff {
			break
		}
		if t.seiType == recoveryPoint {
			t.recovery, t.unit = true, unitNone
			return t.recovered()
		}
		t.sei, t.seiType = seiBody, 0
		if t.seiSize == 0 {
			t.sei = seiTypeNext
		}
	case seiBody:
		if t.seiSize--; t.seiSize == 0 {
			t.sei = seiTypeNext
		}
	}
	return undecided
}

// slice tells an I slice from the others by its header (H.264 §7.3.3), as soon
// as enough of it has come.
func (t *track) slice() verdict {
	r := bitReader{b: t.bits[:t.unitLen]}
	_ = r.ue() // first_mb_in_slice
	switch kind := r.ue(); {
	case r.short:
		if t.unitLen < len(t.bits) {
			return undecided
		}
	case kind%5 == 2 || kind%5 == 4: // I, SI
		return isRAP
	}
	return notRAP
}

// hevcHeader takes the first byte of a NAL unit (H.265 §7.3.1.2).
func hevcHeader(b byte) verdict {
	switch kind := b >> 1 & 0x3f; {
	case kind >= 16 && kind <= 21: // BLA, IDR, CRA
		return isRAP
	case kind < 32: // any other slice
		return notRAP
	}
	return undecided
}

// mpeg2Header takes the byte behind a start code (13818-2 table 6-1).
func (t *track) mpeg2Header(b byte) verdict {
	switch b {
	case 0xb3:
		t.parameter = true
	case 0x00:
		if !t.parameter {
			return notRAP
		}
		t.unit = unitPicture
	}
	return undecided
}

// bitReader reads Exp-Golomb codes; past the end it sets short and gives zeros.
type bitReader struct {
	b     []byte
	at    int
	short bool
}

func (r *bitReader) bit() uint32 {
	if r.at >= 8*len(r.b) {
		r.short = true
		return 0
	}
	v := r.b[r.at/8] >> (7 - r.at%8) & 1
	r.at++
	return uint32(v)
}

func (r *bitReader) ue() uint32 {
	zeros := 0
	for r.bit() == 0 {
		if zeros++; r.short || zeros > 31 {
			r.short = true
			return 0
		}
	}
	v := uint32(1)
	for range zeros {
		v = v<<1 | r.bit()
	}
	return v - 1
}
