// Package world is a network of thousands of the mesh's own engines in one
// process, in virtual time (docs/simulator.md).
//
// A run is decided by its options alone: who joins when, with what uplink and
// where on the map, is drawn before it begins, and every chance in it is drawn
// from dice of the node that meets it. Nodes concern each other only by
// datagrams, all of which take at least the least delay of the map; so time is
// cut into windows of that length, in which nodes are run one by one, each with
// all that comes to it in the window, in the order of time, sender and number.
// How many threads share the nodes out, and which node is run before which, can
// change nothing.
package world

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
)

// epoch is the UTC time at the start of a run.
var epoch = time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)

// World is a run.
type World struct {
	*plan
	window  time.Duration
	nodes   []node
	workers []*worker
	vault   *block.Vault // nil only in a test
	station *station
	traced  uint32
}

// Debug says what else a run tells of itself.
type Debug struct {
	// Trace, if not nil, gets a line for every control message and event of
	// one node, and Node is which: 0 is the source, others in the order of
	// their joins.
	Trace io.Writer
	Node  int
	// Progress, if not nil, is called each simulated second.
	Progress func(now, until time.Duration)
	// Dump, if not nil, is called with every live engine at each of DumpAt:
	// for what an engine tells of itself in a debugger's words.
	Dump   func(now time.Duration, node int, engine Engine)
	DumpAt []time.Duration
}

// worker runs the nodes whose number modulo the number of workers is its own.
type worker struct {
	w     *World
	index int
	// in has the datagrams that come in a window, at its number modulo the
	// length, by the worker that sent them.
	in     [][][]event
	number int64 // of the window
	now    Time

	head     []int32 // of each of its nodes: its first datagram in the window
	next     []int32
	refs     []*event
	arrivals []*event // of the node that runs, in order
	inbox    []event  // likewise, behind its downlink
	datagram [2048]byte
	memory   []byte // the rest of a slab
	payload  []byte // of the block that is looked at

	sum     totals
	sec     second   // of the second that now is in
	seconds []second // by second
	trace   *tracer
}

// New draws a world. Nodes are shared out to threads threads.
func New(o Options, threads int, debug Debug) (*World, error) {
	p, err := newPlan(o)
	if err != nil {
		return nil, err
	}
	w := &World{plan: p, window: p.leastDelay(), vault: new(block.Vault), traced: ^uint32(0)}
	if w.window%p.Grain != 0 {
		return nil, fmt.Errorf("the grain must divide %v", w.window)
	}
	w.station = newStation(p)
	w.nodes = make([]node, len(p.peers))
	slowest := p.peers[0].uplink
	for i := range w.nodes {
		n := &w.nodes[i]
		*n = node{w: w, peer: &p.peers[i], id: uint32(i), nature: p.peers[i].nature, due: Never, plan: p.peers[i].join, started: Never}
		slowest = min(slowest, n.peer.uplink)
	}
	// How far ahead of now a datagram can come.
	ahead := p.Queue + p.Jitter + time.Duration((farthest+1)*float64(time.Millisecond)) + time.Duration(1400*8/slowest*float64(time.Second))
	for i := range max(1, min(threads, len(w.nodes))) {
		w.workers = append(w.workers, &worker{w: w, index: i, in: make([][][]event, ahead/w.window+3)})
	}
	for _, k := range w.workers {
		for i := range k.in {
			k.in[i] = make([][]event, len(w.workers))
		}
		k.seconds = make([]second, int(p.until/time.Second)+2)
	}
	for i := range w.nodes {
		k := w.workers[i%len(w.workers)]
		w.nodes[i].worker = k
		k.head = append(k.head, -1)
	}
	if debug.Trace != nil {
		if debug.Node < 0 || debug.Node >= len(w.nodes) {
			return nil, fmt.Errorf("there is no node %d: 0 is the source, %d the last viewer", debug.Node, len(w.nodes)-1)
		}
		w.traced = uint32(debug.Node)
		w.nodes[debug.Node].worker.trace = &tracer{out: debug.Trace}
	}
	return w, nil
}

// Run runs the world to its end.
func (w *World) Run(debug Debug) *Result {
	windows := int64(w.until / w.window)
	said := Time(-1)
	starts := make([]chan int64, len(w.workers))
	var group, threads sync.WaitGroup
	for i, k := range w.workers {
		starts[i] = make(chan int64, 1)
		threads.Go(func() {
			for number := range starts[i] {
				k.run(number)
				group.Done()
			}
		})
	}
	dumps := slices.Sorted(slices.Values(debug.DumpAt))
	for number := range windows {
		now := Time(number) * w.window
		if debug.Progress != nil && now/time.Second > said/time.Second {
			said = now
			debug.Progress(now, w.until)
		}
		for len(dumps) > 0 && dumps[0] <= now {
			w.dump(now, debug.Dump)
			dumps = dumps[1:]
		}
		group.Add(len(starts))
		for _, s := range starts {
			s <- number
		}
		group.Wait()
	}
	for _, s := range starts {
		close(s)
	}
	threads.Wait()
	return w.result()
}

// run lets all that happens in a window happen to the worker's nodes.
func (k *worker) run(number int64) {
	w := k.w
	k.number = number
	start := Time(number) * w.window
	end := start + w.window
	k.now = start
	k.sec = second{}
	in := k.in[number%int64(len(k.in))]
	k.next, k.refs = k.next[:0], k.refs[:0]
	threads := uint32(len(w.workers))
	for s := range in {
		for i := range in[s] {
			e := &in[s][i]
			l := e.to / threads
			k.next = append(k.next, k.head[l])
			k.refs = append(k.refs, e)
			k.head[l] = int32(len(k.refs) - 1)
		}
	}
	local := 0
	for i := k.index; i < len(w.nodes); i += len(w.workers) {
		n := &w.nodes[i]
		head := k.head[local]
		k.head[local] = -1
		local++
		if head < 0 && n.due >= end && n.plan >= end && len(n.inbox) == 0 || n.state == gone {
			continue
		}
		k.arrivals = k.arrivals[:0]
		for ; head >= 0; head = k.next[head] {
			k.arrivals = append(k.arrivals, k.refs[head])
		}
		if len(k.arrivals) > 1 {
			slices.SortFunc(k.arrivals, compareEvents)
		}
		k.now = start
		n.run(end)
	}
	for s := range in {
		clear(in[s])
		in[s] = in[s][:0]
	}
	k.seconds[start/time.Second].add(&k.sec)
}

// post hands a datagram over to the worker of its receiver.
func (k *worker) post(e *event) {
	w := k.w
	to := w.workers[e.to%uint32(len(w.workers))]
	number := int64(e.at / w.window)
	if number <= k.number || number >= k.number+int64(len(to.in)) {
		panic(fmt.Sprintf("world: a datagram sent at %v comes at %v", k.now, e.at))
	}
	slot := &to.in[number%int64(len(to.in))][k.index]
	*slot = append(*slot, *e)
}

const slabSize = 64 << 10

// slab is memory for a datagram that nobody else keeps.
func (k *worker) slab(n int) []byte {
	if len(k.memory) < n {
		k.memory = make([]byte, slabSize)
	}
	b := k.memory[:0:n]
	k.memory = k.memory[n:]
	return b
}

// station makes the channel's blocks. Only the source's worker calls it.
type station struct {
	key    channel.Key
	enc    *block.Encoder
	plan   *plan
	random *rand.ChaCha8
	gop    int
	buf    []byte
	// payloads are of the blocks made so far: others read those of windows
	// before their own.
	payloads [][]byte
}

func newStation(p *plan) *station {
	s := &station{plan: p, gop: max(1, int(2*time.Second/p.every)), payloads: make([][]byte, len(p.made))}
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], p.Seed)
	s.key = channel.KeyFromSeed(seed)
	s.random = rand.NewChaCha8(seed)
	enc, err := block.NewEncoder(block.EncoderConfig{Key: s.key, Run: block.NewRun(epoch.Add(feedFrom), 1)})
	if err != nil {
		panic("world: " + err.Error()) // nothing of it comes from outside
	}
	s.enc = enc
	return s
}

// next is the next block as datagrams, good until the call after.
func (s *station) next(number int, made Time) (datagrams [][]byte) {
	payload := make([]byte, s.plan.packets*188)
	s.random.Read(payload)
	s.payloads[number] = payload
	f := block.Fields{Created: epoch.Add(made), Duration: s.plan.every}
	if number%s.gop == 0 {
		f.Flags |= block.RAP
	}
	var err error
	if s.buf, err = s.enc.Encode(s.buf[:0], payload, f); err != nil {
		panic("world: " + err.Error())
	}
	for b := s.buf; len(b) > 0; {
		n := int(binary.BigEndian.Uint16(b[4:]))
		datagrams = append(datagrams, b[block.RecordHeader:block.RecordHeader+n])
		b = b[block.RecordHeader+n:]
	}
	return datagrams
}
