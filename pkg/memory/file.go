package memory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sixcast/sixcast/pkg/durable"
)

// Errors about files.
var (
	// ErrLocked means that other processes kept a file locked.
	ErrLocked = errors.New("another process keeps it locked")
	// ErrForeign means that something is in the place of a file or directory that is not ours to write.
	ErrForeign = errors.New("it is left alone")
)

const (
	lockSuffix = ".lock"
	lockAgain  = 10 * time.Millisecond
)

// A file is replaced as a whole, under a lock that all processes keep to. Its directory is ours.
type file struct {
	path   string // empty: there is none
	max    int64  // bytes
	off    error  // why it is not to be written
	failed bool   // its last writing; has been said
}

func (f *file) on() bool { return f.path != "" && f.off == nil }

// read returns the content, nil if there is none, and at most one byte more than max.
func (f *file) read() ([]byte, error) {
	info, err := os.Stat(filepath.Dir(f.path))
	if err == nil {
		err = ours(filepath.Dir(f.path), info, fs.ModeDir)
	}
	if err == nil {
		if info, err = os.Lstat(f.path); err == nil {
			err = ours(f.path, info, 0)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	r, err := os.OpenFile(f.path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if info, err = r.Stat(); err != nil {
		return nil, err
	}
	if err := ours(f.path, info, 0); err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, min(info.Size(), f.max)+bytes.MinRead))
	_, err = b.ReadFrom(io.LimitReader(r, f.max+1))
	return b.Bytes(), err
}

// ours tells why what lies at path is not ours: it has another type, or another owner.
func ours(path string, info fs.FileInfo, kind fs.FileMode) error {
	is := info.Mode().Type()
	switch uid, ok := foreign(info); {
	case is&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a symbolic link: %w", path, ErrForeign)
	case is != kind && is == fs.ModeDir:
		return fmt.Errorf("%s is a directory: %w", path, ErrForeign)
	case is != kind && kind == fs.ModeDir:
		return fmt.Errorf("%s is no directory: %w", path, ErrForeign)
	case is != kind:
		return fmt.Errorf("%s is no regular file: %w", path, ErrForeign)
	case ok:
		return fmt.Errorf("%s belongs to another user (uid %d; was a command run with sudo?): %w", path, uid, ErrForeign)
	}
	return nil
}

// makeDir makes a directory of ours, unless it would lie among what is another user's (root's apart): a command run as root
// with somebody's $HOME would keep that person out.
func makeDir(dir string) error {
	for up := dir; ; up = filepath.Dir(up) {
		info, err := os.Stat(up)
		if errors.Is(err, fs.ErrNotExist) && up != filepath.Dir(up) {
			continue
		}
		if err != nil {
			return err
		}
		if err := ours(up, info, fs.ModeDir); err != nil {
			if uid, ok := foreign(info); up == dir || !ok || uid != 0 {
				return err
			}
		}
		return os.MkdirAll(dir, 0o700)
	}
}

// lock waits for the lock until a deadline. sure is false where the file system has no locks: files stay whole, but what one of two
// processes writes at the same moment may be lost.
func (f *file) lock(deadline time.Time) (unlock func(), sure bool, err error) {
	path := f.path + lockSuffix
	l, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|openFlags, 0o600)
	if err != nil {
		return nil, false, err
	}
	info, err := l.Stat()
	if err == nil {
		err = ours(path, info, 0)
	}
	for err == nil {
		err = tryLock(l)
		switch {
		case err == nil:
			return func() { release(l); l.Close() }, true, nil
		case errors.Is(err, errors.ErrUnsupported):
			return func() { l.Close() }, false, nil
		case errors.Is(err, ErrLocked) && time.Now().Before(deadline):
			time.Sleep(lockAgain)
			err = nil
		default:
			err = fmt.Errorf("%s: %w", f.path, err)
		}
	}
	l.Close()
	return nil, false, err
}

// update has change make the new content out of the old, under the lock. The file's modes are 0600.
func (f *file) update(deadline time.Time, change func(old []byte) ([]byte, error)) error {
	if err := makeDir(filepath.Dir(f.path)); err != nil {
		return err
	}
	unlock, sure, err := f.lock(deadline)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := f.read()
	if err != nil {
		return err
	}
	if sure {
		f.sweep()
	}
	b, err := change(old)
	if err != nil || old != nil && bytes.Equal(old, b) {
		return err
	}
	return durable.WriteFile(f.path, b)
}

// sweep removes what processes that were killed left behind: nobody else writes now.
func (f *file) sweep() {
	dir := filepath.Dir(f.path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if n := e.Name(); strings.HasPrefix(n, filepath.Base(f.path)+".") && strings.HasSuffix(n, durable.TempSuffix) {
			os.Remove(filepath.Join(dir, n))
		}
	}
}

// remove removes the file and what was left behind.
func (f *file) remove(deadline time.Time) error {
	if f.path == "" || f.off != nil {
		return f.off
	}
	if _, err := os.Stat(filepath.Dir(f.path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, _, err := f.lock(deadline)
	if err != nil {
		return err
	}
	defer unlock()
	f.sweep()
	if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
