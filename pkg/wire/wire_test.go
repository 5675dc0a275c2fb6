package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"testing"

	"github.com/sixcast/sixcast/pkg/block"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorFile = "../../docs/vectors/wire.json"

// coder is what every message and the beacon have.
type coder interface {
	Append([]byte) []byte
	Decode([]byte) error
}

type vector struct {
	Name   string `json:"name"`
	Hex    string `json:"hex"` // message: type, length, body; beacon: the datagram
	Fields any    `json:"fields"`
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
		"190017" + "cafebabe" + "000003e8" + "000004c4" + "0000012c" + "0c" + "fffffff0" + "0ccd"},
	{"BEACON", &Beacon{Stripes: 0x3fff, Channel: 0xcafebabe, Run: name.Run, Newest: 300, RAP: 289, Repair: netip.MustParseAddrPort("[2001:db8::1]:6400")},
		"1201" + "3fff" + "cafebabe" + "0123456789abcdef" + "0000012c" + "00000121" + "20010db8000000000000000000000001" + "1900"},
}

func body(b []byte) []byte {
	if b[0] == TypeBeacon && b[1] == Version {
		return b
	}
	return b[3:]
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

func TestVectors(t *testing.T) {
	var vs []vector
	for _, x := range messages {
		vs = append(vs, vector{x.name, x.hex, x.m})
	}
	want, err := json.MarshalIndent(vs, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(vectorFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what this code says: run with -update and mend docs/protocol.md", vectorFile)
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
