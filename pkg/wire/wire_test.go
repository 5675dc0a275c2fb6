package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
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
	Beacons   []vector    `json:"beacons"`
	Plaintext []plaintext `json:"plaintext"`
}

type vector struct {
	Name   string         `json:"name"`
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

var messages = []struct {
	name string
	m    coder
	hex  string
}{
	{"BYE", &Bye{Reason: ByeFull, Text: []byte("no room")}, "03000801" + hex.EncodeToString([]byte("no room"))},
	{"JOIN", &Join{Key: [32]byte{1, 2, 31: 0xff}, Tag: TagBit | 7, Serves: true, Uplink: 20000},
		"10002d" + "01020000000000000000000000000000000000000000000000000000000000ff" + "8000000000000007" + "01" + "00004e20"},
	{"JOINED", &Joined{Channel: 0xcafebabe, Status: JoinFull, Tag: TagBit | 9, Progress: progress},
		"110021" + "cafebabe" + "02" + "8000000000000009" + "0123456789abcdef" + "0000012c" + "00000121" + "00000100"},
	{"LEAVE", &Leave{Channel: 0xcafebabe}, "120004cafebabe"},
	{"SUBSCRIBE", &Subscribe{Channel: 0xcafebabe, Serial: 3, Mask: 0x1fff, Manifest: true, SecondManifest: true, Hop: 2, Uplink: 5000, Run: name.Run, First: FromRAP},
		"13001a" + "cafebabe" + "0003" + "1fff" + "03" + "02" + "00001388" + "0123456789abcdef" + "ffffffff"},
	{"SUBSCRIBED", &Subscribed{Channel: 0xcafebabe, Serial: 3, Mask: 0x0fff, Hop: 1, Reason: GrantFull}, "14000a" + "cafebabe" + "0003" + "0fff" + "01" + "01"},
	{"UNSUBSCRIBE", &Unsubscribe{Channel: 0xcafebabe, Mask: AllStripes}, "150006" + "cafebabe" + "ffff"},
	{"STATE", &State{Channel: 0xcafebabe, Progress: progress}, "160018" + "cafebabe" + "0123456789abcdef" + "0000012c" + "00000121" + "00000100"},
	{"REQUEST", &Request{Channel: 0xcafebabe, Name: name, Manifest: true, Shards: 1<<63 | 5},
		"17001a" + "cafebabe" + "00" + "0123456789abcdef" + "01020304" + "01" + "8000000000000005"},
	{"REFUSE", &Refuse{Channel: 0xcafebabe, Name: name, Reason: RefuseGone}, "180012" + "cafebabe" + "00" + "0123456789abcdef" + "01020304" + "01"},
	{"REPORT", &Report{Channel: 0xcafebabe, Datagrams: 1000, Kilobytes: 1220, Number: 300, Index: 12, Arrival: 0xfffffff0, Loss: 3277},
		"190018" + "cafebabe" + "000003e8" + "000004c4" + "0000012c" + "0c" + "fffffff0" + "0ccd" + "00"},
	{"REPORT", &Report{Channel: 0xcafebabe, Datagrams: 1000, Kilobytes: 1220, Number: 300, Index: 12, Arrival: 0xfffffff0, Loss: 3277,
		Earlier: [MaxEarlier]Earlier{{Back: 0, Index: 3, Before: 1250}, {Back: 1, Index: 14, Before: 0xffff}}, Earliers: 2},
		"190020" + "cafebabe" + "000003e8" + "000004c4" + "0000012c" + "0c" + "fffffff0" + "0ccd" + "02" + "00" + "03" + "04e2" + "01" + "0e" + "ffff"},
	{"STATE", &State{Channel: 0xcafebabe, Progress: Progress{Newest: NoNumber, RAP: NoNumber, Oldest: NoNumber}},
		"160018" + "cafebabe" + "0000000000000000" + "ffffffff" + "ffffffff" + "ffffffff"},
	{"BEACON", &Beacon{Stripes: 0x3fff, Channel: 0xcafebabe, Run: name.Run, Newest: 300, RAP: 289, Repair: netip.MustParseAddrPort("[2001:db8::1]:6400")},
		"1201" + "3fff" + "cafebabe" + "0123456789abcdef" + "0000012c" + "00000121" + "20010db8000000000000000000000001" + "1900"},
	{"BEACON", &Beacon{Stripes: 0xffff, Channel: 0xcafebabe, Run: name.Run, Newest: 300, RAP: NoNumber, Repair: netip.AddrPortFrom(netip.IPv6Unspecified(), 0)},
		"1201" + "ffff" + "cafebabe" + "0123456789abcdef" + "0000012c" + "ffffffff" + "00000000000000000000000000000000" + "0000"},
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

// fields turns a message into what other languages can read: names in
// snake_case, nested fields side by side; numbers of 64 bits, tags, masks and
// keys as hex.
func fields(m any) map[string]any {
	out := map[string]any{}
	v := reflect.Indirect(reflect.ValueOf(m))
	for i := range v.NumField() {
		f, name := v.Field(i), snake(v.Type().Field(i).Name)
		switch x := f.Interface().(type) {
		case netip.AddrPort:
			out[name] = x.String()
		case []byte:
			out[name] = string(x)
		case [32]byte:
			out[name] = hex.EncodeToString(x[:])
		case [MaxEarlier]Earlier:
			list := [][3]uint16{}
			for _, e := range x[:v.FieldByName("Earliers").Uint()] {
				list = append(list, [3]uint16{uint16(e.Back), uint16(e.Index), e.Before})
			}
			out[name] = list
		case StripeMask:
			out[name] = fmt.Sprintf("%04x", x)
		default:
			switch {
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
		vs.Messages = append(vs.Messages, vector{x.name, h, map[string]any{x.field: x.body}})
	}
	for _, x := range messages {
		v := vector{x.name, x.hex, fields(x.m)}
		if x.name == "BEACON" {
			vs.Beacons = append(vs.Beacons, v)
		} else {
			vs.Messages = append(vs.Messages, v)
		}
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
	buf := make([]byte, 0, 64)
	var r, back Request
	r.Shards = 3
	if n := testing.AllocsPerRun(100, func() {
		_, b, _, _ := Next(r.Append(buf))
		if back.Decode(b) != nil {
			t.Fatal("not read back")
		}
	}); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

func FuzzDecode(f *testing.F) {
	for _, x := range messages {
		b, _ := hex.DecodeString(x.hex)
		f.Add(b)
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
			for _, x := range messages {
				if raw, _ := hex.DecodeString(x.hex); raw[0] != typ || x.name == "BEACON" {
					continue
				}
				m := reflect.New(reflect.TypeOf(x.m).Elem()).Interface().(coder)
				if m.Decode(body) != nil {
					continue
				}
				_, first, _, ok := Next(m.Append(nil))
				again := reflect.New(reflect.TypeOf(x.m).Elem()).Interface().(coder)
				if !ok || again.Decode(first) != nil || !reflect.DeepEqual(m, again) {
					t.Errorf("%s changes when written again", x.name)
				}
			}
			b = rest
		}
	})
}
