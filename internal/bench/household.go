//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/sixcast/sixcast/internal/swarm"
)

const (
	householdRate    = 10_000_000 // bit/s, of the uplink that our peer and TCP share
	householdViewers = 6          // who can take from our peer only
	householdSpan    = 20 * time.Second
)

// meshHousehold measures one peer and a TCP flow on one uplink.
func (b *bench) meshHousehold() error {
	var none table
	iperf := have(&none, "iperf3")
	for _, upload := range []string{"3M", "9M", ""} {
		if err := b.household(upload, iperf); err != nil {
			return err
		}
	}
	if !iperf {
		b.out.note("    iperf3 is not installed: no TCP flow")
	}
	return nil
}

func (b *bench) household(upload string, iperf bool) error {
	const rate = 2_000_000.0
	// Our peer, a server for the TCP flow, and viewers with nothing to give: the source can feed one, so all take from our peer.
	c := swarm.Config{Viewers: householdViewers + 2, Source: 1.5, Uplinks: []float64{householdRate / rate, 100}}
	for range householdViewers {
		c.Uplinks = append(c.Uplinks, 0.1)
	}
	name, args := "no --upload", []string(nil)
	if upload != "" {
		name, args = "--upload "+upload, []string{"--upload", upload}
	}
	return b.mesh("household"+upload, c, func(s *swarm.Swarm) error {
		peer, err := s.JoinAt(0, []netip.AddrPort{s.Source.Addr}, swarm.Honest, args...)
		if err != nil {
			return err
		}
		if err := swarm.Sleep(b.ctx, 3*time.Second); err != nil {
			return err
		}
		for i := range householdViewers {
			if _, err := s.JoinAt(2+i, []netip.AddrPort{peer.Addr}, swarm.Honest); err != nil {
				return err
			}
		}
		if err := swarm.Sleep(b.ctx, 10*time.Second); err != nil {
			return err
		}
		queue := sampleBacklog(peer)
		w, err := b.measure(s, householdSpan, nil)
		waits := queue.stop()
		if err != nil {
			return err
		}
		target := "≤ 50 ms"
		if upload == "3M" {
			target = ""
		}
		b.fact("queue that we add to an uplink of 10 Mbit/s without TCP, "+name, target, "p50 %.0f ms, p95 %.0f ms, greatest %.0f ms, while we send %.2f Mbit/s",
			ms(quantile(waits, 0.5)), ms(quantile(waits, 0.95)), ms(quantile(waits, 1)), w.Sends(&peer.Peer)/1e6)
		b.load(w.Load)
		if !iperf {
			return nil
		}
		server := s.Net.Host("v2")
		listen := server.Command(b.ctx, "iperf3", "-s", "-1", "-B", server.Addr().String())
		if err := listen.Start(); err != nil {
			return err
		}
		defer listen.Wait()
		if err := swarm.Sleep(b.ctx, 500*time.Millisecond); err != nil {
			return err
		}
		queue = sampleBacklog(peer)
		var tcp float64
		var tcpErr error
		w, err = b.measure(s, householdSpan+3*time.Second, func(ctx context.Context) error {
			tcp, tcpErr = flow(b.ctx, peer.Host.Command(b.ctx, "iperf3", "-6", "-c", server.Addr().String(), "-t", fmt.Sprint(int(householdSpan/time.Second)), "-O", "2", "-J"))
			return nil
		})
		waits = queue.stop()
		if err != nil {
			return err
		}
		if tcpErr != nil {
			return tcpErr
		}
		target = "≥ 6.5 Mbit/s"
		switch upload {
		case "9M":
			target = "≥ 5 Mbit/s (half)"
		case "":
			target = ""
		}
		b.fact("a TCP flow beside us on one uplink of 10 Mbit/s, "+name, target, "TCP %.2f Mbit/s, we send %.2f Mbit/s; queue p50 %.0f ms, p95 %.0f ms", tcp/1e6, w.Sends(&peer.Peer)/1e6, ms(quantile(waits, 0.5)), ms(quantile(waits, 0.95)))
		return nil
	})
}

func ms(d time.Duration) float64 { return 1e3 * d.Seconds() }

// flow runs an iperf3 client and returns what arrived, in bit/s.
func flow(ctx context.Context, cmd *exec.Cmd) (float64, error) {
	out, err := cmd.Output()
	var r struct {
		Error string
		End   struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	if e := json.Unmarshal(out, &r); e != nil || err != nil || r.Error != "" {
		return 0, fmt.Errorf("iperf3: %w: %v: %s", err, e, r.Error)
	}
	return r.End.Received.Rate, nil
}

// backlog looks at the queue of an uplink again and again.
type backlog struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	waits  []time.Duration
}

func sampleBacklog(v *swarm.Viewer) *backlog {
	q := &backlog{}
	var ctx context.Context
	ctx, q.cancel = context.WithCancel(context.Background())
	q.done.Go(func() {
		for ctx.Err() == nil {
			q.waits = append(q.waits, v.Host.Backlog())
			time.Sleep(5 * time.Millisecond)
		}
	})
	return q
}

func (q *backlog) stop() []time.Duration {
	q.cancel()
	q.done.Wait()
	slices.Sort(q.waits)
	return q.waits
}
