package ts

import "bytes"

// How sure Sync must be, in sync bytes one packet size apart.
const (
	// lockSyncs sync bytes in a row lock: five, as in ETSI TR 101 290 §5.2.1.
	lockSyncs = 5

	// Where a sync byte is missing, the lock holds if of the keepWindow
	// positions that follow at least keepSyncs hold one: a bit error costs
	// the packet it hit, not the lock.
	keepWindow = 4
	keepSyncs  = 3
)

// maxUnit is the largest distance between two sync bytes: 188 bytes and 16 of Reed-Solomon parity.
const maxUnit = 204

// m2tsHeader is the length of the time stamp in front of a packet in a 192-byte unit.
const m2tsHeader = 4

// maxLook is how many bytes any decision needs at most: a packet, the one
// whose sync byte is missing, keepWindow more, and one sync byte.
const maxLook = (keepWindow+2)*maxUnit + 1

// SyncStats counts since the Sync was made. Bytes that frame packets (the time
// stamps of 192-byte units, the parity of 204-byte ones) are in no counter.
type SyncStats struct {
	PacketSize int    `json:"packet_size"`   // distance between sync bytes, 188, 192 or 204; 0 before the first lock
	Packets    uint64 `json:"packets"`       // packets given out
	Skipped    uint64 `json:"skipped_bytes"` // bytes that were no part of a packet
	Resyncs    uint64 `json:"resyncs"`       // how often packets were found again after the lock had been lost
	Tail       uint64 `json:"tail_bytes"`    // bytes of packets cut short by the end of the input
}

// Sync finds the packets in a stream of bytes: units of 188 bytes, of 192 (a
// time stamp of 4 bytes in front) or of 204 (16 bytes of parity behind).
//
// A packet is given out when the sync byte after it has been seen, or at Flush.
// So a packet from which bytes were lost is not given out with a piece of its
// successor at its end, except where framing cannot tell: if whole units are
// missing, or a byte of payload that now stands where the sync byte is due is
// 0x47. The price is that the one packet just before inserted garbage is
// dropped as well, since nothing tells the two apart. A packet whose own sync
// byte is damaged is dropped; its neighbours are kept. What was decided does
// not depend on how the input was cut into chunks. Packets are judged by their
// framing alone once in lock: the transport_error_indicator, reserved values
// and the like pass.
//
// The zero Sync is ready for use. It holds less than 5 kB, and is not safe for
// concurrent use.
type Sync struct {
	stats  SyncStats
	unit   int  // distance between sync bytes; kept as a first guess after the lock is lost
	locked bool // the next packet is expected exactly where scan stands
	lost   bool // the lock was lost since the last Flush
	hunted int  // bytes skipped since the hunt began
	pos    int64

	carry int
	buf   [4 * maxLook]byte
}

// Stats returns the counters.
func (s *Sync) Stats() SyncStats { return s.stats }

// Append appends all packets that src confirms, 188 bytes each, to dst and
// keeps the rest of src (a copy) for the next call. It allocates only where
// dst has to grow. src and dst must not overlap.
func (s *Sync) Append(dst, src []byte) []byte {
	for len(src) > 0 {
		if s.carry == 0 {
			var n int
			dst, n = s.scan(dst, src, false)
			s.carry = copy(s.buf[:], src[n:])
			return dst
		}
		old := s.carry
		took := copy(s.buf[old:], src)
		var n int
		dst, n = s.scan(dst, s.buf[:old+took], false)
		if n >= old {
			s.carry = 0
			src = src[n-old:]
			continue
		}
		// scan leaves less than maxLook, so src fitted into buf as a whole.
		s.carry = copy(s.buf[:], s.buf[n:old+took])
		return dst
	}
	return dst
}

// Flush says that the input ends here. It appends the packets whose
// successor will never come, among them those of an input too short to lock
// on (one packet is enough when it is all there is), and counts what was cut
// off. The Sync may then be given another input. Where every chunk is known to hold
// whole packets, as a datagram does, Append and then Flush on each gives
// all of them without waiting for the next.
func (s *Sync) Flush(dst []byte) []byte {
	dst, n := s.scan(dst, s.buf[:s.carry], true)
	if n != s.carry {
		panic("ts: Flush left bytes behind")
	}
	s.carry, s.pos, s.hunted, s.lost = 0, 0, 0, false
	return dst
}

// scan appends the packets of b that are decided and returns how many bytes
// are done with: all but less than maxLook, and all if final.
func (s *Sync) scan(dst, b []byte, final bool) ([]byte, int) {
	p := 0
	for more := true; more; {
		if s.locked {
			dst, p, more = s.follow(dst, b, p, final)
		} else {
			p, more = s.hunt(b, p, final)
		}
	}
	s.pos += int64(p)
	return dst, p
}

// follow gives out packets from p on, in lock. It returns more = true when the lock is lost.
func (s *Sync) follow(dst, b []byte, p int, final bool) (_ []byte, next int, more bool) {
	unit := s.unit
	for p+unit < len(b) {
		if b[p] == SyncByte && b[p+unit] == SyncByte {
			if unit != PacketSize {
				dst = append(dst, b[p:p+PacketSize]...)
				s.stats.Packets++
				p += unit
				continue
			}
			n := confirmed(b[p:])
			dst = append(dst, b[p:p+n*PacketSize]...)
			s.stats.Packets += uint64(n)
			p += n * PacketSize
			continue
		}
		miss := p
		if b[p] == SyncByte {
			miss = p + unit
		}
		switch keeps(b, miss, unit, final) {
		case needMore:
			return dst, p, false
		case isSync:
			if miss == p {
				s.stats.Skipped += uint64(unit)
			} else {
				dst = append(dst, b[p:p+PacketSize]...)
				s.stats.Packets++
			}
			p += unit
		case notSync:
			s.locked, s.lost, s.hunted = false, true, 1
			s.stats.Skipped++
			return dst, p + 1, true
		}
	}
	if !final {
		return dst, p, false
	}
	whole := len(b)-p >= PacketSize
	if whole && s.pos+int64(p) == 0 && isText(b[p:p+PacketSize]) {
		whole, s.locked = false, false // alone since the last Flush, and a letter G
	}
	switch {
	case whole && b[p] == SyncByte:
		dst = append(dst, b[p:p+PacketSize]...)
		s.stats.Packets++
	case len(b)-p < PacketSize && p < len(b) && b[p] == SyncByte:
		s.stats.Tail += uint64(len(b) - p)
	default:
		s.stats.Skipped += uint64(len(b) - p)
	}
	// The next input begins with a packet only if this one ended with one and
	// packets follow each other with nothing between.
	s.locked = unit == PacketSize && (whole || p == len(b))
	return dst, len(b), false
}

// confirmed counts the packets at the start of b, of which the first is known
// to be one, that a sync byte follows: as many as stay in the first-level cache
// between this look and the copy.
func confirmed(b []byte) int {
	const most = 128
	n := 1
	for at := 2 * PacketSize; at < len(b) && b[at] == SyncByte && n < most; at += PacketSize {
		n++
	}
	return n
}

// decision is an answer that may need more bytes.
type decision uint8

const (
	notSync decision = iota
	isSync
	needMore
)

// keeps reports whether the lock survives the missing sync byte at miss.
func keeps(b []byte, miss, unit int, final bool) decision {
	good, bad := 0, 0
	for k := 1; k <= keepWindow; k++ {
		at := miss + k*unit
		if at >= len(b) {
			if !final {
				return needMore
			}
			rest := (len(b) - miss) % unit
			if bad == 0 && (good > 1 || rest == 0 || rest == PacketSize) {
				return isSync
			}
			return notSync
		}
		if b[at] == SyncByte {
			good++
		} else {
			bad++
		}
		if good >= keepSyncs {
			return isSync
		}
		if bad > keepWindow-keepSyncs {
			return notSync
		}
	}
	return notSync
}

// hunt skips from p to where packets begin. It returns more = true when in lock.
func (s *Sync) hunt(b []byte, p int, final bool) (next int, more bool) {
	begin := p
	for {
		i := bytes.IndexByte(b[p:], SyncByte)
		if i < 0 {
			if final {
				break
			}
			s.skip(len(b) - begin)
			return len(b), false
		}
		p += i
		at, unit, v := s.runAt(b, p, final)
		if v == needMore && !final {
			s.skip(p - begin)
			return p, false
		}
		if v == isSync {
			s.skip(at - begin)
			s.lock(unit)
			return at, true
		}
		p++
	}
	for at := begin; at < len(b); at++ {
		if b[at] != SyncByte {
			continue
		}
		for _, unit := range s.units() {
			if unit != 0 && s.short(b, at, unit) {
				s.skip(at - begin)
				s.lock(unit)
				return at, true
			}
		}
	}
	s.skip(len(b) - begin)
	return len(b), false
}

func (s *Sync) skip(n int) {
	s.hunted += n
	s.stats.Skipped += uint64(n)
}

func (s *Sync) lock(unit int) {
	if s.lost {
		s.stats.Resyncs++
	}
	if unit == PacketSize+m2tsHeader && s.hunted >= m2tsHeader {
		s.stats.Skipped -= m2tsHeader // the time stamp of the first packet
	}
	s.locked, s.lost, s.unit, s.hunted = true, false, unit, 0
	s.stats.PacketSize = unit
}

// units lists the units to try, the last one first, then by how common they are; a zero is none.
func (s *Sync) units() [4]int {
	u := [4]int{s.unit, PacketSize, PacketSize + m2tsHeader, maxUnit}
	for i := 1; i < len(u); i++ {
		if u[i] == s.unit {
			u[i] = 0
		}
	}
	return u
}

// runAt looks for lockSyncs sync bytes in a row that begin at p, or, where
// the continuity counters speak against those, within one unit after p: a
// payload that holds 0x47 in the same place every time makes a run of its own.
func (s *Sync) runAt(b []byte, p int, final bool) (at, unit int, v decision) {
	for _, unit := range s.units() {
		if unit == 0 {
			continue
		}
		switch run(b, p, unit) {
		case needMore:
			if !final {
				return p, unit, needMore
			}
		case isSync:
			at, best := p, order(b, p, unit)
			if best >= 0 {
				return at, unit, isSync
			}
			for q := p + 1; q < p+unit && q < len(b); q++ {
				if b[q] != SyncByte {
					continue
				}
				switch run(b, q, unit) {
				case needMore:
					if !final {
						return p, unit, needMore
					}
				case isSync:
					if o := order(b, q, unit); o > best {
						at, best = q, o
					}
				}
			}
			return at, unit, isSync
		}
	}
	return p, 0, notSync
}

// run reports whether lockSyncs sync bytes, unit bytes apart, begin at p with
// something behind them that may be packets.
func run(b []byte, p, unit int) decision {
	for k := 1; k < lockSyncs; k++ {
		if p+k*unit >= len(b) {
			return needMore
		}
		if b[p+k*unit] != SyncByte {
			return notSync
		}
	}
	if !plausible(b, p, unit, lockSyncs-1) {
		return notSync
	}
	return isSync
}

// short reports whether the few packets between p and the end of b, which is
// the end of the input, are packets: every sync byte is there, and either the
// input begins with them or there are two that end where the input does, or three.
func (s *Sync) short(b []byte, p, unit int) bool {
	syncs, whole, end := 0, 0, p
	for at := p; at < len(b); at += unit {
		if b[at] != SyncByte {
			return false
		}
		syncs++
		if at+PacketSize <= len(b) {
			whole++
			end = at + PacketSize
		}
	}
	if whole == 0 || !plausible(b, p, unit, whole) {
		return false
	}
	exact := end == len(b) || end-PacketSize+unit == len(b)
	first := s.pos + int64(p)
	if first == 0 || unit == PacketSize+m2tsHeader && first == m2tsHeader {
		return exact || syncs > whole
	}
	return whole >= 2 && exact || syncs >= 3
}

// plausible reports whether n units at p may be packets by more than their
// sync bytes: at most one in four has an impossible header (13818-1 §2.4.3.2),
// and they are not text, in which 0x47 is a letter.
func plausible(b []byte, p, unit, n int) bool {
	bad, text := 0, true
	for k := range n {
		pkt := Packet(b[p+k*unit : p+k*unit+PacketSize])
		if !pkt.TransportError() && (pkt[3]&0x30 == 0 || pkt[3]&0x20 != 0 && pkt[4] >= PacketSize-4) {
			bad++
		}
		if text {
			text = isText(pkt)
		}
	}
	return !text && bad*4 <= n
}

// isText reports whether b has no control characters but white space.
func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\n' && c != '\r' && c != '\t' {
			return false
		}
	}
	return true
}

// order tells how well the continuity counters of the packets of a run at p
// follow each other: above 0 they do, below they do not, 0 they do not say.
func order(b []byte, p, unit int) (score int) {
	for k := 1; k < lockSyncs-1; k++ {
		x := Packet(b[p+(k-1)*unit:][:PacketSize])
		y := Packet(b[p+k*unit:][:PacketSize])
		if x.PID() != y.PID() || x.PID() == PIDNull || !y.HasPayload() {
			continue
		}
		switch {
		case y.Continuity() == (x.Continuity()+1)&0x0f:
			score++
		case !bytes.Equal(x, y):
			score--
		}
	}
	return score
}
