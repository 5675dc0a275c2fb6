// Package source reads a block stream (docs/protocol.md section 3) from a
// pipe, a FIFO, a Unix socket or a file and hands its datagrams on, block by
// block, paced where it is a recording.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
)

// ErrEmpty is returned where the stream held not one block.
var ErrEmpty = errors.New("source: no block stream in the input")

// ErrKind is returned for a path at which lies nothing that can be read, such as a directory.
var ErrKind = errors.New("neither a FIFO, a socket nor a file")

const (
	// recorded is the age from which a block is not live: it is paced by the
	// manifests' times (docs/protocol.md section 2.3).
	recorded = 30 * time.Second
	// jump is a step of the manifests' times that pacing does not wait for.
	jump = 10 * time.Second
	// retry is the pause before a socket is connected to again.
	retry = 500 * time.Millisecond
)

// Stats count since the start.
type Stats struct {
	Blocks  uint64 `json:"blocks"`
	Skipped uint64 `json:"skipped_bytes"` // that were no record
}

// Reader reads block streams one after the other or, from a socket, side by
// side. Its methods may be called from one goroutine only, Stats from any.
type Reader struct {
	// Feed gets the datagrams of about a block, in order. They are valid
	// during the call. An error ends the reader.
	Feed func(datagrams ...[]byte) error
	// Paced makes every stream a recording, whatever its age.
	Paced bool

	mu    sync.Mutex
	stats Stats
}

// Stats takes a reading.
func (r *Reader) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Path reads what lies at a path until ctx ends: a FIFO, which outlives its
// writers and is made if nothing is there; a Unix socket to connect to, again
// and again; "unix:PATH", a Unix socket to listen on; a file, once.
func (r *Reader) Path(ctx context.Context, path string) error {
	if p, ok := strings.CutPrefix(path, "unix:"); ok {
		return r.listen(ctx, p)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeFIFO(path); err != nil {
			return err
		}
		info, err = os.Stat(path)
	}
	if err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeNamedPipe != 0:
		return r.fifo(ctx, path)
	case info.Mode()&fs.ModeSocket != 0:
		return r.connect(ctx, path)
	case info.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		r.Paced = true
		return r.Stream(ctx, f)
	}
	return fmt.Errorf("%s is %w", path, ErrKind)
}

// fifo reads a FIFO for ever. It is opened for writing too, so that it has no
// end when ingest dies and is started again.
func (r *Reader) fifo(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.Stream(ctx, f)
}

func (r *Reader) connect(ctx context.Context, path string) error {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			err = r.Stream(ctx, c)
			c.Close()
			if err != nil && !errors.Is(err, ErrEmpty) && !isRead(err) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry):
		}
	}
}

// listen takes streams from whoever connects.
func (r *Reader) listen(ctx context.Context, path string) error {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return fmt.Errorf("%s: another program listens there already", path)
		}
		os.Remove(path) // left by one that died
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	defer l.Close()
	// l is closed by the end of the inner context: it has a cause before
	// Accept can fail. By the outer one's end it would have none for a moment.
	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel(nil)
	for {
		c, err := l.Accept()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		streams.Go(func() {
			defer c.Close()
			if err := r.Stream(ctx, c); err != nil && !errors.Is(err, ErrEmpty) && !isRead(err) && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
}

// readError is a failure of the input, not of the feed.
type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

func isRead(err error) bool {
	var e readError
	return errors.As(err, &e)
}

// deadliner is an input whose Read can be ended from outside.
type deadliner interface{ SetReadDeadline(time.Time) error }

// Stream reads one block stream to its end. It returns nil at the end of one
// that held at least a block, ErrEmpty otherwise, ctx's error when that ends,
// and what Feed returned.
func (r *Reader) Stream(ctx context.Context, in io.Reader) error {
	if d, ok := in.(deadliner); ok {
		defer context.AfterFunc(ctx, func() { d.SetReadDeadline(time.Unix(1, 0)) })()
	} else if c, ok := in.(io.Closer); ok {
		defer context.AfterFunc(ctx, func() { c.Close() })()
	}
	s := stream{r: r, in: block.NewReader(in)}
	err := s.run(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// stream is one block stream being read.
type stream struct {
	r       *Reader
	in      *block.Reader
	batch   [][]byte // datagrams, in arena
	arena   []byte
	skipped uint64
	blocks  uint64
	counted uint64
	base    time.Time // when the block created at origin was fed
	origin  time.Time
	paced   bool
}

func (s *stream) run(ctx context.Context) error {
	for {
		rec, err := s.in.Next()
		if err != nil {
			if ferr := s.feed(); ferr != nil {
				return ferr
			}
			s.count()
			switch {
			case s.blocks == 0 && (err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF)):
				return ErrEmpty
			case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
				return nil
			}
			return readError{err}
		}
		if rec[0] == block.TypeManifest {
			// A block begins: what came of the one before goes out whole.
			if err := s.feed(); err != nil {
				return err
			}
			s.count()
			m, err := block.DecodeManifest(rec)
			if err == nil {
				s.blocks++
				if err := s.pace(ctx, m.Created); err != nil {
					return err
				}
			}
		}
		s.add(rec)
		if s.in.Buffered() == 0 || len(s.batch) > 2*block.MaxShards {
			if err := s.feed(); err != nil {
				return err
			}
		}
	}
}

func (s *stream) add(rec []byte) {
	if len(s.arena)+len(rec) > cap(s.arena) {
		// Earlier datagrams stay in the old arena.
		s.arena = make([]byte, 0, max(2*cap(s.arena), 96<<10))
	}
	at := len(s.arena)
	s.arena = append(s.arena, rec...)
	s.batch = append(s.batch, s.arena[at:len(s.arena):len(s.arena)])
}

func (s *stream) feed() error {
	if len(s.batch) == 0 {
		return nil
	}
	err := s.r.Feed(s.batch...)
	clear(s.batch)
	s.batch, s.arena = s.batch[:0], s.arena[:0]
	return err
}

func (s *stream) count() {
	s.r.mu.Lock()
	s.r.stats.Blocks += s.blocks - s.counted
	s.r.stats.Skipped += s.in.Skipped() - s.skipped
	s.r.mu.Unlock()
	s.skipped, s.counted = s.in.Skipped(), s.blocks
}

// pace waits until a block of a recording is due.
func (s *stream) pace(ctx context.Context, created time.Time) error {
	now := time.Now()
	if !s.r.Paced && !s.paced && now.Sub(created) < recorded {
		return nil
	}
	s.paced = true
	due := s.base.Add(created.Sub(s.origin))
	if s.base.IsZero() || due.Sub(now) > jump || now.Sub(due) > jump {
		s.base, s.origin = now, created
		return nil
	}
	wait := due.Sub(now)
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
