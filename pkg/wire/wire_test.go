package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sixcast/sixcast/internal/vectors"
	"github.com/sixcast/sixcast/pkg/block"
)

// coder is what every message and the beacon have.
type coder interface {
	Append([]byte) []byte
	Decode([]byte) error
}

// vectorFile is docs/vectors/wire.json; its README.md says what the fields are.
type vectorFile struct {
	Messages  []vector    `json:"messages"`
	Odd       []vector    `json:"odd"`
	Beacons   []vector    `json:"beacons"`
	Plaintext []plaintext `json:"plaintext"`
}

type vector struct {
	Name   string         `json:"name"`
	What   string         `json:"what,omitempty"`
	Hex    string         `json:"hex"` // message: type, length, body; beacon: the datagram
	Fields map[string]any `json:"fields"`
}

// plaintext is what a sealed datagram holds, and which messages of it count.
type plaintext struct {
	What string   `json:"what"`
	Hex  string   `json:"hex"`
	Read []string `json:"read"`
}

var name = block.Name{Run: 0x0123456789abcdef, Number: 0x01020304}

var progress = Progress{Run: 0x0123456789abcdef, Newest: 300, RAP: 289, Oldest: 256}

// hops are those of the given feeds, in their order, and NoHop of all others.
func hops(feeds FeedMask, of ...uint8) (h [Feeds]uint8) {
	for i := range h {
		h[i] = NoHop
		if feeds.Has(i) {
			h[i], of = of[0], of[1:]
		}
	}
	return h
}

var (
	nothing = Holdings{Hop: hops(0), Lag: hops(0)}
	// holdings are two stripes, one from the source itself, and the manifest.
	holdings = Holdings{Live: 1<<3 | 1<<15 | Manifest, Slots: 40,
		Hop: hops(1<<3|1<<15|Manifest, 1, 4, 3), Lag: hops(1<<3|1<<15|Manifest, 0, 20, 255)}
	everything = Holdings{Live: AllFeeds &^ Second, Slots: 255,
		Hop: hops(AllFeeds&^Second, make([]uint8, Feeds)...), Lag: hops(AllFeeds&^Second, make([]uint8, Feeds)...)}
)

const (
	progressHex   = "0123456789abcdef" + "0000012c" + "00000121" + "00000100"
	noProgressHex = "0000000000000000" + "ffffffff" + "ffffffff" + "ffffffff"
	addrHex       = "20010db8000000000000000000000001" + "1900"
	mappedHex     = "00000000000000000000ffffc0000201" + "1900"
	noAddrHex     = "00000000000000000000000000000000" + "0000"
)

var (
	noProgress = Progress{Newest: NoNumber, RAP: NoNumber, Oldest: NoNumber}
	addr       = netip.MustParseAddrPort("[2001:db8::1]:6400")
	mapped     = netip.MustParseAddrPort("[::ffff:192.0.2.1]:6400")
	noAddr     = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
)

var messages = []struct {
	name string
	m    coder
	hex  string
}{
	{"BYE", &Bye{Reason: ByeFull, Text: []byte("no room")}, "03000801" + hex.EncodeToString([]byte("no room"))},
	{"JOIN", &Join{Key: [32]byte{1, 2, 31: 0xff}, Tag: TagBit | 7, Serves: true, Uplink: 20000},
		"10002d" + "01020000000000000000000000000000000000000000000000000000000000ff" + "8000000000000007" + "01" + "00004e20"},
	{"JOINED", &Joined{Channel: 0xcafebabe, Tag: TagBit | 9, Progress: progress, Holdings: holdings},
		"11002c" + "cafebabe" + "00" + "8000000000000009" + progressHex + "00018008" + "28" + "0100" + "0414" + "03ff"},
	{"JOINED", &Joined{Channel: 0xcafebabe, Status: JoinFull, Progress: noProgress, Holdings: nothing},
		"110026" + "cafebabe" + "02" + "0000000000000000" + noProgressHex + "00000000" + "00"},
	{"LEAVE", &Leave{Channel: 0xcafebabe}, "120004cafebabe"},
	{"SUBSCRIBE", &Subscribe{Channel: 0xcafebabe, Serial: 3, Feeds: 7 | Manifest | Second, Half: true, Uplink: 5000, Run: name.Run, First: FromRAP,
		Hop: hops(7|Manifest|Second, 2, NoHop, 30, 4, 4)},
		"130020" + "cafebabe" + "0003" + "00030007" + "01" + "00001388" + "0123456789abcdef" + "ffffffff" + "02ff1e0404"},
	{"SUBSCRIBE", &Subscribe{Channel: 0xcafebabe, Serial: 0xffff, Feeds: AllFeeds &^ Second, BackfillOnly: true, Uplink: 0xffffffff, First: FromNext, Hop: hops(0)},
		"13002c" + "cafebabe" + "ffff" + "0001ffff" + "02" + "ffffffff" + "0000000000000000" + "fffffffe" + strings.Repeat("ff", 17)},
	{"SUBSCRIBED", &Subscribed{Channel: 0xcafebabe, Serial: 3, Feeds: 3 | Manifest, Hop: hops(3|Manifest, 1, 2, 0)},
		"14000f" + "cafebabe" + "0003" + "00010003" + "00" + "00" + "010200"},
	{"SUBSCRIBED", &Subscribed{Channel: 0xcafebabe, Serial: 3, Feeds: 1, Reason: GrantFull, Hop: hops(1, 1),
		Redirects: [MaxRedirects]Redirect{{6, addr}, {1 << 9, noAddr}}, Redirect: 2},
		"140039" + "cafebabe" + "0003" + "00000001" + "01" + "02" + "01" + "00000006" + addrHex + "00000200" + noAddrHex},
	{"UNSUBSCRIBE", &Unsubscribe{Channel: 0xcafebabe, Serial: 4, Feeds: AllFeeds}, "15000a" + "cafebabe" + "0004" + "0003ffff"},
	{"STATE", &State{Channel: 0xcafebabe, Progress: progress, Holdings: holdings},
		"160023" + "cafebabe" + progressHex + "00018008" + "28" + "0100" + "0414" + "03ff"},
	{"STATE", &State{Channel: 0xcafebabe, Progress: progress, Holdings: everything},
		"16003f" + "cafebabe" + progressHex + "0001ffff" + "ff" + strings.Repeat("00", 34)},
	{"STATE", &State{Channel: 0xcafebabe, Progress: noProgress, Holdings: nothing},
		"16001d" + "cafebabe" + noProgressHex + "00000000" + "00"},
	{"REQUEST", &Request{Channel: 0xcafebabe, Name: name, Manifest: true, Shards: 1<<63 | 5},
		"17001a" + "cafebabe" + "00" + "0123456789abcdef" + "01020304" + "01" + "8000000000000005"},
	{"REFUSE", &Refuse{Channel: 0xcafebabe, Name: name, Reason: RefuseGone}, "180012" + "cafebabe" + "00" + "0123456789abcdef" + "01020304" + "01"},
	{"REPORT", &Report{Channel: 0xcafebabe, Datagrams: 1000, Kilobytes: 1220, Number: 300, Index: 12, Arrival: 0xfffffff0, Loss: 3277},
		"190018" + "cafebabe" + "000003e8" + "000004c4" + "0000012c" + "0c" + "fffffff0" + "0ccd" + "00"},
	{"REPORT", &Report{Channel: 0xcafebabe, Datagrams: 1000, Kilobytes: 1220, Number: 300, Index: 12, Arrival: 0xfffffff0, Loss: 3277,
		Earlier: [MaxEarlier]Earlier{{Back: 0, Index: 3, Before: 1250}, {Back: 1, Index: 14, Before: 0xffff}}, Earliers: 2},
		"190020" + "cafebabe" + "000003e8" + "000004c4" + "0000012c" + "0c" + "fffffff0" + "0ccd" + "02" + "00" + "03" + "04e2" + "01" + "0e" + "ffff"},
	{"PEERS", &Peers{Channel: 0xcafebabe, Peers: [MaxPeers]Peer{{addr, true, true}, {mapped, false, true}}, N: 2},
		"1a002b" + "cafebabe" + "02" + addrHex + "03" + mappedHex + "02"},
	{"PEERS", &Peers{Channel: 0xcafebabe}, "1a0005" + "cafebabe" + "00"},
	{"AUDIT", &Audit{Channel: 0xcafebabe, Feed: FeedManifest, Addr: addr}, "1d0017" + "cafebabe" + "10" + addrHex},
	{"VERDICT", &Verdict{Channel: 0xcafebabe, Feed: 15, Passes: true, Addr: addr}, "1e0018" + "cafebabe" + "0f" + "01" + addrHex},
	{"TRAIN", &train{Train{Train: 3, Index: 9}}, "1f0002" + "03" + "09"},
	{"ARRIVED", &Arrived{Train: 3, Index: 9, Arrival: 0xfffffff0}, "200006" + "03" + "09" + "fffffff0"},
	{"BEACON", &Beacon{Stripes: 0x3fff, Channel: 0xcafebabe, Run: name.Run, Newest: 300, RAP: 289, Repair: addr},
		"1201" + "3fff" + "cafebabe" + "0123456789abcdef" + "0000012c" + "00000121" + addrHex},
	{"BEACON", &Beacon{Stripes: 0xffff, Channel: 0xcafebabe, Run: name.Run, Newest: 300, RAP: NoNumber, Repair: noAddr},
		"1201" + "ffff" + "cafebabe" + "0123456789abcdef" + "0000012c" + "ffffffff" + noAddrHex},
}

// train is a TRAIN without padding.
type train struct{ Train }

func (m *train) Append(dst []byte) []byte { return m.Train.Append(dst, 5) }

type oddBody struct {
	what, name, hex string
	m               coder
}

// message is the whole of it.
func (x *oddBody) message() []byte {
	body, err := hex.DecodeString(x.hex)
	if err != nil {
		panic(err)
	}
	for _, y := range messages {
		if y.name == x.name {
			return AppendMessage(nil, y.m.Append(nil)[0], body)
		}
	}
	panic(x.name)
}

// odd are bodies that no encoder of ours writes, and what is read of them; nil
// where they are refused.
var odd = []oddBody{
	{"holdings with feeds that are not known: a hop and a lag for each", "STATE", "cafebabe" + noProgressHex + "80020001" + "07" + "0102" + "0303" + "0404",
		&State{Channel: 0xcafebabe, Progress: noProgress, Holdings: Holdings{Live: 1, Slots: 7, Hop: hops(1, 1), Lag: hops(1, 2)}}},
	{"the same, cut short", "STATE", "cafebabe" + noProgressHex + "80020001" + "07" + "0102" + "0303" + "04", nil},
	{"hops of feeds that are not known", "SUBSCRIBE", "cafebabe" + "0003" + "fffc0001" + "00" + "00001388" + "0123456789abcdef" + "00000007" + "02" + strings.Repeat("05", 14),
		&Subscribe{Channel: 0xcafebabe, Serial: 3, Feeds: 1, Uplink: 5000, Run: name.Run, First: 7, Hop: hops(1, 2)}},
	{"redirects behind hops of feeds that are not known", "SUBSCRIBED", "cafebabe" + "0003" + "80000001" + "01" + "01" + "02" + "09" + "fffc0004" + addrHex,
		&Subscribed{Channel: 0xcafebabe, Serial: 3, Feeds: 1, Reason: GrantFull, Hop: hops(1, 2), Redirects: [MaxRedirects]Redirect{{4, addr}}, Redirect: 1}},
	{"more redirects than are read", "SUBSCRIBED", "cafebabe" + "0003" + "00000000" + "01" + "05" + strings.Repeat("00000004"+addrHex, 5),
		&Subscribed{Channel: 0xcafebabe, Serial: 3, Reason: GrantFull, Hop: hops(0), Redirects: [MaxRedirects]Redirect{{4, addr}, {4, addr}, {4, addr}, {4, addr}}, Redirect: 4}},
	{"fewer redirects than are said", "SUBSCRIBED", "cafebabe" + "0003" + "00000000" + "01" + "05" + strings.Repeat("00000004"+addrHex, 4), nil},
	{"fewer earlier shards than are said", "REPORT", "cafebabe" + "000003e8" + "000004c4" + "0000012c" + "0c" + "fffffff0" + "0ccd" + "02" + "00030010", nil},
	{"more peers than are read", "PEERS", "cafebabe" + "09" + strings.Repeat(addrHex+"01", 9),
		&Peers{Channel: 0xcafebabe, N: 8, Peers: [MaxPeers]Peer{{addr, true, false}, {addr, true, false}, {addr, true, false}, {addr, true, false},
			{addr, true, false}, {addr, true, false}, {addr, true, false}, {addr, true, false}}}},
	{"fewer peers than are said", "PEERS", "cafebabe" + "09" + strings.Repeat(addrHex+"01", 8), nil},
	{"a feed that is not known", "AUDIT", "cafebabe" + "12" + addrHex, nil},
	{"a feed that is not known", "VERDICT", "cafebabe" + "12" + "01" + addrHex, nil},
}

// linkMessages are those that package link reads, which have one field each.
var linkMessages = []struct {
	typ         uint8
	name, field string
	body        string
}{
	{MsgPing, "PING", "token", "c0c1c2c3"},
	{MsgPong, "PONG", "token", "c0c1c2c3"},
	{MsgChallenge, "CHALLENGE", "token", "0102030405060708"},
	{MsgEcho, "ECHO", "token", "0102030405060708"},
}

var plaintexts = []plaintext{
	{"nothing", "", []string{}},
	{"messages back to back, zeros are no message of this version", "010004c0c1c2c3" + "120004cafebabe" + "000000", []string{"PING", "LEAVE"}},
	{"an unknown type is skipped", "7700050102030405" + "120004cafebabe", []string{"LEAVE"}},
	{"a body longer than known is read as far as known", "120006cafebabe0102" + "010004c0c1c2c3", []string{"LEAVE", "PING"}},
	{"a body shorter than known is no message, what follows is read", "120003cafeba" + "010004c0c1c2c3", []string{"PING"}},
	{"a length that reaches past the end: it and what follows is dropped", "010004c0c1c2c3" + "120005cafebabe", []string{"PING"}},
	{"what has no holdings is no STATE of this version", "160018cafebabe" + progressHex + "010004c0c1c2c3", []string{"PING"}},
	{"a head cut off", "010004c0c1c2c3" + "1200", []string{"PING"}},
}

func TestMessagesAreAsSpecified(t *testing.T) {
	for _, x := range messages {
		got := x.m.Append(nil)
		if h := hex.EncodeToString(got); h != x.hex {
			t.Errorf("%s:\n got %s\nwant %s", x.name, h, x.hex)
		}
		back := reflect.New(reflect.TypeOf(x.m).Elem()).Interface().(coder)
		b := got
		if x.name != "BEACON" {
			typ, bd, rest, ok := Next(got)
			if !ok || typ != got[0] || len(rest) != 0 {
				t.Fatalf("%s: not one whole message", x.name)
			}
			b = bd
		}
		if err := back.Decode(b); err != nil || !reflect.DeepEqual(back, x.m) {
			t.Errorf("%s: read back as %+v, %v", x.name, back, err)
		}
		for n := range b {
			if x.name == "BYE" && n > 0 {
				break // its text may have any length
			}
			if err := back.Decode(b[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes were enough", x.name, n, len(b))
			}
		}
		// A later version may say more.
		if err := back.Decode(append(bytes.Clone(b), 1, 2, 3)); err != nil {
			t.Errorf("%s: a longer body was refused: %v", x.name, err)
		}
	}
}

// A message may be decoded into what another one was decoded into.
func TestDecodingLeavesNothingOfWhatWasThere(t *testing.T) {
	for _, x := range messages {
		for _, y := range messages {
			if x.name != y.name || x.name == "BEACON" {
				continue
			}
			m := reflect.New(reflect.TypeOf(x.m).Elem()).Interface().(coder)
			for _, body := range [][]byte{x.m.Append(nil)[3:], y.m.Append(nil)[3:]} {
				if err := m.Decode(body); err != nil {
					t.Fatal(x.name, err)
				}
			}
			if !reflect.DeepEqual(m, y.m) {
				t.Errorf("%s: %+v", x.name, m)
			}
		}
	}
}

func TestOddBodiesAreReadAsFarAsTheyAreSound(t *testing.T) {
	for _, x := range odd {
		_, body, _, _ := Next(x.message())
		var m coder
		for _, known := range messages {
			if known.name == x.name {
				m = reflect.New(reflect.TypeOf(known.m).Elem()).Interface().(coder)
			}
		}
		switch err := m.Decode(body); {
		case x.m == nil && err == nil:
			t.Errorf("%s: %s was read", x.name, x.what)
		case x.m != nil && (err != nil || !reflect.DeepEqual(m, x.m)):
			t.Errorf("%s: %s: read as %+v, %v", x.name, x.what, m, err)
		}
	}
}

// fields turns a message into what other languages can read: names in
// snake_case, nested fields side by side; numbers of 64 bits, tags, masks and
// keys as hex; hops and lags of the feeds in the message's mask, and the
// entries of a list that are there.
func fields(m any) map[string]any {
	out := map[string]any{}
	v := reflect.Indirect(reflect.ValueOf(m))
	var mask FeedMask
	for i := range v.NumField() {
		f, name := v.Field(i), snake(v.Type().Field(i).Name)
		switch x := f.Interface().(type) {
		case netip.AddrPort:
			out[name] = x.String()
		case []byte:
			out[name] = string(x)
		case [32]byte:
			out[name] = hex.EncodeToString(x[:])
		case StripeMask:
			out[name] = fmt.Sprintf("%04x", x)
		case FeedMask:
			mask = x
			out[name] = fmt.Sprintf("%08x", x)
		case [Feeds]uint8:
			of := []int{}
			for i := range Feeds {
				if mask.Has(i) {
					of = append(of, int(x[i]))
				}
			}
			out[name] = of
		case [MaxRedirects]Redirect:
			out[name] = list(x[:m.(*Subscribed).Redirect])
		case [MaxPeers]Peer:
			out[name] = list(x[:m.(*Peers).N])
		case [MaxEarlier]Earlier:
			out[name] = list(x[:m.(*Report).Earliers])
		case int: // how long the list is
		default:
			switch {
			case name == "earliers": // likewise
			case f.Kind() == reflect.Struct:
				maps.Copy(out, fields(x))
			case f.Kind() == reflect.Uint64:
				out[name] = fmt.Sprintf("%016x", f.Uint())
			case name == "channel":
				out[name] = fmt.Sprintf("%08x", x)
			default:
				out[name] = x
			}
		}
	}
	return out
}

func list[T any](of []T) []map[string]any {
	out := []map[string]any{}
	for _, x := range of {
		out = append(out, fields(x))
	}
	return out
}

// snake is BackfillOnly as backfill_only, and RAP as rap.
func snake(name string) string {
	var out []byte
	for i := range len(name) {
		c := name[i]
		upper := c >= 'A' && c <= 'Z'
		if upper && i > 0 && name[i-1] >= 'a' {
			out = append(out, '_')
		}
		if upper {
			c += 'a' - 'A'
		}
		out = append(out, c)
	}
	return string(out)
}

func TestVectors(t *testing.T) {
	vs := vectorFile{Plaintext: plaintexts}
	for _, x := range linkMessages {
		body, err := hex.DecodeString(x.body)
		if err != nil {
			t.Fatal(err)
		}
		h := hex.EncodeToString(AppendMessage(nil, x.typ, body))
		vs.Messages = append(vs.Messages, vector{x.name, "", h, map[string]any{x.field: x.body}})
	}
	for _, x := range messages {
		v := vector{x.name, "", x.hex, fields(x.m)}
		if x.name == "BEACON" {
			vs.Beacons = append(vs.Beacons, v)
		} else {
			vs.Messages = append(vs.Messages, v)
		}
	}
	for _, x := range odd {
		v := vector{Name: x.name, What: x.what, Hex: hex.EncodeToString(x.message())}
		if x.m != nil {
			v.Fields = fields(x.m)
		}
		vs.Odd = append(vs.Odd, v)
	}
	vectors.CheckJSON(t, "wire.json", vs)
}

func TestPlaintextIsReadAsFarAsItIsSound(t *testing.T) {
	for _, x := range plaintexts {
		b, err := hex.DecodeString(x.Hex)
		if err != nil {
			t.Fatal(err)
		}
		read := []string{}
		for {
			typ, body, rest, ok := Next(b)
			if !ok {
				break
			}
			b = rest
			for _, m := range linkMessages {
				if m.typ == typ && len(body) >= len(m.body)/2 {
					read = append(read, m.name)
				}
			}
			if typ == MsgLeave && new(Leave).Decode(body) == nil {
				read = append(read, "LEAVE")
			}
		}
		if !slices.Equal(read, x.Read) {
			t.Errorf("%s: read %v, want %v", x.What, read, x.Read)
		}
	}
}

func TestNextStopsAtTheEnd(t *testing.T) {
	b := AppendMessage(nil, 0x77, []byte("abc"))
	b = (&Leave{Channel: 1}).Append(b)
	var types []uint8
	rest := b
	for {
		typ, _, r, ok := Next(rest)
		if !ok {
			break
		}
		types, rest = append(types, typ), r
	}
	if !bytes.Equal(types, []byte{0x77, MsgLeave}) || len(rest) != 0 {
		t.Errorf("types %v, %d bytes left", types, len(rest))
	}
	if _, _, _, ok := Next(b[:5]); ok {
		t.Error("a message that reaches past its datagram was taken")
	}
}

func TestNothingAllocates(t *testing.T) {
	buf := make([]byte, 0, 256)
	for _, x := range messages {
		if x.name == "BEACON" {
			continue
		}
		back := reflect.New(reflect.TypeOf(x.m).Elem()).Interface().(coder)
		if n := testing.AllocsPerRun(100, func() {
			_, b, _, _ := Next(x.m.Append(buf))
			if back.Decode(b) != nil {
				t.Fatal("not read back")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", x.name, n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	decoders := map[uint8]reflect.Type{}
	for _, x := range messages {
		b, _ := hex.DecodeString(x.hex)
		f.Add(b)
		if x.name != "BEACON" {
			decoders[b[0]] = reflect.TypeOf(x.m).Elem()
		}
	}
	for _, x := range odd {
		f.Add(x.message())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var beacon Beacon
		if beacon.Decode(b) == nil {
			if again := beacon.Append(nil); !bytes.Equal(again[:24], b[:24]) {
				t.Error("a beacon changes when written again")
			}
		}
		for range 2000 {
			typ, body, rest, ok := Next(b)
			if !ok {
				return
			}
			if of := decoders[typ]; of != nil {
				m := reflect.New(of).Interface().(coder)
				if m.Decode(body) == nil {
					_, first, _, ok := Next(m.Append(nil))
					again := reflect.New(of).Interface().(coder)
					if !ok || again.Decode(first) != nil || !reflect.DeepEqual(m, again) {
						t.Errorf("%s changes when written again", of.Name())
					}
				}
			}
			b = rest
		}
	})
}

// A TRAIN fills what it is told to, and reads the same.
func TestTrainIsPadded(t *testing.T) {
	m := Train{Train: 7, Index: 2}
	for _, size := range []int{5, 6, 323, MaxControl} {
		b := m.Append([]byte{0xaa}, size)
		typ, body, rest, ok := Next(b[1:])
		var got Train
		if len(b) != 1+size || typ != MsgTrain || len(rest) != 0 || !ok || got.Decode(body) != nil || got != m {
			t.Errorf("%d bytes: %d, type %#x, %+v, %v", size, len(b)-1, typ, got, ok)
		}
	}
}
