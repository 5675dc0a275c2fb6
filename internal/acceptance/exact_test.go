//go:build linux

package acceptance

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// chain is a source and n−1 further relays, each on a host of its own and fed by the one before, and one host for a viewer. It stays
// one: they exchange no peers.
type chain struct {
	*station
	net    *testnet.Net
	src    *source
	relays []*process
}

func newChain(t testing.TB, relays int, down netem.Params, seed uint64, args ...string) *chain {
	t.Helper()
	c := &chain{station: newStation(t), net: testnet.New(t, testnet.Config{Seed: seed, Acquainted: true, Hosts: testnet.Hosts(relays+1, netem.Params{}, down)})}
	args = append(args, "--no-pex")
	c.src = c.station.source(c.host(0), args...)
	for i := 1; i < relays; i++ {
		c.relays = append(c.relays, c.join(c.host(i), c.host(i-1), args...))
	}
	return c
}

func (c *chain) host(i int) *testnet.Host { return c.net.Hosts()[i] }

// last is the host of the last relay, end that of the viewer.
func (c *chain) last() *testnet.Host { return c.host(len(c.net.Hosts()) - 2) }
func (c *chain) end() *testnet.Host  { return c.host(len(c.net.Hosts()) - 1) }

// ready waits until whoever joins a chain has had the time for it. Nothing is on air yet, so nobody says so.
func ready() { time.Sleep(700 * time.Millisecond) }

// What watch writes is, but for the preamble at its start, what ingest accepted from the first random access point to the
// last block.
func TestBitExact(t *testing.T) {
	t.Parallel()
	h264 := clipH264.packets(t)
	for _, in := range []struct {
		name    string
		packets []byte // what ingest must accept
		path    string
	}{
		{"H.264", h264, clipH264.path(t)},
		{"HEVC", clipHEVC.packets(t), clipHEVC.path(t)},
		{"MPEG-2", clipMPG2.packets(t), clipMPG2.path(t)},
		{"radio at 128 kbit per s", clipRadio.packets(t), clipRadio.path(t)},
		{"two programmes", clipMux2.packets(t), clipMux2.path(t)},
		{"192 bytes", h264, writeFile(t, "192.m2ts", framed(h264, 4, 0))},
		{"204 bytes", h264, writeFile(t, "204.ts", framed(h264, 0, 16))},
		{"24 Mbit per s", clip24M.packets(t), clip24M.path(t)},
	} {
		for _, way := range []struct {
			name   string
			relays int
			down   netem.Params
		}{
			{"directly", 1, netem.Params{}},
			{"through three relays", 3, netem.Params{}},
			{"through three relays with 5 percent loss and 50 ms round trips", 3, netem.Params{Loss: 0.05, Delay: 25 * time.Millisecond}},
		} {
			t.Run(in.name+" "+way.name, func(t *testing.T) {
				t.Parallel()
				c := newChain(t, way.relays, way.down, 1)
				v := c.watch(c.end(), c.last())
				ready()
				c.src.air(in.path)
				c.src.ingest.ends(0, time.Minute)
				v.ends(0, patience)
				pieces := c.src.truth.all(t)
				if !bytes.Equal(payload(pieces), in.packets) {
					t.Errorf("ingest made %d packets of %d, or others", len(payload(pieces))/packet, len(in.packets)/packet)
				}
				exact(t, "watch", pieces, v.out.bytes(), 0)
				r := v.report()
				t.Logf("%d blocks exact; delay of a byte p50 %.0f ms, p99 %.0f ms, max %.0f ms; %d shards rebuilt, %d repaired; %s", r.Blocks,
					r.ByteDelay.P50, r.ByteDelay.P99, r.ByteDelay.Max, r.Net.Rebuilt, r.Net.Repaired, worst(t, pieces, v.out))
			})
		}
	}
}

// The parser of this package is what all statements rest on, so it has to notice.
func TestMatchNoticesWrongBytes(t *testing.T) {
	t.Parallel()
	c := newChain(t, 1, netem.Params{}, 1)
	v := c.watch(c.end(), c.last())
	ready()
	c.src.air(clipRadio.path(t))
	v.ends(0, time.Minute)
	pieces, out := c.src.truth.all(t), v.out.bytes()
	check := func(what string, ok bool, format string, args ...any) {
		t.Helper()
		if !ok {
			t.Errorf("%s: %s", what, fmt.Sprintf(format, args...))
		}
	}
	p, err := match(pieces, out, false)
	check("as it is", err == nil && len(p.missing) == 0 && p.preambles == 1 && p.last == len(pieces)-1 || len(pieces[len(pieces)-1].packets) == 0, "%+v %v", p, err)
	bad := bytes.Clone(out)
	bad[len(bad)/2] ^= 1
	_, err = match(pieces, bad, false)
	check("a flipped bit", err != nil, "not noticed")
	i := len(pieces) / 2
	at := bytes.Index(out, pieces[i].packets)
	bad = append(bytes.Clone(out[:at]), out[at+len(pieces[i].packets):]...)
	p, err = match(pieces, bad, false)
	check("a block less", err == nil && len(p.missing) == 1 && p.missing[0] == i, "%+v %v, want %d", p, err, i)
	bad = append(bytes.Clone(out[:at]), out[at+packet:]...)
	_, err = match(pieces, bad, false)
	check("a packet less", err != nil, "not noticed")
}
