//go:build unix

package source

import (
	"fmt"
	"syscall"
)

func makeFIFO(path string) error {
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return fmt.Errorf("making the FIFO %s: %w", path, err)
	}
	return nil
}
