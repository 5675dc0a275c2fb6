// Package record writes a channel to a file so that what lies under its final
// name is whole: the stream goes to NAME.part in the same directory, which is
// synced and renamed at the end. Nothing is ever overwritten. What is missing
// is said in NAME.json.
package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/sixcast/sixcast/pkg/durable"
)

const (
	partSuffix    = ".part"
	sidecarSuffix = ".json"

	// maxTries bounds the numbers that are appended to a name that is taken.
	maxTries = 10000
)

// ErrEmpty is returned by Finish when nothing was written; the .part file is removed.
var ErrEmpty = errors.New("nothing was recorded")

// storage is what a File needs of an *os.File.
type storage interface {
	Write([]byte) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// File is a recording that is being made. It is not safe for concurrent use.
type File struct {
	f      storage
	want   string // the name asked for
	part   string // where it is now
	size   int64
	failed error
}

// Create begins the recording path. The name is path, or path with -1, -2, …
// before its extension if that, its .part file or its sidecar is there
// already. Parts are locked while they are written, see Leftovers.
func Create(path string) (*File, error) {
	for n := range maxTries {
		name := numbered(path, n)
		if exists(name) || exists(name+sidecarSuffix) {
			continue
		}
		f, err := os.OpenFile(name+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		switch {
		case errors.Is(err, fs.ErrExist):
			continue
		case err != nil:
			return nil, fmt.Errorf("cannot record to %s: %w", path, err)
		}
		lock(f)
		return &File{f: f, want: name, part: name + partSuffix}, nil
	}
	return nil, fmt.Errorf("cannot record to %s: %d recordings of that name are there", path, maxTries)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// numbered is path with -n before the extension, path itself for 0.
func numbered(path string, n int) string {
	if n == 0 {
		return path
	}
	ext := filepath.Ext(path)
	return fmt.Sprintf("%s-%d%s", strings.TrimSuffix(path, ext), n, ext)
}

// Part is the name that the recording has until Finish.
func (f *File) Part() string { return f.part }

// Size is the number of bytes written.
func (f *File) Size() int64 { return f.size }

// Write appends b, or nothing: where only a part of it went to the disk, that
// is taken back, so that the file ends with a whole packet.
func (f *File) Write(b []byte) (int, error) {
	if f.failed != nil {
		return 0, f.failed
	}
	n, err := f.f.Write(b)
	if err != nil {
		f.failed = err
		if n > 0 {
			f.f.Truncate(f.size) // if that fails too, players skip the rest of a packet
		}
		return 0, err
	}
	f.size += int64(n)
	return n, nil
}

// Finish syncs the recording and gives it its final name, which it returns.
// With an error what was written stays in Part, but for ErrEmpty.
func (f *File) Finish() (name string, err error) {
	defer f.f.Close()
	if f.size == 0 {
		os.Remove(f.part)
		return "", ErrEmpty
	}
	if f.failed != nil {
		f.f.Sync()
		return "", f.failed
	}
	if err := f.f.Sync(); err != nil {
		return "", err
	}
	if name, err = publish(f.part, f.want); err != nil {
		return "", err
	}
	return name, durable.SyncDir(filepath.Dir(name))
}

// publish gives part the name want, or the next one that is free.
func publish(part, want string) (name string, err error) {
	for n := range maxTries {
		name = numbered(want, n)
		err = os.Link(part, name) // fails if name is there, as rename does not
		switch {
		case err == nil:
			return name, os.Remove(part)
		case errors.Is(err, fs.ErrExist):
			continue
		case exists(name):
			continue
		default: // a file system without hard links, such as FAT
			return name, os.Rename(part, name)
		}
	}
	return "", err
}

// Leftovers are the .part files that recordings of the name path left in a
// crash: nobody holds them locked. A number or a time may follow the stem of
// the name, as Create and DefaultName put it there.
func Leftovers(path string) []string {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	ext := filepath.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	var left []string
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), stem)
		rest, ok2 := strings.CutSuffix(rest, ext+partSuffix)
		if !ok || !ok2 || strings.Trim(rest, "-_0123456789") != "" || !e.Type().IsRegular() {
			continue
		}
		if p := filepath.Join(dir, e.Name()); !locked(p) {
			left = append(left, p)
		}
	}
	return left
}

// DefaultName is CHANNEL_2026-11-22_20-00-00.ts, or CHANNEL.ts for a zero
// time, as Leftovers takes it. What does not belong into the name of a file is
// replaced.
func DefaultName(channel string, at time.Time) string {
	if at.IsZero() {
		return safe(channel) + ".ts"
	}
	return safe(channel) + at.Format("_2006-01-02_15-04-05") + ".ts"
}

// maxNameBytes leaves room for time, number and suffixes in 255 bytes.
const maxNameBytes = 180

func safe(name string) string {
	var b strings.Builder
	for _, r := range strings.TrimLeft(strings.TrimSpace(name), ".-") {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-+", r) || r == unicode.ReplacementChar {
			r = '_'
		}
		if b.Len() >= maxNameBytes {
			break
		}
		b.WriteRune(r)
	}
	if b.Len() == 0 {
		return "recording"
	}
	return b.String()
}
