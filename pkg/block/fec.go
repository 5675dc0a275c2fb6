package block

import (
	"sync"

	"github.com/klauspost/reedsolomon"
)

// code is the Reed-Solomon code of one (D, j): FEC matrix 0 of docs/protocol.md
// section 2. It is immutable and safe for concurrent use.
type code struct {
	data   int // N = D·j
	parity int // (16−D)·j
	enc    reedsolomon.Encoder
	rows   [][]byte // the parity rows of the matrix: parity × N
}

var (
	codes     [MaxData + 1][MaxRows + 1]*code
	codesOnce [MaxData + 1][MaxRows + 1]sync.Once
)

// codeOf makes each code once: that costs up to a millisecond.
func codeOf(d, j int) *code {
	codesOnce[d][j].Do(func() { codes[d][j] = newCode(d*j, (Stripes-d)*j) })
	return codes[d][j]
}

func newCode(data, parity int) *code {
	// One goroutine: a block is too small to share out, and relays want one
	// core each. No inversion cache: the library keeps a matrix for every
	// pattern of loss ever seen, without bound, and ours never asks it to invert.
	enc, err := reedsolomon.New(data, parity, reedsolomon.WithMaxGoroutines(1), reedsolomon.WithInversionCache(false))
	if err != nil {
		panic("block: " + err.Error()) // D and j are in range
	}
	c := &code{data: data, parity: parity, enc: enc}
	// Encoding the identity gives the parity rows.
	shards := make([][]byte, data+parity)
	for i := range shards {
		shards[i] = make([]byte, data)
		if i < data {
			shards[i][i] = 1
		}
	}
	if err := enc.Encode(shards); err != nil {
		panic("block: " + err.Error())
	}
	c.rows = shards[data:]
	return c
}

// encode makes the parity shards, shards[data:], from shards[:data].
// All are of one length, which is not zero.
func (c *code) encode(shards [][]byte) {
	if err := c.enc.Encode(shards); err != nil {
		panic("block: " + err.Error()) // lengths and counts are ours
	}
}

// fecWork is the scratch space of one decode.
type fecWork struct {
	shards [MaxShards][]byte          // in the code's order: data, then parity
	spare  [MaxShards * MaxShard]byte // syndromes, unwanted parity
	coef   [MaxShards / 2][MaxShards / 2]byte
	lost   [MaxShards / 2]int // data shards to be made
	used   [MaxShards / 2]int // parity shards to make them from
}

var fecPool = sync.Pool{New: func() any { return new(fecWork) }}

var zeroShard [MaxShard]byte

// decode makes the lost data shards. have has a bit for each shard in the
// code's order; get returns the memory of a shard, present or to be filled.
// At least N bits of have must be set.
//
// With the lost data taken as zero, parity encoded anew differs from the parity
// received by the syndrome S = A·x, where x is the lost data and A the part of
// the matrix in the rows of the parity used and the columns of the data lost.
// So only a k × k system is solved, k the number of lost data shards, where
// inverting the whole N × N matrix would cost more than the multiplication.
// Every square part of the parity rows is regular, since any N rows of the
// systematic matrix are, so the elimination needs no pivoting.
func (c *code) decode(w *fecWork, have uint64, l int, get func(i int) []byte) {
	k := 0
	for i := range c.data {
		if have>>i&1 == 1 {
			w.shards[i] = get(i)
		} else {
			w.shards[i] = zeroShard[:l]
			w.lost[k] = i
			k++
		}
	}
	if k == 0 {
		return
	}
	n := 0
	for i := range c.parity {
		w.shards[c.data+i] = w.spare[i*l : (i+1)*l : (i+1)*l]
		if n < k && have>>(c.data+i)&1 == 1 {
			w.used[n] = i
			n++
		}
	}
	if n < k {
		panic("block: decode with too few shards")
	}
	c.encode(w.shards[:c.data+c.parity])

	var gf reedsolomon.LowLevel
	for i := range k {
		x := get(w.lost[i])
		copy(x, get(c.data+w.used[i]))
		gf.GalMulSliceXor(1, w.shards[c.data+w.used[i]], x) // the syndrome, where the answer will be
		w.shards[w.lost[i]] = x
		row := c.rows[w.used[i]]
		for j := range k {
			w.coef[i][j] = row[w.lost[j]]
		}
	}
	for p := range k {
		a := w.coef[p][:k]
		x := w.shards[w.lost[p]]
		if s := reedsolomon.Inv(a[p]); s != 1 {
			gf.GalMulSlice(s, a[p:], a[p:])
			gf.GalMulSlice(s, x, x)
		}
		for r := range k {
			if s := w.coef[r][p]; r != p && s != 0 {
				gf.GalMulSliceXor(s, a[p:], w.coef[r][p:k])
				gf.GalMulSliceXor(s, x, w.shards[w.lost[r]])
			}
		}
	}
}
