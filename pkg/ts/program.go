package ts

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNoProgram is in the error of a ProgramFilter whose programme the PAT does not list.
var ErrNoProgram = errors.New("no such programme in the stream")

// What a ProgramFilter does with a PID: a set of bits.
const (
	fateKeep  = 1 << iota
	fateTable // the tables read it
)

// siPIDs are kept for every programme (EN 300 468 table 1).
var siPIDs = [...]PID{PIDCAT, PIDNIT, PIDSDT, PIDEIT, PIDRST, PIDTDT}

// A ProgramFilter makes a stream of one programme out of one of many. It keeps
// its PMT, clock, video, audio, teletext, subtitles, SCTE-35 and private PES
// streams, ECMs and EMMs, and the PIDs of CAT, NIT, SDT, EIT, RST and TDT, all
// of them as they came; and the PAT, rewritten to list only the programme and
// the NIT. It drops the rest: other programmes, null packets, data carousels. It follows
// the PAT and the PMT when they change, and is for one goroutine.
//
// Nothing passes before a PAT that lists the programme; then PAT and PMT pass,
// and with the first whole PMT all the rest.
type ProgramFilter struct {
	number uint16
	fates  [PIDCount]uint8
	tables *tables
	seen   uint64 // tables.patSeen that was answered
	listed bool

	section []byte // of the rewritten PAT, checksum included
}

// NewProgramFilter returns a filter for the programme (service) with this
// program_number.
func NewProgramFilter(number uint16) *ProgramFilter {
	f := &ProgramFilter{number: number, tables: newTables(true)}
	f.assign()
	return f
}

// Filter moves the packets that pass to the front of packets, which begins at a
// packet and is changed, and returns them. Part of a packet at its end is
// dropped.
//
// An error wraps ErrNoProgram and says what the PAT lists. It is returned once
// for each PAT without the programme, together with what passed before it;
// the filter goes on and passes nothing until a PAT lists the programme again.
func (f *ProgramFilter) Filter(packets []byte) ([]byte, error) {
	var err error
	n := 0
	for i := 0; i+PacketSize <= len(packets); i += PacketSize {
		p := Packet(packets[i : i+PacketSize : i+PacketSize])
		fate := f.fates[p.PID()]
		if fate == 0 || p[0] != SyncByte {
			continue
		}
		if fate&fateTable != 0 {
			if e := f.table(p); e != nil {
				err = e
			}
			if f.fates[p.PID()]&fateKeep == 0 {
				continue
			}
			if p.PID() == PIDPAT && !f.rewrite(p) {
				continue
			}
		}
		if n != i {
			copy(packets[n:n+PacketSize], p)
		}
		n += PacketSize
	}
	return packets[:n], err
}

func (f *ProgramFilter) table(p Packet) error {
	if !f.tables.push(p) {
		return nil
	}
	f.assign()
	if f.seen == f.tables.patSeen {
		return nil
	}
	f.seen = f.tables.patSeen
	if f.listed {
		return nil
	}
	return fmt.Errorf("programme %d: %w; it has %s", f.number, ErrNoProgram, list(f.tables.programs))
}

// list puts programmes into an error, as far as a person would read.
func list(programs []*program) string {
	const most = 20
	if len(programs) == 0 {
		return "none"
	}
	var s strings.Builder
	for i, p := range programs {
		if i > 0 {
			s.WriteString(", ")
		}
		if i == most {
			fmt.Fprintf(&s, "and %d more", len(programs)-most)
			break
		}
		fmt.Fprint(&s, p.Number)
		if p.Name != "" {
			fmt.Fprintf(&s, " (%s)", p.Name)
		}
	}
	return s.String()
}

// assign decides anew on every PID after the tables changed.
func (f *ProgramFilter) assign() {
	f.fates = [PIDCount]uint8{}
	p := f.tables.program(f.number)
	f.listed = p != nil
	for pid := range f.tables.asm {
		f.fates[pid] = fateTable
	}
	if p == nil {
		return
	}
	f.pat(p)
	keep := func(pid PID) { f.fates[pid] |= fateKeep }
	keep(PIDPAT)
	keep(p.PMTPID)
	if !p.Known {
		return
	}
	for _, pid := range siPIDs {
		keep(pid)
	}
	if f.tables.nit != PIDNull {
		keep(f.tables.nit)
	}
	for _, pids := range f.tables.cat {
		for _, pid := range pids {
			keep(pid)
		}
	}
	for _, pid := range p.CA {
		keep(pid)
	}
	keep(p.PCRPID)
	for _, s := range p.Streams {
		if s.Kind == KindData && s.Type != typePrivatePES {
			continue
		}
		keep(s.PID)
		for _, pid := range s.CA {
			keep(pid)
		}
	}
	f.fates[PIDNull] = 0
}

// pat makes the section of the rewritten PAT.
func (f *ProgramFilter) pat(p *program) {
	t := f.tables
	s := append(f.section[:0], tablePAT, 0xb0, 0, byte(t.tsid>>8), byte(t.tsid), 0xc1|t.version<<1, 0, 0)
	if t.nit != PIDNull {
		s = append(s, 0, 0, 0xe0|byte(t.nit>>8), byte(t.nit))
	}
	s = append(s, byte(p.Number>>8), byte(p.Number), 0xe0|byte(p.PMTPID>>8), byte(p.PMTPID))
	f.section = sealSection(s)
}

// rewrite puts the PAT of the one programme into a packet of the PAT's PID and
// leaves its continuity counter. Where the original takes several packets,
// those that start no section become stuffing, so that the counters still go on. It
// reports whether there is a packet to write.
func (f *ProgramFilter) rewrite(p Packet) bool {
	if p.TransportError() {
		return false
	}
	payload := p.Payload()
	if payload == nil {
		return !p.HasPayload() // an adaptation field only, or a broken one
	}
	p[3] &^= 0xc0 // what is written is in the clear
	rest := payload
	if p.PayloadStart() {
		if len(payload) < 1+len(f.section) {
			// The adaptation field leaves no room; it has to go.
			p[3] &^= 0x20
			payload = p[4:]
		}
		payload[0] = 0 // pointer_field
		copy(payload[1:], f.section)
		rest = payload[1+len(f.section):]
	}
	for i := range rest {
		rest[i] = 0xff
	}
	return true
}
