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

const (
	protocolUDP    = 17
	udpChecksum    = 6 // offset in the UDP header
	vnetCsumStart  = 6
	vnetCsumOffset = 8
)

// renewChecksum has the kernel make the checksum of a UDP datagram anew. b is a virtio_net_hdr and a frame that holds IPv6.
func renewChecksum(b []byte) {
	ether := b[vnetHeader:]
	ip := ether[etherHeader:]
	if b[0]&vnetNeedsCsum != 0 || ip[6] != protocolUDP || len(ip) < ipv6Header+8 {
		return
	}
	var sum uint64 // of the pseudo-header, RFC 8200 section 8.1
	for a := ip[8:ipv6Header]; len(a) > 0; a = a[2:] {
		sum += uint64(binary.BigEndian.Uint16(a))
	}
	sum += uint64(len(ip)-ipv6Header) + protocolUDP
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(ip[ipv6Header+udpChecksum:], uint16(sum))
	b[0] |= vnetNeedsCsum
	binary.NativeEndian.PutUint16(b[vnetCsumStart:], etherHeader+ipv6Header)
	binary.NativeEndian.PutUint16(b[vnetCsumOffset:], udpChecksum)
}
