package block

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

var (
	testKey = channel.KeyFromSeed([32]byte{1, 2, 3})
	testRun = NewRun(time.UnixMilli(1_795_000_000_000), 0x1234)
	testNow = time.UnixMicro(1_795_000_000_123_456).UTC()
)

// packets is n transport stream packets of seeded noise.
func packets(rng *rand.Rand, n int) []byte {
	b := make([]byte, n*packetSize)
	for i := range b {
		b[i] = byte(rng.Uint32())
		if i%packetSize == 0 {
			b[i] = 0x47
		}
	}
	return b
}

// oneBlock encodes payload as the first block of a run and returns its datagrams: the manifest, and the shards by index.
func oneBlock(t testing.TB, d int, payload []byte, f Fields) (manifest []byte, shards map[int]Shard) {
	t.Helper()
	enc, err := NewEncoder(EncoderConfig{Key: testKey, Run: testRun, Data: d})
	if err != nil {
		t.Fatal(err)
	}
	records, err := enc.Encode(nil, payload, f)
	if err != nil {
		t.Fatal(err)
	}
	return splitBlock(t, records)
}

func splitBlock(t testing.TB, records []byte) (manifest []byte, shards map[int]Shard) {
	t.Helper()
	shards = map[int]Shard{}
	r := NewReader(bytes.NewReader(records))
	for {
		d, err := r.Next()
		if errors.Is(err, io.EOF) {
			return manifest, shards
		}
		d = bytes.Clone(d)
		switch d[0] {
		case TypeManifest:
			manifest = d
		case TypeShard:
			s, err := DecodeShard(d)
			if err != nil {
				t.Fatal(err)
			}
			shards[s.Index] = s
		}
	}
}

// Any D·j shards of a block give the payload, and every other shard, back.
func TestAnyShardsMakeTheBlock(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var b Block
	for d := MinData; d <= MaxData; d++ {
		for j := 1; j <= MaxRows; j++ {
			least, most := (d*(j-1)*MaxShard)/packetSize+1, d*j*MaxShard/packetSize
			for _, n := range []int{least, most, least + rng.IntN(most-least+1), least + rng.IntN(most-least+1)} {
				t.Run(fmt.Sprintf("D=%d,j=%d,%d packets", d, j, n), func(t *testing.T) {
					payload := packets(rng, n)
					pre := min(2, n) * packetSize
					manifest, shards := oneBlock(t, d, payload, Fields{Flags: RAP, Created: testNow, Duration: 100 * time.Millisecond, Preamble: pre})
					if err := b.Reset(manifest); err != nil {
						t.Fatal(err)
					}
					m := b.Manifest()
					if m.Rows != j || len(shards) != Stripes*j || !m.Verify(testKey.ID()) {
						t.Fatalf("j = %d, %d shards, signed %v", m.Rows, len(shards), m.Verify(testKey.ID()))
					}
					order := rng.Perm(m.Shards())
					if rng.IntN(3) == 0 { // the parity first: all that can be lost of the data is
						for i := range order {
							order[i] = indexOf(d, j, m.Shards()-1-i)
						}
					}
					for k, i := range order[:m.DataShards()] {
						if b.Decodable() {
							t.Fatalf("decodable with %d of %d shards", k, m.DataShards())
						}
						if _, err := b.Reconstruct(); !errors.Is(err, ErrTooFew) {
							t.Fatalf("reconstruct with %d shards: %v", k, err)
						}
						if err := b.Add(i, shards[i].Flags(), shards[i].Payload); err != nil {
							t.Fatal(err)
						}
					}
					before := b.Have()
					made, err := b.ReconstructData()
					if err != nil || made != m.DataMask()&^before {
						t.Fatalf("made %x: %v", made, err)
					}
					if got := b.AppendPackets(b.AppendPreamble(nil)); !bytes.Equal(got, payload) {
						t.Fatal("payload differs")
					}
					if got := b.AppendPreamble(nil); !bytes.Equal(got, payload[:pre]) {
						t.Fatal("preamble differs")
					}
					if _, err := b.Reconstruct(); err != nil || b.Have() != m.AllMask() {
						t.Fatalf("have %x: %v", b.Have(), err)
					}
					for i, s := range shards {
						got, err := DecodeShard(b.Datagram(i))
						if err != nil || !bytes.Equal(got.Payload, s.Payload) || got.Name != s.Name || got.Tag != s.Tag || got.Index != i {
							t.Fatalf("shard %d: %+v, %v", i, got, err)
						}
						if got.Regenerated != (before>>i&1 == 0) {
							t.Fatalf("shard %d: regenerated %v", i, got.Regenerated)
						}
					}
				})
			}
		}
	}
}
