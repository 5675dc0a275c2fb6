//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package memory

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/pkg/durable"
)

// A file that may not grow stands for a disk that is full: half is written, and nothing is lost of what was there.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	m.RememberChannel(descriptor(1, 1, "a").Item)
	m.Pin("a", key(1).ID())
	m.Close()
	c := exec.Command(os.Args[0], dir) // the limit is a process's
	c.Env = append(os.Environ(), "MEMORY_TEST_CHILD=full disk")
	out, err := c.CombinedOutput()
	if err != nil || strings.Count(string(out), "too large") != 2 || strings.Count(string(out), "\n") != 2 {
		t.Errorf("it says %q, %v", out, err)
	}
	m = open(t, dir)
	if got := names(m.Channels()); len(got) != 1 {
		t.Errorf("channels: %v", got)
	}
	if v, err := m.Check("a", key(1).ID()); v != Same {
		t.Error(v, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*"+durable.TempSuffix)); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

// fullDisk is the process that learns something and cannot write it, again and again. It prints its warnings.
func fullDisk(dir string) {
	signal.Ignore(unix.SIGXFSZ)
	small := unix.Rlimit{Cur: 200, Max: 200}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &small); err != nil {
		panic(err)
	}
	log := &record{}
	m, err := Open(options(dir, log))
	if err != nil {
		panic(err)
	}
	for i := range 3 {
		m.RememberChannel(descriptor(2+i, 1, "b").Item)
		m.Pin(fmt.Sprint("b", i), key(2).ID())
		m.ask(func() error {
			m.complain(&m.cache, m.writeCache(time.Now()))
			m.complain(&m.known, m.writePins(time.Now()))
			return nil
		})
	}
	m.Close()
	for _, w := range log.warnings() {
		fmt.Println(w)
	}
}

// Nobody waits for the other end.
func TestFIFOInTheWay(t *testing.T) {
	dir := t.TempDir()
	o := options(dir, nil)
	os.Mkdir(o.State, 0o700)
	if err := unix.Mkfifo(filepath.Join(o.State, pinsFile), 0o600); err != nil {
		t.Skip(err)
	}
	m, err := Open(o)
	if err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Error(err)
	}
	m.Close()
}
