package block

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/bits"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/vectors"
	"github.com/sixcast/sixcast/pkg/channel"
)

type fecVector struct {
	D      int             `json:"d"`
	J      int             `json:"j"`
	Data   []vectors.Bytes `json:"data"`   // in payload order
	Parity []vectors.Bytes `json:"parity"` // in the code's order
}

type manifestVector struct {
	Name     string          `json:"name"`
	Kind     Kind            `json:"kind"`
	Flags    Flags           `json:"flags"`
	Tag      uint32          `json:"tag"`
	Run      uint64          `json:"run"`
	Number   Number          `json:"number"`
	SinceRAP uint32          `json:"since_rap"`
	Created  int64           `json:"created_us"`
	Duration int64           `json:"duration_us"`
	Payload  int             `json:"payload"`
	Preamble int             `json:"preamble"`
	ShardLen int             `json:"shard_length"`
	D        int             `json:"d"`
	J        int             `json:"j"`
	KeyEpoch uint32          `json:"key_epoch"`
	Prev     vectors.Bytes   `json:"previous"`
	Packets  uint64          `json:"packets_before"`
	Hashes   []vectors.Bytes `json:"hashes"`
	Datagram vectors.Bytes   `json:"datagram"`
}

type shardVector struct {
	Index       int           `json:"index"`
	Kind        Kind          `json:"kind"`
	Regenerated bool          `json:"regenerated"`
	Tag         uint32        `json:"tag"`
	Run         uint64        `json:"run"`
	Number      Number        `json:"number"`
	Payload     vectors.Bytes `json:"payload"`
	Datagram    vectors.Bytes `json:"datagram"`
}

type reconstructVector struct {
	Name        string          `json:"name"`
	Manifest    vectors.Bytes   `json:"manifest"`
	Shards      []vectors.Bytes `json:"shards"`            // datagrams, in the order in which they come
	Refused     []int           `json:"refused"`           // those of them that are not accepted
	Result      string          `json:"result"`            // ok, too few, forged
	Payload     vectors.Bytes   `json:"payload,omitempty"` // if ok
	Regenerated []vectors.Bytes `json:"regenerated"`       // datagrams, by index
}

type refusedVector struct {
	Reason   string        `json:"reason"`
	Check    string        `json:"check"`            // fields, signature or clock
	Now      int64         `json:"now_us,omitempty"` // the receiver's clock, for check clock
	Datagram vectors.Bytes `json:"datagram"`
}

type streamVector struct {
	File     string          `json:"file"`
	Skipped  int             `json:"skipped"`  // bytes in no record
	Records  []string        `json:"records"`  // first 16 bytes of SHA-256 of each datagram found
	Packets  vectors.Bytes   `json:"packets"`  // SHA-256 of the stream of all blocks, preambles left out
	Preamble []vectors.Bytes `json:"preamble"` // of each RAP block
}

// blockVectors is docs/vectors/block.json.
type blockVectors struct {
	Seed        vectors.Bytes       `json:"seed"`
	Key         vectors.Bytes       `json:"key"`
	FEC         []fecVector         `json:"fec"`
	Manifests   []manifestVector    `json:"manifests"`
	Shards      []shardVector       `json:"shards"`
	Reconstruct []reconstructVector `json:"reconstruct"`
	Refused     []refusedVector     `json:"refused"`
	Streams     []streamVector      `json:"streams"`
}

// pattern is n bytes that anyone can make: SHA-256 of name and a u32 counter, block after block.
func pattern(name string, n int) []byte {
	var b []byte
	for i := uint32(0); len(b) < n; i++ {
		h := sha256.Sum256(binary.BigEndian.AppendUint32([]byte(name), i))
		b = append(b, h[:]...)
	}
	return b[:n]
}

// patternPackets is n packets of pattern.
func patternPackets(name string, n int) []byte {
	b := pattern(name, n*packetSize)
	for i := 0; i < len(b); i += packetSize {
		b[i] = 0x47
	}
	return b
}

// build makes a block with the j that the caller wants, which the Encoder would choose smaller.
func build(m Manifest, payload []byte) (manifest []byte, shards [][]byte) {
	m.Payload, m.ShardLen = len(payload), shardLen(len(payload), m.Data, m.Rows)
	m.Tag = testKey.ID().Tag()
	w := new(fecWork)
	padded := append(bytes.Clone(payload), make([]byte, m.DataShards()*m.ShardLen+lane)...)
	for i := range m.DataShards() {
		w.shards[i] = padded[i*m.ShardLen:][:(m.ShardLen+lane-1)/lane*lane]
	}
	codeOf(m.Data, m.Rows).encode(w, m.ShardLen)
	shards = make([][]byte, m.Shards())
	hashes := make([]byte, m.Shards()*HashSize)
	for i := range shards {
		p := w.shards[i][:m.ShardLen]
		if i < m.DataShards() {
			p = padded[i*m.ShardLen:][:m.ShardLen]
		}
		index := indexOf(m.Data, m.Rows, i)
		shards[index] = AppendShard(nil, &Shard{Name: m.Name, Tag: m.Tag, Index: index, Payload: p})
		h := HashShard(p)
		copy(hashes[index*HashSize:], h[:])
	}
	return AppendManifest(nil, &m, hashes, testKey), shards
}

func makeVectors(t *testing.T) (v blockVectors, files map[string][]byte) {
	seed := [32]byte{1, 2, 3}
	id := testKey.ID()
	if channel.KeyFromSeed(seed).ID() != id {
		t.Fatal("the tests' key has another seed")
	}
	v.Seed, v.Key = seed[:], id[:]

	for _, c := range []struct{ d, j, l int }{{12, 1, 5}, {12, 4, 3}, {8, 2, 4}, {15, 4, 2}, {4, 1, 7}, {4, 4, 2}} {
		w := new(fecWork)
		f := fecVector{D: c.d, J: c.j}
		data := pattern("fec", c.d*c.j*c.l+lane)
		for i := range c.d * c.j {
			f.Data = append(f.Data, data[i*c.l:][:c.l])
			w.shards[i] = data[i*c.l:][:lane]
		}
		codeOf(c.d, c.j).encode(w, c.l)
		for _, p := range w.shards[c.d*c.j:][:(Stripes-c.d)*c.j] {
			f.Parity = append(f.Parity, p[:c.l])
		}
		v.FEC = append(v.FEC, f)
	}

	base := Manifest{
		Name: Name{Media, testRun, 7}, SinceRAP: 3, Created: testNow, Duration: 123456 * time.Microsecond,
		Data: DefaultData, Rows: 1, Prev: Digest(pattern("previous", HashSize)), Packets: 1234,
	}
	with := func(change func(m *Manifest)) Manifest { m := base; change(&m); return m }
	for _, c := range []struct {
		name    string
		m       Manifest
		packets int
	}{
		{"one row", base, 3},
		{"four rows, random access point, discontinuity", with(func(m *Manifest) {
			m.Rows, m.Flags, m.SinceRAP, m.Preamble = 4, RAP|Discontinuity, 0, 2*packetSize
		}), 5},
		{"D = 4, key epoch", with(func(m *Manifest) { m.Data, m.Rows, m.KeyEpoch = 4, 2, 9 }), 40},
		{"first block, no random access point so far, other kind", with(func(m *Manifest) {
			m.Name = Name{3, testRun, 0}
			m.SinceRAP, m.Prev, m.Packets = NoRAP, Digest{}, 0
		}), 1},
		{"empty last block", with(func(m *Manifest) { m.Rows, m.Flags = 0, End }), 0},
	} {
		var raw []byte
		if c.packets == 0 {
			c.m.Tag = id.Tag()
			raw = AppendManifest(nil, &c.m, nil, testKey)
		} else {
			raw, _ = build(c.m, patternPackets(c.name, c.packets))
		}
		m, err := DecodeManifest(raw)
		if err != nil || !m.Verify(id) {
			t.Fatalf("%s: %v", c.name, err)
		}
		x := manifestVector{
			Name: c.name, Kind: m.Kind, Flags: m.Flags, Tag: m.Tag, Run: uint64(m.Run), Number: m.Number, SinceRAP: m.SinceRAP,
			Created: m.Created.UnixMicro(), Duration: m.Duration.Microseconds(), Payload: m.Payload, Preamble: m.Preamble,
			ShardLen: m.ShardLen, D: m.Data, J: m.Rows, KeyEpoch: m.KeyEpoch, Prev: m.Prev[:], Packets: m.Packets,
			Hashes: []vectors.Bytes{}, Datagram: raw,
		}
		for i := range m.Shards() {
			x.Hashes = append(x.Hashes, m.Hash(i))
		}
		v.Manifests = append(v.Manifests, x)
	}

	for _, s := range []Shard{
		{Name: base.Name, Tag: id.Tag(), Index: 0, Payload: pattern("shard", 47)},
		{Name: Name{2, 0xfedcba9876543210, MaxNumber}, Tag: 0xffffffff, Index: 63, Regenerated: true, Payload: []byte{0}},
	} {
		v.Shards = append(v.Shards, shardVector{s.Index, s.Name.Kind, s.Regenerated, s.Tag, uint64(s.Name.Run), s.Name.Number,
			s.Payload, AppendShard(nil, &s)})
	}

	v.Reconstruct = reconstructVectors(t, base)
	v.Refused = refusedVectors(t, base)

	stream, records := makeStream(t)
	files = map[string][]byte{"stream.bin": stream}
	v.Streams = append(v.Streams, describeStream("stream.bin", stream))
	// Cut in the middle of a record, garbage, a flipped bit in a header, two shards gone, the end missing.
	var damaged []byte
	for i, r := range records {
		switch i {
		case 4:
			r = r[:len(r)/2]
		case 9:
			r = append([]byte("garbage \xf6\x36\x63\x42\x00\x10"), r...)
		case 12:
			r = bytes.Clone(r)
			r[5] ^= 0x20
		case 21, 24:
			continue
		case len(records) - 1:
			r = r[:40]
		}
		damaged = append(damaged, r...)
	}
	files["stream-damaged.bin"] = damaged
	v.Streams = append(v.Streams, describeStream("stream-damaged.bin", damaged))
	return v, files
}

func reconstructVectors(t *testing.T, base Manifest) (vs []reconstructVector) {
	for _, c := range []struct {
		name    string
		d, j    int
		packets int
		lost    uint64
		change  func(manifest []byte, shards [][]byte) []byte
		result  string
	}{
		{"nothing lost", 12, 1, 3, 0, nil, "ok"},
		{"four stripes of data lost", 12, 2, 7, StripeMask(0x0f00), nil, "ok"},
		{"every parity shard used", 12, 4, 9, 0x0fff_0000_0000_0000 | 1<<0 | 1<<21 | 1<<30 | 1<<43, nil, "ok"},
		{"more parity than data", 4, 3, 6, StripeMask(0x000f), nil, "ok"},
		{"one parity stripe", 15, 1, 2, 1 << 7, nil, "ok"},
		{"payload shorter than the shards before the last", 12, 4, 1, StripeMask(0x0003), nil, "ok"},
		{"one shard too few", 12, 1, 3, 0x001f, nil, "too few"},
		{"a shard fails its hash", 12, 1, 3, 0x000f, func(m []byte, s [][]byte) []byte {
			s[9] = bytes.Clone(s[9])
			s[9][ShardHeader+3] ^= 0x10
			return m
		}, "too few"},
		{"signed hashes are no code word", 12, 1, 3, 0x0007, func(raw []byte, s [][]byte) []byte {
			s[14] = bytes.Clone(s[14])
			s[14][ShardHeader] ^= 1
			h := HashShard(s[14][ShardHeader:])
			copy(raw[manifestFixed+14*HashSize:], h[:])
			m, err := DecodeManifest(raw)
			if err != nil {
				t.Fatal(err)
			}
			return AppendManifest(nil, &m, raw[manifestFixed:len(raw)-signatureSize], testKey)
		}, "forged"},
	} {
		m := base
		m.Data, m.Rows = c.d, c.j
		payload := patternPackets(c.name, c.packets)
		manifest, shards := build(m, payload)
		if c.change != nil {
			manifest = c.change(manifest, shards)
		}
		v := reconstructVector{Name: c.name, Manifest: manifest, Result: c.result, Refused: []int{}, Regenerated: []vectors.Bytes{}}
		var b Block
		if err := b.Reset(manifest); err != nil || !b.Manifest().Verify(testKey.ID()) {
			t.Fatal(c.name, err)
		}
		for i := len(shards) - 1; i >= 0; i-- { // last first: order must not matter
			if c.lost>>i&1 == 1 {
				continue
			}
			s, err := DecodeShard(shards[i])
			if err != nil {
				t.Fatal(err)
			}
			if b.Add(s.Index, s.Flags(), s.Payload) != nil {
				v.Refused = append(v.Refused, len(v.Shards))
			}
			v.Shards = append(v.Shards, shards[i])
		}
		made, err := b.Reconstruct()
		want := map[string]error{"ok": nil, "too few": ErrTooFew, "forged": ErrForged}[c.result]
		if !errors.Is(err, want) || err == nil && !bytes.Equal(b.AppendPackets(nil), payload) {
			t.Fatalf("%s: %v", c.name, err)
		}
		for mask := made; mask != 0; mask &= mask - 1 {
			v.Regenerated = append(v.Regenerated, bytes.Clone(b.Datagram(bits.TrailingZeros64(mask))))
		}
		if err == nil {
			v.Payload = payload
		}
		vs = append(vs, v)
	}
	return vs
}

func refusedVectors(t *testing.T, base Manifest) (vs []refusedVector) {
	good, _ := build(base, patternPackets("refused", 3))
	// sign signs what change makes of the good manifest, so that nothing but that is wrong with it.
	sign := func(change func(b []byte) []byte) []byte {
		b := change(bytes.Clone(good[:len(good)-signatureSize]))
		return append(b, testKey.Sign(signContext, b)...)
	}
	set := func(at int, b ...byte) []byte {
		return sign(func(m []byte) []byte { copy(m[at:], b); return m })
	}
	be := binary.BigEndian
	for _, c := range []struct {
		reason   string
		datagram []byte
		want     error
	}{
		{"shorter than a manifest without hashes", good[:MinManifest-1], errManifestLength},
		{"a byte more than 160 + 256·j", sign(func(m []byte) []byte { return append(m, 0) }), errManifestLength},
		{"a hash less than 16·j", sign(func(m []byte) []byte { return m[:len(m)-HashSize] }), errManifestLength},
		{"type is not 0x11", set(0, TypeShard), errManifestType},
		{"version 2", set(1, 2), errManifestType},
		{"encoding 1", set(46, 1), errManifestEncoding},
		{"FEC matrix 1", set(47, 1), errManifestMatrix},
		{"D = 3", set(44, 3), errManifestData},
		{"D = 16", set(44, 16), errManifestData},
		{"j = 5", sign(func(m []byte) []byte { m[45] = 5; return append(m, make([]byte, 4*256)...) }), errManifestRows},
		{"run 0", set(8, make([]byte, 8)...), errManifestRun},
		{"number 0xfffffffe", set(16, 0xff, 0xff, 0xff, 0xfe), errManifestNumber},
		{"payload is no multiple of 188", set(36, be.AppendUint32(nil, 3*packetSize-1)...), errManifestPayload},
		{"payload of 0xffffffff bytes", set(36, 0xff, 0xff, 0xff, 0xff), errManifestPayload},
		{"payload greater than D·j·1200", sign(func(m []byte) []byte {
			be.PutUint32(m[36:], 77*packetSize)
			be.PutUint16(m[42:], uint16(shardLen(77*packetSize, 12, 1)))
			return m
		}), errManifestShardLen},
		{"L is one less", set(42, 0, 46), errManifestShardLen},
		{"L is one more", set(42, 0, 48), errManifestShardLen},
		{"no payload, but shards", set(36, 0, 0, 0, 0, 0, 0, 0, 0), errManifestShardLen},
		{"payload, but j = 0", sign(func(m []byte) []byte { m[42], m[43], m[45] = 0, 0, 0; return m[:manifestFixed] }), errManifestShardLen},
		{"j = 0, but L is not 0", sign(func(m []byte) []byte {
			copy(m[36:], make([]byte, 4))
			m[45] = 0
			return m[:manifestFixed]
		}), errManifestShardLen},
		{"preamble longer than the payload", sign(func(m []byte) []byte {
			m[3] = byte(RAP)
			be.PutUint32(m[20:], 0)
			be.PutUint16(m[40:], 4*packetSize)
			return m
		}), errManifestPreamble},
		{"preamble is no multiple of 188", sign(func(m []byte) []byte {
			m[3] = byte(RAP)
			be.PutUint32(m[20:], 0)
			be.PutUint16(m[40:], 100)
			return m
		}), errManifestPreamble},
		{"preamble of 25 packets", sign(func(m []byte) []byte {
			m[3] = byte(RAP)
			be.PutUint32(m[20:], 0)
			be.PutUint32(m[36:], 30*packetSize)
			be.PutUint16(m[40:], 25*packetSize)
			be.PutUint16(m[42:], uint16(shardLen(30*packetSize, 12, 1)))
			return m
		}), errManifestPreamble},
		{"preamble without RAP", set(40, 0, packetSize), errManifestNoRAP},
		{"RAP flag, but 3 blocks since the last", set(3, byte(RAP)), errManifestSince},
		{"0 blocks since the last RAP, but no flag", set(20, 0, 0, 0, 0), errManifestSince},
		{"more blocks since the last RAP than there were", set(20, 0, 0, 0, 8), errManifestSince},
	} {
		if _, err := DecodeManifest(c.datagram); err != c.want {
			t.Errorf("%s: %v, want %v", c.reason, err, c.want)
		}
		vs = append(vs, refusedVector{Reason: c.reason, Check: "fields", Datagram: c.datagram})
	}

	flipped := bytes.Clone(good)
	flipped[76] ^= 1 // reserved, and signed all the same
	otherContext := append(bytes.Clone(good[:len(good)-signatureSize]), testKey.Sign("", good[:len(good)-signatureSize])...)
	otherTag := set(4, 1, 2, 3, 4)
	for _, c := range []refusedVector{
		{Reason: "a reserved byte changed", Datagram: flipped},
		{Reason: "signed without the context string", Datagram: otherContext},
	} {
		m, err := DecodeManifest(c.Datagram)
		if err != nil || m.Verify(testKey.ID()) {
			t.Errorf("%s: %v", c.Reason, err)
		}
		c.Check = "signature"
		vs = append(vs, c)
	}
	if m, err := DecodeManifest(otherTag); err != nil || m.Verify(testKey.ID()) {
		t.Errorf("another channel's tag: %v", err)
	}
	vs = append(vs, refusedVector{Reason: "signed, but with the tag of another channel", Check: "tag", Datagram: otherTag})

	now := testRun.Time().Add(-MaxAhead - time.Millisecond)
	if !testRun.TooFarAhead(now) || testRun.TooFarAhead(now.Add(time.Millisecond)) {
		t.Error("the run is not dated where the clock is")
	}
	return append(vs, refusedVector{Reason: "run dated 24 h and 1 ms after the clock", Check: "clock", Now: now.UnixMicro(), Datagram: good})
}

// makeStream is a run of four blocks, the last of them empty, as ingest writes it; and its records.
func makeStream(t *testing.T) (stream []byte, records [][]byte) {
	enc, err := NewEncoder(EncoderConfig{Key: testKey, Run: testRun, Data: 8})
	if err != nil {
		t.Fatal(err)
	}
	if err := enc.SetDescriptor([]byte("d1:k3:not1:v7:checkede")); err != nil {
		t.Fatal(err)
	}
	for i, b := range []struct {
		packets int
		Fields
	}{
		{3, Fields{Flags: Discontinuity, Duration: 40 * time.Millisecond}},
		{5, Fields{Flags: RAP, Preamble: 2 * packetSize, Duration: 60 * time.Millisecond}},
		{52, Fields{Duration: 400 * time.Millisecond}},
		{0, Fields{Flags: End}},
	} {
		b.Created = testNow.Add(time.Duration(i) * 500 * time.Millisecond)
		if stream, err = enc.Encode(stream, patternPackets("stream"+string(rune('0'+i)), b.packets), b.Fields); err != nil {
			t.Fatal(err)
		}
	}
	for rest := stream; len(rest) > 0; {
		n, ok := recordLen(rest)
		if !ok {
			t.Fatal("the stream is damaged")
		}
		records = append(records, rest[:RecordHeader+n])
		rest = rest[RecordHeader+n:]
	}
	return stream, records
}

func describeStream(file string, stream []byte) streamVector {
	v := streamVector{File: file, Preamble: []vectors.Bytes{}}
	r := NewReader(bytes.NewReader(stream))
	var packets []byte
	var b Block
	finish := func() {
		if _, err := b.ReconstructData(); err == nil && b.Decodable() {
			packets = b.AppendPackets(packets)
			if b.Manifest().Flags&RAP != 0 {
				v.Preamble = append(v.Preamble, b.AppendPreamble(nil))
			}
		}
	}
	for {
		d, err := r.Next()
		if err != nil {
			break
		}
		h := HashShard(d)
		v.Records = append(v.Records, hex.EncodeToString(h[:]))
		if m, err := DecodeManifest(d); err == nil && m.Verify(testKey.ID()) {
			finish()
			_ = b.Reset(d)
		} else if s, err := DecodeShard(d); err == nil && s.Name == b.Manifest().Name {
			_ = b.Add(s.Index, s.Flags(), s.Payload)
		}
	}
	finish()
	h := sha256.Sum256(packets)
	v.Skipped, v.Packets = int(r.Skipped()), h[:]
	return v
}

// The vectors in docs/vectors are what the code makes. internal/vectors has
// them decoded by another implementation.
func TestVectors(t *testing.T) {
	v, files := makeVectors(t)
	if t.Failed() {
		return
	}
	vectors.CheckJSON(t, "block.json", v)
	for name, want := range files {
		vectors.Check(t, name, want)
	}
}
