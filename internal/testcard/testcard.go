// Package testcard makes the stream that is measured with: one programme of H.264 at a constant rate, 25 pictures a second. Its
// pictures cannot be shown, but it has what a receiver looks for: PAT, PMT, PCR, start codes, parameter sets. The last 8
// bytes of every video packet are its number in the stream, so that whoever gets it can tell what is missing and, since the
// sender remembers when each packet left, how old it is.
package testcard

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	// TablesEvery so many packets there is a PAT, and a PMT after it.
	TablesEvery = 100
	// VideoPID is the video's, TablePID the PMT's.
	VideoPID ts.PID = 0x101
	TablePID ts.PID = 0x100

	pictureEvery = 40 * time.Millisecond
	stampSize    = 8
)

// A Stream makes packets.
type Stream struct {
	rate     ts.BitRate
	gop      int    // pictures from one random access point to the next
	number   uint64 // of the next packet
	counters map[ts.PID]byte
	picture  int // of the next packet with a start
	noise    []byte
	random   *rand.Rand
}

// New begins a stream of a rate with a random access point so often. All streams of the same kind are the same.
func New(rate ts.BitRate, every time.Duration) *Stream {
	s := &Stream{rate: rate, gop: max(1, int(every/pictureEvery)), counters: map[ts.PID]byte{}, noise: make([]byte, 1<<16), random: rand.New(rand.NewPCG(6, 6466))}
	last := byte(1)
	for i := range s.noise {
		b := byte(s.random.Uint32())
		if b == 0 && last == 0 { // no start codes by chance
			b = 0xa5
		}
		s.noise[i], last = b, b
	}
	return s
}

// Number is that of the next packet.
func (s *Stream) Number() uint64 { return s.number }

// Due is when packet number is due, from the beginning.
func Due(rate ts.BitRate, number uint64) time.Duration {
	return rate.Duration(int64(number) * ts.PacketSize)
}

// Append makes n packets.
func (s *Stream) Append(dst []byte, n int) []byte {
	for range n {
		dst = s.packet(dst)
		s.number++
	}
	return dst
}

func (s *Stream) packet(dst []byte) []byte {
	switch s.number % TablesEvery {
	case 0:
		return s.table(dst, ts.PIDPAT, patSection)
	case 1:
		return s.table(dst, TablePID, pmtSection)
	}
	at := Due(s.rate, s.number)
	p := s.header(dst, VideoPID)
	if at >= time.Duration(s.picture)*pictureEvery {
		p = s.startPicture(p, at)
		s.picture++
	} else {
		p[len(dst)+3] |= 0x10
	}
	from := s.random.IntN(len(s.noise) - ts.PacketSize)
	end := len(dst) + ts.PacketSize
	p = append(p, s.noise[from:from+end-len(p)-stampSize]...)
	return binary.BigEndian.AppendUint64(p, s.number)
}

func (s *Stream) header(dst []byte, pid ts.PID) []byte {
	cc := s.counters[pid]
	s.counters[pid] = (cc + 1) & 0x0f
	return append(dst, ts.SyncByte, byte(pid>>8), byte(pid), cc)
}

// startPicture goes on from the header of a packet: adaptation field with PCR, PES header, NAL units up to the slice.
func (s *Stream) startPicture(p []byte, at time.Duration) []byte {
	h := len(p) - 4
	p[h+1] |= 0x40
	p[h+3] |= 0x30
	flags := byte(0x10) // PCR
	idr := s.picture%s.gop == 0
	if idr {
		flags |= 0x40 // random access indicator
	}
	ticks := uint64(at/time.Microsecond) * 27
	base, ext := ticks/300, ticks%300
	p = append(p, 7, flags, byte(base>>25), byte(base>>17), byte(base>>9), byte(base>>1), byte(base<<7)|0x7e|byte(ext>>8), byte(ext))
	pts := base + 9000
	p = append(p, 0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5,
		0x21|byte(pts>>29)&0x0e, byte(pts>>22), byte(pts>>14)|1, byte(pts>>7), byte(pts<<1)|1)
	p = append(p, 0, 0, 0, 1, 0x09, 0xf0) // access unit delimiter
	if idr {
		p = append(p, 0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1e, 0xd9, 0x00, 0xa0, 0x47, 0xfe, 0x88) // SPS
		p = append(p, 0, 0, 0, 1, 0x68, 0xce, 0x3c, 0x80)                                     // PPS
		return append(p, 0, 0, 0, 1, 0x65, 0x88, 0x84)                                        // IDR slice
	}
	return append(p, 0, 0, 0, 1, 0x41, 0x9a, 0x24)
}

func (s *Stream) table(dst []byte, pid ts.PID, section []byte) []byte {
	p := s.header(dst, pid)
	h := len(p) - 4
	p[h+1] |= 0x40
	p[h+3] |= 0x10
	p = append(append(p, 0), section...) // pointer_field
	for len(p) < h+ts.PacketSize {
		p = append(p, 0xff)
	}
	return p
}

var (
	patSection = sealed(0x00, 0xb0, 0x0d, 0x00, 0x01, 0xc1, 0x00, 0x00, 0x00, 0x01, 0xe1, 0x00)
	pmtSection = sealed(0x02, 0xb0, 0x12, 0x00, 0x01, 0xc1, 0x00, 0x00, 0xe1, 0x01, 0xf0, 0x00, 0x1b, 0xe1, 0x01, 0xf0, 0x00)
)

// sealed appends the CRC of ISO/IEC 13818-1 Annex A.
func sealed(b ...byte) []byte {
	crc := uint32(0xffff_ffff)
	for _, x := range b {
		crc ^= uint32(x) << 24
		for range 8 {
			carry := crc >> 31
			crc <<= 1
			if carry == 1 {
				crc ^= 0x04c1_1db7
			}
		}
	}
	return binary.BigEndian.AppendUint32(b, crc)
}

// NumberOf a packet of a stream, ok false for a table, which has none.
func NumberOf(p ts.Packet) (number uint64, ok bool) {
	if p.PID() != VideoPID {
		return 0, false
	}
	return binary.BigEndian.Uint64(p[ts.PacketSize-stampSize:]), true
}
