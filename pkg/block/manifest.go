package block

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	manifestFixed = 96 // bytes before the hashes
	signatureSize = 64

	// MinManifest and MaxManifest are the lengths of a manifest with j = 0 and 4.
	MinManifest = manifestFixed + signatureSize
	MaxManifest = MinManifest + MaxShards*HashSize

	signContext = "sixcast manifest 1\x00"
)

// Flags of a manifest. Unknown bits are reserved: kept, and ignored.
type Flags uint8

const (
	// RAP: the block starts, after its preamble, at a random access point.
	RAP Flags = 1 << iota
	// Discontinuity: the stream does not go on from the block before.
	Discontinuity
	// End: the last block of its run.
	End
)

// NoRAP is Manifest.SinceRAP when the run has had no random access point yet.
const NoRAP = 0xffffffff

// Digest is the hash of a whole manifest datagram, by which the next one names it.
type Digest [HashSize]byte

// Manifest is a decoded manifest datagram (docs/protocol.md section 2.2).
type Manifest struct {
	Name
	Flags    Flags
	Tag      uint32        // channel tag
	SinceRAP uint32        // blocks since the last RAP block: 0 = this is one, NoRAP = none so far
	Created  time.Time     // when the block was cut, source's clock, UTC, µs
	Duration time.Duration // of the stream in it, µs
	Payload  int           // bytes, preamble included; a multiple of 188
	Preamble int           // bytes; a multiple of 188
	ShardLen int           // L, bytes of a shard without its header
	Data     int           // D, stripes that hold data
	Rows     int           // j
	Encoding uint8         // of the payload: 0 plain
	Matrix   uint8         // of the FEC: 0
	KeyEpoch uint32        // 0 = in the clear
	Prev     Digest        // of the previous block's manifest, zero in block 0
	Packets  uint64        // transport stream packets in the run before this block's first, preambles not counted

	raw []byte // the datagram, aliased; nil if not decoded
}

// Shards is the number of shards, 16·j.
func (m *Manifest) Shards() int { return Stripes * m.Rows }

// DataShards is the number of shards that make the block decodable, D·j.
func (m *Manifest) DataShards() int { return m.Data * m.Rows }

// DataMask has the bits of the data shards set.
func (m *Manifest) DataMask() uint64 { return StripeMask(1<<m.Data-1) & m.AllMask() }

// AllMask has the bits of all shards set.
func (m *Manifest) AllMask() uint64 {
	if m.Rows == MaxRows {
		return ^uint64(0)
	}
	return 1<<m.Shards() - 1
}

// StripeMask is the shard mask of a stripe mask, for four rows.
func StripeMask(stripes uint16) uint64 { return uint64(stripes) * 0x0001_0001_0001_0001 }

// PacketCount is the number of transport stream packets in the block, preamble not counted.
func (m *Manifest) PacketCount() int { return (m.Payload - m.Preamble) / packetSize }

// Hash is that of shard i, 0 ≤ i < Shards. It aliases the datagram.
func (m *Manifest) Hash(i int) []byte {
	o := manifestFixed + i*HashSize
	return m.raw[o : o+HashSize]
}

// Datagram is what the manifest was decoded from, aliased; nil if it was not decoded.
func (m *Manifest) Datagram() []byte { return m.raw }

// Digest is the hash of the whole datagram, signature included: Prev of the next block.
func (m *Manifest) Digest() Digest { return DigestOf(m.raw) }

// DigestOf is the Digest of a manifest datagram.
func DigestOf(datagram []byte) Digest {
	h := sha256.Sum256(datagram)
	return Digest(h[:HashSize])
}

// HashShard is the hash of shard bytes, header left out, as manifests list it.
func HashShard(payload []byte) [HashSize]byte {
	h := sha256.Sum256(payload)
	return [HashSize]byte(h[:HashSize])
}

// RAPNumber is the number of the last RAP block up to this one; false if the run has had none.
func (m *Manifest) RAPNumber() (Number, bool) {
	if m.SinceRAP == NoRAP {
		return 0, false
	}
	return m.Number - Number(m.SinceRAP), true
}

// A run is young for about two seconds: whoever joins it then gets all of it
// and misses nothing for having been a moment late.
const (
	youngRun    = 2 * time.Second
	youngBlocks = 128 // the last block of a run may be short
)

// Start is where somebody begins who learns of a run by block number: block 0
// in a young run, else the last random access point; false if the run has had
// none. sinceRAP and duration are the block's.
func Start(number Number, sinceRAP uint32, duration time.Duration) (Number, bool) {
	switch {
	case duration > 0 && number < youngBlocks && time.Duration(number)*duration < youngRun:
		return 0, true
	case sinceRAP == NoRAP || Number(sinceRAP) > number:
		return 0, false
	}
	return number - Number(sinceRAP), true
}

// Start is where somebody begins who learns of the run by this block.
func (m *Manifest) Start() (Number, bool) { return Start(m.Number, m.SinceRAP, m.Duration) }

// Verify tells whether the channel signed the manifest, and the tag is the
// channel's. It costs some 35 µs.
func (m *Manifest) Verify(id channel.ID) bool {
	n := len(m.raw) - signatureSize
	return n >= 0 && m.Tag == id.Tag() && id.Verify(signContext, m.raw[:n], m.raw[n:])
}

// DecodeManifest reads a manifest datagram. The result aliases b. Sizes, ranges
// and their agreement are checked, the signature (Verify) and the date
// (Run.TooFarAhead) are not. Errors wrap ErrShort, ErrType or ErrInvalid.
func DecodeManifest(b []byte) (Manifest, error) {
	if len(b) < MinManifest {
		return Manifest{}, errManifestLength
	}
	if b[0] != TypeManifest || b[1] != version {
		return Manifest{}, errManifestType
	}
	be := binary.BigEndian
	m := Manifest{
		Name:     Name{Kind(b[2]), Run(be.Uint64(b[8:])), Number(be.Uint32(b[16:]))},
		Flags:    Flags(b[3]),
		Tag:      be.Uint32(b[4:]),
		SinceRAP: be.Uint32(b[20:]),
		Created:  time.UnixMicro(int64(be.Uint64(b[24:]))).UTC(),
		Duration: time.Duration(be.Uint32(b[32:])) * time.Microsecond,
		Payload:  int(be.Uint32(b[36:])),
		Preamble: int(be.Uint16(b[40:])),
		ShardLen: int(be.Uint16(b[42:])),
		Data:     int(b[44]),
		Rows:     int(b[45]),
		Encoding: b[46],
		Matrix:   b[47],
		KeyEpoch: be.Uint32(b[48:]),
		Prev:     Digest(b[52:68]),
		Packets:  be.Uint64(b[68:]),
		raw:      b,
	}
	if err := m.check(len(b)); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// check holds the fields and the datagram's length n against each other.
func (m *Manifest) check(n int) error {
	rap := m.Flags&RAP != 0
	switch {
	case m.Data < MinData || m.Data > MaxData:
		return errManifestData
	case m.Rows > MaxRows:
		return errManifestRows
	case n != MinManifest+m.Shards()*HashSize:
		return errManifestLength
	case m.Encoding != 0:
		return errManifestEncoding
	case m.Matrix != 0:
		return errManifestMatrix
	case m.Run == 0:
		return errManifestRun
	case m.Number > MaxNumber:
		return errManifestNumber
	case m.Payload%packetSize != 0 || m.Payload < 0:
		return errManifestPayload
	case m.Rows == 0 && (m.Payload != 0 || m.ShardLen != 0), m.Rows != 0 && m.Payload == 0,
		m.ShardLen > MaxShard, m.Payload > MaxPayload, m.ShardLen != shardLen(m.Payload, m.Data, m.Rows):
		return errManifestShardLen
	case m.Preamble > m.Payload || m.Preamble > MaxPreamble || m.Preamble%packetSize != 0:
		return errManifestPreamble
	case m.Preamble > 0 && !rap:
		return errManifestNoRAP
	case rap != (m.SinceRAP == 0), m.SinceRAP != NoRAP && m.SinceRAP > uint32(m.Number):
		return errManifestSince
	}
	return nil
}

// Why a manifest is refused; made once, so that refusing allocates nothing.
var (
	errManifestType     = fmt.Errorf("%w: not a manifest of version %d", ErrType, version)
	errManifestEncoding = fmt.Errorf("%w: payload encoding is not 0", ErrType)
	errManifestMatrix   = fmt.Errorf("%w: FEC matrix is not 0", ErrType)
	errManifestLength   = fmt.Errorf("%w: a manifest has 160 + 256·j bytes", ErrShort)
	errManifestData     = fmt.Errorf("%w: D is not 4 to 15", ErrInvalid)
	errManifestRows     = fmt.Errorf("%w: j is above 4", ErrInvalid)
	errManifestRun      = fmt.Errorf("%w: run 0", ErrInvalid)
	errManifestNumber   = fmt.Errorf("%w: block number too great", ErrInvalid)
	errManifestPayload  = fmt.Errorf("%w: payload is not whole packets", ErrInvalid)
	errManifestShardLen = fmt.Errorf("%w: shard length is not ⌈payload ÷ (D·j)⌉ or above 1200", ErrInvalid)
	errManifestPreamble = fmt.Errorf("%w: preamble is not 0 to 24 packets of the payload", ErrInvalid)
	errManifestNoRAP    = fmt.Errorf("%w: preamble without a random access point", ErrInvalid)
	errManifestSince    = fmt.Errorf("%w: blocks since the last random access point against flag or number", ErrInvalid)
)

// shardLen is L = ⌈payload ÷ (D·j)⌉.
func shardLen(payload, d, j int) int {
	if j == 0 {
		return 0
	}
	return (payload + d*j - 1) / (d * j)
}

// AppendManifest appends the manifest datagram of m, signed with key. hashes
// are those of all shards, back to back: 16·j·HashSize bytes; they may lie in
// dst's spare room where the datagram will have them. Tag is taken from m. It
// panics on hashes of another length and does not check the fields.
func AppendManifest(dst []byte, m *Manifest, hashes []byte, key channel.Key) []byte {
	if len(hashes) != m.Shards()*HashSize {
		panic("block: AppendManifest: wrong number of hashes")
	}
	start := len(dst)
	var h [manifestFixed]byte
	be := binary.BigEndian
	h[0], h[1], h[2], h[3] = TypeManifest, version, byte(m.Kind), byte(m.Flags)
	be.PutUint32(h[4:], m.Tag)
	be.PutUint64(h[8:], uint64(m.Run))
	be.PutUint32(h[16:], uint32(m.Number))
	be.PutUint32(h[20:], m.SinceRAP)
	be.PutUint64(h[24:], uint64(m.Created.UnixMicro()))
	be.PutUint32(h[32:], uint32(m.Duration/time.Microsecond))
	be.PutUint32(h[36:], uint32(m.Payload))
	be.PutUint16(h[40:], uint16(m.Preamble))
	be.PutUint16(h[42:], uint16(m.ShardLen))
	h[44], h[45], h[46], h[47] = byte(m.Data), byte(m.Rows), m.Encoding, m.Matrix
	be.PutUint32(h[48:], m.KeyEpoch)
	copy(h[52:], m.Prev[:])
	be.PutUint64(h[68:], m.Packets)
	dst = append(append(dst, h[:]...), hashes...)
	return append(dst, key.Sign(signContext, dst[start:])...)
}
