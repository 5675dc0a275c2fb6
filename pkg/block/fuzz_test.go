package block

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

func FuzzDecodeManifest(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{0, 1, 76, 77, 306} {
		m, _ := oneBlock(f, DefaultData, packets(rng, n), Fields{Flags: End, Created: testNow})
		f.Add(m)
	}
	m, _ := oneBlock(f, 4, packets(rng, 50), Fields{Flags: RAP | Discontinuity, Preamble: 2 * packetSize, Created: testNow})
	f.Add(m)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			if !errors.Is(err, ErrShort) && !errors.Is(err, ErrType) && !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		// Whatever is let in is within bounds, and encodes to the same fields.
		if m.Payload > m.DataShards()*MaxShard || m.Preamble > m.Payload || m.PacketCount() < 0 {
			t.Fatalf("%+v", m)
		}
		if n, ok := m.RAPNumber(); ok && n > m.Number {
			t.Fatalf("random access point %d in block %d", n, m.Number)
		}
		hashes := b[manifestFixed : len(b)-signatureSize]
		again, err := DecodeManifest(AppendManifest(nil, &m, hashes, testKey))
		if err != nil {
			t.Fatal(err)
		}
		if again.Verify(testKey.ID()) != (m.Tag == testKey.ID().Tag()) {
			t.Fatal("own signature refused, or that of another channel's tag taken")
		}
		m.raw, again.raw = nil, nil
		if !reflect.DeepEqual(m, again) {
			t.Fatalf("%+v\n%+v", m, again)
		}
		var blk Block
		if err := blk.Reset(b); err != nil {
			t.Fatal(err)
		}
		if blk.Decodable() != (m.Payload == 0) {
			t.Fatal("decodable with nothing")
		}
	})
}

func FuzzDecodeShard(f *testing.F) {
	_, shards := oneBlock(f, DefaultData, packets(rand.New(rand.NewPCG(7, 8)), 3), Fields{Created: testNow})
	for _, i := range []int{0, 15} {
		s := shards[i]
		f.Add(AppendShard(nil, &s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeShard(b)
		if err != nil {
			return
		}
		again := AppendShard(nil, &s)
		b = bytes.Clone(b)
		b[3] &= Regenerated
		if !bytes.Equal(again, b) {
			t.Fatalf("%x\n%x", again, b)
		}
	})
}

// After any sequence of shards, true, damaged or out of place, the block gives
// the payload or nothing. The script has four bytes a step: shard index, where it
// is said to belong, which byte to damage, how.
func FuzzBlock(f *testing.F) {
	rng := rand.New(rand.NewPCG(9, 10))
	for range 6 {
		script := make([]byte, 4*80)
		for i := range script {
			script[i] = byte(rng.Uint32())
			if i%4 == 3 && rng.IntN(8) > 0 {
				script[i] = 0
			}
		}
		for i := 0; i < len(script); i += 4 {
			if rng.IntN(8) > 0 {
				script[i+1] = script[i]
			}
		}
		f.Add(script, uint8(rng.Uint32()), uint16(rng.Uint32()))
	}
	type made struct {
		payload, manifest []byte
		shards            map[int]Shard
	}
	cache := map[[2]int]made{}
	var b Block
	f.Fuzz(func(t *testing.T, script []byte, d uint8, n uint16) {
		key := [2]int{MinData + int(d)%(MaxData-MinData+1), 0}
		key[1] = 1 + int(n)%(key[0]*MaxRows*MaxShard/packetSize)
		c, ok := cache[key]
		if !ok {
			c.payload = packets(rng, key[1])
			c.manifest, c.shards = oneBlock(t, key[0], c.payload, Fields{Created: testNow})
			if len(cache) < 100 {
				cache[key] = c
			}
		}
		if err := b.Reset(c.manifest); err != nil {
			t.Fatal(err)
		}
		m := b.Manifest()
		for ; len(script) >= 4; script = script[4:] {
			from, to := int(script[0])%m.Shards(), int(script[1])%m.Shards()
			p := bytes.Clone(c.shards[from].Payload)
			p[int(script[2])%len(p)] ^= script[3]
			err := b.Add(to, script[2], p)
			if right := bytes.Equal(p, c.shards[to].Payload); right != (err == nil) && !errors.Is(err, ErrHave) {
				t.Fatalf("shard %d as %d, right %v: %v", from, to, right, err)
			}
			if script[2] == 0 {
				_, _ = b.ReconstructSome(uint64(script[0]) << (script[1] & 63))
			}
		}
		if _, err := b.Reconstruct(); (err == nil) != b.Decodable() {
			t.Fatalf("%v, decodable %v", err, b.Decodable())
		}
		got := b.AppendPackets(b.AppendPreamble(nil))
		if b.Decodable() && !bytes.Equal(got, c.payload) || !b.Decodable() && len(got) > 0 {
			t.Fatal("wrong bytes came out")
		}
		for i := range MaxShards {
			if d := b.Datagram(i); d != nil && !bytes.Equal(d[ShardHeader:], c.shards[i].Payload) {
				t.Fatalf("shard %d is wrong", i)
			}
		}
	})
}

// forge signs a block whose shard i is not what the code makes of the others.
func forge(t *testing.T, i int) (manifest []byte, shards map[int]Shard) {
	t.Helper()
	manifest, shards = oneBlock(t, DefaultData, packets(rand.New(rand.NewPCG(11, 12)), 100), Fields{Created: testNow, Duration: time.Second})
	m, err := DecodeManifest(manifest)
	if err != nil {
		t.Fatal(err)
	}
	s := shards[i]
	s.Payload = bytes.Clone(s.Payload)
	s.Payload[7] ^= 1
	shards[i] = s
	h := HashShard(s.Payload)
	copy(manifest[manifestFixed+i*HashSize:], h[:])
	return AppendManifest(nil, &m, manifest[manifestFixed:len(manifest)-signatureSize], testKey), shards
}

// A source that signs hashes which are no code word: what was made from its
// shards is not let out, and the block is dead.
func TestForgedBlock(t *testing.T) {
	const bad = 14 // a parity shard
	manifest, shards := forge(t, bad)
	var b Block
	if err := b.Reset(manifest); err != nil {
		t.Fatal(err)
	}
	if !b.Manifest().Verify(testKey.ID()) {
		t.Fatal("not signed")
	}
	// Data shards alone: nothing is made, nothing shows.
	for i := range b.Manifest().Shards() {
		if i%Stripes < DefaultData {
			if err := b.Add(i, 0, shards[i].Payload); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !b.Complete() {
		t.Fatal("not complete")
	}
	if _, err := b.ReconstructSome(1 << 15); err != nil {
		t.Fatal("a good parity shard was not made:", err)
	}
	if made, err := b.Reconstruct(); made != 0 || !errors.Is(err, ErrForged) {
		t.Fatalf("made %x, %v", made, err)
	}
	wantDead(t, &b, shards)

	// Data made from the bad shard.
	if err := b.Reset(manifest); err != nil {
		t.Fatal(err)
	}
	for i := range b.Manifest().Shards() {
		if i != 3 && (i%Stripes < DefaultData || i == bad) {
			if err := b.Add(i, 0, shards[i].Payload); err != nil {
				t.Fatal(err)
			}
		}
	}
	if made, err := b.ReconstructData(); made != 0 || !errors.Is(err, ErrForged) {
		t.Fatalf("made %x, %v", made, err)
	}
	wantDead(t, &b, shards)
}

func wantDead(t *testing.T, b *Block, shards map[int]Shard) {
	t.Helper()
	if b.Decodable() || b.Complete() || !b.Forged() || len(b.AppendPackets(nil)) > 0 || len(b.AppendRecords(nil)) > 0 || b.Datagram(0) != nil {
		t.Error("something was let out of a forged block")
	}
	if err := b.Add(3, 0, shards[3].Payload); !errors.Is(err, ErrForged) {
		t.Error(err)
	}
	if _, err := b.Reconstruct(); !errors.Is(err, ErrForged) {
		t.Error(err)
	}
}

func TestAddRefuses(t *testing.T) {
	manifest, shards := oneBlock(t, DefaultData, packets(rand.New(rand.NewPCG(1, 1)), 10), Fields{Created: testNow})
	var b Block
	if err := b.Add(0, 0, nil); !errors.Is(err, ErrIndex) {
		t.Error("a block never reset:", err)
	}
	if b.Decodable() || b.Datagram(0) != nil || b.AppendRecords(nil) != nil {
		t.Error("a block never reset gives something out")
	}
	if _, err := b.Reconstruct(); err != nil {
		t.Error(err)
	}
	if err := b.Reset(manifest); err != nil {
		t.Fatal(err)
	}
	p := shards[2].Payload
	for _, tt := range []struct {
		index   int
		payload []byte
		want    error
	}{
		{-1, p, ErrIndex}, {16, p, ErrIndex}, {1 << 40, p, ErrIndex}, {2, p[1:], ErrLength}, {2, nil, ErrLength},
		{1, p, ErrHash}, {2, p, nil}, {2, p, ErrHave},
	} {
		if err := b.Add(tt.index, 0, tt.payload); !errors.Is(err, tt.want) {
			t.Errorf("shard %d of %d bytes: %v, want %v", tt.index, len(tt.payload), err, tt.want)
		}
	}
	if b.Have() != 4 {
		t.Errorf("have %x", b.Have())
	}
}

func TestReceivingDoesNotAllocate(t *testing.T) {
	manifest, shards := oneBlock(t, DefaultData, packets(rand.New(rand.NewPCG(1, 1)), 306), Fields{Created: testNow})
	s := shards[5]
	d := AppendShard(nil, &s)
	bad := bytes.Clone(d)
	bad[0] = 0
	var b Block
	if n := testing.AllocsPerRun(20, func() {
		m, err := DecodeManifest(manifest)
		if err != nil || !m.Verify(testKey.ID()) || b.Reset(manifest) != nil {
			t.Fatal("refused")
		}
		s, err := DecodeShard(d)
		if err != nil || b.Add(s.Index, s.Flags(), s.Payload) != nil {
			t.Fatal("refused")
		}
		if _, err := DecodeShard(bad); err == nil {
			t.Fatal("accepted")
		}
		if _, err := DecodeManifest(bad); err == nil {
			t.Fatal("accepted")
		}
	}); n > 0 {
		t.Errorf("%v allocations a block", n)
	}
}
