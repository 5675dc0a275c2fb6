package block

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sixcast/sixcast/pkg/channel"
)

// Vault is memory that the blocks of many nodes in one process share: every
// signed manifest and verified shard is kept once, and what one node has
// verified costs the next a comparison of bytes instead of a signature, a hash
// or a reconstruction. Only the cost changes: what is not what the channel
// signed fails as it does without a vault.
//
// A Vault forgets nothing; it is for simulations, which end. It is safe for
// concurrent use by the blocks of different goroutines. All methods work on a
// nil Vault, which keeps nothing.
type Vault struct {
	mu     sync.RWMutex
	blocks map[Name]*kept // the first manifest verified under each name
}

// kept is one block in a vault. Shards with their bit in present do not
// change; the others are written under mu.
type kept struct {
	man    Manifest // of memory of its own
	signer channel.ID

	mu      sync.Mutex
	present atomic.Uint64
	whole   atomic.Bool // all shards are present, and are a code word
	stride  int
	buf     [2][]byte // the shard datagrams as the source sent them, and flagged regenerated
}

// NewBlock makes an empty block that refers to the vault's memory.
func (v *Vault) NewBlock() *Block { return &Block{vault: v} }

// Verify tells, as m.Verify does, whether the channel signed the manifest.
func (v *Vault) Verify(m *Manifest, id channel.ID) bool {
	if v == nil {
		return m.Verify(id)
	}
	if k := v.find(m); k != nil && k.signer == id {
		return true
	}
	if !m.Verify(id) {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.blocks == nil {
		v.blocks = make(map[Name]*kept)
	}
	if v.blocks[m.Name] == nil {
		v.blocks[m.Name] = newKept(m, id)
	}
	return true
}

// find is what the vault has of the block with exactly this manifest; nil if
// nothing.
func (v *Vault) find(m *Manifest) *kept {
	if v == nil {
		return nil
	}
	v.mu.RLock()
	k := v.blocks[m.Name]
	v.mu.RUnlock()
	if k == nil || !bytes.Equal(k.man.raw, m.raw) {
		return nil
	}
	return k
}

func newKept(m *Manifest, id channel.ID) *kept {
	k := &kept{signer: id, stride: ShardHeader + m.ShardLen}
	k.man, _ = DecodeManifest(slices.Clone(m.raw))
	for i := range k.buf {
		k.buf[i] = make([]byte, m.Shards()*k.stride+lane)
	}
	return k
}

// payload is where the bytes of a shard are.
func (k *kept) payload(index int) []byte {
	return k.buf[0][index*k.stride+ShardHeader : (index+1)*k.stride]
}

// add verifies a shard, and keeps it if it is new.
func (k *kept) add(index int, payload []byte) bool {
	if k.present.Load()>>index&1 == 1 {
		return bytes.Equal(k.payload(index), payload)
	}
	if HashShard(payload) != [HashSize]byte(k.man.Hash(index)) {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.put(index, payload)
	return true
}

// put keeps a verified shard. k.mu is held.
func (k *kept) put(index int, payload []byte) {
	if k.present.Load()>>index&1 == 1 {
		return
	}
	for flags := range k.buf {
		d := k.buf[flags][index*k.stride : (index+1)*k.stride]
		putShardHeader(d, k.man.Name, k.man.Tag, index, byte(flags))
		copy(d[ShardHeader:], payload)
	}
	if k.present.Or(1<<index)|1<<index == k.man.AllMask() {
		k.whole.Store(k.isCodeWord())
	}
}

// isCodeWord tells whether the parity is that of the data. k.mu is held, and
// all shards are present.
func (k *kept) isCodeWord() bool {
	w := fecPool.Get().(*fecWork)
	defer w.free()
	c := codeOf(k.man.Data, k.man.Rows)
	for i := range c.data {
		w.shards[i] = k.padded(i)
	}
	c.encode(w, k.man.ShardLen)
	for i := c.data; i < c.data+c.parity; i++ {
		if !bytes.Equal(w.shards[i][:k.man.ShardLen], k.payload(indexOf(k.man.Data, k.man.Rows, i))) {
			return false
		}
	}
	return true
}

// padded is as Block.padded. k.mu is held.
func (k *kept) padded(i int) []byte {
	o := indexOf(k.man.Data, k.man.Rows, i)*k.stride + ShardHeader
	return k.buf[0][o : o+padded(k.man.ShardLen)]
}

// reconstructKept is ReconstructSome of a decodable block in a vault: there is
// something to make, and once all of it is known to be one code word nothing
// has to be computed.
func (b *Block) reconstructKept(want uint64) (made uint64, err error) {
	k := b.kept
	made = (want&b.man.AllMask() | b.man.DataMask()) &^ b.have
	if !k.whole.Load() {
		// As without a vault, in memory of its own.
		alone := new(Block)
		if err := alone.Reset(b.man.raw); err != nil {
			return 0, err
		}
		for i := range b.man.Shards() {
			if b.have>>i&1 == 1 {
				copy(alone.slot(i), b.slot(i))
			}
		}
		alone.have = b.have
		if made, err = alone.ReconstructSome(want); err != nil {
			b.forged = alone.forged
			return 0, err
		}
		k.mu.Lock()
		for i := range b.man.Shards() {
			if made>>i&1 == 1 {
				k.put(i, alone.slot(i)[ShardHeader:])
			}
		}
		k.mu.Unlock()
	}
	b.have |= made
	b.made |= made
	return made, nil
}
