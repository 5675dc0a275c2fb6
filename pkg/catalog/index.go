package catalog

import (
	"cmp"
	"slices"
	"sort"
)

// key is what elements of an index are ordered by first: two numbers, or 16 bytes of a text, big-endian and padded with zeros. Comparing
// them needs no look at the entries, which are all over the memory.
type key struct{ hi, lo uint64 }

const keySize = 16

// pack makes a key of the first 16 bytes of s, padded with pad.
func pack(s string, pad byte) (k key) {
	var b [keySize]byte
	for i := copy(b[:], s); i < keySize; i++ {
		b[i] = pad
	}
	for i := range 8 {
		k.hi = k.hi<<8 | uint64(b[i])
		k.lo = k.lo<<8 | uint64(b[8+i])
	}
	return k
}

func (k key) compare(l key) int {
	if k.hi != l.hi {
		return cmp.Compare(k.hi, l.hi)
	}
	return cmp.Compare(k.lo, l.lo)
}

// element of an index: a key, and a slot or what has one in it.
type element struct {
	key
	ref uint32
}

func (e element) compare(f element) int {
	if order := e.key.compare(f.key); order != 0 {
		return order
	}
	return cmp.Compare(e.ref, f.ref)
}

// runMax is how many elements a run has. An insertion moves half a run and, once in hundreds, half of the lists of runs: for two million
// elements both take less than finding the place.
const runMax = 512

// index is a set of elements in the order of cmp, as runs of up to runMax: a B-tree of two levels. It is never sorted as a whole, so no
// change and no reading of it takes long. No run is empty.
type index struct {
	cmp  func(a, b element) int
	runs [][]element
	lows []element // the first of each run, so that a search reads one only
	n    int
}

// search is the place of the first element for which f is true, in run i at j; f is true for all that follow.
func (x *index) search(f func(element) bool) (i, j int) {
	i = sort.Search(len(x.lows), func(k int) bool { return f(x.lows[k]) })
	if i > 0 {
		run := x.runs[i-1]
		if j = sort.Search(len(run), func(k int) bool { return f(run[k]) }); j < len(run) {
			return i - 1, j
		}
	}
	return i, 0
}

func (x *index) place(e element) (i, j int, found bool) {
	i, j = x.search(func(f element) bool { return x.cmp(f, e) >= 0 })
	return i, j, i < len(x.runs) && x.runs[i][j] == e
}

// insert adds e, unless it is there.
func (x *index) insert(e element) {
	i, j, found := x.place(e)
	if found {
		return
	}
	x.n++
	if j == 0 && i > 0 && len(x.runs[i-1]) < runMax || i == len(x.runs) && i > 0 {
		i-- // at the end of the run before
		j = len(x.runs[i])
	}
	switch {
	case i == len(x.runs) || i == len(x.runs)-1 && j == runMax: // what only ever grows at its end has full runs
		x.runs = append(x.runs, []element{e})
		x.lows = append(x.lows, e)
		return
	case len(x.runs[i]) == runMax:
		const half = runMax / 2
		right := append(make([]element, 0, runMax), x.runs[i][half:]...)
		x.runs[i] = x.runs[i][:half]
		x.runs = slices.Insert(x.runs, i+1, right)
		x.lows = slices.Insert(x.lows, i+1, right[0])
		if j > half {
			i, j = i+1, j-half
		}
	}
	x.runs[i] = slices.Insert(x.runs[i], j, e)
	x.lows[i] = x.runs[i][0]
}

// remove takes e out, if it is there.
func (x *index) remove(e element) {
	i, j, found := x.place(e)
	if !found {
		return
	}
	x.n--
	x.runs[i] = slices.Delete(x.runs[i], j, j+1)
	if len(x.runs[i]) == 0 {
		x.drop(i)
		return
	}
	x.lows[i] = x.runs[i][0]
	if !x.join(i) && i > 0 {
		x.join(i - 1)
	}
}

// join makes one run of i and the next where both have few elements.
func (x *index) join(i int) bool {
	if i+1 >= len(x.runs) || len(x.runs[i])+len(x.runs[i+1]) > runMax/2 {
		return false
	}
	x.runs[i] = append(x.runs[i], x.runs[i+1]...)
	x.drop(i + 1)
	return true
}

func (x *index) drop(i int) {
	x.runs = slices.Delete(x.runs, i, i+1)
	x.lows = slices.Delete(x.lows, i, i+1)
}

// rank is how many elements come before those for which f is true.
func (x *index) rank(f func(element) bool) int {
	i, j := x.search(f)
	for _, run := range x.runs[:i] {
		j += len(run)
	}
	return j
}

// from calls yield for all elements for which f is true, in order, until it returns false.
func (x *index) from(f func(element) bool, yield func(element) bool) {
	i, j := x.search(f)
	x.walk(i, j, yield)
}

// at calls yield for all elements from the nth on, until it returns false.
func (x *index) at(n int, yield func(element) bool) {
	i := 0
	for i < len(x.runs) && n >= len(x.runs[i]) {
		n -= len(x.runs[i])
		i++
	}
	x.walk(i, n, yield)
}

func (x *index) walk(i, j int, yield func(element) bool) {
	for ; i < len(x.runs); i, j = i+1, 0 {
		for _, e := range x.runs[i][j:] {
			if !yield(e) {
				return
			}
		}
	}
}
