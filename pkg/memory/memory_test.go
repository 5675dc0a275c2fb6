package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/pkg/channel"
)

// unixModes says that files have modes that can be tested.
const unixModes = runtime.GOOS != "windows"

// today is when most tests take place.
var today = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	switch os.Getenv("MEMORY_TEST_CHILD") {
	case "":
	case "full disk":
		fullDisk(os.Args[1])
		return
	default:
		child(os.Args[1:])
		return
	}
	goleak.VerifyTestMain(m)
}

// child is a process that learns one channel after the other, and writes each.
func child(args []string) {
	from, _ := strconv.Atoi(args[1])
	n, _ := strconv.Atoi(args[2])
	m, err := Open(options(args[0], nil))
	if err != nil {
		panic(err)
	}
	for i := from; i < from+n; i++ {
		if err := m.RememberChannel(descriptor(i, 1, fmt.Sprint("channel ", i)).Item); err != nil {
			panic(err)
		}
		if _, err := m.Pin(fmt.Sprint("channel ", i), key(i).ID()); err != nil {
			panic(err)
		}
		if err := m.flush(); err != nil {
			panic(err)
		}
	}
	m.Close()
}

// flush writes now.
func (m *Memory) flush() error {
	return m.ask(func() error {
		deadline := time.Now().Add(30 * time.Second) // everybody gets his turn, on a busy machine too
		return errors.Join(m.writeCache(deadline), m.writePins(deadline))
	})
}

func key(i int) channel.Key {
	return channel.KeyFromSeed([channel.SeedSize]byte{byte(i), byte(i >> 8), 1})
}

func descriptor(i int, seq int64, name string) channel.Descriptor {
	d, err := channel.SignDescriptor(key(i), seq, channel.Values{Name: name})
	if err != nil {
		panic(err)
	}
	return d
}

// address is one of host in network, a /48.
func address(network, host int) netip.AddrPort {
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8, byte(network >> 8), byte(network), 14: byte(host >> 8), 15: byte(host)}
	return netip.AddrPortFrom(netip.AddrFrom16(a), 6466)
}

func options(dir string, log *record) Options {
	o := Options{Cache: filepath.Join(dir, "cache"), State: filepath.Join(dir, "state"), Now: func() time.Time { return today }}
	if log != nil {
		o.Logger = slog.New(log)
	}
	return o
}

// open opens a Memory that must have nothing to complain of, and closes it at the end.
func open(t testing.TB, dir string) *Memory {
	t.Helper()
	log := &record{}
	m, err := Open(options(dir, log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if w := log.warnings(); len(w) > 0 {
			t.Errorf("it warns: %q", w)
		}
	})
	return m
}

// record keeps what is logged.
type record struct {
	slog.Handler
	mu  sync.Mutex
	all []slog.Record
}

func (r *record) WithAttrs([]slog.Attr) slog.Handler { return r }
func (r *record) WithGroup(string) slog.Handler      { return r }

func (r *record) Enabled(_ context.Context, _ slog.Level) bool { return true }
func (r *record) Handle(_ context.Context, e slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
	return nil
}

func (r *record) warnings() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.all {
		if e.Level >= slog.LevelWarn {
			out = append(out, e.Message)
		}
	}
	return out
}

func names(ds []channel.Descriptor) (out []string) {
	for _, d := range ds {
		out = append(out, d.Values.Name)
	}
	slices.Sort(out)
	return out
}

func TestWhatOneRunLearnsTheNextKnows(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	old, item := descriptor(1, 5, "Radio Nord"), descriptor(1, 6, "Radio Nord 2")
	for _, d := range []channel.Descriptor{old, item, old} {
		if err := m.RememberChannel(d.Item); err != nil {
			t.Fatal(err)
		}
	}
	m.RememberPeers(item.ID, []Peer{{Addr: address(1, 1), Fed: true}, {Addr: address(2, 1)}})
	if _, err := m.Pin("Radio Nord", item.ID); err != nil {
		t.Fatal(err)
	}
	m.Close()

	m = open(t, dir)
	if d, ok := m.Channel(item.ID); !ok || !bytes.Equal(d.Item, item.Item) {
		t.Errorf("channel: %v %v", d, ok)
	}
	if all := m.Channels(); len(all) != 1 || all[0].Seq != 6 {
		t.Errorf("channels: %v", all)
	}
	if got := names(m.Named("RADIO NORD 2")); len(got) != 1 {
		t.Errorf("named: %v", got)
	}
	if got := m.Named("Radio Nord"); len(got) != 0 {
		t.Errorf("the old name still finds it: %v", got)
	}
	if got := m.Peers(item.ID); !slices.Equal(got, []netip.AddrPort{address(1, 1), address(2, 1)}) {
		t.Errorf("peers: %v", got)
	}
	if v, err := m.Check("radio nord", item.ID); v != Same || err != nil {
		t.Errorf("check: %v %v", v, err)
	}
	// The older descriptor of the file does not come back, and a newer one wins over one that has not been verified yet.
	m.RememberChannel(descriptor(1, 7, "Radio Nord 3").Item)
	m.Close()
	m = open(t, dir)
	if d, _ := m.Channel(item.ID); d.Seq != 7 {
		t.Errorf("seq %d", d.Seq)
	}
	for _, p := range []struct {
		name string
		mode fs.FileMode
	}{{"cache", fs.ModeDir | 0o700}, {"state", fs.ModeDir | 0o700}, {"cache/channels", 0o600}, {"cache/channels.lock", 0o600}, {"state/known_channels", 0o600}, {"state/known_channels.lock", 0o600}} {
		if info, err := os.Stat(filepath.Join(dir, p.name)); err != nil || unixModes && info.Mode() != p.mode {
			t.Errorf("%s: %v %v", p.name, info.Mode(), err)
		}
	}
}

func TestWithoutDirectoriesNothingIsWritten(t *testing.T) {
	m, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := descriptor(1, 1, "a")
	m.RememberChannel(d.Item)
	m.RememberPeers(d.ID, []Peer{{Addr: address(1, 1)}})
	m.Pin("a", d.ID)
	if len(m.Channels()) != 1 || len(m.Peers(d.ID)) != 1 {
		t.Error("it does not even remember in memory")
	}
	var c *Conflict
	if _, err := m.Check("a", key(2).ID()); !errors.As(err, &c) || c.File != "" || strings.Contains(c.Error(), "remove") {
		t.Errorf("check: %v", err)
	}
	if err := m.Unpin("a"); err != nil {
		t.Error(err)
	}
	if err := m.Forget(); err != nil || len(m.Channels()) != 0 {
		t.Error("not forgotten", err)
	}
	m.Close()
	m.Close()
	if err := m.Forget(); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestWritesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		m := open(t, dir)
		defer m.Close()
		file := filepath.Join(dir, "cache", cacheFile)
		id := key(1).ID()
		for i := range 9 {
			m.RememberPeers(id, []Peer{{Addr: address(i, 1)}})
			time.Sleep(time.Second)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is written after 9 s: %v", err)
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		b, err := os.ReadFile(file)
		if all, damaged := decode(b, stampOf(today), false); err != nil || damaged != 0 || len(all[id].peers) != 9 {
			t.Errorf("after 10 s it has %v, %v", all, err)
		}
		// A name is pinned at once.
		m.Pin("name", id)
		synctest.Wait()
		if b, err := os.ReadFile(filepath.Join(dir, "state", pinsFile)); err != nil || !strings.Contains(string(b), "name "+id.String()) {
			t.Errorf("%q %v", b, err)
		}
	})
}

// Each of two adds to what the other wrote, and learns it.
func TestTwoAtOnceLoseNothing(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	for i := range 20 {
		m := a
		if i%2 == 1 {
			m = b
		}
		m.RememberChannel(descriptor(i, 1, fmt.Sprint(i)).Item)
		m.RememberPeers(key(99).ID(), []Peer{{Addr: address(i, 1)}})
		m.Pin(fmt.Sprint(i), key(i).ID())
		if err := m.flush(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.Channels()); n != 20 || len(b.Peers(key(99).ID())) != 20 {
		t.Errorf("the second knows %d channels and %d peers", n, len(b.Peers(key(99).ID())))
	}
	if v, err := b.Check("18", key(18).ID()); v != Same || err != nil {
		t.Errorf("the second knows no pin of the first: %v %v", v, err)
	}
	// What one forgets the other does not bring back.
	if err := a.Forget(); err != nil {
		t.Fatal(err)
	}
	b.RememberChannel(descriptor(30, 1, "new").Item)
	b.Pin("new", key(30).ID())
	b.Close()
	m := open(t, dir)
	if got := names(m.Channels()); !slices.Equal(got, []string{"new"}) {
		t.Errorf("channels %v", got)
	}
	if v, _ := m.Check("3", key(3).ID()); v != New {
		t.Error("a pin came back")
	}
}

func TestOfTwoPinsTheFirstWrittenCounts(t *testing.T) {
	dir := t.TempDir()
	log := &record{}
	a := open(t, dir)
	b, err := Open(options(dir, log))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.flush(); err != nil { // nothing
		t.Fatal(err)
	}
	a.Pin("name", key(1).ID())
	if err := a.flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Pin("Name", key(2).ID()); err != nil {
		t.Fatal(err)
	}
	if err := b.flush(); err != nil {
		t.Fatal(err)
	}
	if w := log.warnings(); len(w) != 1 || !strings.Contains(w[0], key(2).ID().String()) || strings.Contains(w[0], "\n") {
		t.Errorf("it warns %q", w)
	}
	if v, err := b.Check("name", key(1).ID()); v != Same || err != nil {
		t.Errorf("%v %v", v, err)
	}
}

// Three processes write as fast as they can, and a fourth is killed again and again.
func TestProcessesAtOnce(t *testing.T) {
	dir := t.TempDir()
	start := func(from, n int) *exec.Cmd {
		c := exec.Command(os.Args[0], dir, strconv.Itoa(from), strconv.Itoa(n))
		c.Env = append(os.Environ(), "MEMORY_TEST_CHILD=1")
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	const each = 15
	var writers []*exec.Cmd
	for i := range 3 {
		writers = append(writers, start(100*i, each))
	}
	for i := range 5 {
		victim := start(1000, 500)
		time.Sleep(time.Duration(20+17*i) * time.Millisecond) // a real process: there is no clock to pass in
		victim.Process.Kill()
		victim.Wait()
	}
	for _, w := range writers {
		if err := w.Wait(); err != nil {
			t.Error(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "cache", cacheFile))
	if _, damaged := decode(b, stampOf(today), false); err != nil || damaged != 0 {
		t.Errorf("%d bytes are damaged: %v", damaged, err)
	}
	m := open(t, dir)
	for i := range 3 {
		for j := 100 * i; j < 100*i+each; j++ {
			if _, ok := m.Channel(key(j).ID()); !ok {
				t.Errorf("channel %d is lost", j)
			}
			if v, err := m.Check(fmt.Sprint("channel ", j), key(j).ID()); v != Same || err != nil {
				t.Errorf("pin %d is lost: %v", j, err)
			}
		}
	}
}

func TestWhatAKilledProcessLeftIsRemoved(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	m.RememberChannel(descriptor(1, 1, "a").Item)
	if err := m.flush(); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "cache", cacheFile+".123.tmp")
	whole, _ := os.ReadFile(filepath.Join(dir, "cache", cacheFile))
	for _, do := range []func() error{
		func() error { m.RememberChannel(descriptor(2, 1, "b").Item); return m.flush() },
		m.Forget,
	} {
		os.WriteFile(half, whole[:len(whole)/2], 0o600)
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
			t.Error("it is still there")
		}
	}
	for _, f := range []string{"cache/channels", "state/known_channels"} {
		if _, err := os.Stat(filepath.Join(dir, f)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there after Forget", f)
		}
	}
}

// Whoever holds the lock for ever costs a warning, and Close two seconds.
func TestLockHeldForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		log := &record{}
		m, err := Open(options(dir, log))
		if err != nil {
			t.Fatal(err)
		}
		os.Mkdir(filepath.Join(dir, "cache"), 0o700)
		unlock, sure, err := m.cache.lock(time.Now())
		if err != nil || !sure {
			m.Close()
			t.Skip("no locks here", err)
		}
		id := key(1).ID()
		for i := range 50 {
			m.RememberPeers(id, []Peer{{Addr: address(i%9, 1)}})
			time.Sleep(time.Second)
		}
		begun := time.Now()
		m.Close()
		if took := time.Since(begun); took > lockWait+100*time.Millisecond {
			t.Errorf("closing takes %v", took)
		}
		if w := log.warnings(); len(w) != 1 || !strings.Contains(w[0], ErrLocked.Error()) {
			t.Errorf("it warns %q", w)
		}
		if len(m.Peers(id)) != 9 {
			t.Error("it has forgotten")
		}
		unlock()
	})
}

// What could not be written is, once it can be.
func TestWritingIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		m, err := Open(options(dir, nil))
		if err != nil {
			t.Fatal(err)
		}
		cache := filepath.Join(dir, "cache")
		os.WriteFile(cache, nil, 0o600) // where the directory is to be
		m.RememberChannel(descriptor(1, 1, "a").Item)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		os.Remove(cache)
		m.RememberChannel(descriptor(2, 1, "b").Item)
		m.Close()
		m = open(t, dir)
		defer m.Close()
		if got := names(m.Channels()); len(got) != 2 {
			t.Errorf("channels: %v", got)
		}
	})
}

func TestCloseDoesNotWaitForAHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &record{}
		m, err := Open(options(t.TempDir(), log))
		if err != nil {
			t.Fatal(err)
		}
		disk := make(chan struct{})
		go m.ask(func() error { <-disk; return nil })
		synctest.Wait()
		begun := time.Now()
		m.Close()
		if took := time.Since(begun); took != closeWait || len(log.warnings()) != 1 {
			t.Errorf("it took %v and said %q", took, log.warnings())
		}
		close(disk)
		<-m.done
	})
}

// Whatever is in the way costs one warning, and is left as it was; the run goes on with what it learns itself.
func TestWhatIsInTheWayCostsOneWarning(t *testing.T) {
	secret := "somebody's"
	for _, c := range []struct {
		name, want string
		spoil      func(t *testing.T, dir, file string)
	}{
		{"symbolic link", "is a symbolic link", func(t *testing.T, dir, file string) {
			target := filepath.Join(t.TempDir(), "target")
			os.WriteFile(target, []byte(secret), 0o600)
			if err := os.Symlink(target, file); err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() {
				if b, _ := os.ReadFile(target); string(b) != secret {
					t.Errorf("its target has %q", b)
				}
			})
		}},
		{"dangling link", "is a symbolic link", func(t *testing.T, dir, file string) {
			if err := os.Symlink(filepath.Join(dir, "nowhere"), file); err != nil {
				t.Skip(err)
			}
		}},
		{"directory", "is a directory", func(t *testing.T, dir, file string) { os.Mkdir(file, 0o700) }},
		{"file for a directory", "director", func(t *testing.T, dir, file string) {
			os.Remove(dir)
			os.WriteFile(dir, []byte(secret), 0o600)
		}},
		{"directory for the lock", "is a directory", func(t *testing.T, dir, file string) { os.Mkdir(file+lockSuffix, 0o700) }},
		{"link for the lock", "", func(t *testing.T, dir, file string) {
			if err := os.Symlink(filepath.Join(t.TempDir(), "lock"), file+lockSuffix); err != nil || !unixModes {
				t.Skip(err)
			}
		}},
		{"read-only", "denied", func(t *testing.T, dir, file string) {
			if os.Geteuid() <= 0 {
				t.Skip("root may write everywhere, and Windows has no modes")
			}
			os.Chmod(dir, 0o500)
			t.Cleanup(func() { os.Chmod(dir, 0o700) })
		}},
		{"unreadable", "denied", func(t *testing.T, dir, file string) {
			if os.Geteuid() <= 0 {
				t.Skip("root may read everything, and Windows has no modes")
			}
			os.WriteFile(file, nil, 0)
		}},
		{"another's file", "another user", func(t *testing.T, dir, file string) {
			os.WriteFile(file, nil, 0o644)
			if err := os.Chown(file, 12345, 12345); err != nil {
				t.Skip("only root gives files away")
			}
		}},
		{"another's directory", "another user", func(t *testing.T, dir, file string) {
			if err := os.Chown(dir, 12345, 12345); err != nil {
				t.Skip("only root gives files away")
			}
		}},
		{"another's home", "another user", func(t *testing.T, dir, file string) {
			os.Remove(dir)
			if err := os.Chown(filepath.Dir(dir), 12345, 12345); err != nil {
				t.Skip("only root gives files away")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, which := range []string{"cache", "state"} {
				t.Run(which, func(t *testing.T) {
					home := t.TempDir()
					dir := filepath.Join(home, which)
					file := filepath.Join(dir, map[string]string{"cache": cacheFile, "state": pinsFile}[which])
					os.Mkdir(dir, 0o700)
					c.spoil(t, dir, file)
					before, _ := os.ReadDir(dir)
					log := &record{}
					o := options(home, log)
					if which == "cache" {
						o.State = ""
					} else {
						o.Cache = ""
					}
					m, err := Open(o)
					for i := range 3 {
						m.RememberChannel(descriptor(i, 1, "a").Item)
						m.Pin(fmt.Sprint(i), key(i).ID())
					}
					m.Close()
					said := log.warnings()
					if err != nil {
						said = append(said, err.Error())
					}
					if len(said) != 1 || !strings.Contains(said[0], c.want) || strings.Contains(said[0], "\n") {
						t.Errorf("it says %q, want one with %q", said, c.want)
					}
					if v, _ := m.Check("1", key(1).ID()); v != Same || len(m.Channels()) != 3 {
						t.Error("it does not know what it was told")
					}
					after, _ := os.ReadDir(dir)
					for _, e := range after {
						if e.Name() != filepath.Base(file)+lockSuffix && !slices.ContainsFunc(before, func(b fs.DirEntry) bool { return b.Name() == e.Name() }) {
							t.Errorf("it made %s", e.Name())
						}
					}
				})
			}
		})
	}
}

func TestDirs(t *testing.T) {
	for _, c := range []struct {
		goos, home, env, cache, state string
	}{
		{"linux", "/home/a", "", "/home/a/.cache/sixcast", "/home/a/.local/state/sixcast"},
		{"linux", "/home/a", "XDG_CACHE_HOME=/c XDG_STATE_HOME=/s/", "/c/sixcast", "/s/sixcast"},
		{"linux", "/home/a", "XDG_CACHE_HOME=c XDG_STATE_HOME=../s", "/home/a/.cache/sixcast", "/home/a/.local/state/sixcast"},
		{"freebsd", "", "XDG_CACHE_HOME=/c", "/c/sixcast", ""},
		{"linux", "", "", "", ""},
		{"linux", "a", "", "", ""},
		{"linux", "/", "", "/.cache/sixcast", "/.local/state/sixcast"},
		{"darwin", "/Users/a", "XDG_CACHE_HOME=/c", "/Users/a/Library/Caches/sixcast", "/Users/a/Library/Application Support/sixcast"},
		{"windows", `C:\Users\a`, "", `C:\Users\a\AppData\Local\sixcast\cache`, `C:\Users\a\AppData\Local\sixcast\state`},
		{"windows", `C:\Users\a`, `LocalAppData=D:\l\`, `D:\l\sixcast\cache`, `D:\l\sixcast\state`},
		{"windows", `a`, `LocalAppData=l`, "", ""},
	} {
		env := map[string]string{}
		for _, e := range strings.Fields(c.env) {
			k, v, _ := strings.Cut(e, "=")
			env[k] = v
		}
		cache, state, err := Dirs(func(k string) string { return env[k] }, c.home, c.goos)
		if cache != c.cache || state != c.state || errors.Is(err, ErrNoHome) != (c.cache == "" || c.state == "") {
			t.Errorf("%+v: %q %q %v", c, cache, state, err)
		}
	}
}
