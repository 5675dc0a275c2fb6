package netem

import (
	"bufio"
	"encoding/binary"
	"io"
	"time"
)

// pcap writes frames in the classic capture format with nanoseconds, Ethernet link type.
type pcap struct {
	w       *bufio.Writer
	scratch []byte
	err     error // the first; later frames are not written
}

func newPcap(w io.Writer) *pcap {
	p := &pcap{w: bufio.NewWriterSize(w, 1<<16)}
	header := make([]byte, 24)
	binary.LittleEndian.PutUint32(header[0:], 0xa1b23c4d) // nanoseconds
	binary.LittleEndian.PutUint16(header[4:], 2)
	binary.LittleEndian.PutUint16(header[6:], 4)
	binary.LittleEndian.PutUint32(header[16:], 1<<16)
	binary.LittleEndian.PutUint32(header[20:], 1) // Ethernet
	_, p.err = p.w.Write(header)
	return p
}

func (p *pcap) write(at time.Time, f *frame) {
	if p.err != nil {
		return
	}
	p.scratch = append(p.scratch[:0], f.buf[:f.n]...)
	completeChecksum(p.scratch)
	ether := p.scratch[vnetHeader:]
	var record [16]byte
	binary.LittleEndian.PutUint32(record[0:], uint32(at.Unix()))
	binary.LittleEndian.PutUint32(record[4:], uint32(at.Nanosecond()))
	binary.LittleEndian.PutUint32(record[8:], uint32(len(ether)))
	binary.LittleEndian.PutUint32(record[12:], uint32(len(ether)))
	if _, p.err = p.w.Write(record[:]); p.err == nil {
		_, p.err = p.w.Write(ether)
	}
}

func (p *pcap) flush() error {
	if p.err == nil {
		p.err = p.w.Flush()
	}
	return p.err
}

const (
	vnetHeader    = 10 // struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
	vnetNeedsCsum = 1
	vnetGSOType   = 1 // offset
)

// completeChecksum does what the interface of a real machine does: the kernel leaves the transport checksum of a
// virtual one to whoever needs it. b is a virtio_net_hdr and a frame.
func completeChecksum(b []byte) {
	if b[0]&vnetNeedsCsum == 0 {
		return
	}
	ether := b[vnetHeader:]
	start := int(binary.NativeEndian.Uint16(b[6:]))
	field := start + int(binary.NativeEndian.Uint16(b[8:]))
	if start >= len(ether) || field+2 > len(ether) {
		return
	}
	var sum uint64 // the field holds the pseudo-header's sum
	data := ether[start:]
	for ; len(data) >= 2; data = data[2:] {
		sum += uint64(binary.BigEndian.Uint16(data))
	}
	if len(data) == 1 {
		sum += uint64(data[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if sum = ^sum & 0xffff; sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(ether[field:], uint16(sum))
}
