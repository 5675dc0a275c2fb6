package block

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// forgedBlock is a block of which the source signed a parity hash that is no code word's.
func forgedBlock(t *testing.T, payload []byte) (manifest []byte, shards map[int]Shard) {
	t.Helper()
	raw, shards := oneBlock(t, DefaultData, payload, Fields{Created: testNow, Duration: 100 * time.Millisecond})
	m, err := DecodeManifest(raw)
	if err != nil {
		t.Fatal(err)
	}
	s := shards[15]
	s.Payload = bytes.Clone(s.Payload)
	s.Payload[7]++
	shards[15] = s
	hashes := bytes.Clone(m.raw[manifestFixed : len(m.raw)-signatureSize])
	h := HashShard(s.Payload)
	copy(hashes[15*HashSize:], h[:])
	return AppendManifest(nil, &m, hashes, testKey), shards
}

// A block in a vault says and does what one of its own memory does, whatever other blocks put into the vault before.
func TestVaultChangesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 60 {
		v := new(Vault)
		payload := packets(rng, 40+rng.IntN(260))
		manifest, shards := oneBlock(t, DefaultData, payload, Fields{Created: testNow, Duration: 100 * time.Millisecond})
		if round%4 == 3 {
			manifest, shards = forgedBlock(t, payload)
		}
		m, err := DecodeManifest(manifest)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 { // nodes, one after the other
			if round%5 != 4 && !v.Verify(&m, testKey.ID()) {
				t.Fatal("good signature refused")
			}
			own, shared := new(Block), v.NewBlock()
			if err := own.Reset(manifest); err != nil {
				t.Fatal(err)
			}
			if err := shared.Reset(manifest); err != nil {
				t.Fatal(err)
			}
			if (shared.kept != nil) != (round%5 != 4) {
				t.Fatal("the vault is to know what it has verified, and nothing else")
			}
			for _, i := range rng.Perm(m.Shards()) {
				p, flags := shards[i].Payload, byte(rng.IntN(2))
				switch rng.IntN(6) {
				case 0:
					p = bytes.Clone(p)
					p[rng.IntN(len(p))] ^= 1 << rng.IntN(8)
				case 1:
					p = p[:len(p)-1]
				case 2:
					i += 64
				}
				if e, f := own.Add(i, flags, p), shared.Add(i, flags, p); e != f {
					t.Fatalf("shard %d: %v, and in the vault %v", i, e, f)
				}
				if e, f := own.Confirm(i, flags^1, p), shared.Confirm(i, flags^1, p); e != f {
					t.Fatalf("shard %d: confirmed %v, and in the vault %v", i, e, f)
				}
				if rng.IntN(12) == 0 {
					want := rng.Uint64()
					a, e := own.ReconstructSome(want)
					b, f := shared.ReconstructSome(want)
					if a != b || e != f {
						t.Fatalf("reconstructed %x %v, and in the vault %x %v", a, e, b, f)
					}
				}
				if own.Have() != shared.Have() || own.Forged() != shared.Forged() || own.Decodable() != shared.Decodable() {
					t.Fatalf("have %x, and in the vault %x", own.Have(), shared.Have())
				}
			}
			for i := range m.Shards() {
				if !bytes.Equal(own.Datagram(i), shared.Datagram(i)) {
					t.Fatalf("datagram %d differs", i)
				}
			}
			if !bytes.Equal(own.AppendPackets(nil), shared.AppendPackets(nil)) || !bytes.Equal(own.ManifestDatagram(), shared.ManifestDatagram()) {
				t.Fatal("payload or manifest differs")
			}
		}
	}
}

func TestVaultRefusesForgedManifests(t *testing.T) {
	raw, _ := oneBlock(t, DefaultData, packets(rand.New(rand.NewPCG(5, 6)), 100), Fields{Created: testNow})
	v := new(Vault)
	for range 2 { // before and after the true one
		bad := bytes.Clone(raw)
		bad[len(bad)-1] ^= 1
		if m, err := DecodeManifest(bad); err != nil || v.Verify(&m, testKey.ID()) {
			t.Fatalf("a flipped signature is good: %v", err)
		}
		m, err := DecodeManifest(raw)
		if err != nil || !v.Verify(&m, testKey.ID()) || v.Verify(&m, [32]byte{1}) {
			t.Fatalf("a good signature is none, or anybody's: %v", err)
		}
	}
}

func TestVaultIsSafeForConcurrentUse(t *testing.T) {
	raw, shards := oneBlock(t, DefaultData, packets(rand.New(rand.NewPCG(7, 8)), 300), Fields{Created: testNow})
	v := new(Vault)
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 9))
			for range 50 {
				m, err := DecodeManifest(raw)
				b := v.NewBlock()
				if err != nil || !v.Verify(&m, testKey.ID()) || b.Reset(raw) != nil {
					t.Error("refused")
					return
				}
				for _, i := range rng.Perm(m.Shards())[:m.DataShards()] {
					if err := b.Add(i, 0, shards[i].Payload); err != nil {
						t.Error(err)
					}
				}
				if _, err := b.Reconstruct(); err != nil {
					t.Error(err)
				}
				for i := range m.Shards() {
					if s, err := DecodeShard(b.Datagram(i)); err != nil || !bytes.Equal(s.Payload, shards[i].Payload) {
						t.Errorf("shard %d: %v", i, err)
					}
				}
			}
		})
	}
	group.Wait()
}
