// Package durable writes files that are on the disk whole, or as they were before.
package durable

import (
	"io"
	"os"
	"path/filepath"
)

// TempSuffix ends the names of the files that WriteFile writes first; they begin with that of the file and a dot. A crash may leave one.
const TempSuffix = ".tmp"

// Replace has write write temp, which lies in path's directory, syncs and closes it, and gives it the name path. If that fails, as on a full
// disk, temp is removed and what is at path stays.
func Replace(path string, temp *os.File, write func(io.Writer) error) error {
	err := write(temp)
	if err == nil {
		err = temp.Sync()
	}
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = rename(temp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return err
	}
	_ = SyncDir(filepath.Dir(path))
	return nil
}

// WriteFile replaces a file, which then has mode 0600. Several processes may do so at once: one of them wins.
func WriteFile(path string, b []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+TempSuffix)
	if err != nil {
		return err
	}
	return Replace(path, temp, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// SyncDir makes a new name in dir last, where the file system can. The error is that of opening it.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	_ = d.Sync()
	return nil
}
