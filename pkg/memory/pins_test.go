package memory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sixcast/sixcast/pkg/channel"
)

// known puts a known_channels into a new directory.
func known(t *testing.T, text string) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	os.Mkdir(filepath.Join(dir, "state"), 0o700)
	file = filepath.Join(dir, "state", pinsFile)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

func TestNamesAreComparedAsPeopleReadThem(t *testing.T) {
	for _, c := range []struct {
		known, claimed string
		want           string
	}{
		{"Radio Nord", "Radio Nord", "same"},
		{"Radio Nord", "RADIO nord", "same"},
		{"Fuß", "FUSS", "same"},
		{"caf\u00e9", "Cafe\u0301", "same"},
		{"\u212bngstr\u00f6m", "a\u030angstro\u0308m", "same"},
		{"Radio Nord", "Radio N\u043erd", "alike"}, // Cyrillic
		{"RADIO NORD", "radio n\u043erd", "alike"},
		{"Radio Nord", "Radio N0rd", "alike"},
		{"PayPal", "PayPaI", "alike"},
		{"paypal", "paypa1", "alike"},
		{"modern", "modem", "alike"},
		{"Radio Nord", "Radio  Nord", "alike"},
		{"Radio Nord", "Radio Nord ", "alike"},
		{"Radio Nord", "Radio\ufe0f Nord", "alike"}, // a variation selector is not seen
		{"Radio Nord", "Ra\u034fdio Nord", "alike"},
		{"Radio Nord", "Radio Sud", "new"},
		{"Radio Nord", "Radio Nord 2", "new"},
	} {
		m, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		m.Pin(c.known, key(1).ID())
		got := "same"
		_, err = m.Check(c.claimed, key(2).ID())
		var conflict *Conflict
		var like *LookAlike
		switch {
		case errors.As(err, &conflict):
			if conflict.Pinned != key(1).ID() || conflict.Claimed != key(2).ID() {
				t.Errorf("%+v", conflict)
			}
		case errors.As(err, &like):
			got = "alike"
			if like.Name != c.known || like.ID != key(1).ID() || !strings.Contains(like.Error(), fmt.Sprintf("%+q", c.claimed)) {
				t.Errorf("%v", like)
			}
		case err == nil:
			got = "new"
		default:
			t.Error(err)
		}
		if got != c.want {
			t.Errorf("%q beside %q: %s, want %s", c.claimed, c.known, got, c.want)
		}
		// With its own key no name is a danger, and what has been pinned is not asked about again.
		if _, err := m.Check(c.claimed, key(1).ID()); err != nil {
			t.Errorf("%q with the same key: %v", c.claimed, err)
		}
		if _, err := m.Pin(c.claimed, key(2).ID()); (err != nil) != (c.want == "same") {
			t.Errorf("pinning %q: %v", c.claimed, err)
		}
		if v, err := m.Check(c.claimed, key(2).ID()); c.want != "same" && (v != Same || err != nil) {
			t.Errorf("%q once pinned: %v %v", c.claimed, v, err)
		}
		m.Close()
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	m := open(t, t.TempDir())
	for _, name := range []string{"", "a\nb", "a\x1b[2Jb", "\u202eabc", strings.Repeat("x", 129), "\xff"} {
		if _, err := m.Pin(name, key(1).ID()); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := m.Check(name, key(1).ID()); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := m.Pin("a", channel.ID{}); !errors.Is(err, ErrName) {
		t.Error(err)
	}
}

func TestConflictSaysWhatToDo(t *testing.T) {
	dir, file := known(t, "# mine\n\nRadio%20Nord "+key(1).ID().String()+" 2026-03-01T10:00:00Z # Anna's\n")
	m := open(t, dir)
	_, err := m.Pin("radio nord", key(2).ID())
	var c *Conflict
	if !errors.As(err, &c) {
		t.Fatal(err)
	}
	want := Conflict{Name: "Radio Nord", Claimed: key(2).ID(), Pinned: key(1).ID(), Since: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC), File: file, Line: 3}
	if diff := cmp.Diff(want, *c); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(`"Radio Nord" is not the channel that it was: its key has changed.
  known since 2026-03-01: `+key(1).ID().String()+`
  claimed now: `+key(2).ID().String()+`
Either somebody passes himself off as this channel, or it really has a new key, as when the old one got lost.
Ask whoever runs it, by another way than this key came. If the new key is right, remove line 3, which begins with Radio%20Nord, from
  `+file, err.Error()); diff != "" {
		t.Error(diff)
	}
	// Pinned in this run, it has its line as soon as it is written.
	m.Pin("50 % # new", key(3).ID())
	if err := m.flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Check("50 % # new", key(4).ID()); !errors.As(err, &c) || c.Line != 4 || !strings.Contains(err.Error(), "50%20%25%20%23%20new") {
		t.Error(err)
	}
}

// What people wrote stays, byte by byte, whatever is added and removed around it.
func TestKnownChannelsIsKeptAsPeopleWroteIt(t *testing.T) {
	id := func(i int) string { return key(i).ID().String() }
	text := "\ufeffFirst " + id(1) + " 2026-03-01T10:00:00Z\r\n" +
		"# a comment\n" +
		"   \t indented " + strings.ToUpper(id(2)) + "   # no time, and capitals\n" +
		"broken line here with words\n" +
		"Name notakey 2026-03-01T10:00:00Z\n" +
		"%zz " + id(5) + "\n" +
		"Late " + id(5) + " yesterday\n" +
		"first " + id(6) + " # contradicts line 1\n" +
		"FIRST " + id(1) + " # says it again\n" +
		"\x00\xff\x1b\n" +
		"\n" +
		"Last " + id(3) + " 2026-03-01T10:00:00Z #no newline"
	dir, file := known(t, text)
	log := &record{}
	m, err := Open(options(dir, log))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	lines := ""
	for _, w := range log.warnings() {
		lines += strings.TrimPrefix(strings.SplitN(w, " ", 2)[0], file) + " "
	}
	if lines != ":4 :5 :6 :7 :8 "+file+": " && lines != ":4 :5 :6 :7 :8 : " {
		t.Errorf("it complains of %s", lines)
	}
	for name, i := range map[string]int{"First": 1, "indented": 2, "Last": 3} {
		if v, err := m.Check(name, key(i).ID()); v != Same || err != nil {
			t.Errorf("%s: %v %v", name, v, err)
		}
	}
	if p, err := m.Pin("Added Name", key(7).ID()); err != nil || !p.Since.Equal(today) {
		t.Fatal(p, err)
	}
	if err := m.flush(); err != nil {
		t.Fatal(err)
	}
	added := "\nAdded%20Name " + id(7) + " 2026-11-23T18:00:00Z\n"
	got, _ := os.ReadFile(file)
	if diff := cmp.Diff(text+added, string(got)); diff != "" {
		t.Error(diff)
	}
	if err := m.Unpin("fiRST"); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, l := range strings.SplitAfter(text, "\n") {
		if p, err := parsePin(l); err != nil || channel.FoldName(p.Name) != "first" {
			want = append(want, l)
		}
	}
	got, _ = os.ReadFile(file)
	if diff := cmp.Diff(strings.Join(want, "")+added, string(got)); diff != "" {
		t.Error(diff)
	}
	if v, err := m.Check("First", key(8).ID()); v != New || err != nil {
		t.Error("it is still pinned", v, err)
	}
	if err := m.Unpin("first"); !errors.Is(err, ErrNotPinned) {
		t.Error(err)
	}
}

// A file that somebody edits while we run is read again before it is written.
func TestEditsAreKept(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	m.Pin("a", key(1).ID())
	if err := m.flush(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "state", pinsFile)
	os.WriteFile(file, []byte("# emptied\n"), 0o644)
	m.Pin("b", key(2).ID())
	if err := m.flush(); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(file)
	if want := "# emptied\nb " + key(2).ID().String() + " 2026-11-23T18:00:00Z\n"; string(got) != want {
		t.Errorf("%q", got)
	}
	if v, err := m.Check("a", key(3).ID()); v != New || err != nil {
		t.Errorf("the line that was removed still counts: %v %v", v, err)
	}
	if info, _ := os.Stat(file); unixModes && info.Mode().Perm() != 0o600 {
		t.Error(info.Mode())
	}
}

func TestTooLargeAFileIsLeftAlone(t *testing.T) {
	text := strings.Repeat("# a comment\n", maxPins/12+1)
	dir, file := known(t, text)
	m, err := Open(options(dir, nil))
	if err == nil || !strings.Contains(err.Error(), "remove lines") {
		t.Error(err)
	}
	m.Pin("a", key(1).ID())
	m.Close()
	if got, _ := os.ReadFile(file); string(got) != text {
		t.Error("it was changed")
	}
	// One that is nearly that large takes no more.
	text = text[:maxPins-20]
	dir, file = known(t, text)
	log := &record{}
	m, err = Open(options(dir, log))
	if err != nil {
		t.Fatal(err)
	}
	m.Pin("a", key(1).ID())
	m.Close()
	if got, _ := os.ReadFile(file); string(got) != text || len(log.warnings()) != 1 {
		t.Errorf("%d bytes, %q", len(got), log.warnings())
	}
}

func TestPinsAreLimited(t *testing.T) {
	m, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i := range maxPins/64 - 1 {
		m.pins[fmt.Sprint(i)] = &pin{}
	}
	if _, err := m.Pin("the last", key(1).ID()); err != nil {
		t.Error(err)
	}
	if _, err := m.Pin("one more", key(1).ID()); !errors.Is(err, ErrPinsFull) {
		t.Error(err)
	}
}

func BenchmarkCheckNewName(b *testing.B) {
	m := open(b, full(b))
	for b.Loop() {
		if _, err := m.Check("Something else", key(1).ID()); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzPins(f *testing.F) {
	id := key(1).ID().String()
	f.Add([]byte("Radio%20Nord "+id+" 2026-03-01T10:00:00Z # Anna's\n# comment\nb "+id), "Radio Nord")
	f.Add([]byte("\ufeffa "+id+"\r\nA "+key(2).ID().String()+"\n\xff\n"), "50 % #")
	f.Add([]byte(pinsHeader), "#")
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		all, bad := parsePins(text)
		lines := strings.Count(string(text), "\n") + 1
		for k, p := range all {
			if channel.CheckName(p.Name) != nil || channel.FoldName(p.Name) != k || p.ID.IsZero() || p.Line < 1 || p.Line > lines {
				t.Fatalf("%+v", p)
			}
		}
		if len(all)+len(bad) > lines {
			t.Fatalf("%d names and %d complaints in %d lines", len(all), len(bad), lines)
		}
		if channel.CheckName(name) != nil {
			return
		}
		key, pinned := channel.FoldName(name), Pinned{Name: name, ID: key(3).ID(), Since: today}
		added := appendPin(slices.Clip(text), pinned)
		if len(text) > 0 && !strings.HasPrefix(string(added), string(text)) {
			t.Fatal("adding a name changes what was there")
		}
		more, badMore := parsePins(added)
		if all[key] == nil && (more[key] == nil || more[key].Name != name || more[key].ID != pinned.ID || !more[key].Since.Equal(today)) {
			t.Fatalf("%q is read as %+v", name, more[key])
		}
		if all[key] == nil && (len(more) != len(all)+1 || len(badMore) != len(bad)) {
			t.Fatalf("%d names and %d complaints, before %d and %d", len(more), len(badMore), len(all), len(bad))
		}
		less, badLess := parsePins(removePin(added, key))
		if less[key] != nil || len(less) != len(more)-1 || len(badLess) > len(badMore) {
			t.Fatalf("removed, there are %d names and %d complaints, before %d and %d", len(less), len(badLess), len(more), len(badMore))
		}
	})
}
