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

// lane is what the kernels take at a time: a length that is no multiple of it
// costs half as much again for the few bytes at the end. So they are given
// slices that reach past the shard, into the next one in the buffer, and what
// they make of that is thrown away.
const (
	lane      = 64
	paddedMax = (MaxShard + lane - 1) / lane * lane
)

func padded(l int) int { return (l + lane - 1) / lane * lane }

// maxParity is that of D = MinData; maxLost that of D = Stripes/2.
const (
	maxParity = (Stripes - MinData) * MaxRows
	maxLost   = MaxShards / 2
)

// fecWork is the scratch space of one encode or decode.
type fecWork struct {
	shards [MaxShards][]byte // data, then parity, in the code's order
	spare  [maxParity * paddedMax]byte
	coef   [maxLost][maxLost]byte
	lost   [maxLost]int // data shards to be made
	used   [maxLost]int // parity shards to make them from
}

var fecPool = sync.Pool{New: func() any { return new(fecWork) }}

// free gives w back, without what it pointed at.
func (w *fecWork) free() {
	clear(w.shards[:])
	fecPool.Put(w)
}

var zeroShard [paddedMax]byte

// encode makes the parity shards of the data shards w.shards[:data], each
// padded(l) long, and leaves them behind those, in w's own memory.
func (c *code) encode(w *fecWork, l int) {
	n := padded(l)
	for i := range c.parity {
		w.shards[c.data+i] = w.spare[i*n : (i+1)*n]
	}
	if err := c.enc.Encode(w.shards[:c.data+c.parity]); err != nil {
		panic("block: " + err.Error()) // lengths and counts are ours
	}
}

// decode makes the lost data shards, of which there is at least one, and leaves
// all data shards in w.shards[:data], the lost ones in w's own memory. have has
// a bit for each shard in the code's order, at least N of them set; at returns
// the memory of a shard, padded(l) bytes.
//
// With the lost data taken as zero, parity encoded anew differs from the parity
// received by the syndrome S = A·x, where x is the lost data and A the part of
// the matrix in the rows of the parity used and the columns of the data lost.
// So only a k × k system is solved, k the number of lost data shards, where
// inverting the whole N × N matrix would cost more than the multiplication.
// Every square part of the parity rows is regular, since any N rows of the
// systematic matrix are, so the elimination needs no pivoting.
func (c *code) decode(w *fecWork, have uint64, l int, at func(i int) []byte) {
	k := 0
	for i := range c.data {
		if have>>i&1 == 1 {
			w.shards[i] = at(i)
		} else {
			w.shards[i] = zeroShard[:padded(l)]
			w.lost[k] = i
			k++
		}
	}
	n := 0
	for i := 0; i < c.parity && n < k; i++ {
		if have>>(c.data+i)&1 == 1 {
			w.used[n] = i
			n++
		}
	}
	if n < k {
		panic("block: decode with too few shards")
	}
	c.encode(w, l)

	var gf reedsolomon.LowLevel
	for i, p := range w.used[:k] {
		x := w.shards[c.data+p]
		gf.GalMulSliceXor(1, at(c.data+p), x)
		w.shards[w.lost[i]] = x // the syndrome, where the answer will be
		for j, d := range w.lost[:k] {
			w.coef[i][j] = c.rows[p][d]
		}
	}
	for p := range k {
		a := w.coef[p][p:k]
		x := w.shards[w.lost[p]]
		if s := reedsolomon.Inv(a[0]); s != 1 {
			gf.GalMulSlice(s, a, a)
			gf.GalMulSlice(s, x, x)
		}
		for r := range k {
			if s := w.coef[r][p]; r != p && s != 0 {
				gf.GalMulSliceXor(s, a, w.coef[r][p:k])
				gf.GalMulSliceXor(s, x, w.shards[w.lost[r]])
			}
		}
	}
}
