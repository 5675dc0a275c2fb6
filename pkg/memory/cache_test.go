package memory

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sixcast/sixcast/pkg/channel"
)

func TestPeersThatFedUsComeFirst(t *testing.T) {
	m := open(t, t.TempDir())
	id := key(1).ID()
	ago := func(minutes int) time.Time { return today.Add(-time.Duration(minutes) * time.Minute) }
	m.RememberPeers(id, []Peer{
		{Addr: address(1, 1), Seen: ago(1)},
		{Addr: address(2, 1), Seen: ago(30), Fed: true},
		{Addr: address(2, 2), Seen: ago(20), Fed: true},
		{Addr: address(2, 3), Seen: ago(10), Fed: true},
		{Addr: address(3, 1), Seen: ago(40), Fed: true},
		{Addr: address(1, 2), Seen: ago(2)},
		{Addr: address(4, 1), Seen: ago(60 * 24 * 29)},
		{Addr: address(5, 1), Seen: ago(60 * 24 * 31)},
	})
	m.RememberPeers(id, []Peer{{Addr: address(2, 1)}}) // seen again, with nothing to say of whether it feeds
	want := []netip.AddrPort{address(2, 3), address(3, 1), address(2, 2), address(2, 1), address(1, 1), address(4, 1), address(1, 2)}
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(m.Peers(id))); diff != "" {
		t.Error(diff)
	}
	if got := m.Peers(key(2).ID()); got != nil {
		t.Errorf("an unknown channel has %v", got)
	}
}

// One network that names a thousand of its addresses takes the place of nobody who fed us, and leaves room for others.
func TestPeersAreLimited(t *testing.T) {
	m := open(t, t.TempDir())
	id := key(1).ID()
	var many []Peer
	for i := range 1000 {
		many = append(many, Peer{Addr: address(7, i)})
	}
	for i := range 10 {
		m.RememberPeers(id, []Peer{{Addr: address(i, 1), Fed: true}, {Addr: address(100+i, 1), Seen: today.Add(-time.Hour)}})
	}
	m.RememberPeers(id, many)
	got := m.Peers(id)
	if len(got) != MaxPeers {
		t.Errorf("%d peers", len(got))
	}
	for i := range 10 {
		if !slices.Contains(got[:10], address(i, 1)) || !slices.Contains(got[:21], address(100+i, 1)) {
			t.Errorf("network %d is not where it was: %v", i, got)
		}
	}
}

func TestWhichAddressesAreRemembered(t *testing.T) {
	for addr, want := range map[string]bool{
		"[2001:db8::1]:6466":       true,
		"[fd12:3456::1]:1":         true,
		"[2a00::1]:0":              false,
		"[fe80::1]:6466":           false,
		"[fe80::1%eth0]:6466":      false,
		"[2001:db8::1%eth0]:6466":  false,
		"[fec0::1]:6466":           false,
		"[ff02::1]:6466":           false,
		"[ff0e::1]:6466":           false,
		"[::]:6466":                false,
		"[::1]:6466":               false,
		"[::ffff:192.0.2.1]:6466":  false,
		"[::192.0.2.1]:6466":       false,
		"[64:ff9b::c000:201]:6466": false,
		"192.0.2.1:6466":           false,
	} {
		a := netip.MustParseAddrPort(addr)
		if usable(a, false) != want || usable(a, true) != (want || addr == "[::1]:6466") {
			t.Errorf("%s is wrong", addr)
		}
	}
	if usable(netip.AddrPort{}, true) {
		t.Error("the zero address is usable")
	}
	// The file is not believed more than anybody else.
	b := book{key(1).ID(): {used: born, peers: []peer{{addr: netip.MustParseAddrPort("[::1]:1"), seen: born}, {addr: netip.MustParseAddrPort("[fe80::1]:1"), seen: born}}}}
	if all, _ := decode(b.encode(), born, false); len(all[key(1).ID()].peers) != 0 {
		t.Error("read from the file they are taken")
	}
}

func TestChannelsAreLimited(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	now := today.Add(-time.Hour)
	m.opts.Now = func() time.Time { return now }
	watched := descriptor(0, 1, "watched")
	m.RememberChannel(watched.Item)
	m.RememberPeers(watched.ID, []Peer{{Addr: address(1, 1), Fed: true}})
	for i := 1; i <= 1200; i++ {
		now = now.Add(time.Second)
		m.RememberChannel(descriptor(i, 1, fmt.Sprint(i)).Item)
	}
	m.Close()
	m = open(t, dir)
	if n := len(m.Channels()); n != MaxChannels {
		t.Errorf("%d channels", n)
	}
	for i, want := range map[int]bool{0: true, 1: false, 201: false, 202: true, 1200: true} {
		if _, ok := m.Channel(key(i).ID()); ok != want {
			t.Errorf("channel %d: %v", i, ok)
		}
	}
	if got := m.Channels()[0]; got.ID != key(1200).ID() {
		t.Errorf("the first is %v", got.Values)
	}
}

func TestOldIsForgotten(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	a, b := descriptor(1, 1, "a"), descriptor(2, 1, "b")
	m.RememberChannel(a.Item)
	m.RememberPeers(a.ID, []Peer{{Addr: address(1, 1), Fed: true}})
	m.Close()
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{MaxAge, 1}, {MaxAge + time.Second, 0}} {
		o := options(dir, nil)
		o.Now = func() time.Time { return today.Add(c.after) }
		m, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(m.Channels()); n != c.want || len(m.Peers(a.ID)) != c.want {
			t.Errorf("after %v: %d channels, peers %v", c.after, n, m.Peers(a.ID))
		}
		if c.want == 0 {
			m.RememberChannel(b.Item)
		}
		m.Close()
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "cache", cacheFile)); bytes.Contains(text, a.Item) || !bytes.Contains(text, b.Item) {
		t.Error("what is old is still in the file")
	}
}

// Times in the future, of a clock that was wrong once, are now.
func TestTheFutureIsNow(t *testing.T) {
	dir := t.TempDir()
	o := options(dir, nil)
	o.Now = func() time.Time { return today.AddDate(9, 0, 0) }
	m, _ := Open(o)
	d := descriptor(1, 1, "a")
	m.RememberChannel(d.Item)
	m.RememberPeers(d.ID, []Peer{{Addr: address(1, 1), Fed: true}})
	m.Close()

	m = open(t, dir)
	m.RememberPeers(d.ID, []Peer{{Addr: address(2, 1), Seen: today.AddDate(1, 0, 0), Fed: true}})
	if n := len(m.Channels()); n != 1 || len(m.Peers(d.ID)) != 2 {
		t.Fatalf("%d channels, peers %v", n, m.Peers(d.ID))
	}
	m.Close()
	b, _ := os.ReadFile(filepath.Join(dir, "cache", cacheFile))
	all, _ := decode(b, stampOf(today.AddDate(20, 0, 0)), false)
	for _, p := range all[d.ID].peers {
		if p.seen != stampOf(today) || p.fed != stampOf(today) {
			t.Errorf("%+v", p)
		}
	}
	if all[d.ID].used != stampOf(today) {
		t.Error(all[d.ID].used)
	}
}

// A machine without a clock of its own starts in 1970: nothing is thought old, and nothing written.
func TestAClockThatIsNotSet(t *testing.T) {
	dir := t.TempDir()
	m := open(t, dir)
	d := descriptor(1, 1, "a")
	m.RememberChannel(d.Item)
	m.Close()
	file := filepath.Join(dir, "cache", cacheFile)
	before, _ := os.ReadFile(file)
	o := options(dir, nil)
	o.Now = func() time.Time { return time.Unix(100, 0) }
	m, _ = Open(o)
	if len(m.Channels()) != 1 {
		t.Error("it is forgotten")
	}
	m.RememberChannel(descriptor(2, 1, "b").Item)
	if p, err := m.Pin("b", key(2).ID()); err != nil || !p.Since.IsZero() {
		t.Error(p, err)
	}
	m.Close()
	if after, _ := os.ReadFile(file); !bytes.Equal(before, after) {
		t.Error("it is written")
	}
	if v, err := open(t, dir).Check("b", key(2).ID()); v != Same || err != nil {
		t.Error(v, err)
	}
}

// stored is a book as large as one gets.
func stored(channels, peers int) book {
	r := rand.New(rand.NewPCG(1, 2))
	b := book{}
	for i := range channels {
		d := descriptor(i, 1, fmt.Sprint("Channel number ", i))
		e := &entry{item: d.Item, name: nameHash(d.Values.Name), used: stampOf(today) - stamp(i)}
		for range peers {
			e.peers = append(e.peers, peer{addr: address(r.IntN(1<<16), r.IntN(1<<16)), seen: e.used, fed: e.used})
		}
		b[d.ID] = e
	}
	return b
}

func TestDamageCostsTheRecordsItIsIn(t *testing.T) {
	const n = 20
	whole := stored(n, 3).encode()
	size := len(whole) / n
	now := stampOf(today)
	if all, damaged := decode(whole, now, false); len(all) != n || damaged != 0 || !bytes.Equal(all.encode(), whole) {
		t.Fatalf("whole it has %d, %d bytes damaged", len(all), damaged)
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		at := r.IntN(len(whole))
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1 << r.IntN(8)
		if all, damaged := decode(flipped, now, false); len(all) != n-1 || damaged == 0 {
			t.Fatalf("with a bit flipped at %d: %d of %d, %d bytes damaged", at, len(all), n, damaged)
		}
		all, _ := decode(whole[:at], now, false)
		if len(all) < at/(size+5) {
			t.Fatalf("cut off at %d: %d", at, len(all))
		}
		garbage := slices.Concat(whole[:at], []byte(magic), []byte("garbage"), whole[at:])
		if all, _ := decode(garbage, now, false); len(all) < n-1 {
			t.Fatalf("garbage at %d: %d of %d", at, len(all), n)
		}
	}
}

func TestAnotherVersionIsStartedAnew(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "cache"), 0o700)
	b := bytes.ReplaceAll(stored(3, 1).encode(), []byte(magic), []byte("\xf6S6\x02"))
	os.WriteFile(filepath.Join(dir, "cache", cacheFile), b, 0o600)
	m := open(t, dir)
	if len(m.Channels()) != 0 {
		t.Error("it is read")
	}
	m.RememberChannel(descriptor(9, 1, "a").Item)
	m.Close()
	if n := len(open(t, dir).Channels()); n != 1 {
		t.Errorf("%d channels", n)
	}
}

// An item that was tampered with, in a record that is whole, is noticed when it is used, and the channel's peers are kept.
func TestForgedDescriptorsAreDropped(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "cache"), 0o700)
	b := stored(3, 1)
	forged := b[key(0).ID()]
	forged.item = bytes.Replace(forged.item, []byte("Channel"), []byte("Chennel"), 1)
	b[key(1).ID()].item = b[key(2).ID()].item
	os.WriteFile(filepath.Join(dir, "cache", cacheFile), b.encode(), 0o600)
	m := open(t, dir)
	if got := names(m.Channels()); !slices.Equal(got, []string{"Channel number 2"}) {
		t.Errorf("channels %v", got)
	}
	if len(m.Named("Channel number 2")) != 1 || len(m.Named("Channel number 0")) != 0 || len(m.Named("")) != 0 {
		t.Error("names")
	}
	if len(m.Peers(key(0).ID())) != 1 {
		t.Error("the peers are gone")
	}
	if err := m.RememberChannel(forged.item); !errors.Is(err, channel.ErrSignature) {
		t.Error(err)
	}
	// An old one of ours is better than a new one that is none.
	m = open(t, dir)
	m.RememberChannel(descriptor(0, 0, "old").Item)
	if d, ok := m.Channel(key(0).ID()); !ok || d.Values.Name != "old" {
		t.Error(d, ok)
	}
}

// full is a directory with as much as is ever remembered.
func full(t testing.TB) string {
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "cache"), 0o700)
	if err := os.WriteFile(filepath.Join(dir, "cache", cacheFile), stored(MaxChannels, MaxPeers).encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(filepath.Join(dir, "state"), 0o700)
	var text []byte
	for i := range MaxChannels {
		text = appendPin(text, Pinned{Name: fmt.Sprint("Channel number ", i), ID: key(i).ID(), Since: today})
	}
	if err := os.WriteFile(filepath.Join(dir, "state", pinsFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOpeningIsQuick(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector takes its time")
	}
	dir := full(t)
	best := time.Hour
	for range 10 {
		begun := time.Now()
		m, err := Open(options(dir, nil))
		best = min(best, time.Since(begun))
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
	if best > 20*time.Millisecond {
		t.Errorf("it takes %v", best)
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := full(b)
	b.ReportAllocs()
	for b.Loop() {
		m, err := Open(options(dir, nil))
		if err != nil {
			b.Fatal(err)
		}
		m.Close()
	}
}

func BenchmarkWrite(b *testing.B) {
	m := open(b, full(b))
	for b.Loop() {
		m.RememberPeers(key(1).ID(), []Peer{{Addr: address(1, 1)}})
		if err := m.flush(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChannels(b *testing.B) {
	dir := full(b)
	for b.Loop() {
		m := open(b, dir)
		if len(m.Channels()) != MaxChannels {
			b.Fatal("some are missing")
		}
		m.Close()
	}
}

func BenchmarkNamed(b *testing.B) {
	dir := full(b)
	for b.Loop() {
		m := open(b, dir)
		if len(m.Named("channel number 7")) != 1 {
			b.Fatal("it is missing")
		}
		m.Close()
	}
}

// The worst that a file can be: a record may begin everywhere, and none is whole.
func BenchmarkHostileFile(b *testing.B) {
	text := bytes.Repeat([]byte(magic+"\x07\x00"), maxCache/(len(magic)+2))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if all, _ := decode(text, born, false); len(all) != 0 {
			b.Fatal("something was found")
		}
	}
}

func FuzzCache(f *testing.F) {
	whole := stored(3, 2).encode()
	f.Add(whole)
	f.Add(whole[:len(whole)-7])
	f.Add(append([]byte("garbage"), whole...))
	f.Add([]byte(magic + "\x00\x00\x00\x00\x00\x00"))
	f.Add(book{key(1).ID(): {used: 1, peers: []peer{{addr: netip.MustParseAddrPort("[::1]:1")}}}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		now := stampOf(today)
		all, damaged := decode(b, now, false)
		if damaged > len(b) {
			t.Fatalf("%d of %d bytes are damaged", damaged, len(b))
		}
		all.trim(now)
		if len(all) > MaxChannels {
			t.Fatalf("%d channels", len(all))
		}
		for _, e := range all {
			if len(e.peers) > MaxPeers || e.used > now || len(e.item) > channel.MaxItem {
				t.Fatalf("%+v", e)
			}
			for _, p := range e.peers {
				if !usable(p.addr, false) || p.seen > now || p.fed > now {
					t.Fatalf("%+v", p)
				}
			}
		}
		again, damaged := decode(all.encode(), now, false)
		if damaged != 0 || !bytes.Equal(again.encode(), all.encode()) {
			t.Fatal("written and read it is something else")
		}
		m := &Memory{opts: Options{Now: func() time.Time { return today }}, channels: again}
		for _, d := range m.Channels() {
			if _, err := channel.ParseDescriptor(d.Item); err != nil {
				t.Fatal(err)
			}
		}
	})
}
