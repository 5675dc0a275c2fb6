package ts

import "bytes"

// A mux makes packets for tests: counters go on by themselves, payloads are as
// long as asked for.
type mux struct {
	out []byte
	cc  map[PID]uint8
}

func newMux() *mux { return &mux{cc: map[PID]uint8{}} }

// packet appends one packet with this payload, filled up by an adaptation
// field with these flags.
func (m *mux) packet(pid PID, start bool, flags byte, payload []byte) Packet {
	p := make([]byte, 4, PacketSize)
	p[0], p[1], p[2], p[3] = SyncByte, byte(pid>>8), byte(pid), 0x10|m.cc[pid]&0x0f
	if m.cc[pid]++; len(payload) == 0 {
		p[3] ^= 0x10 // no payload, so the counter stands still
		m.cc[pid]--
	}
	if start {
		p[1] |= 0x40
	}
	if fill := PacketSize - 4 - len(payload); fill > 0 || flags != 0 {
		p[3] |= 0x20
		p = append(p, byte(fill-1))
		if fill > 1 {
			p = append(p, flags)
			p = append(p, bytes.Repeat([]byte{0xff}, fill-2)...)
		}
	}
	p = append(p, payload...)
	if len(p) != PacketSize {
		panic("payload too long")
	}
	m.out = append(m.out, p...)
	return p
}

// pes appends one PES packet in payloads of at most room bytes.
func (m *mux) pes(pid PID, flags byte, es []byte, room int) {
	data := append([]byte{0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, 0, 1, 0, byte(m.cc[pid])<<1 | 1}, es...)
	for first := true; len(data) > 0; first = false {
		n := min(room, len(data))
		if first {
			m.packet(pid, true, flags, data[:n])
		} else {
			m.packet(pid, false, 0, data[:n])
		}
		data = data[n:]
	}
}

func (m *mux) table(pid PID, sec []byte) {
	n := len(m.out)
	m.out = appendSection(m.out, pid, m.cc[pid], sec, 0)
	m.cc[pid] += uint8((len(m.out) - n) / PacketSize)
}

// section builds a long section around its body.
func section(table byte, extension uint16, version uint8, body ...byte) []byte {
	sec := []byte{table, 0xb0, 0, byte(extension >> 8), byte(extension), 0xc1 | version<<1, 0, 0}
	return sealSection(append(sec, body...))
}

func pat(version uint8, entries ...patEntry) []byte {
	var body []byte
	for _, e := range entries {
		body = append(body, byte(e.number>>8), byte(e.number), 0xe0|byte(e.pid>>8), byte(e.pid))
	}
	return section(tablePAT, 1, version, body...)
}

type es struct {
	kind uint8
	pid  PID
	desc []byte
}

func pmt(number uint16, version uint8, pcr PID, streams ...es) []byte {
	body := []byte{0xe0 | byte(pcr>>8), byte(pcr), 0xf0, 0}
	for _, s := range streams {
		body = append(body, s.kind, 0xe0|byte(s.pid>>8), byte(s.pid), 0xf0|byte(len(s.desc)>>8), byte(len(s.desc)))
		body = append(body, s.desc...)
	}
	return section(tablePMT, number, version, body...)
}

func sdt(version uint8, names map[uint16]string) []byte {
	body := []byte{0, 1, 0xff}
	for number, name := range names {
		d := append([]byte{0x48, byte(3 + len(name)), 1, 0, byte(len(name))}, name...)
		body = append(body, byte(number>>8), byte(number), 0xff, 0x80, byte(len(d)))
		body = append(body, d...)
	}
	return section(tableSDT, 1, version, body...)
}

// walk gives every packet to w and returns what it said.
func walk(w *Walker, packets []byte) []Note {
	var notes []Note
	for ; len(packets) >= PacketSize; packets = packets[PacketSize:] {
		notes = append(notes, w.Walk(packets[:PacketSize]))
	}
	return notes
}

// rapsOf are the numbers of the packets that proved to be random access points.
func rapsOf(notes []Note) (raps []int) {
	last := -1
	for i, n := range notes {
		if n&NoteCandidate != 0 {
			last = i
		}
		if n&NoteConfirmed != 0 {
			raps = append(raps, last)
		}
	}
	return raps
}

// tuned returns a walker that knows one programme, number 1, with a PMT on
// PID 0x100 and this stream on PID 0x101.
func tuned(m *mux, kind uint8, desc ...byte) *Walker {
	w := NewWalker()
	m.table(PIDPAT, pat(0, patEntry{1, 0x100}))
	m.table(0x100, pmt(1, 0, 0x101, es{kind, 0x101, desc}))
	walk(w, m.out)
	m.out = nil
	return w
}
