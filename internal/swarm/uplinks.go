package swarm

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// classes are the uplinks of homes, in multiples of the stream before they are scaled: a fifth has next to nothing, few have
// very much.
var classes = []struct{ share, uplink float64 }{{0.20, 0.15}, {0.30, 1}, {0.30, 2}, {0.15, 5}, {0.05, 25}}

// Uplinks are those of n viewers, in multiples of the stream: as many of each class as its share (so that luck does not
// decide how rich a small swarm is), scaled to a mean, in an order that the seed decides.
func Uplinks(n int, mean float64, seed uint64) []float64 {
	all := make([]float64, 0, n)
	given, due := 0, 0.0
	for _, c := range classes {
		due += c.share * float64(n)
		for given < int(math.Round(due)) {
			all = append(all, c.uplink)
			given++
		}
	}
	sum := 0.0
	for _, u := range all {
		sum += u
	}
	for i := range all {
		all[i] *= mean * float64(n) / sum
	}
	rand.New(rand.NewPCG(seed, 0x75706c)).Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// Stratified chooses a share of n things, spread over what their keys order: half of all viewers by uplink is half of the
// rich and half of the poor.
func Stratified(keys []float64, share float64, seed uint64) (chosen []int) {
	n, want := len(keys), int(math.Round(share*float64(len(keys))))
	r := rand.New(rand.NewPCG(seed, 0x737472))
	order := r.Perm(n)
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(keys[i], keys[j]) })
	start := r.Float64()
	for k := range want {
		chosen = append(chosen, order[int((float64(k)+start)*float64(n)/float64(want))])
	}
	return chosen
}
