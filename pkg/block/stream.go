package block

import (
	"encoding/binary"
	"io"
)

// RecordHeader is the length of what precedes a datagram in a block stream
// (docs/protocol.md section 3): the magic, the length and its complement.
const RecordHeader = 8

const recordMagic = 0xf6366342

// AppendRecord appends a datagram of 1 to MaxDatagram bytes as a record of a
// block stream. It panics on other lengths.
func AppendRecord(dst, datagram []byte) []byte {
	return append(appendRecordHeader(dst, len(datagram)), datagram...)
}

func appendRecordHeader(dst []byte, n int) []byte {
	if n < 1 || n > MaxDatagram {
		panic("block: record of impossible length")
	}
	dst = binary.BigEndian.AppendUint32(dst, recordMagic)
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	return binary.BigEndian.AppendUint16(dst, ^uint16(n))
}

// recordLen is the length of the datagram behind the record header at the start of b; false if there is none.
func recordLen(b []byte) (int, bool) {
	if binary.BigEndian.Uint32(b) != recordMagic {
		return 0, false
	}
	n := binary.BigEndian.Uint16(b[4:])
	return int(n), n >= 1 && n <= MaxDatagram && binary.BigEndian.Uint16(b[6:]) == ^n
}

// readerBuffer is two pipe buffers of Linux: a block and a half at the most.
const readerBuffer = 128 << 10

// Reader reads the records of a block stream from a pipe or a file. It finds
// its way back after garbage, flipped bits and records cut short, and never
// holds more than its buffer of 128 KiB. That a record is whole says nothing of
// its content: shards and manifests prove themselves.
type Reader struct {
	src     io.Reader
	buf     []byte
	pos     int // next unread byte
	end     int // of what was read into buf
	last    int // start of the last record returned, −1 once the search has gone back into it
	covered int // bytes before it lie in a record returned
	skipped uint64
	err     error // of src
}

// NewReader reads from src, which should be unbuffered.
func NewReader(src io.Reader) *Reader {
	return &Reader{src: src, buf: make([]byte, readerBuffer), last: -1}
}

// Skipped is how many bytes lay in no record.
func (r *Reader) Skipped() uint64 { return r.skipped }

// Buffered is how many bytes were read and not yet returned: while they hold a
// whole record Next does not block.
func (r *Reader) Buffered() int { return r.end - r.pos }

// Next returns the next datagram, which lives until the call after. At the end
// it returns io.EOF, also where the last record was cut short, or the error of
// the source.
func (r *Reader) Next() ([]byte, error) {
	for {
		whole := r.fill(RecordHeader)
		if !whole && r.pos == r.end {
			return nil, r.err
		}
		n, ok := 0, false
		if whole {
			n, ok = recordLen(r.buf[r.pos:])
		}
		switch {
		case ok && r.fill(RecordHeader+n):
			r.last = r.pos
			r.pos += RecordHeader + n
			r.covered = r.pos
			return r.buf[r.pos-n : r.pos : r.pos], nil
		case r.last >= 0:
			// No record follows the last one. If that was cut short and
			// another stream began in its middle, its records are in there.
			r.pos, r.last = r.last+1, -1
		default:
			if r.pos >= r.covered {
				r.skipped++
			}
			r.pos++
		}
	}
}

// fill reads until n bytes lie at pos; false if the source ends before.
func (r *Reader) fill(n int) bool {
	if r.end-r.pos >= n {
		return true
	}
	if r.err != nil {
		return false
	}
	// The last record must stay, in case the search has to go back into it.
	from := r.pos
	if r.last >= 0 {
		from = r.last
		r.last = 0
	}
	copy(r.buf, r.buf[from:r.end])
	r.pos, r.end, r.covered = r.pos-from, r.end-from, max(0, r.covered-from)
	for idle := 0; r.end-r.pos < n; {
		m, err := r.src.Read(r.buf[r.end:])
		r.end += m
		if err == nil && m == 0 {
			if idle++; idle == 100 {
				err = io.ErrNoProgress
			}
		}
		if err != nil {
			r.err = err
			return r.end-r.pos >= n
		}
	}
	return true
}
