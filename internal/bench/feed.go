//go:build linux

package main

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sixcast/sixcast/internal/testcard"
	"github.com/sixcast/sixcast/pkg/ts"
)

// groupPackets is how many packets leave together: a usual UDP datagram.
const groupPackets = 7

// A feeder sends the stream at its own pace to any number of takers at once, and remembers when each packet left.
type feeder struct {
	rate   ts.BitRate
	begun  time.Time
	takers []func(group []byte) // 7 packets, valid during the call

	sent   []atomic.Int64 // by number / 7: when, after begun
	groups atomic.Uint64
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

// feed begins a stream that may last as long as longest.
func (b *bench) feed(rate ts.BitRate, longest time.Duration, takers ...func([]byte)) *feeder {
	n := int(longest/testcard.Due(rate, groupPackets)) + 1
	f := &feeder{rate: rate, begun: time.Now(), takers: takers, sent: make([]atomic.Int64, n)}
	var ctx context.Context
	ctx, f.stop = context.WithCancel(b.ctx)
	f.ended.Go(func() { f.run(ctx) })
	return f
}

func (f *feeder) run(ctx context.Context) {
	s := testcard.New(f.rate, streamEvery)
	var buf []byte
	for k := range f.sent {
		at := testcard.Due(f.rate, s.Number())
		buf = s.Append(buf[:0], groupPackets)
		if wait := at - time.Since(f.begun); wait > 0 {
			if sleep(ctx, wait) != nil {
				return
			}
		}
		if ctx.Err() != nil {
			return
		}
		f.sent[k].Store(int64(time.Since(f.begun)))
		f.groups.Store(uint64(k + 1))
		for _, take := range f.takers {
			take(buf)
		}
	}
}

// next is the number of the first packet that has not left.
func (f *feeder) next() uint64 { return f.groups.Load() * groupPackets }

// age of a packet that comes at a time.
func (f *feeder) age(number uint64, at time.Time) (time.Duration, bool) {
	k := number / groupPackets
	if k >= f.groups.Load() {
		return 0, false
	}
	return at.Sub(f.begun) - time.Duration(f.sent[k].Load()), true
}

// close ends the stream and waits.
func (f *feeder) close() {
	f.stop()
	f.ended.Wait()
}

// toPipe hands groups to a writer on a goroutine of its own, so that one that does not read does not stop the others.
func toPipe(w io.WriteCloser) (take func([]byte), done func()) {
	ch := make(chan []byte, 1024)
	var g sync.WaitGroup
	g.Go(func() {
		defer w.Close()
		for b := range ch {
			if _, err := w.Write(b); err != nil {
				for range ch { // nobody reads any more
				}
				return
			}
		}
	})
	return func(b []byte) {
			select {
			case ch <- append([]byte(nil), b...):
			default: // it has not read for a second
			}
		}, func() {
			close(ch)
			g.Wait()
		}
}

// A collector takes the stream at the other end. It judges the packets whose numbers are in [from, to).
type collector struct {
	mu       sync.Mutex
	feeder   *feeder
	sync     ts.Sync
	buf      []byte
	from, to uint64
	first    time.Time // when the first packet of all came
	came     uint64    // packets of the window, once each
	seen     []bool
	ages     []time.Duration // of these
	cc       *ts.Continuity
}

func newCollector() *collector { return &collector{cc: ts.NewContinuity(), to: 0} }

// window says what counts, before any of it has been sent.
func (c *collector) window(f *feeder, from, to uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feeder, c.from, c.to = f, from, to
	c.seen = make([]bool, to-from)
	c.came, c.ages, c.cc = 0, nil, ts.NewContinuity()
}

// Write takes what came, cut anyhow.
func (c *collector) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.buf = c.sync.Append(c.buf[:0], b)
	if len(b)%ts.PacketSize == 0 && b[0] == ts.SyncByte {
		c.buf = c.sync.Flush(c.buf)
	}
	for p := c.buf; len(p) >= ts.PacketSize; p = p[ts.PacketSize:] {
		c.packet(ts.Packet(p[:ts.PacketSize]), now)
	}
	return len(b), nil
}

func (c *collector) packet(p ts.Packet, now time.Time) {
	number, ok := testcard.NumberOf(p)
	if !ok {
		return
	}
	if c.first.IsZero() {
		c.first = now
	}
	if number < c.from || number >= c.to {
		return
	}
	c.cc.Observe(p)
	if i := number - c.from; !c.seen[i] {
		c.seen[i] = true
		c.came++
		if age, ok := c.feeder.age(number, now); ok {
			c.ages = append(c.ages, age)
		}
	}
}

// started reports whether anything has come.
func (c *collector) started() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.first.IsZero()
}

// verdict is what became of the window.
type verdict struct {
	errors   uint64 // continuity errors
	lost     uint64 // packets
	p50, p99 time.Duration
	most     time.Duration
}

func (c *collector) verdict() verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	want := uint64(0)
	for n := c.from; n < c.to; n++ {
		if n%testcard.TablesEvery > 1 {
			want++
		}
	}
	return verdict{errors: c.cc.Total().Errors, lost: want - c.came, p50: quantile(c.ages, 0.5), p99: quantile(c.ages, 0.99), most: quantile(c.ages, 1)}
}
