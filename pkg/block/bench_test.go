package block

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func BenchmarkEncode(b *testing.B) {
	for _, j := range []int{1, 4} {
		b.Run(fmt.Sprintf("D=12,j=%d", j), func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			payload := packets(rng, DefaultData*j*MaxShard/packetSize)
			enc, err := NewEncoder(EncoderConfig{Key: testKey, Run: testRun})
			if err != nil {
				b.Fatal(err)
			}
			var out []byte
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				if out, err = enc.Encode(out[:0], payload, Fields{Created: testNow}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(len(payload))*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
		})
	}
}

func BenchmarkParity(b *testing.B) {
	c := codeOf(DefaultData, MaxRows)
	w := new(fecWork)
	for i := range c.data {
		w.shards[i] = make([]byte, paddedMax)
	}
	b.SetBytes(int64(c.data * MaxShard))
	b.ReportAllocs()
	for b.Loop() {
		c.encode(w, MaxShard)
	}
}

func BenchmarkVerifyManifest(b *testing.B) {
	raw, _ := oneBlock(b, DefaultData, packets(rand.New(rand.NewPCG(1, 2)), 306), Fields{Created: testNow})
	b.ReportAllocs()
	for b.Loop() {
		m, err := DecodeManifest(raw)
		if err != nil || !m.Verify(testKey.ID()) {
			b.Fatal("refused")
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	raw, shards := oneBlock(b, DefaultData, packets(rand.New(rand.NewPCG(1, 2)), 306), Fields{Created: testNow})
	var blk Block
	b.ReportAllocs()
	b.SetBytes(int64(len(shards[0].Payload)))
	for i := 0; b.Loop(); i++ {
		if i%64 == 0 {
			if err := blk.Reset(raw); err != nil {
				b.Fatal(err)
			}
		}
		if err := blk.Add(i%64, 0, shards[i%64].Payload); err != nil {
			b.Fatal(err)
		}
	}
}

// Cold: every block loses other shards, so that no cache of inverted matrices would help.
func BenchmarkReconstruct(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	payload := packets(rng, 306)
	raw, shards := oneBlock(b, DefaultData, payload, Fields{Created: testNow})
	for _, lost := range []int{1, 4, 8, 16} {
		for _, all := range []bool{false, true} {
			b.Run(fmt.Sprintf("lost=%d,all=%v", lost, all), func(b *testing.B) {
				var blk Block
				b.SetBytes(int64(len(payload)))
				b.ReportAllocs()
				if err := blk.Reset(raw); err != nil {
					b.Fatal(err)
				}
				for i := range 64 {
					if err := blk.Add(i, 0, shards[i].Payload); err != nil {
						b.Fatal(err)
					}
				}
				perm := rng.Perm(64)
				for b.Loop() {
					for k := range lost { // another set of that size
						x := k + rng.IntN(64-k)
						perm[k], perm[x] = perm[x], perm[k]
						blk.have &^= 1 << perm[k]
					}
					if all {
						if _, err := blk.Reconstruct(); err != nil {
							b.Fatal(err)
						}
					} else if _, err := blk.ReconstructData(); err != nil {
						b.Fatal(err)
					}
					blk.have = ^uint64(0)
				}
			})
		}
	}
}
