//go:build linux

package acceptance

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// lan is a sender on the first host, which feeds the group, and a receiver on each of the others, each with 5 % loss.
type lan struct {
	*station
	net *testnet.Net
	src *source
	to  []*viewer
}

func newLAN(t testing.TB, receivers int, ssm bool, seed uint64) *lan {
	t.Helper()
	hosts := testnet.Hosts(receivers+1, netem.Params{}, netem.Params{Loss: 0.05, Delay: time.Millisecond})
	l := &lan{station: newStation(t), net: testnet.New(t, testnet.Config{Seed: seed, Acquainted: true, Hosts: hosts})}
	group := []string{"--multicast", testnet.Interface}
	if ssm {
		group = append(group, "--multicast-source", l.net.Hosts()[0].Addr().String())
	}
	l.src = l.source(l.net.Hosts()[0], group...)
	for _, h := range l.net.Hosts()[1:] {
		l.to = append(l.to, l.watch(h, nil, group...)) // no --peer: the group says whom to ask for repairs
	}
	ready()
	return l
}

// wire is what the sender put on the wire at the IP layer, over the bytes of the stream.
func (l *lan) wire(pieces []piece) (float64, string) {
	sent := l.net.Hosts()[0].Traffic().Sent
	all := sent.Unicast.Bytes + sent.Multicast.Bytes + sent.Control.Bytes
	stream := float64(len(payload(pieces)))
	return float64(all) / stream, fmt.Sprintf("%.3f × the stream: group %.3f, unicast %.3f, neighbour discovery %.3f",
		float64(all)/stream, float64(sent.Multicast.Bytes)/stream, float64(sent.Unicast.Bytes)/stream, float64(sent.Control.Bytes)/stream)
}

// Five receivers of one group, each of which loses 5 % of its own, have every byte; the wire carries at most 1.5 × the stream.
func TestMulticast(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		clip clip
		ssm  bool
	}{
		{"1 Mbit per s", clip1M, false},
		{"8 Mbit per s", clip8M, false},
		{"1 Mbit per s source-specific", clip1M, true},
		{"8 Mbit per s source-specific", clip8M, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t, 5, c.ssm, 7)
			l.src.air(c.clip.path(t))
			l.src.ingest.ends(0, time.Minute)
			for _, v := range l.to {
				v.ends(0, patience)
			}
			pieces := l.src.truth.all(t)
			for _, v := range l.to {
				exact(t, v.name, pieces, v.out.bytes(), 0)
				r := v.report()
				t.Logf("%s: delay of a byte p50 %.0f ms, p99 %.0f ms; %d shards rebuilt, %d repaired", v.name, r.ByteDelay.P50, r.ByteDelay.P99, r.Net.Rebuilt, r.Net.Repaired)
			}
			times, words := l.wire(pieces)
			t.Log(words)
			if times > 1.5 {
				t.Errorf("the sender's link carried %.3f × the stream, want at most 1.5", times)
			}
		})
	}
}

// Who hears the group and has a peer nearby lives on the group: the peer only fills the time until the group has been heard for a
// while, and does so again when it falls silent.
func TestMulticastBesideAPeer(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 5, Acquainted: true, Hosts: testnet.Hosts(3, netem.Params{}, netem.Params{Loss: 0.01, Delay: time.Millisecond})}).Hosts()
	src := s.source(h[0], "--multicast", testnet.Interface)
	s.join(h[1], h[0])
	src.air(clip1M.path(t), "--loop")
	src.relay.says("multicast to")
	time.Sleep(2 * time.Second)
	stats := filepath.Join(s.dir, "stats")
	v := s.watch(h[2], h[1], "--multicast", testnet.Interface, "--stats=100ms", "--stats-file", stats)
	v.writes(1, patience)
	first := time.Since(v.born)
	v.says("blocks come from the multicast group")
	time.Sleep(time.Second)
	before := h[2].Traffic().Received
	time.Sleep(4 * time.Second)
	after := h[2].Traffic().Received
	var st struct {
		Net struct{ Parents int }
	}
	if err := lastStats(stats, &st); err != nil || st.Net.Parents != 0 {
		t.Errorf("%d parents beside the group, %v", st.Net.Parents, err)
	}
	unicast := float64(after.Unicast.Bytes-before.Unicast.Bytes) * 8 / 4
	group := float64(after.Multicast.Bytes-before.Multicast.Bytes) * 8 / 4
	t.Logf("first byte after %v; then the group brought %.0f kbit/s, peers %.0f kbit/s", first.Round(time.Millisecond), group/1e3, unicast/1e3)
	if group < 1e6 || unicast > 0.1e6 {
		t.Errorf("the group brought %.0f kbit/s and peers %.0f kbit/s of a stream of 1 Mbit/s: want all of the group", group/1e3, unicast/1e3)
	}
	if first > time.Second {
		t.Errorf("the first byte came after %v", first)
	}
	src.ingest.signal(2)
	v.ends(0, patience)
	exactFrom(t, v, src)
}

// When the sender's link is down for 2 s, nothing but those 2 s is lost.
func TestMulticastOutage(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 3, false, 11)
	l.src.air(clip1M.path(t))
	for _, v := range l.to {
		v.writes(1, patience)
	}
	time.Sleep(2 * time.Second)
	down := time.Now()
	l.net.Hosts()[0].CutFor(2 * time.Second)
	l.src.ingest.ends(0, time.Minute)
	for _, v := range l.to {
		v.ends(0, patience)
	}
	pieces := l.src.truth.all(t)
	for _, v := range l.to {
		p, err := match(pieces, v.out.bytes(), false)
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		r := v.report()
		var lost time.Duration
		for _, i := range p.missing {
			lost += pieces[i].Duration
			// A block is sent over up to its own duration, so the outage may also have the tail of the one before.
			if at := pieces[i].Created.Sub(down); at < -300*time.Millisecond || at > 2300*time.Millisecond {
				t.Errorf("%s lost block %d, made %v after the link went down: more than the 2 s", v.name, i, at.Round(time.Millisecond))
			}
		}
		t.Logf("%s lost %v (%d blocks; it says %d), %d requests", v.name, lost.Round(time.Millisecond), len(p.missing), r.LostBlocks, r.Net.Requests)
		if int(r.LostBlocks) != len(p.missing) {
			t.Errorf("%s reports %d lost blocks, %d are missing", v.name, r.LostBlocks, len(p.missing))
		}
		if p.first != firstRAP(t, pieces) || p.last < lastFull(pieces) {
			t.Errorf("%s has blocks %d to %d, want %d to %d", v.name, p.first, p.last, firstRAP(t, pieces), lastFull(pieces))
		}
		if !v.running() && v.cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("%s ended with %v", v.name, v.cmd.ProcessState)
		}
	}
}

// lastFull is the index of the last block that holds packets.
func lastFull(pieces []piece) int {
	i := len(pieces) - 1
	for i > 0 && len(pieces[i].packets) == 0 {
		i--
	}
	return i
}
