package swarm

import (
	"bytes"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/testcard"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/ts"
)

// taped is a tape of some blocks of 40 packets, of which every fourth begins with a random access point's preamble.
func taped(blocks int) *tape {
	const per = 40
	t := newTape(2_000_000, time.Minute)
	card := testcard.New(t.rate, rapEvery)
	groups := blocks * per / groupPackets
	card.Append(t.packets[:0], groups*groupPackets)
	t.groups.Store(uint64(groups))
	for i := range groups * groupPackets / per {
		t.blocks = append(t.blocks, Block{Number: block.Number(i), Created: time.Duration(i) * 100 * time.Millisecond, Duration: 100 * time.Millisecond, First: uint64(i * per), Packets: per, RAP: i == 0})
	}
	return t
}

func (t *tape) span(from, to int) []byte {
	return t.packets[t.blocks[from].First*ts.PacketSize : (t.blocks[to-1].First+uint64(t.blocks[to-1].Packets))*ts.PacketSize]
}

// preamble is a PAT and a PMT with other continuity counters than the stream's.
func (t *tape) preamble() []byte {
	b := bytes.Clone(t.packets[:2*ts.PacketSize])
	b[3], b[ts.PacketSize+3] = b[3]^5, b[ts.PacketSize+3]^5
	return b
}

func judged(t *tape, pieces ...[]byte) *judge {
	j := newJudge(t)
	all := bytes.Join(pieces, nil)
	for n := 1; len(all) > 0; n = n%1000 + 37 { // cut anyhow
		n = min(n, len(all))
		j.read(all[:n], time.Second)
		all = all[n:]
	}
	return j
}

func (j *judge) numbers() (n []int) {
	for i := range j.written {
		if j.written[i] > 0 {
			n = append(n, i)
		}
	}
	return n
}

func TestJudge(t *testing.T) {
	tape := taped(20)
	flipped := bytes.Clone(tape.span(3, 4))
	flipped[7*ts.PacketSize+100] ^= 1
	swapped := bytes.Clone(tape.span(3, 4))
	a, b := swapped[10*ts.PacketSize:11*ts.PacketSize], swapped[11*ts.PacketSize:12*ts.PacketSize]
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
	table := tape.preamble()
	table[9] ^= 1
	mark := ts.AppendDiscontinuity(nil, tape.span(7, 8), testcard.VideoPID)
	for _, c := range []struct {
		name   string
		output []byte
		want   []int
		wrong  bool
	}{
		{"from the beginning", bytes.Join([][]byte{tape.preamble(), tape.span(0, 3)}, nil), []int{0, 1, 2}, false},
		{"from a later block", bytes.Join([][]byte{tape.preamble(), tape.span(5, 8)}, nil), []int{5, 6, 7}, false},
		{"a block is left out", bytes.Join([][]byte{tape.preamble(), tape.span(0, 2), tape.span(3, 5)}, nil), []int{0, 1, 3, 4}, false},
		{"it begins anew", bytes.Join([][]byte{tape.preamble(), tape.span(0, 2), mark, tape.preamble(), tape.span(7, 9)}, nil), []int{0, 1, 7, 8}, false},
		{"a bit is wrong", bytes.Join([][]byte{tape.preamble(), tape.span(0, 3), flipped, tape.span(4, 5)}, nil), nil, true},
		{"packets in another order", bytes.Join([][]byte{tape.preamble(), tape.span(0, 3), swapped}, nil), nil, true},
		{"a block twice", bytes.Join([][]byte{tape.preamble(), tape.span(0, 3), tape.span(2, 4)}, nil), nil, true},
		{"half a block", bytes.Join([][]byte{tape.preamble(), tape.span(0, 2), tape.span(3, 4)[10*ts.PacketSize:], tape.span(4, 5)}, nil), nil, true},
		{"a wrong table", bytes.Join([][]byte{table, tape.span(0, 2)}, nil), nil, true},
		{"not a stream", bytes.Repeat([]byte("not a transport stream "), 100), nil, true},
	} {
		j := judged(tape, c.output)
		if (j.errors > 0) != c.wrong {
			t.Errorf("%s: errors: %v", c.name, j.wrong)
		}
		if !c.wrong && !slices.Equal(j.numbers(), c.want) {
			t.Errorf("%s: blocks %v, want %v", c.name, j.numbers(), c.want)
		}
	}
}

func TestJudgeSaysWhatBeganWithoutAPreamble(t *testing.T) {
	tape := taped(20)
	if j := judged(tape, tape.preamble(), tape.span(0, 2)); j.first == 0 || j.headless {
		t.Errorf("first %v, headless %v", j.first, j.headless)
	}
	if j := judged(tape, tape.span(3, 5)); !j.headless {
		t.Error("a viewer that begins anywhere shows no picture")
	}
}

func TestUplinks(t *testing.T) {
	for _, n := range []int{5, 12, 50, 1000} {
		u := Uplinks(n, 2, 1)
		sum, poor := 0.0, 0
		for _, x := range u {
			sum += x
			if x < 0.2 {
				poor++
			}
		}
		if len(u) != n || math.Abs(sum/float64(n)-2) > 1e-9 || math.Abs(float64(poor)-0.2*float64(n)) > 0.51 {
			t.Errorf("%d viewers: %d uplinks, mean %v, %d with nearly nothing", n, len(u), sum/float64(n), poor)
		}
		if slices.Equal(u, Uplinks(n, 2, 2)) && n > 5 {
			t.Error("another seed gives the same order")
		}
	}
}

func TestStratified(t *testing.T) {
	u := Uplinks(50, 2, 3)
	sum, all := 0.0, 0.0
	chosen := Stratified(u, 0.5, 3)
	seen := map[int]bool{}
	for _, i := range chosen {
		sum += u[i]
		seen[i] = true
	}
	for _, x := range u {
		all += x
	}
	if len(chosen) != 25 || len(seen) != 25 || sum < 0.3*all || sum > 0.7*all {
		t.Errorf("%d chosen with %.0f %% of all uplinks", len(seen), 100*sum/all)
	}
}
