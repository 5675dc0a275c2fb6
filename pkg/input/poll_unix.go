//go:build unix

package input

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// waitReadable waits for at most d until a read of f will not block. Standard input, which the process inherited in
// blocking mode, has no deadlines, hence the system call. A signal may end the wait early.
func waitReadable(f *os.File, d time.Duration) (ready bool, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	fds := []unix.PollFd{{Events: unix.POLLIN}}
	var n int
	cerr := raw.Control(func(fd uintptr) {
		fds[0].Fd = int32(fd)
		ms := int((max(d, 0) + time.Millisecond - 1) / time.Millisecond)
		n, err = unix.Poll(fds, ms)
	})
	switch {
	case cerr != nil:
		return false, cerr
	case errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil:
		return false, os.NewSyscallError("poll", err)
	}
	return n > 0, nil // the end and errors too are what read returns
}
