package channel

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testKey(b byte) Key { return KeyFromSeed([SeedSize]byte{0: b}) }

func TestSignatureCoversPrefixAndMessage(t *testing.T) {
	k := testKey(1)
	sig := k.Sign("context", []byte("message"))
	for _, c := range []struct {
		id       ID
		prefix   string
		msg, sig string
		want     bool
	}{
		{k.ID(), "context", "message", string(sig), true},
		{k.ID(), "contextm", "essage", string(sig), true}, // a prefix that must not run into the message ends in a zero byte
		{k.ID(), "context", "massage", string(sig), false},
		{k.ID(), "", "message", string(sig), false},
		{testKey(2).ID(), "context", "message", string(sig), false},
		{k.ID(), "context", "message", string(sig[:63]), false},
		{ID{}, "context", "message", string(sig), false},
	} {
		if got := c.id.Verify(c.prefix, []byte(c.msg), []byte(c.sig)); got != c.want {
			t.Errorf("Verify(%q, %q) = %v", c.prefix, c.msg, got)
		}
	}
	long := bytes.Repeat([]byte("x"), 5000)
	if !k.ID().Verify("p", long, k.Sign("p", long)) {
		t.Error("a long message fails")
	}
}

func TestGroupsLieInTheirRanges(t *testing.T) {
	for i := range byte(50) {
		id := testKey(i).ID()
		if g := id.Group(ScopeSite); !netip.MustParsePrefix("ff15::/16").Contains(g) {
			t.Errorf("group %v", g)
		}
		if g := id.GroupSSM(ScopeOrganisation); !netip.MustParsePrefix("ff38::8000:0/97").Contains(g) {
			t.Errorf("source-specific group %v", g)
		}
	}
}

func TestKeyNeverShowsItsSecret(t *testing.T) {
	k := testKey(7)
	for _, s := range []string{k.String(), k.GoString(), k.LogValue().String()} {
		if strings.Contains(s, hex.EncodeToString(k.private[:4])) || !strings.Contains(s, k.ID().String()) {
			t.Error(s)
		}
	}
	if _, err := GenerateKey(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("a key was made from too few bytes")
	}
}

func TestParseID(t *testing.T) {
	id := testKey(3).ID()
	s := id.String()
	for _, ok := range []string{s, strings.ToUpper(s), strings.ReplaceAll(s, "o", "0"), strings.ReplaceAll(s, "b", "8")} {
		if got, err := ParseID(ok); err != nil || got != id {
			t.Errorf("ParseID(%s) = %v, %v", ok, got, err)
		}
	}
	for _, c := range []struct{ in, want string }{
		{"", "it has 0 characters"},
		{s[:51], "it has 51 characters"},
		{s + "a", "it has 53 characters"},
		{"1" + s[1:], "is it i or l?"},
		{s[:10] + "9" + s[11:], `character 11 is '9'`},
		{s[:51] + "b", "the last character"},
	} {
		if _, err := ParseID(c.in); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseID(%q): %v, want %q", c.in, err, c.want)
		}
	}
}

func TestURIRoundTrips(t *testing.T) {
	id := testKey(4).ID()
	key := id.String()
	for _, c := range []struct {
		in   string
		want URI
		out  string
	}{
		{"sixcast:" + key, URI{ID: id}, ""},
		{"sixcast:" + key + "?name=ch1", URI{ID: id, Name: "ch1"}, ""},
		{"sixcast:" + key + "?name=a%20%26%20b%2B%23", URI{ID: id, Name: "a & b+#"}, ""},
		{"sixcast:" + key + "?peer=[2001:db8::1]:6466&peer=[fe80::1%25eth0]:1&tracker=udp://t.example:6969&tracker=https://u.example/a?b",
			URI{ID: id, Peers: []string{"[2001:db8::1]:6466", "[fe80::1%eth0]:1"}, Trackers: []string{"udp://t.example:6969", "https://u.example/a?b"}},
			"sixcast:" + key + "?peer=[2001:db8::1]:6466&peer=[fe80::1%25eth0]:1&tracker=udp://t.example:6969&tracker=https://u.example/a%3Fb"},
		{"sixcast:" + key + "#se?c&r%25et", URI{ID: id, Secret: "se?c&r%25et"}, ""},
		{"SIXCAST://" + strings.ToUpper(key) + "/?future=1&name=Rete+4&", URI{ID: id, Name: "Rete 4"}, "sixcast:" + key + "?name=Rete%204"},
		{"sixcast:" + key + "?peer=host.example:99", URI{ID: id, Peers: []string{"host.example:99"}}, ""},
		{"sixcast:" + key + "?peer=%5B2001:db8::1%5D:6466", URI{ID: id, Peers: []string{"[2001:db8::1]:6466"}}, "sixcast:" + key + "?peer=[2001:db8::1]:6466"},
	} {
		got, err := ParseURI(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.in, diff)
		}
		out := c.out
		if out == "" {
			out = c.in
		}
		if got.String() != out {
			t.Errorf("%s is written %s", c.in, got)
		}
	}
}

func TestURIErrorsSayWhatToDo(t *testing.T) {
	u := "sixcast:" + testKey(4).ID().String()
	for _, c := range []struct{ in, want string }{
		{"", "must begin with sixcast:"},
		{"http://example", "must begin with sixcast:"},
		{"sixcast:abc", "it has 3 characters, a key has 52"},
		{u + "?name=a&name=b", "given twice"},
		{u + "?name=%1b[2J", "unprintable"},
		{u + "?name=%e2%80%aex", "unprintable"},
		{u + "?name=" + strings.Repeat("x", 129), "129 bytes"},
		{u + "?peer=[fe80::1%eth0]:6466", "%25eth0"},
		{u + "?peer=[2001:db8::1]", "write [2001:db8::1]:6466"},
		{u + "?peer=2001:db8::1", "write [2001:db8::1]:6466"},
		{u + "?peer=192.0.2.1:6466", "IPv6"},
		{u + "?peer=[::ffff:192.0.2.1]:6466", "IPv6"},
		{u + "?peer=[2001:db8::1]:0", "port"},
		{u + "?peer=[2001:db8::1]:65536", "port"},
		{u + "?peer=[ff02::1]:1", "single host"},
		{u + "?peer=:1", "neither"},
		{u + strings.Repeat("&", maxURI), "bytes"},
		{u + "?" + strings.Repeat("peer=[::1]:1&", maxPeers+1), "more than 64 peers"},
		{u + "?tracker=t.example", "udp://tracker.example:6969"},
	} {
		_, err := ParseURI(c.in)
		if !errors.Is(err, ErrURI) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseURI(%.150q): %v, want %q", c.in, err, c.want)
		}
	}
}

func TestParseArg(t *testing.T) {
	dir := t.TempDir()
	id := testKey(5).ID()
	want := URI{ID: id, Name: "ch1"}
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", "# my channel\n\n  "+want.String()+"  \n")
	key := filepath.Join(dir, "key")
	if err := WriteKeyFile(key, testKey(5), "ch1", time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	for _, arg := range []string{want.String(), "@" + good} {
		if got, err := ParseArg(arg); err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%s: %+v, %v", arg, got, err)
		}
	}
	if got, err := ParseArg(id.String()); err != nil || got.ID != id {
		t.Errorf("a bare key: %v, %v", got, err)
	}
	for _, c := range []struct{ arg, want string }{
		{"@" + key, "secret key"},
		{"@" + file("empty", "# nothing\n"), "there is none in"},
		{"@" + filepath.Join(dir, "missing"), "no such file"},
		{good, "write @" + good},
		{"ch1", "sixcast:KEY"},
		{"sixcast:ch1", "a key has 52"},
	} {
		if _, err := ParseArg(c.arg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.arg, err, c.want)
		}
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ch1.key")
	k, err := GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteKeyFile(path, k, "ch1", time.Now()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	kf, err := ReadKeyFile(path)
	if err != nil || kf.Warning != nil || kf.Key.ID() != k.ID() || kf.Public.String() != (URI{ID: k.ID(), Name: "ch1"}).String() {
		t.Fatalf("%+v, %v", kf, err)
	}
	if !k.ID().Verify("", []byte("m"), kf.Key.Sign("", []byte("m"))) {
		t.Error("the key read back signs differently")
	}
	before, _ := os.ReadFile(path)
	if err := WriteKeyFile(path, testKey(1), "ch2", time.Now()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwriting: %v", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the key file was touched")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if kf, err := ReadKeyFile(path); err != nil || !errors.Is(kf.Warning, ErrKeyReadable) {
		t.Errorf("world-readable: %v, %v", kf.Warning, err)
	}
}

func TestKeyFileErrors(t *testing.T) {
	dir := t.TempDir()
	line := secretLine(testKey(1))
	for i, c := range []struct{ text, want string }{
		{"", "empty"},
		{"# sixcast channel key\n", "missing"},
		{line[:40], "truncated"},
		{line[:len(line)-1], "truncated"},
		{line + "A", "damaged"},
		{line[:len(secretPrefix)] + "AA" + line[len(secretPrefix)+2:], "checksum"},
		{line + "\n" + line, "follows"},
		{"-----BEGIN OPENSSH PRIVATE KEY-----\n", "no line begins"},
		{URI{ID: testKey(1).ID()}.String(), "public URI"},
		{publicPrefix + URI{ID: testKey(2).ID()}.String() + "\n" + line, "another channel's"},
		{strings.Repeat("#\n", maxKeyFile), "too long"},
		{"\x00\x01\x02", "no line begins"},
	} {
		path := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeyFile(path); !errors.Is(err, ErrKeyFile) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := ReadKeyFile(dir); !errors.Is(err, ErrKeyFile) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := ReadKeyFile(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "keygen") {
		t.Errorf("a missing file: %v", err)
	}
	// A header that somebody broke does not keep the key from use.
	path := filepath.Join(dir, "header")
	os.WriteFile(path, []byte(publicPrefix+"nonsense\n\r\n"+line+"\r\n"), 0o600)
	if kf, err := ReadKeyFile(path); err != nil || kf.Public.ID != testKey(1).ID() {
		t.Errorf("a broken header: %+v, %v", kf, err)
	}
}

func TestDescriptorKeepsUnknownKeys(t *testing.T) {
	k := testKey(9)
	v := Values{Name: "n", BitRate: 1, Unknown: []Entry{{"b2", []byte("de")}, {"zz", []byte("i-5e")}}}
	d, err := SignDescriptor(k, 42, v)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDescriptor(d.Item)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, got); diff != "" {
		t.Error(diff)
	}
	again, err := SignDescriptor(k, 42, got.Values)
	if err != nil || !bytes.Equal(again.Item, d.Item) {
		t.Errorf("signed again: %q, %v", again.Item, err)
	}
}

func TestDescriptorLimits(t *testing.T) {
	k := testKey(9)
	fit := strings.Repeat("x", MaxValues-len("d1:d995:e")+1)
	for len(fit) > 0 {
		if d, err := SignDescriptor(k, 1<<62, Values{Description: fit}); err == nil {
			if len(d.Item) > MaxItem {
				t.Errorf("item of %d bytes", len(d.Item))
			}
			if n := len(AppendDatagram(nil, d.Item)); n > 1232 {
				t.Errorf("datagram of %d bytes", n)
			}
			break
		} else if !errors.Is(err, ErrDescriptorLarge) {
			t.Fatal(err)
		}
		fit = fit[1:]
	}
	if len(fit) != 1000-len("d1:d991:e") {
		t.Errorf("the largest description has %d bytes", len(fit))
	}
	if _, err := SignDescriptor(k, -1, Values{}); !errors.Is(err, ErrDescriptor) {
		t.Error(err)
	}
	for _, u := range []Entry{{"n", []byte("i1e")}, {"x", []byte("i01e")}, {"x", []byte("i1ei1e")}, {"x", nil}} {
		if _, err := SignDescriptor(k, 1, Values{Name: "n", Unknown: []Entry{u}}); !errors.Is(err, ErrDescriptor) {
			t.Errorf("unknown %q=%q: %v", u.Key, u.Value, err)
		}
	}
}

func TestDescriptorForged(t *testing.T) {
	d, err := SignDescriptor(testKey(9), 42, Values{Name: "n", Description: "d"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range d.Item {
		b := bytes.Clone(d.Item)
		b[i] ^= 1
		if _, err := ParseDescriptor(b); !errors.Is(err, ErrDescriptor) && !errors.Is(err, ErrSignature) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
		if _, err := ParseDescriptor(d.Item[:i]); !errors.Is(err, ErrDescriptor) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if _, err := ParseDescriptor(append(bytes.Clone(d.Item), 'e')); err == nil {
		t.Error("a byte too many passes")
	}
}

func TestBencodeIsCanonical(t *testing.T) {
	for _, ok := range []string{"i0e", "i-1e", "i9223372036854775807e", "0:", "3:abc", "le", "de", "d1:ai1e1:bl1:cee", "llllllleeeeeee"} {
		if err := canonical([]byte(ok)); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "i-0e", "i00e", "i01e", "ie", "i-e", "i1", "i9223372036854775808e", "01:a", "4:abc", "99999999999:a", "-1:a",
		"l", "d", "d1:b0:1:a0:e", "d1:a0:1:a0:e", "di1e0:e", "d1:ae", "x", "i1ei1e", strings.Repeat("l", 9) + strings.Repeat("e", 9), strings.Repeat("l", 100000)} {
		if err := canonical([]byte(bad)); !errors.Is(err, ErrBencode) {
			t.Errorf("%.40s: %v", bad, err)
		}
	}
}

func TestDatagram(t *testing.T) {
	d, _ := SignDescriptor(testKey(1), 1, Values{Name: "n"})
	b := AppendDatagram([]byte("head"), d.Item)[4:]
	if item, err := ParseDatagram(b); err != nil || !bytes.Equal(item, d.Item) {
		t.Errorf("%q, %v", item, err)
	}
	for _, bad := range []string{"", "\x13", "\x13\x01\x00", "\x12\x01\x00\x00", "\x13\x02\x00\x00", "\x13\x01\x00\x01", "\x13\x01\x00\x00x"} {
		if _, err := ParseDatagram([]byte(bad)); !errors.Is(err, ErrDescriptor) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("sixcast:" + testKey(1).ID().String() + "?name=a&peer=[fe80::1%25eth0]:1&tracker=udp://t:1#s")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			return
		}
		if len(u.String()) > maxURI {
			return // escaping made it longer
		}
		again, err := ParseURI(u.String())
		if err != nil {
			t.Fatalf("%q is written %q: %v", s, u, err)
		}
		if diff := cmp.Diff(u, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzParseDescriptor(f *testing.F) {
	d, _ := SignDescriptor(testKey(1), 1, Values{Name: "n", Trackers: []string{"a"}, BitRate: 5})
	f.Add(d.Item)
	f.Fuzz(func(t *testing.T, b []byte) {
		// The signature stops a fuzzer at once, so what lies behind it is called without.
		_, seq, _, values, err := splitItem(b)
		if err != nil {
			return
		}
		var v Values
		if err := v.parse(values); err != nil {
			t.Fatalf("canonical but not parsed: %v", err)
		}
		if _, err := SignDescriptor(testKey(1), seq, v); err != nil && !errors.Is(err, ErrDescriptorLarge) {
			t.Fatalf("parsed but not signed again: %v", err)
		}
	})
}

func FuzzParseKeyFile(f *testing.F) {
	f.Add([]byte(publicPrefix + "sixcast:x\n" + secretLine(testKey(1))))
	f.Fuzz(func(t *testing.T, b []byte) { parseKeyFile(b) })
}

func FuzzParseDatagram(f *testing.F) {
	f.Add([]byte("\x13\x01\x00\x01d"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if item, err := ParseDatagram(b); err == nil && !bytes.Equal(AppendDatagram(nil, item), b) {
			t.Fatal("the datagram is not made again")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	k := testKey(1)
	id := k.ID()
	msg := make([]byte, 1120)
	sig := k.Sign("sixcast manifest 1\x00", msg)
	b.ReportAllocs()
	for b.Loop() {
		if !id.Verify("sixcast manifest 1\x00", msg, sig) {
			b.Fatal()
		}
	}
}

func BenchmarkSign(b *testing.B) {
	k := testKey(1)
	msg := make([]byte, 1120)
	b.ReportAllocs()
	for b.Loop() {
		k.Sign("sixcast manifest 1\x00", msg)
	}
}
