package block

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	pmtPID   = 0x1000
	videoPID = 0x100
)

// psiPacket is a section in a packet of its own, checksum added.
func psiPacket(pid uint16, cc byte, section ...byte) []byte {
	p := bytes.Repeat([]byte{0xff}, packetSize)
	p[0], p[1], p[2], p[3], p[4] = ts.SyncByte, 0x40|byte(pid>>8), byte(pid), 0x10|cc&15, 0
	section[2] = byte(len(section) - 3 + 4)
	n := copy(p[5:], section)
	binary.BigEndian.PutUint32(p[5+n:], crcMPEG(section))
	return p
}

func crcMPEG(b []byte) uint32 {
	crc := ^uint32(0)
	for _, x := range b {
		crc ^= uint32(x) << 24
		for range 8 {
			if crc>>31 == 1 {
				crc = crc<<1 ^ 0x04c11db7
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// videoStream is a constant bit rate stream of H.264 access units of au
// packets, n of them, every gop-th an IDR picture behind PAT and PMT. gap
// is the time of a packet. idr lists the packets that start IDR pictures.
func videoStream(n, au, gop int, gap time.Duration) (stream []byte, idr []int) {
	rng := rand.New(rand.NewPCG(13, 14))
	var cc byte
	for i := range n {
		key := i%gop == 0
		if key {
			c := byte(i / gop)
			stream = append(stream, psiPacket(0, c, 0, 0xb0, 0, 0, 1, 0xc1, 0, 0, 0, 1, 0xe0|pmtPID>>8, pmtPID&0xff)...)
			stream = append(stream, psiPacket(pmtPID, c, 2, 0xb0, 0, 0, 1, 0xc1, 0, 0, 0xe0|videoPID>>8, videoPID&0xff, 0xf0, 0,
				0x1b, 0xe0|videoPID>>8, videoPID&0xff, 0xf0, 0)...)
			idr = append(idr, len(stream)/packetSize)
		}
		for k := range au {
			p := packets(rng, 1)
			p[1], p[2], p[3] = byte(videoPID>>8), byte(videoPID&0xff), 0x10|cc&15
			cc++
			for j := 4; j < packetSize; j++ {
				p[j] |= 0x10 // no start codes by chance
			}
			if k == 0 {
				p[1] |= 0x40
				base := uint64(time.Duration(len(stream)/packetSize)*gap) * 90 / 1e6
				p[3] |= 0x20
				p[4], p[5] = 7, 0x10
				binary.BigEndian.PutUint32(p[6:], uint32(base>>1))
				p[10], p[11] = byte(base<<7)|0x7e, 0
				nal := byte(0x41)
				if key {
					nal = 0x65
				}
				copy(p[12:], []byte{0, 0, 1, 0xe0, 0, 0, 0x80, 0, 0, 0, 0, 1, 0x09, 0xf0, 0, 0, 1, nal, 0x88})
			}
			stream = append(stream, p...)
		}
	}
	return stream, idr
}

// From the bytes of a stream to a block stream and back, with the walk that
// finds the random access points.
func TestStreamThroughBlocks(t *testing.T) {
	const gap = 400 * time.Microsecond
	stream, idr := videoStream(200, 30, 25, gap) // 3.76 Mbit/s, 12 ms a picture
	enc, err := NewEncoder(EncoderConfig{Key: testKey, Run: testRun})
	if err != nil {
		t.Fatal(err)
	}
	if err := enc.SetDescriptor([]byte("d1:k3:abce")); err != nil {
		t.Fatal(err)
	}
	w := ts.NewWalker()
	var records []byte
	c, err := NewCutter(CutterConfig{Tables: w, Emit: func(payload []byte, f Fields) (err error) {
		records, err = enc.Encode(records, payload, f)
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	now := testNow
	for p := stream; len(p) > 0; p = p[packetSize:] {
		if err := c.Push(p[:packetSize], w.Walk(p[:packetSize]), now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(gap)
	}
	if err := c.End(now); err != nil {
		t.Fatal(err)
	}

	var got []byte
	var b Block
	var raps []int
	var prev Digest
	var span time.Duration
	descriptors, number := 0, Number(0)
	since := uint32(NoRAP)
	finish := func() {
		if b.Manifest().Datagram() == nil {
			return
		}
		if !b.Complete() {
			t.Fatalf("block %v is not complete: have %x", b.Manifest().Name, b.Have())
		}
		if b.Manifest().Flags&RAP != 0 {
			raps = append(raps, len(got)/packetSize)
			pre := b.AppendPreamble(nil)
			if len(pre) != 2*packetSize || ts.Packet(pre).PID() != 0 || ts.Packet(pre[packetSize:]).PID() != pmtPID {
				t.Fatalf("preamble %x", pre)
			}
		}
		got = b.AppendPackets(got)
	}
	all, skipped := readAll(t, bytes.NewReader(records))
	for i, d := range all {
		switch d[0] {
		case TypeDescriptor:
			descriptors++
		case TypeManifest:
			finish()
			if err := b.Reset(d); err != nil {
				t.Fatal(err)
			}
			m := b.Manifest()
			if since != NoRAP {
				since++
			}
			if m.Flags&RAP != 0 {
				since = 0
			}
			if m.Number != number || m.Prev != prev || m.Packets != uint64(len(got)/packetSize) || m.SinceRAP != since || !m.Verify(testKey.ID()) {
				t.Fatalf("manifest %+v; %d packets before", m, len(got)/packetSize)
			}
			number++
			prev = m.Digest()
			span += m.Duration
		case TypeShard:
			s, err := DecodeShard(d)
			if err != nil || s.Name != b.Manifest().Name {
				t.Fatalf("record %d: %+v, %v", i, s, err)
			}
			if err := b.Add(s.Index, s.Flags(), s.Payload); err != nil {
				t.Fatal(err)
			}
		}
	}
	finish()
	if b.Manifest().Flags&End == 0 {
		t.Error("the run does not end")
	}
	if !bytes.Equal(got, stream) || skipped > 0 {
		t.Error("the stream that came out is not the one that went in")
	}
	if len(raps) != len(idr) {
		t.Fatalf("random access points at %v, want %v", raps, idr)
	}
	for i := range raps {
		if raps[i] != idr[i] {
			t.Fatalf("random access points at %v, want %v", raps, idr)
		}
	}
	if descriptors != 3 { // first, and twice more in 2.4 s
		t.Errorf("%d descriptors", descriptors)
	}
	if want := time.Duration(len(stream)/packetSize) * gap; (span - want).Abs() > 20*time.Millisecond {
		t.Errorf("durations add up to %v of %v", span, want)
	}
}

// All that ingest does on one core: find the packets, walk over them, cut, hash, add parity, sign.
func BenchmarkIngest(b *testing.B) {
	const gap = 25 * time.Microsecond // 60 Mbit/s
	stream, _ := videoStream(500, 250, 25, gap)
	w := ts.NewWalker()
	enc, err := NewEncoder(EncoderConfig{Key: testKey, Run: testRun})
	if err != nil {
		b.Fatal(err)
	}
	var records []byte
	blocks := 0
	c, err := NewCutter(CutterConfig{Tables: w, Emit: func(payload []byte, f Fields) (err error) {
		blocks++
		records, err = enc.Encode(records[:0], payload, f)
		return err
	}})
	if err != nil {
		b.Fatal(err)
	}
	var sync ts.Sync
	var buf []byte
	now := testNow
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	at := 0
	for b.Loop() {
		if at+64<<10 > len(stream) {
			at = 0
		}
		buf = sync.Append(buf[:0], stream[at:at+64<<10])
		at += 64 << 10
		for p := buf; len(p) > 0; p = p[packetSize:] {
			if err := c.Push(p[:packetSize], w.Walk(p[:packetSize]), now); err != nil {
				b.Fatal(err)
			}
		}
		now = now.Add(350 * gap)
	}
	b.ReportMetric(float64(b.N)*(64<<10)*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
	b.ReportMetric(float64(blocks)/float64(b.N), "blocks/op")
}
