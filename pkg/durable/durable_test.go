package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// A file is replaced as a whole; where that fails it stays, and nothing is left beside it.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	temp, err := os.CreateTemp(dir, "file.*"+TempSuffix)
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("the disk is full")
	err = Replace(path, temp, func(w io.Writer) error {
		_, _ = w.Write([]byte("thr"))
		return full
	})
	if !errors.Is(err, full) {
		t.Errorf("a full disk: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "two" {
		t.Errorf("%q, %v", b, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if WriteFile(filepath.Join(dir, "none", "file"), nil) == nil || SyncDir(filepath.Join(dir, "none")) == nil {
		t.Error("in a directory that is not there")
	}
}
