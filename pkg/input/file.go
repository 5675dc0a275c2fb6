package input

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// fileBuffer is what one read of a file or pipe takes: the capacity of a pipe on Linux.
const fileBuffer = 64 << 10

// fileSource is a file, a pipe or a device.
type fileSource struct {
	f       *os.File
	owned   bool // to be closed here
	regular bool
	start   int64 // where a regular file is begun again
	buf     []byte
}

func openFile(ctx context.Context, spec Spec, o Options) (*fileSource, error) {
	s := &fileSource{buf: make([]byte, fileBuffer)}
	if spec.Kind == Stdin {
		s.f = o.Stdin
		if s.f == nil {
			s.f = os.Stdin
		}
	} else {
		var err error
		if s.f, err = openPath(ctx, spec.Path); err != nil {
			return nil, err
		}
		s.owned = true
	}
	info, err := s.f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%w: %s is a directory", ErrUnavailable, spec.Path)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	if info.Mode().IsRegular() {
		s.regular = true
		if s.start, err = s.f.Seek(0, io.SeekCurrent); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// openPath opens a file; a FIFO makes it wait for a writer.
func openPath(ctx context.Context, path string) (*os.File, error) {
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.Open(path)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		if errors.Is(o.err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, o.err)
		}
		return o.f, o.err
	case <-ctx.Done():
		// Nothing wakes an open of a FIFO but a writer; the goroutine closes the file if one comes.
		go func() {
			if o := <-done; o.f != nil {
				o.f.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

func (s *fileSource) read(ctx context.Context, deadline time.Time) (chunk, error) {
	for {
		if err := ctx.Err(); err != nil {
			return chunk{}, err
		}
		if !s.regular {
			wait := poll
			if !deadline.IsZero() {
				wait = min(wait, time.Until(deadline))
			}
			ready, err := waitReadable(s.f, wait)
			if err != nil {
				return chunk{}, err
			}
			if !ready {
				if !deadline.IsZero() && !time.Now().Before(deadline) {
					return chunk{}, os.ErrDeadlineExceeded
				}
				continue
			}
		}
		n, err := s.f.Read(s.buf)
		if n > 0 {
			return chunk{data: s.buf[:n]}, nil
		}
		if err != nil {
			return chunk{}, err
		}
	}
}

func (s *fileSource) rewind() error {
	_, err := s.f.Seek(s.start, io.SeekStart)
	return err
}

func (s *fileSource) stats() Stats { return Stats{} }

func (s *fileSource) close() error {
	if !s.owned {
		return nil
	}
	return s.f.Close()
}
