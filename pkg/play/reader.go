package play

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
)

// Defaults of a Reader.
const (
	DefaultReaderBytes = 64 << 20
	DefaultReaderAge   = 15 * time.Second // more than a player lags that starts with a long backlog: GOPs of 10 s are common
)

// Limits bound what a Reader holds for a consumer that does not keep up.
type Limits struct {
	// Bytes of payload held at the most; 0 means DefaultReaderBytes.
	Bytes int
	// Age is how long a unit may wait before the reader goes on at the
	// newest random access point, if there is one. 0 means DefaultReaderAge,
	// negative no limit.
	Age time.Duration
}

// ReaderStats tell how a consumer keeps up.
type ReaderStats struct {
	Held      int           // units that wait
	HeldBytes int           // and their payload
	Age       time.Duration // of the oldest of them
	Overflows uint64        // times that the consumer was too slow
	Dropped   uint64        // units it missed by that
}

// Reader is the bounded queue of one consumer. The units in it share their
// bytes with those of other readers. A consumer that stops never holds up
// anybody else: the reader goes on at the newest random access point.
type Reader struct {
	limits Limits
	wake   chan struct{} // holds one token when something changed

	mu      sync.Mutex
	queue   []queued
	bytes   int
	begun   bool // something was read or skipped: the next entry is not the first
	skip    bool // everything was dropped: wait for a random access point
	closed  bool
	stats   ReaderStats
	clock   func() time.Time
	onClose func(*Reader)
}

type queued struct {
	Unit
	at time.Time
}

func newReader(l Limits, clock func() time.Time, onClose func(*Reader)) *Reader {
	if l.Bytes <= 0 {
		l.Bytes = DefaultReaderBytes
	}
	if l.Age == 0 {
		l.Age = DefaultReaderAge
	}
	return &Reader{limits: l, wake: make(chan struct{}, 1), clock: clock, onClose: onClose}
}

// put never blocks.
func (r *Reader) put(u Unit) {
	now := r.clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	switch {
	case r.skip:
		if b := u.Block; !b.RandomAccess() && b.SinceRAP != block.NoRAP && !b.End {
			r.stats.Dropped++
			return
		}
		r.skip = false
		u.Entry = Rejoins
	case u.Entry == Continues && !r.begun:
		// A reader that was added while the stream was running.
		if b := u.Block; !b.RandomAccess() && b.SinceRAP != block.NoRAP {
			return
		}
		u.Entry = Starts
	}
	r.begun = true
	r.queue = append(r.queue, queued{u, now})
	r.bytes += u.Block.Size()
	if r.limits.Age > 0 && now.Sub(r.queue[0].at) > r.limits.Age {
		r.rejoin()
	}
	if r.bytes > r.limits.Bytes {
		r.rejoin()
	}
	if r.bytes > r.limits.Bytes {
		r.stats.Overflows++
		r.stats.Dropped += uint64(len(r.queue))
		r.queue, r.bytes, r.skip = nil, 0, true
	}
	r.signal()
}

// rejoin drops what comes before the newest random access point.
func (r *Reader) rejoin() {
	i := len(r.queue) - 1
	for i > 0 && !r.queue[i].Block.RandomAccess() {
		i--
	}
	if i == 0 {
		return
	}
	r.stats.Overflows++
	r.stats.Dropped += uint64(i)
	for _, q := range r.queue[:i] {
		r.bytes -= q.Block.Size()
	}
	r.queue = slices.Clone(r.queue[i:])
	r.queue[0].Entry = Rejoins
	r.queue[0].Gap = Gap{}
}

func (r *Reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Next waits for a unit. It returns io.EOF when the stream was closed and
// everything was read, and the context's error as soon as that is done, read
// or not. One goroutine at a time may call it.
func (r *Reader) Next(ctx context.Context) (Unit, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Unit{}, err
		}
		r.mu.Lock()
		if len(r.queue) > 0 {
			u := r.queue[0].Unit
			r.queue[0] = queued{}
			r.queue = r.queue[1:]
			r.bytes -= u.Block.Size()
			r.mu.Unlock()
			return u, nil
		}
		closed := r.closed
		r.mu.Unlock()
		if closed {
			return Unit{}, io.EOF
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return Unit{}, ctx.Err()
		}
	}
}

// Stats as they are now.
func (r *Reader) Stats() ReaderStats {
	now := r.clock()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Held, s.HeldBytes = len(r.queue), r.bytes
	if len(r.queue) > 0 {
		s.Age = now.Sub(r.queue[0].at)
	}
	return s
}

// end lets the consumer read what is there and then io.EOF.
func (r *Reader) end() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.signal()
}

// Close takes the reader off its stream and drops what it holds.
func (r *Reader) Close() error {
	r.onClose(r)
	r.mu.Lock()
	r.queue, r.bytes = nil, 0
	r.mu.Unlock()
	r.end()
	return nil
}

// ErrWrite is wrapped by every error of Write that came from its writer, so
// that a full disk is told from a stream that ended.
var ErrWrite = errors.New("cannot write the stream")

// Write writes what r gives to w until the stream ends (nil), ctx is done, or
// w fails (ErrWrite and the cause). Every unit is one call of w.Write, whole
// packets. written, if not nil, is called after each with the number of bytes.
func Write(ctx context.Context, w io.Writer, r *Reader, written func(u Unit, n int)) error {
	var buf []byte
	for {
		u, err := r.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		p := u.Block.Packets
		if u.Entry != Continues {
			buf = u.Append(buf[:0])
			p = buf
		}
		n, err := 0, error(nil)
		if len(p) > 0 {
			n, err = w.Write(p)
		}
		if written != nil {
			written(u, n)
		}
		if err != nil {
			return &writeError{err}
		}
	}
}

type writeError struct{ cause error }

func (e *writeError) Error() string   { return ErrWrite.Error() + ": " + e.cause.Error() }
func (e *writeError) Unwrap() []error { return []error{ErrWrite, e.cause} }
