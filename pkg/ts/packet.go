// Package ts reads and rewrites MPEG-2 transport streams (ISO/IEC 13818-1):
// synchronisation, clocks, continuity, tables, random access points. The hot
// path is a walk over whole 188-byte packets that neither allocates nor
// copies; only PSI/SI sections leave it, for go-astits.
package ts

// PacketSize is the length of a transport stream packet in bytes (13818-1 §2.4.3.2).
const PacketSize = 188

// SyncByte starts every packet.
const SyncByte = 0x47

// PID is a packet identifier, 13 bits.
type PID uint16

// The PIDs with a fixed meaning (13818-1 table 2-3, EN 300 468 table 1).
const (
	PIDPAT  PID = 0x0000
	PIDCAT  PID = 0x0001
	PIDNIT  PID = 0x0010
	PIDSDT  PID = 0x0011
	PIDEIT  PID = 0x0012
	PIDRST  PID = 0x0013
	PIDTDT  PID = 0x0014
	PIDNull PID = 0x1fff

	// PIDCount is the number of different PIDs.
	PIDCount = 0x2000
)

// Packet is one 188-byte packet, aliased. Its methods read only the header
// and the adaptation field and never reach past the packet, whatever the
// lengths in it say.
type Packet []byte

// PID of the packet.
func (p Packet) PID() PID { return PID(p[1]&0x1f)<<8 | PID(p[2]) }

// TransportError reports the transport_error_indicator.
func (p Packet) TransportError() bool { return p[1]&0x80 != 0 }

// PayloadStart reports the payload_unit_start_indicator.
func (p Packet) PayloadStart() bool { return p[1]&0x40 != 0 }

// Scrambled reports whether the payload is scrambled.
func (p Packet) Scrambled() bool { return p[3]&0xc0 != 0 }

// Continuity is the 4-bit continuity counter.
func (p Packet) Continuity() uint8 { return p[3] & 0x0f }

// HasPayload reports whether the adaptation_field_control announces a payload.
func (p Packet) HasPayload() bool { return p[3]&0x10 != 0 }

// Adaptation is the adaptation field after its length byte, empty if there is
// none or its length is impossible.
func (p Packet) Adaptation() []byte {
	if p[3]&0x20 == 0 {
		return nil
	}
	n := int(p[4])
	if n == 0 || 5+n > PacketSize {
		return nil
	}
	return p[5 : 5+n]
}

// Payload is what follows the header and the adaptation field, nil if there is none.
func (p Packet) Payload() []byte {
	if p[3]&0x10 == 0 {
		return nil
	}
	off := 4
	if p[3]&0x20 != 0 {
		off += 1 + int(p[4])
	}
	if off >= PacketSize {
		return nil
	}
	return p[off:PacketSize]
}

// Discontinuity reports the discontinuity_indicator.
func (p Packet) Discontinuity() bool {
	a := p.Adaptation()
	return len(a) > 0 && a[0]&0x80 != 0
}

// RandomAccess reports the random_access_indicator.
func (p Packet) RandomAccess() bool {
	a := p.Adaptation()
	return len(a) > 0 && a[0]&0x40 != 0
}

// PCR returns the program clock reference in ticks of 27 MHz, 0 … 2^33·300−1.
func (p Packet) PCR() (ticks uint64, ok bool) {
	a := p.Adaptation()
	if len(a) < 7 || a[0]&0x10 == 0 {
		return 0, false
	}
	base := uint64(a[1])<<25 | uint64(a[2])<<17 | uint64(a[3])<<9 | uint64(a[4])<<1 | uint64(a[5])>>7
	ext := uint64(a[5]&1)<<8 | uint64(a[6])
	return base*300 + ext, true
}
