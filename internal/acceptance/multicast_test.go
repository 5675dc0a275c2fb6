//go:build linux

package acceptance

import (
	"fmt"
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
