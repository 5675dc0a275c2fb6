package cli

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// pipeWriter turns EPIPE of stdout into ErrStdoutClosed, so that EPIPE of a socket stays the failure that it is.
type pipeWriter struct{ f *os.File }

func (w pipeWriter) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = fmt.Errorf("%w: %w", ErrStdoutClosed, err)
	}
	return n, err
}
