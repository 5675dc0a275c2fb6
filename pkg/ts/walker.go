package ts

import "slices"

// Note is what Walk has to say about a packet: a set of bits.
//
// A verdict (NoteConfirmed, NoteRefuted) is on the last candidate: on this very
// packet if NoteCandidate is set too, else on an earlier one. A candidate that
// a new one follows without a verdict is refuted by that. What is refuted within its
// own packet is never called a candidate.
type Note uint8

const (
	// NoteCandidate: this packet starts an access unit of the leading
	// programme that may prove to be a random access point.
	NoteCandidate Note = 1 << iota
	// NoteConfirmed: the last candidate is a random access point.
	NoteConfirmed
	// NoteRefuted: the last candidate is none.
	NoteRefuted
	// NotePrograms: Programs returns something else than before.
	NotePrograms
)

// Slots of PIDs: a track's number, or one of these.
const (
	slotNone = 0x00
	slotPSI  = 0xff
)

// A Walker follows one transport stream: its programmes and its random access
// points. It is told every packet in order, keeps a few kilobytes a programme, and is
// for one goroutine.
//
// The leading programme is the first of the PAT that has video, as far as
// PMTs have come, else the first that has audio. Its random access points are the packets
// (payload_unit_start) in which a PES packet of its first video stream begins with
//
//   - H.264: an IDR picture, or an SPS with a recovery point SEI message or an I slice,
//   - HEVC: an IRAP picture (NAL unit types 16 to 21),
//   - MPEG-1 and 2: a sequence header and an I picture,
//   - other video, and whatever is scrambled: the random_access_indicator.
//
// Without video, every PES packet of its first audio stream is one. The
// random_access_indicator is not believed where the stream itself can be read.
type Walker struct {
	slots  [PIDCount]uint8
	tracks []track
	tables *tables

	packets uint64
	lead    *program // nil until a PMT with video or audio has come
	slot    uint8    // of its track
	pending bool     // a candidate was told and is undecided

	anyPCR PID // first PID with a PCR, PIDNull until there is one

	preamble     []byte // as of the last candidate
	preambleAt   uint64 // tables.packets then
	preambleLead *program
}

// NewWalker returns a Walker that knows nothing yet.
func NewWalker() *Walker {
	w := &Walker{tables: newTables(false), anyPCR: PIDNull}
	w.assign()
	return w
}

// Walk takes the next packet, which it neither keeps nor changes. What is not
// a packet (short, or without its sync byte) is only counted.
func (w *Walker) Walk(p Packet) Note {
	w.packets++
	if len(p) < PacketSize || p[0] != SyncByte {
		return 0
	}
	if w.anyPCR == PIDNull {
		if _, ok := p.PCR(); ok && !p.TransportError() {
			w.anyPCR = p.PID()
		}
	}
	slot := w.slots[p.PID()]
	switch slot {
	case slotNone:
		return 0
	case slotPSI:
		if w.tables.push(p) {
			return NotePrograms | w.assign()
		}
		return 0
	}
	t := &w.tracks[slot-1]
	if !t.scanning && !p.PayloadStart() {
		return 0
	}
	candidate, v := t.push(p, w.packets-1)
	if slot != w.slot {
		return 0
	}
	return w.note(candidate, v)
}

func (w *Walker) note(candidate bool, v verdict) (n Note) {
	switch {
	case candidate && v == notRAP:
		candidate = false
		fallthrough
	case !candidate && v != undecided:
		if !w.pending {
			return 0
		}
		w.pending = false
		if v == isRAP {
			return NoteConfirmed
		}
		return NoteRefuted
	case !candidate:
		return 0
	}
	w.capture()
	w.pending = v == undecided
	if v == isRAP {
		return NoteCandidate | NoteConfirmed
	}
	return NoteCandidate
}

// assign gives PIDs their slots after the tables changed. Tracks of streams
// that stay go on as they are.
func (w *Walker) assign() (n Note) {
	w.slots = [PIDCount]uint8{}
	old := w.tracks
	w.tracks = nil
	oldPID, hadLead := PIDNull, w.lead != nil
	if hadLead {
		oldPID = old[w.slot-1].pid
	}
	w.lead, w.slot = nil, slotNone
	leadVideo := false
	for _, p := range w.tables.programs {
		s, ok := p.main()
		if !ok {
			continue
		}
		if w.slots[s.PID] == slotNone {
			t := track{pid: s.PID, method: methodFor(s)}
			for i := range old {
				if old[i].pid == t.pid && old[i].method == t.method {
					t = old[i]
				}
			}
			w.tracks = append(w.tracks, t)
			w.slots[s.PID] = uint8(len(w.tracks))
		}
		if w.lead == nil || !leadVideo && s.Kind == KindVideo {
			w.lead, w.slot = p, w.slots[s.PID]
			leadVideo = s.Kind == KindVideo
		}
	}
	// A PID that a broken PMT gives to tables and to a stream is the tables'.
	for pid := range w.tables.asm {
		w.slots[pid] = slotPSI
	}
	if w.pending && (w.lead == nil || w.tracks[w.slot-1].pid != oldPID || !w.tracks[w.slot-1].scanning) {
		w.pending = false
		n = NoteRefuted
	}
	return n
}

// capture keeps the preamble as it is before a candidate. Most candidates have
// no table between them and the one before.
func (w *Walker) capture() {
	if w.preambleAt == w.tables.packets && w.preambleLead == w.lead {
		return
	}
	w.preamble = w.tables.appendPreamble(w.preamble[:0], w.lead)
	w.preambleAt, w.preambleLead = w.tables.packets, w.lead
}

// AppendPreamble appends the packets that let a receiver begin at the last
// candidate: the last whole PAT, the PMT of the leading programme, and as many
// PMTs of others as fit into 24 packets. They are the packets that came,
// with continuity counters that lead on to the next table in the stream. It
// appends nothing before the first candidate.
func (w *Walker) AppendPreamble(dst []byte) []byte {
	return append(dst, w.preamble...)
}

// PCRPID is the PID of the leading programme's clock. While there is none, or
// it has none, it is the first PID that a PCR was seen on; ok tells whether
// there is one at all.
func (w *Walker) PCRPID() (pid PID, ok bool) {
	if w.lead != nil && w.lead.PCRPID != PIDNull {
		return w.lead.PCRPID, true
	}
	return w.anyPCR, w.anyPCR != PIDNull
}

// Leading is the number of the leading programme.
func (w *Walker) Leading() (number uint16, ok bool) {
	if w.lead == nil {
		return 0, false
	}
	return w.lead.Number, true
}

// Programs lists the programmes in the order of the PAT, none before it has
// come. The result is the caller's; the slices in it must not be changed.
func (w *Walker) Programs() []Program {
	ps := make([]Program, len(w.tables.programs))
	for i, p := range w.tables.programs {
		ps[i] = p.Program
		s, ok := p.main()
		if !ok {
			continue
		}
		if slot := w.slots[s.PID]; slot != slotNone && slot != slotPSI {
			ps[i].RAPs, ps[i].LastRAP = w.tracks[slot-1].raps, w.tracks[slot-1].last
		}
	}
	return ps
}

// PSIErrors counts the sections of PAT, PMT and SDT that were not used.
func (w *Walker) PSIErrors() PSIErrors { return w.tables.errors }

// PIDsOfPreamble lists the PIDs that a preamble (packets of PAT and PMTs)
// speaks of: PAT, PMTs, clocks and elementary streams, each once, in this
// order.
func PIDsOfPreamble(preamble []byte) []PID {
	t := newTables(false)
	for ; len(preamble) >= PacketSize; preamble = preamble[PacketSize:] {
		if preamble[0] == SyncByte {
			t.push(Packet(preamble[:PacketSize]))
		}
	}
	var pids []PID
	add := func(pid PID) {
		if pid != PIDNull && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	if len(t.pat) > 0 {
		add(PIDPAT)
	}
	for _, p := range t.programs {
		if p.Known {
			add(p.PMTPID)
		}
	}
	for _, p := range t.programs {
		add(p.PCRPID)
	}
	for _, p := range t.programs {
		for _, s := range p.Streams {
			add(s.PID)
		}
	}
	return pids
}

// AppendDiscontinuity appends, for each PID, a packet with an adaptation field
// only and the discontinuity_indicator set (13818-1 §2.4.3.5): counters, clock
// and table versions may jump behind it. following is what will be written
// behind these packets, such as the preamble and packets of the first block of
// another run.
//
// A packet without payload repeats the continuity counter of the one
// before it, and the next payload must count on from there; so the counter is
// the one that leads on to the PID's first packet in following. For a PID
// that following does not hold it is 0.
func AppendDiscontinuity(dst, following []byte, pids ...PID) []byte {
	for _, pid := range pids {
		cc := uint8(0)
		for rest := following; len(rest) >= PacketSize; rest = rest[PacketSize:] {
			p := Packet(rest[:PacketSize])
			if p.PID() == pid {
				cc = p.Continuity()
				if p.HasPayload() {
					cc--
				}
				break
			}
		}
		start := len(dst)
		dst = append(dst, SyncByte, byte(pid>>8)&0x1f, byte(pid), 0x20|cc&0x0f, PacketSize-5, 0x80)
		for len(dst) < start+PacketSize {
			dst = append(dst, 0xff)
		}
	}
	return dst
}
