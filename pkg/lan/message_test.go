package lan

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/sixcast/sixcast/pkg/channel"
)

// key is the key of a channel for tests.
func key(n byte) channel.Key {
	var seed [channel.SeedSize]byte
	seed[0] = n
	return channel.KeyFromSeed(seed)
}

func describe(t testing.TB, n byte, seq int64, name string) channel.Descriptor {
	t.Helper()
	d, err := channel.SignDescriptor(key(n), seq, channel.Values{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestGroups(t *testing.T) {
	for scope, want := range map[channel.Scope]string{
		channel.ScopeLink: "ff12:8253:e52:794e:76d1:3701:8e4b:89db",
		channel.ScopeSite: "ff15:8253:e52:794e:76d1:3701:8e4b:89db",
	} {
		if g := groupOf(scope); g.String() != want {
			t.Errorf("scope %d: %s, want %s", scope, g, want)
		}
	}
}

func TestNamesThatAreAlikeHaveOneHash(t *testing.T) {
	want := hashName("Télé 1")
	for _, name := range []string{"télé 1", "TÉLÉ 1", "te\u0301le\u0301 1"} {
		if hashName(name) != want {
			t.Errorf("%q has another hash", name)
		}
	}
	if hashName("Télé 2") == want {
		t.Error("another name has the same hash")
	}
	if h := hashName("Rete 4"); hex.EncodeToString(h[:]) != "bc6612165cfc81f7b5538318c5a043c3" {
		t.Errorf("Rete 4: %x", h)
	}
}

// The bytes of every message, for other implementations.
func TestVectors(t *testing.T) {
	id := channel.ID(bytes.Repeat([]byte{0xaa}, channel.IDSize))
	k := strings.Repeat("aa", channel.IDSize)
	for _, tt := range []struct {
		name string
		make func([]byte) []byte
		want string
	}{
		{"ANNOUNCE", (&announcement{id: id, port: 6470}).append,
			"01000038" + k + "1946" + "00" + "00" + "0000" + strings.Repeat("00", 16) + "0000"},
		{"ANNOUNCE of who feeds it and its group", (&announcement{id: id, port: 6470, source: true, group: Group{Scope: 5, Port: 6466}, item: []byte("d1:k")}).append,
			"0100003c" + k + "1946" + "03" + "05" + "1942" + strings.Repeat("00", 16) + "0004" + "64313a6b"},
		{"ANNOUNCE of a source-specific group", (&announcement{id: id, port: 1, group: Group{Scope: 8, Port: 6466, Source: netip.MustParseAddr("2001:db8::1")}}).append,
			"01000038" + k + "0001" + "06" + "08" + "1942" + "20010db8000000000000000000000001" + "0000"},
		{"QUERY for all", (&query{number: 7, kind: askAll}).append, "02000008" + "00000007" + "00000000"},
		{"QUERY for a channel", (&query{number: 7, kind: askChannel, id: id}).append, "02000028" + "00000007" + "01000000" + k},
		{"QUERY for a name", (&query{number: 7, kind: askName, name: hashName("Rete 4")}).append, "02000018" + "00000007" + "02000000" + "bc6612165cfc81f7b5538318c5a043c3"},
		{"GONE", (&gone{id, 6470}).append, "03000022" + k + "1946"},
	} {
		b := tt.make(appendHead(nil, 0x0102030405060708))
		if got, want := hex.EncodeToString(b), "14010000"+"0102030405060708"+tt.want; got != want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, want)
		}
		sender, m, err := parse(b)
		if err != nil || sender != 0x0102030405060708 {
			t.Fatalf("%s: sender %x, %v", tt.name, sender, err)
		}
		if again := reencode(t, m); !bytes.Equal(again, m) {
			t.Errorf("%s: read and written again: %x", tt.name, again)
		}
	}
}

// reencode reads messages and writes those of known type again.
func reencode(t testing.TB, m messages) (out []byte) {
	for len(m) > 0 {
		var kind uint8
		var body []byte
		kind, body, m = m.next()
		switch kind {
		case typeAnnounce:
			var a announcement
			if a.decode(body) == nil {
				out = a.append(out)
			}
		case typeQuery:
			var q query
			if q.decode(body) == nil {
				out = q.append(out)
			}
		case typeGone:
			var g gone
			if g.decode(body) == nil {
				out = g.append(out)
			}
		}
	}
	return out
}

func TestLargestAnnouncementFits(t *testing.T) {
	a := announcement{id: key(1).ID(), port: 1, item: make([]byte, channel.MaxItem), group: Group{Scope: 5, Port: 1, Source: netip.MustParseAddr("2001:db8::1")}}
	if b := a.append(appendHead(nil, 1)); len(b) != 1215 || len(b) > maxDatagram {
		t.Errorf("%d bytes", len(b))
	}
}

func TestDecodersRefuse(t *testing.T) {
	good := (&announcement{id: key(1).ID(), port: 1, item: []byte("item")}).append(appendHead(nil, 1))
	if _, _, err := parse(good); err != nil {
		t.Fatal(err)
	}
	change := func(at int, to ...byte) []byte { b := bytes.Clone(good); copy(b[at:], to); return b }
	for name, b := range map[string][]byte{
		"another type":        change(0, 0x13),
		"another version":     change(1, 2),
		"cut short":           good[:len(good)-1],
		"a message too long":  change(14, 0xff, 0xff),
		"one byte too many":   append(bytes.Clone(good), 0),
		"too long":            append(bytes.Clone(good), make([]byte, maxDatagram)...),
		"too many messages":   bytes.Join([][]byte{appendHead(nil, 1), bytes.Repeat([]byte{9, 0, 0, 0}, maxMessages+1)}, nil),
		"a head only in part": good[:headSize-1],
	} {
		if _, _, err := parse(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	body := good[headSize+messageHead:]
	for name, b := range map[string][]byte{
		"no port":              append(append(bytes.Clone(body[:32]), 0, 0), body[34:]...),
		"no channel":           append(make([]byte, 32), body[32:]...),
		"an item past the end": append(append(bytes.Clone(body[:54]), 0, 5), body[56:]...),
		"too short":            body[:announceSize-1],
	} {
		if (&announcement{}).decode(b) == nil {
			t.Errorf("ANNOUNCE with %s: no error", name)
		}
	}
	for name, g := range map[string]Group{
		"global scope": {Scope: 14, Port: 1}, "no port": {Scope: 5}, "a source that is a group": {Scope: 5, Port: 1, Source: netip.MustParseAddr("ff15::1")},
		"an IPv4 source": {Scope: 5, Port: 1, Source: netip.MustParseAddr("::ffff:192.0.2.1")}, "loopback": {Scope: 5, Port: 1, Source: netip.IPv6Loopback()},
	} {
		var a announcement
		b := (&announcement{id: key(1).ID(), port: 1, group: g}).append(nil)
		if err := a.decode(b[messageHead:]); err != nil || a.group.Scope != 0 {
			t.Errorf("a group with %s: %+v, %v; want the rest without it", name, a.group, err)
		}
	}
}

// What is read and written again stays the same, and nothing panics or is read past its end.
func FuzzMessages(f *testing.F) {
	id := key(1).ID()
	for _, b := range [][]byte{
		(&announcement{id: id, port: 1, source: true, item: []byte("item"), group: Group{Scope: 5, Port: 6466}}).append(appendHead(nil, 1)),
		(&query{number: 1, kind: askChannel, id: id}).append((&query{number: 1, kind: askName}).append(appendHead(nil, 1))),
		(&gone{id, 1}).append(appendHead(nil, 1)),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b[:len(b):len(b)])
		_, m, err := parse(b)
		if err != nil {
			return
		}
		once := reencode(t, m)
		if twice := reencode(t, once); !bytes.Equal(once, twice) {
			t.Errorf("%x became %x", once, twice)
		}
	})
}
