//go:build linux

package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// A home's uplink of 10 Mbit/s with a deep FIFO, a relay behind it that feeds four viewers, and a TCP beside it: the relay
// adds next to no queue, and gives way. It is told nothing of the 10 Mbit/s.
func TestUplinkIsShared(t *testing.T) {
	for _, tool := range []string{"tc", "iperf3"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: scripts/setup installs it", err)
		}
	}
	const rate = 10_000_000
	for _, x := range []struct {
		upload string
		where  string
		fifo   time.Duration
		tcp    float64 // at least, Mbit/s
		long   bool    // only with SIXCAST_SOAK
	}{
		{"3M", "host", 300 * time.Millisecond, 6.5, true},
		{"9M", "host", 300 * time.Millisecond, 5, false},
		{"", "host", 1000 * time.Millisecond, 2, true},
		{"3M", "router", 300 * time.Millisecond, 6.5, true},
		{"9M", "router", 300 * time.Millisecond, 5, false},
		{"", "router", 1000 * time.Millisecond, 5, true},
	} {
		t.Run(fmt.Sprint("upload=", x.upload, " in=", x.where, " fifo=", x.fifo), func(t *testing.T) {
			if x.long && !soak {
				t.Skip("takes minutes with the others: set SIXCAST_SOAK=1")
			}
			s := newStation(t)
			h := testnet.New(t, testnet.Config{Seed: 1, Hosts: testnet.Hosts(6, netem.Params{}, netem.Params{Delay: 10 * time.Millisecond})}).Hosts()
			home, server := h[0], h[5]
			if x.where == "router" {
				home.SetUp(netem.Params{Rate: rate, Queue: int(rate / 8 * x.fifo.Seconds())})
			} else {
				in(t, home, "tc", "qdisc", "add", "dev", testnet.Interface, "root", "tbf", "rate", "10mbit", "burst", "6kb", "latency", fmt.Sprint(x.fifo.Milliseconds(), "ms"))
			}
			iperf := server.Command(context.Background(), "iperf3", "-s", "-1")
			if err := iperf.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { iperf.Process.Kill(); iperf.Wait() })
			stats := filepath.Join(t.TempDir(), "stats")
			args := []string{"--stats-file", stats}
			if x.upload != "" {
				args = append(args, "--upload", x.upload)
			}
			src := s.source(home, args...)
			src.air(clip2M.path(t), "--loop")
			var viewers []*viewer
			for _, v := range h[1:5] {
				viewers = append(viewers, s.watch(v, home))
			}
			viewers[0].writes(1, patience)
			type uplink struct {
				Children int `json:"children"`
				Uplink   struct {
					Capacity float64 `json:"capacity_bps"`
					Used     float64 `json:"used_bps"`
					Queue    float64 `json:"queue_ms"`
				} `json:"uplink"`
			}
			say := func(when string) (u uplink) {
				if err := lastStats(stats, &u); err != nil {
					t.Error(err)
				}
				t.Logf("%s: %d children, capacity %.2f Mbit/s, used %.2f, queue %.1f ms", when, u.Children, u.Uplink.Capacity/1e6, u.Uplink.Used/1e6, u.Uplink.Queue)
				return u
			}
			// queue samples the FIFO until it is told to stop.
			queue := func(d time.Duration) (all []float64) {
				for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
					out := in(t, home, "tc", "-s", "-j", "qdisc", "show", "dev", testnet.Interface)
					var q []struct {
						Backlog float64 `json:"backlog"`
					}
					if err := json.Unmarshal(out, &q); err != nil || len(q) == 0 {
						t.Fatalf("tc says %s: %v", out, err)
					}
					all = append(all, q[0].Backlog*8/rate*1000)
				}
				slices.Sort(all)
				return all
			}
			time.Sleep(8 * time.Second)
			q := queue(5 * time.Second)
			say("alone")
			t.Logf("queue alone: p50 %.1f p95 %.1f max %.1f ms", q[len(q)/2], q[len(q)*95/100], q[len(q)-1])
			if p := q[len(q)*9/10]; p > 50 {
				t.Errorf("we add %.1f ms of queue, want 50 at most", p)
			}
			tcp := make(chan float64)
			go func() {
				out, _ := home.Command(context.Background(), "iperf3", "-c", server.Addr().String(), "-t", "16", "-J", "-C", "cubic").Output()
				var r struct {
					End struct {
						Sum struct {
							Rate float64 `json:"bits_per_second"`
						} `json:"sum_received"`
					} `json:"end"`
				}
				json.Unmarshal(out, &r)
				tcp <- r.End.Sum.Rate / 1e6
			}()
			q = queue(14 * time.Second)
			u := say("beside TCP")
			t.Logf("queue beside TCP: p5 %.1f p50 %.1f max %.1f ms", q[len(q)/20], q[len(q)/2], q[len(q)-1])
			rate := <-tcp
			t.Logf("TCP got %.2f Mbit/s", rate)
			if rate < x.tcp {
				t.Errorf("TCP got %.2f Mbit/s, want %.1f at least", rate, x.tcp)
			}
			if u.Children == 0 && x.upload != "3M" { // a third of that is no child of one parent
				t.Error("nobody is served beside a TCP")
			}
			time.Sleep(8 * time.Second)
			say("afterwards")
		})
	}
}

// in runs a command in a host.
func in(t *testing.T, h *testnet.Host, name string, args ...string) []byte {
	t.Helper()
	cmd := h.Command(context.Background(), name, args...)
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, words.Bytes())
	}
	return out
}
