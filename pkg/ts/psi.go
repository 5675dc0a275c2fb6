package ts

import (
	"bytes"
	"context"
	"slices"

	"github.com/asticode/go-astits"
)

// What a hostile or broken stream can make us keep.
const (
	maxPrograms    = 240 // the most programmes of a PAT that are looked at
	maxStreams     = 64  // elementary streams a programme
	maxPATSections = 3   // 240 programmes fit into one
	maxNames       = 512 // services of the SDT
	maxCASections  = 8   // sections of the CAT

	maxSection = 1024 // bytes of a section of PAT, CAT, PMT, SDT (13818-1 §2.4.4)

	// maxPreamblePackets is the most that a manifest's preamble length allows
	// (docs/protocol.md §2.2).
	maxPreamblePackets = 24

	// maxTablePackets bounds the packets of one section of any table: 4096
	// bytes in payloads of 184, and one more where it does not begin in front.
	maxTablePackets = 24
)

// Table identifiers (13818-1 table 2-31, EN 300 468 table 2).
const (
	tablePAT = 0x00
	tableCAT = 0x01
	tablePMT = 0x02
	tableSDT = 0x42 // of this transport stream; 0x46 is of others
)

// Program is one programme as PAT, PMT and SDT describe it.
type Program struct {
	Number   uint16
	Name     string // service_name of the SDT, in UTF-8; empty until it comes
	Provider string
	PMTPID   PID
	PCRPID   PID      // PIDNull if the programme has none, or no PMT has come
	Known    bool     // a PMT has come
	Streams  []Stream // in the order of the PMT
	CA       []PID    // ECM PIDs of the programme's CA descriptors

	// RAPs counts the random access points of its first video stream (of its
	// first audio stream where it has no video), and LastRAP is the number of
	// the packet in which the latest begins: calls of Walk before it.
	RAPs    uint64
	LastRAP uint64
}

// main is the stream that random access points are looked for in.
func (p *Program) main() (Stream, bool) {
	for _, kind := range []StreamKind{KindVideo, KindAudio} {
		for _, s := range p.Streams {
			if s.Kind == kind {
				return s, true
			}
		}
	}
	return Stream{}, false
}

// PSIErrors counts the sections that were not used.
type PSIErrors struct {
	CRC        uint64 // checksum wrong
	Malformed  uint64 // checksum right, content impossible
	NotCurrent uint64 // announced for later: current_next_indicator 0
}

// assembler collects the sections of one PID (13818-1 §2.4.4), and the packets
// that each came in.
type assembler struct {
	pid  PID
	buf  []byte // from the first byte of the section that is being collected
	raw  []byte // the packets that buf came in
	cc   uint8  // of the last packet with a payload
	seen bool
}

// A sectionSink takes whole sections; sec and a.raw hold only during the call.
type sectionSink interface {
	section(a *assembler, sec []byte)
}

func (a *assembler) drop() { a.buf, a.raw = a.buf[:0], a.raw[:0] }

func (a *assembler) push(p Packet, sink sectionSink) {
	payload := p.Payload()
	if len(payload) == 0 {
		return
	}
	if p.TransportError() || p.Scrambled() {
		a.drop()
		return
	}
	last, seen := a.cc, a.seen
	a.cc, a.seen = p.Continuity(), true
	start := p.PayloadStart()
	if seen && a.cc != (last+1)&0x0f {
		if a.cc == last && !start {
			return // sent twice
		}
		a.drop()
	}
	if !start {
		if len(a.buf) > 0 && len(a.raw) < maxTablePackets*PacketSize {
			a.raw = append(a.raw, p[:PacketSize]...)
			a.buf = append(a.buf, payload...)
			a.deliver(sink)
		} else {
			a.drop()
		}
		return
	}
	pointer := int(payload[0])
	payload = payload[1:]
	if pointer > len(payload) {
		a.drop()
		return
	}
	if len(a.buf) > 0 && pointer > 0 {
		a.raw = append(a.raw, p[:PacketSize]...)
		a.buf = append(a.buf, payload[:pointer]...)
		a.deliver(sink)
	}
	a.buf = append(a.buf[:0], payload[pointer:]...)
	a.raw = append(a.raw[:0], p[:PacketSize]...)
	a.deliver(sink)
}

// deliver hands on every whole section in buf and keeps the rest.
func (a *assembler) deliver(sink sectionSink) {
	rest := a.buf
	for len(rest) >= 3 {
		if rest[0] == 0xff { // stuffing up to the end of the packet
			rest = nil
			break
		}
		n := 3 + (int(rest[1]&0x0f)<<8 | int(rest[2]))
		if len(rest) < n {
			break
		}
		sink.section(a, rest[:n])
		rest = rest[n:]
		a.raw = append(a.raw[:0], a.raw[len(a.raw)-PacketSize:]...)
	}
	a.buf = append(a.buf[:0], rest...)
	if len(a.buf) == 0 {
		a.raw = a.raw[:0]
	}
}

// A header is the part that all long sections share (13818-1 §2.4.4.11).
type header struct {
	extension    uint16 // transport_stream_id, program_number
	version      uint8
	number, last uint8 // section_number, last_section_number
	crc          uint32
}

type patEntry struct {
	number uint16
	pid    PID
}

type patSection struct {
	crc     uint32
	entries []patEntry
	raw     []byte // its packets, empty until it has come
}

// program is a Program with its PMT as it came.
type program struct {
	Program
	raw []byte // packets of the PMT
	crc uint32
}

type service struct{ name, provider string }

// tables follows PAT, PMTs, SDT and, where asked to, CAT.
type tables struct {
	asm map[PID]*assembler

	collecting        []patSection
	collectingVersion uint8
	collectingTSID    uint16

	pat      []byte // packets of the last whole PAT
	version  uint8  // of it
	tsid     uint16
	nit      PID        // of its entry 0; PIDNull if there is none
	programs []*program // in its order

	names  map[uint16]service
	sdt    [256]uint32 // checksum of each section, so that only news are parsed
	cat    [maxCASections][]PID
	catCRC [maxCASections]uint32

	packets uint64 // counts the packets that went in: a preamble made at another count is old
	patSeen uint64 // counts PATs that became current with other content
	changed bool   // set when anything above but raw packets changed
	errors  PSIErrors
}

func newTables(withCAT bool) *tables {
	t := &tables{asm: map[PID]*assembler{}, names: map[uint16]service{}, nit: PIDNull}
	t.asm[PIDPAT] = &assembler{pid: PIDPAT}
	t.asm[PIDSDT] = &assembler{pid: PIDSDT}
	if withCAT {
		t.asm[PIDCAT] = &assembler{pid: PIDCAT}
	}
	return t
}

// push takes a packet of a PID in asm and reports whether programmes, streams
// or names are others than before.
func (t *tables) push(p Packet) bool {
	a := t.asm[p.PID()]
	if a == nil {
		return false
	}
	t.packets++
	t.changed = false
	a.push(p, t)
	return t.changed
}

func (t *tables) section(a *assembler, sec []byte) {
	switch {
	case sec[0] == tablePAT && a.pid == PIDPAT:
		t.patSection(a, sec)
	case sec[0] == tablePMT && a.pid != PIDPAT && a.pid != PIDSDT:
		t.pmtSection(a, sec)
	case sec[0] == tableSDT && a.pid == PIDSDT:
		t.sdtSection(sec)
	case sec[0] == tableCAT && a.pid == PIDCAT:
		t.catSection(sec)
	}
}

// header checks what all long sections have in common and counts what is wrong.
func (t *tables) header(sec []byte) (h header, ok bool) {
	if len(sec) < 12 || len(sec) > maxSection || sec[1]&0x80 == 0 {
		t.errors.Malformed++
		return h, false
	}
	if crc32MPEG(sec) != 0 {
		t.errors.CRC++
		return h, false
	}
	if sec[5]&1 == 0 {
		t.errors.NotCurrent++
		return h, false
	}
	h = header{
		extension: uint16(sec[3])<<8 | uint16(sec[4]),
		version:   sec[5] >> 1 & 0x1f,
		number:    sec[6],
		last:      sec[7],
	}
	tail := sec[len(sec)-4:]
	h.crc = uint32(tail[0])<<24 | uint32(tail[1])<<16 | uint32(tail[2])<<8 | uint32(tail[3])
	if h.number > h.last {
		t.errors.Malformed++
		return h, false
	}
	return h, true
}

func (t *tables) patSection(a *assembler, sec []byte) {
	h, ok := t.header(sec)
	if !ok {
		return
	}
	if h.last >= maxPATSections || (len(sec)-12)%4 != 0 {
		t.errors.Malformed++
		return
	}
	if len(t.collecting) != int(h.last)+1 || t.collectingVersion != h.version || t.collectingTSID != h.extension {
		t.collecting = make([]patSection, h.last+1)
		t.collectingVersion, t.collectingTSID = h.version, h.extension
	}
	s := &t.collecting[h.number]
	if len(s.raw) == 0 || s.crc != h.crc {
		d := parseSection(sec)
		if d == nil || d.PAT == nil {
			t.errors.Malformed++
			return
		}
		s.crc = h.crc
		s.entries = s.entries[:0]
		for _, e := range d.PAT.Programs {
			s.entries = append(s.entries, patEntry{e.ProgramNumber, PID(e.ProgramMapID)})
		}
		s.raw = append(s.raw[:0], a.raw...)
		if t.collected() {
			t.applyPAT()
		}
		return
	}
	s.raw = append(s.raw[:0], a.raw...)
	if t.collected() {
		t.keepPAT()
	}
}

func (t *tables) collected() bool {
	for i := range t.collecting {
		if len(t.collecting[i].raw) == 0 {
			return false
		}
	}
	return true
}

func (t *tables) keepPAT() {
	t.pat = t.pat[:0]
	for i := range t.collecting {
		t.pat = append(t.pat, t.collecting[i].raw...)
	}
}

// applyPAT makes the collected PAT the current one. What is known of
// programmes that stay where they are is kept.
func (t *tables) applyPAT() {
	t.keepPAT()
	if t.patSeen > 0 && t.tsid != t.collectingTSID { // another multiplex
		clear(t.names)
		t.sdt = [256]uint32{}
		t.cat, t.catCRC = [maxCASections][]PID{}, [maxCASections]uint32{}
	}
	t.version, t.tsid = t.collectingVersion, t.collectingTSID
	t.nit = PIDNull
	t.patSeen++
	t.changed = true

	old := t.programs
	t.programs = nil
	for i := range t.collecting {
		for _, e := range t.collecting[i].entries {
			if e.number == 0 {
				t.nit = e.pid
				continue
			}
			if len(t.programs) == maxPrograms || t.program(e.number) != nil || e.pid <= PIDCAT || e.pid == PIDNull {
				continue
			}
			p := &program{Program: Program{Number: e.number, PMTPID: e.pid, PCRPID: PIDNull}}
			for _, o := range old {
				if o.Number == e.number && o.PMTPID == e.pid {
					p = o
				}
			}
			t.name(p)
			t.programs = append(t.programs, p)
		}
	}
	for pid := range t.asm {
		if pid != PIDPAT && pid != PIDCAT && pid != PIDSDT && !t.hasPMTPID(pid) {
			delete(t.asm, pid)
		}
	}
	for _, p := range t.programs {
		if t.asm[p.PMTPID] == nil {
			t.asm[p.PMTPID] = &assembler{pid: p.PMTPID}
		}
	}
}

func (t *tables) program(number uint16) *program {
	for _, p := range t.programs {
		if p.Number == number {
			return p
		}
	}
	return nil
}

func (t *tables) hasPMTPID(pid PID) bool {
	return slices.ContainsFunc(t.programs, func(p *program) bool { return p.PMTPID == pid })
}

func (t *tables) name(p *program) {
	s := t.names[p.Number]
	p.Name, p.Provider = s.name, s.provider
}

func (t *tables) pmtSection(a *assembler, sec []byte) {
	h, ok := t.header(sec)
	if !ok {
		return
	}
	p := t.program(h.extension)
	if p == nil || p.PMTPID != a.pid || h.number != 0 {
		return
	}
	if p.Known && p.crc == h.crc {
		p.raw = append(p.raw[:0], a.raw...)
		return
	}
	var d *astits.DemuxerData
	plain, fit := withoutDescriptors(sec)
	if fit {
		d = parseSection(sec)
	}
	if plain != nil && (d == nil || d.PMT == nil) {
		// One bad descriptor must not take the programme off the air: without
		// them only languages and the codecs of private streams stay unknown.
		d = parseSection(plain)
	}
	if d == nil || d.PMT == nil {
		t.errors.Malformed++
		return
	}
	p.crc, p.Known = h.crc, true
	p.raw = append(p.raw[:0], a.raw...)
	p.PCRPID = PID(d.PMT.PCRPID)
	p.CA = caPIDs(d.PMT.ProgramDescriptors)
	hdmv := hasRegistration(d.PMT.ProgramDescriptors, "HDMV")
	p.Streams = nil // never changed in place: Programs hands it out
	for _, e := range d.PMT.ElementaryStreams {
		if len(p.Streams) == maxStreams {
			break
		}
		p.Streams = append(p.Streams, describe(e, hdmv))
	}
	t.changed = true
}

func (t *tables) sdtSection(sec []byte) {
	h, ok := t.header(sec)
	if !ok || t.sdt[h.number] == h.crc {
		return
	}
	d := parseSection(sec)
	if d == nil || d.SDT == nil {
		t.errors.Malformed++
		return
	}
	t.sdt[h.number] = h.crc
	for _, s := range d.SDT.Services {
		for _, d := range s.Descriptors {
			if d.Service == nil {
				continue
			}
			if _, have := t.names[s.ServiceID]; have || len(t.names) < maxNames {
				t.names[s.ServiceID] = service{decodeText(d.Service.Name), decodeText(d.Service.Provider)}
			}
		}
	}
	for _, p := range t.programs {
		t.name(p)
	}
	t.changed = true
}

// catSection keeps the PIDs of the CA descriptors, which astits leaves alone.
func (t *tables) catSection(sec []byte) {
	h, ok := t.header(sec)
	if !ok || h.number >= maxCASections || t.catCRC[h.number] == h.crc {
		return
	}
	t.catCRC[h.number] = h.crc
	var pids []PID
	for d := sec[8 : len(sec)-4]; len(d) >= 2 && len(d) >= 2+int(d[1]); d = d[2+int(d[1]):] {
		if pid, ok := caPID(d[0], d[2:2+int(d[1])]); ok {
			pids = append(pids, pid)
		}
	}
	t.cat[h.number] = pids
	t.changed = true
}

// appendPreamble appends the packets of PAT and PMTs, those of first before
// the others', at most maxPreamblePackets. Their continuity counters are those
// that end at the last packet of each PID that was seen, which is how they came
// unless other sections lie between.
func (t *tables) appendPreamble(dst []byte, first *program) []byte {
	start := len(dst)
	add := func(raw []byte) {
		if len(dst)-start+len(raw) > maxPreamblePackets*PacketSize {
			return
		}
		for ; len(raw) >= PacketSize; raw = raw[PacketSize:] {
			// Two sections that share a packet bring it twice.
			if n := len(dst); n > start && bytes.Equal(dst[n-PacketSize:], raw[:PacketSize]) {
				continue
			}
			dst = append(dst, raw[:PacketSize]...)
		}
	}
	add(t.pat)
	add(first.raw)
	for _, p := range t.programs {
		if p != first {
			add(p.raw)
		}
	}
	out := dst[start:]
	for i := len(out) - PacketSize; i >= 0; i -= PacketSize {
		p := Packet(out[i : i+PacketSize])
		after := uint8(0) // packets of the same PID behind this one
		for j := i + PacketSize; j < len(out); j += PacketSize {
			if Packet(out[j:]).PID() == p.PID() {
				after++
			}
		}
		p[3] = p[3]&0xf0 | (t.asm[p.PID()].cc-after)&0x0f
	}
	return dst
}

// parseSection has astits parse one section, already known to be whole and to
// have the right checksum. It returns nil if astits refuses or panics.
func parseSection(sec []byte) (d *astits.DemuxerData) {
	defer func() {
		if recover() != nil {
			d = nil
		}
	}()
	// astits reads packets only; on the PIDs of EN 300 468 it takes the kind of
	// table from the table_id. At least 255 bytes of stuffing follow: its
	// descriptor parsers may read past the end of theirs, and undo that
	// afterwards unless the data ends there.
	packets := appendSection(nil, PIDSDT, 0, sec, 255)
	dmx := astits.NewDemuxer(context.Background(), bytes.NewReader(packets), astits.DemuxerOptPacketSize(PacketSize))
	d, err := dmx.NextData()
	if err != nil {
		return nil
	}
	return d
}

// appendSection appends the packets of one section, continuity counters from
// cc on, with at least the given number of stuffing bytes behind it.
func appendSection(dst []byte, pid PID, cc uint8, sec []byte, stuffing int) []byte {
	const room = PacketSize - 4
	left := 1 + len(sec) + stuffing
	for first := true; left > 0; left -= room {
		start := len(dst)
		dst = append(dst, SyncByte, byte(pid>>8), byte(pid), 0x10|cc&0x0f)
		cc++
		if first {
			dst[start+1] |= 0x40
			dst = append(dst, 0) // pointer_field
			first = false
		}
		n := min(len(sec), start+PacketSize-len(dst))
		dst = append(dst, sec[:n]...)
		sec = sec[n:]
		for len(dst) < start+PacketSize {
			dst = append(dst, 0xff)
		}
	}
	return dst
}

// withoutDescriptors is a PMT section with every descriptor loop emptied, nil
// if the loops do not fit into it; fit tells whether the descriptors fit into
// the loops.
func withoutDescriptors(sec []byte) (out []byte, fit bool) {
	if len(sec) < 16 {
		return nil, false
	}
	out = append([]byte(nil), sec[:12]...)
	out[10], out[11] = out[10]&0xf0, 0
	n := int(sec[10]&0x0f)<<8 | int(sec[11])
	rest := sec[12 : len(sec)-4]
	if n > len(rest) {
		return nil, false
	}
	fit = descriptorsFit(rest[:n])
	for rest = rest[n:]; len(rest) > 0; rest = rest[n:] {
		if len(rest) < 5 {
			return nil, false
		}
		n = 5 + (int(rest[3]&0x0f)<<8 | int(rest[4]))
		if n > len(rest) {
			return nil, false
		}
		fit = fit && descriptorsFit(rest[5:n])
		out = append(out, rest[0], rest[1], rest[2], rest[3]&0xf0, 0)
	}
	return sealSection(out), fit
}

func descriptorsFit(loop []byte) bool {
	for len(loop) >= 2 && len(loop) >= 2+int(loop[1]) {
		loop = loop[2+int(loop[1]):]
	}
	return len(loop) == 0
}

// sealSection sets the section_length of a section without its checksum and
// appends that.
func sealSection(sec []byte) []byte {
	n := len(sec) + 4 - 3
	sec[1], sec[2] = sec[1]&0xf0|byte(n>>8), byte(n)
	crc := crc32MPEG(sec)
	return append(sec, byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc))
}

var crcTable = func() (t [256]uint32) {
	for i := range t {
		c := uint32(i) << 24
		for range 8 {
			if c&0x8000_0000 != 0 {
				c = c<<1 ^ 0x04c1_1db7
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}()

// crc32MPEG is the checksum of 13818-1 annex A, which is 0 over a section that
// ends with its own. (hash/crc32 is the same polynomial reflected.)
func crc32MPEG(b []byte) uint32 {
	c := uint32(0xffff_ffff)
	for _, x := range b {
		c = c<<8 ^ crcTable[byte(c>>24)^x]
	}
	return c
}
