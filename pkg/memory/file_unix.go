//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package memory

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openFlags: no symbolic link is followed, and no FIFO waited for.
const openFlags = unix.O_NOFOLLOW | unix.O_NONBLOCK

// tryLock returns ErrLocked if another has the lock, and errors.ErrUnsupported where there is none to be had.
func tryLock(f *os.File) error {
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return nil
	case errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR):
		return ErrLocked
	case errors.Is(err, unix.ENOLCK):
		return errors.ErrUnsupported
	default:
		return err
	}
}

// release unlocks at once, even if a process that is being started has f open too.
func release(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }

// foreign tells whether somebody else owns a file, and who.
func foreign(info fs.FileInfo) (uid uint32, ok bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return s.Uid, int(s.Uid) != os.Geteuid()
}
