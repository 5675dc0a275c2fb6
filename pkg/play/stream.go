package play

import (
	"slices"
	"sync"
	"time"
)

// Stream runs a Sequencer on the real clock and hands what it gives to its
// readers. Its methods may be called concurrently and never wait for a reader.
type Stream struct {
	notice func(Unit)

	mu      sync.Mutex
	seq     *Sequencer
	readers []*Reader
	timer   *time.Timer
	closed  bool
}

// NewStream that has no readers yet: add them before the first Put, or what
// comes out until then is lost. notice, if not nil, is told of every unit in
// order as it is handed to the readers; it must return at once and not call
// the Stream.
func NewStream(c Config, notice func(Unit)) *Stream {
	s := &Stream{seq: NewSequencer(c), notice: notice}
	s.timer = time.AfterFunc(time.Hour, s.tick)
	s.timer.Stop()
	return s
}

// NewReader adds a consumer. It starts at the next random access point.
func (s *Stream) NewReader(l Limits) *Reader {
	r := newReader(l, time.Now, s.remove)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		r.end()
		return r
	}
	s.readers = append(s.readers, r)
	return r
}

func (s *Stream) remove(r *Reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers = slices.DeleteFunc(s.readers, func(o *Reader) bool { return o == r })
}

// Put takes a block that arrived at at, which is a reading of time.Now. The
// Stream owns b from here on. Blocks may come in any order.
func (s *Stream) Put(at time.Time, b *Block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.seq.Put(at, b)
	s.drain(at)
}

func (s *Stream) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.drain(time.Now())
	}
}

func (s *Stream) drain(now time.Time) {
	for {
		u, ok := s.seq.Next(now)
		if !ok {
			break
		}
		if s.notice != nil {
			s.notice(u)
		}
		for _, r := range s.readers {
			r.put(u)
		}
	}
	if d, ok := s.seq.Deadline(); ok {
		s.timer.Reset(max(d.Sub(now), time.Millisecond))
	} else {
		s.timer.Stop()
	}
}

// Counters of the Sequencer.
func (s *Stream) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq.Counters()
}

// Close gives the readers what is held, gaps or not, and then their end.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.seq.Flush()
	s.drain(time.Now())
	s.timer.Stop()
	s.closed = true
	for _, r := range s.readers {
		r.end()
	}
	s.readers = nil
	return nil
}
