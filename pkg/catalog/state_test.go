package catalog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/channel"
)

// saved is a catalog of n stations, an hour old, and its state.
func saved(t testing.TB, cl *clock, n int) (*Catalog, []byte) {
	t.Helper()
	c := New(Config{Now: cl.now})
	for i, item := range stations(t, n, start) {
		if _, err := c.Put(item); err != nil {
			t.Fatal(i, err)
		}
		cl.add(time.Second)
	}
	cl.add(time.Hour)
	var buf bytes.Buffer
	if err := c.Save(&buf); err != nil {
		t.Fatal(err)
	}
	return c, buf.Bytes()
}

// same wants all entries of got to be as in want.
func same(t testing.TB, got, want *Catalog) {
	t.Helper()
	if got.Len() != want.Len() {
		t.Fatalf("%d channels, want %d", got.Len(), want.Len())
	}
	for id := range want.byID {
		a, _ := want.Get(id)
		b, ok := got.Get(id)
		if !ok || !a.First.Equal(b.First) || !a.Seen.Equal(b.Seen) || !bytes.Equal(a.Descriptor.Item, b.Descriptor.Item) {
			t.Fatalf("%v is %+v, want %+v", id, b, a)
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	defer goleak.VerifyNone(t)
	cl := newClock()
	c, state := saved(t, cl, 200)
	for _, r := range []io.Reader{bytes.NewReader(state), iotest.OneByteReader(bytes.NewReader(state))} {
		again := New(Config{Now: cl.now})
		if n, err := again.Load(r); n != 200 || err != nil {
			t.Fatal(n, err)
		}
		same(t, again, c)
		check(t, again)
		if n, err := again.Load(bytes.NewReader(state)); n != 0 || err != nil {
			t.Errorf("loaded twice: %d, %v", n, err)
		}
	}
	small := New(Config{Now: cl.now, Max: 100, Accept: func(id channel.ID) bool { return id != testchannel.Key(0).ID() }})
	if n, err := small.Load(bytes.NewReader(state)); n != 100 || err != nil {
		t.Errorf("into one with room for 100: %d, %v", n, err)
	}
	cl.add(2 * DefaultKeep)
	if n, err := New(Config{Now: cl.now}).Load(bytes.NewReader(state)); n != 0 || err != nil {
		t.Errorf("when all have expired: %d, %v", n, err)
	}
	early := newClock()
	early.add(-time.Minute)
	wrong := New(Config{Now: early.now})
	if _, err := wrong.Load(bytes.NewReader(state)); err != nil {
		t.Fatal(err)
	}
	if e, ok := wrong.Get(testchannel.Key(7).ID()); !ok || e.Seen.After(early.now()) || e.First.After(early.now()) {
		t.Errorf("seen in the future: %v", e.Seen)
	}
}

func TestEmptyState(t *testing.T) {
	cl := newClock()
	_, state := saved(t, cl, 0)
	if want := hex.EncodeToString([]byte("sixcast catalog\n")) + "0100000000" + "e0ff8d8f"; hex.EncodeToString(state) != want {
		t.Errorf("%x, want %s", state, want)
	}
	if n, err := New(Config{Now: cl.now}).Load(bytes.NewReader(state)); n != 0 || err != nil {
		t.Error(n, err)
	}
}

func TestDamagedState(t *testing.T) {
	cl := newClock()
	const all = 8
	c, state := saved(t, cl, all)
	load := func(b []byte) (int, error) {
		again := New(Config{Now: cl.now})
		n, err := again.Load(bytes.NewReader(b))
		check(t, again)
		if again.Len() != n {
			t.Fatalf("%d loaded, %d there", n, again.Len())
		}
		for id := range again.byID {
			a, _ := c.Get(id)
			b, _ := again.Get(id)
			if !a.First.Equal(b.First) || !a.Seen.Equal(b.Seen) || !bytes.Equal(a.Descriptor.Item, b.Descriptor.Item) {
				t.Fatalf("%v was changed by damage", id)
			}
		}
		return n, err
	}
	for i := 0; i < len(state); i += 83 {
		flipped := bytes.Clone(state)
		flipped[i] ^= 0x40
		if n, err := load(flipped); n < all-1 || !errors.Is(err, ErrDamaged) {
			t.Fatalf("byte %d flipped: %d, %v", i, n, err)
		}
		cutOff, err := load(state[:i])
		want := ErrDamaged
		if i < headerSize {
			want = ErrState
		}
		if !errors.Is(err, want) || cutOff > all*i/len(state)+2 {
			t.Fatalf("cut off after %d: %d, %v", i, cutOff, err)
		}
		if n, err := load(append(append(bytes.Clone(state[:i]), make([]byte, 5000)...), state[i:]...)); n < all-1 || !errors.Is(err, ErrDamaged) {
			t.Fatalf("5000 zeros at %d: %d, %v", i, n, err)
		}
		if n, err := load(append(bytes.Clone(state[:i]), state[min(i+300, len(state)):]...)); n < all-3 || !errors.Is(err, ErrDamaged) {
			t.Fatalf("300 bytes missing at %d: %d, %v", i, n, err)
		}
	}
	if n, err := load(append(bytes.Clone(state), "more"...)); n != all || !errors.Is(err, ErrDamaged) {
		t.Errorf("something follows: %d, %v", n, err)
	}
	// A record with a good checksum and a bad signature.
	r := record{first: start.Unix(), seen: start.Unix(), item: sign(t, 99, start, station(99))}
	r.item[len(r.item)-3] ^= 1
	if n, err := load(r.append(bytes.Clone(state))); n != all || !errors.Is(err, ErrDamaged) {
		t.Errorf("a forgery: %d, %v", n, err)
	}
	for _, b := range [][]byte{nil, []byte("x"), []byte(strings.Repeat("no catalog at all\n", 1000)), bytes.Repeat([]byte(recordMark), 1000)} {
		if n, err := load(b); n != 0 || !errors.Is(err, ErrState) {
			t.Errorf("%.20q: %d, %v", b, n, err)
		}
	}
	failing := errors.New("the disk is gone")
	if n, err := New(Config{Now: cl.now}).Load(io.MultiReader(bytes.NewReader(state[:len(state)/2]), iotest.ErrReader(failing))); !errors.Is(err, failing) || n < 2 {
		t.Errorf("%d, %v", n, err)
	}
}

// short takes so many bytes and then fails, as a full disk does.
type short struct {
	w    io.Writer
	room int
}

var errNoSpace = errors.New("no space left on device")

func (s *short) Write(b []byte) (int, error) {
	if len(b) > s.room {
		n, _ := s.w.Write(b[:s.room])
		s.room = 0
		return n, errNoSpace
	}
	s.room -= len(b)
	return s.w.Write(b)
}

func TestSaveFileIsAllOrNothing(t *testing.T) {
	cl := newClock()
	c, state := saved(t, cl, 300)
	dir := t.TempDir()
	path := filepath.Join(dir, "catalog")
	if _, err := New(Config{}).LoadFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is none: %v", err)
	}
	if err := c.SaveFile(path); err != nil {
		t.Fatal(err)
	}
	put(t, c, 1000, start, station(1000))
	for _, room := range []int{0, 10, headerSize, 65536, len(state) - 1} {
		err := writeFile(path, func(w io.Writer) error { return c.Save(&short{w, room}) })
		if !errors.Is(err, errNoSpace) {
			t.Errorf("room for %d bytes: %v", room, err)
		}
		if b, _ := os.ReadFile(path); !bytes.Equal(b, state) {
			t.Fatalf("room for %d bytes: the old file is lost", room)
		}
	}
	// A crash left half a file, and somebody a link.
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Symlink(victim, path+".new")
	if err := c.SaveFile(path); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(victim); string(b) != "mine" {
		t.Error("a link was followed")
	}
	again := New(Config{Now: cl.now})
	if n, err := again.LoadFile(path); n != 301 || err != nil {
		t.Fatal(n, err)
	}
	same(t, again, c)
	if err := c.SaveFile(filepath.Join(dir, "no", "catalog")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 2 {
		t.Errorf("files are left over: %v", left)
	}
}

func FuzzLoad(f *testing.F) {
	cl := newClock()
	_, state := saved(f, cl, 3)
	f.Add(state)
	f.Add(state[:headerSize+20])
	f.Add(append(state[headerSize:], state...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(Config{Now: cl.now})
		n, err := c.Load(bytes.NewReader(b))
		if n != c.Len() || err != nil && !errors.Is(err, ErrState) && !errors.Is(err, ErrDamaged) {
			t.Fatal(n, err)
		}
		check(t, c)
		var buf bytes.Buffer
		if err := c.Save(&buf); err != nil {
			t.Fatal(err)
		}
		again := New(Config{Now: cl.now})
		if m, err := again.Load(&buf); m != n || err != nil {
			t.Fatalf("%d saved, %d loaded, %v", n, m, err)
		}
		same(t, again, c)
	})
}

// Records of any bytes are read as they were written.
func FuzzRecord(f *testing.F) {
	f.Add(int64(1), int64(2), []byte("d1:k32:"), 3)
	f.Fuzz(func(t *testing.T, first, seen int64, item []byte, flip int) {
		r := record{max(first, 0), max(seen, 0), item[:min(len(item), channel.MaxItem)]}
		b := r.append(nil)
		got, size, ok := parseRecord(append(b, "more"...))
		if !ok || size != len(b) || got.first != r.first || got.seen != r.seen || !bytes.Equal(got.item, r.item) {
			t.Fatalf("%+v is read as %+v", r, got)
		}
		b[uint(flip)%uint(len(b))] ^= 1
		if _, _, ok := parseRecord(b); ok {
			t.Fatal("damage is not noticed")
		}
	})
}
