package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/udp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// station makes blocks of a channel as datagrams of the block stream.
type station struct {
	key channel.Key
	enc *block.Encoder
}

func newStation(t *testing.T, seed byte) *station {
	t.Helper()
	s := &station{key: channel.KeyFromSeed([32]byte{seed})}
	var err error
	if s.enc, err = block.NewEncoder(block.EncoderConfig{Key: s.key, Run: block.NewRun(time.Now(), 1)}); err != nil {
		t.Fatal(err)
	}
	d, err := channel.SignDescriptor(s.key, 1, channel.Values{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.enc.SetDescriptor(d.Item); err != nil {
		t.Fatal(err)
	}
	return s
}

// next is the next block with this payload, a random access point.
func (s *station) next(t *testing.T, payload []byte) (out [][]byte) {
	t.Helper()
	recs, err := s.enc.Encode(nil, payload, block.Fields{Flags: block.RAP, Created: time.Now(), Duration: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for len(recs) > 0 {
		n := int(binary.BigEndian.Uint16(recs[4:]))
		out, recs = append(out, recs[8:8+n]), recs[8+n:]
	}
	return out
}

func start(t *testing.T, c Config) *Node {
	t.Helper()
	c.Listen = netip.MustParseAddrPort("[::1]:0")
	n, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func TestBlocksCrossTheSockets(t *testing.T) {
	for _, noOffload := range []bool{false, true} {
		s := newStation(t, 1)
		source := start(t, Config{Upload: -1, NoOffload: noOffload})
		got := make(chan []byte, 16)
		viewer := start(t, Config{Channel: s.key.ID(), Peers: []netip.AddrPort{source.Addr()}, NoOffload: noOffload,
			OnBlock: func(_ time.Time, b *block.Block) { got <- b.AppendPackets(nil) }})
		for i := range 5 {
			payload := bytes.Repeat([]byte{0x47, byte(i), 2, 3}, 47*100)
			if err := source.Feed(s.next(t, payload)...); err != nil {
				t.Fatal(err)
			}
			select {
			case b := <-got:
				if !bytes.Equal(b, payload) {
					t.Errorf("block %d differs", i)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("block %d does not come", i)
			}
		}
		if d, ok := viewer.Descriptor(); !ok || d.Values.Name != "test" {
			t.Errorf("descriptor %+v, %v", d, ok)
		}
		if st := source.Stats(); st.Children != 1 || st.Links != 1 || st.Unsent != 0 {
			t.Errorf("the source counts %+v", st)
		}
		if st := viewer.Stats(); st.Blocks != 5 || st.Parent != source.Addr().String() || st.Recorded {
			t.Errorf("the viewer counts %+v", st)
		}
	}
}

func TestFeedRefusesAnotherChannel(t *testing.T) {
	source := start(t, Config{Upload: -1})
	payload := make([]byte, 188)
	payload[0] = 0x47
	if err := source.Feed(newStation(t, 1).next(t, payload)...); err != nil {
		t.Fatal(err)
	}
	if err := source.Feed(newStation(t, 2).next(t, payload)...); !errors.Is(err, ErrOtherChannel) {
		t.Errorf("another channel: %v", err)
	}
	source.Close()
	if err := source.Feed([]byte{block.TypeManifest}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestStartSaysWhy(t *testing.T) {
	a := start(t, Config{})
	if _, err := Start(Config{Listen: a.Addr()}); !errors.Is(err, udp.ErrPortInUse) {
		t.Errorf("a port in use: %v", err)
	}
	if _, err := Start(Config{Channel: newStation(t, 1).key.ID(), Multicast: &Multicast{Interface: "no-such"}}); !errors.Is(err, udp.ErrInterface) {
		t.Errorf("an interface that is not there: %v", err)
	}
}

func TestResolvePeer(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"[2001:db8::1]:6400", "[2001:db8::1]:6400"},
		{"[fe80::1%eth0]:1", "[fe80::1%eth0]:1"},
		{"192.0.2.1:6400", ""},
		{"[::ffff:192.0.2.1]:6400", ""},
		{"host", ""},
		{"host:http", ""},
		{"host:0", ""},
		{"host:70000", ""},
	} {
		got, err := ResolvePeer(context.Background(), c.in)
		if (err == nil) != (c.want != "") || err == nil && got.String() != c.want {
			t.Errorf("%q: %v, %v", c.in, got, err)
		}
	}
}
