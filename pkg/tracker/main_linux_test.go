package tracker

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/internal/testnet"
)

// checked is a package's tests, after which no goroutine may be left.
type checked struct{ *testing.M }

func (c checked) Run() int {
	code := c.M.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func TestMain(m *testing.M) { testnet.Main(checked{m}) }

// A disk that is full under the state file takes nothing away: what was written stays, and all is written when there is room again.
func TestFullDisk(t *testing.T) {
	if testnet.Dir() == "" {
		t.Skip("nothing can be mounted on this machine")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32k"); err != nil {
		t.Skip(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	path := filepath.Join(dir, "state")
	s := serve(t, ServiceConfig{State: path})
	publish := func(from, to int) {
		for n := from; n < to; n++ {
			if r := s.publishes(sign(t, n, fmt.Sprint("channel ", n))); r != "" {
				t.Fatal(r)
			}
		}
	}
	publish(0, 20)
	s.save()
	publish(20, 200)
	s.save() // in vain
	s.end()  // and again
	if _, err := os.Stat(path + ".new"); err == nil {
		t.Error("what was not finished takes the little room there is")
	}
	s = serve(t, ServiceConfig{State: path})
	if n := s.Stats().Channels; n != 20 {
		t.Errorf("%d channels after a restart, want those that were written", n)
	}
	publish(20, 200)
	s.save()
	if n := s.Stats().Channels; n != 200 {
		t.Errorf("%d channels while the disk is full", n)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	s.end()
	s = serve(t, ServiceConfig{State: path})
	if n := s.Stats().Channels; n != 200 {
		t.Errorf("%d channels when there is room again", n)
	}
}
