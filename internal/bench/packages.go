//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// goBenchmarks are the ones whose figures are shown: arguments of -bench, by package.
var goBenchmarks = []struct {
	pkg      string
	patterns []string
}{
	{"pkg/ts", []string{"^BenchmarkSync$/^188$/^64k$", "^BenchmarkWalk$/^(video|h264_open_gop)$", "^BenchmarkContinuity$/^batch=7$", "^BenchmarkMeter$"}},
	{"pkg/block", []string{"^BenchmarkEncode$/^D=12,j=4$", "^Benchmark(Ingest|VerifyManifest|Add)$", "^BenchmarkReconstruct$/^lost=4,all=true$"}},
	{"pkg/link", []string{"^Benchmark(BareDatagram|SealAndOpen|HandshakeBothSides)$"}},
	{"pkg/mesh", []string{"^BenchmarkForward$"}},
	{"pkg/announce", []string{"^BenchmarkAnnounce$"}},
	{"pkg/tracker", []string{"^BenchmarkServe$"}},
	{"pkg/udp", []string{"^BenchmarkSend$/^segments=(4|16)$/^(queue|bare)$", "^BenchmarkSend$/^sendto$", "^BenchmarkSendReceive$"}},
}

var benchLine = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// packages runs Go benchmarks on one core, and the ceiling that the system sets.
func (b *bench) packages() error {
	t := &table{
		title:   "packages, one core (medians)",
		command: "go test -run '^$' -bench … -benchmem -cpu 1 -count " + strconv.Itoa(b.runs) + " ./pkg/{ts,block,link,mesh,announce,tracker,udp}",
		columns: []string{"benchmark", "time an operation", "throughput", "allocations"},
	}
	for _, g := range goBenchmarks {
		rows := map[string]map[string][]float64{}
		var names []string
		for _, pattern := range g.patterns {
			cmd := exec.CommandContext(b.ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchmem", "-cpu", "1", "-count", strconv.Itoa(b.runs), "-benchtime", "150ms", "./"+g.pkg)
			cmd.Dir = b.root
			out, err := cmd.CombinedOutput()
			if err != nil {
				return fmt.Errorf("go test ./%s: %w: %s", g.pkg, err, out)
			}
			for line := range strings.Lines(string(out)) {
				m := benchLine.FindStringSubmatch(strings.TrimSpace(line))
				if m == nil {
					continue
				}
				name := g.pkg + " " + m[1]
				if rows[name] == nil {
					rows[name] = map[string][]float64{}
					names = append(names, name)
				}
				f := strings.Fields(m[2])
				for i := 0; i+1 < len(f); i += 2 {
					if v, err := strconv.ParseFloat(f[i], 64); err == nil {
						rows[name][f[i+1]] = append(rows[name][f[i+1]], v)
					}
				}
			}
		}
		for _, name := range names {
			r := rows[name]
			through := ""
			switch {
			case len(r["Gbit/s"]) > 0:
				through = fmt.Sprintf("%.1f Gbit/s", median(r["Gbit/s"]))
			case len(r["MB/s"]) > 0:
				through = fmt.Sprintf("%.1f Gbit/s", median(r["MB/s"])*8/1000)
			}
			time, allocs := r["ns/op"], fmt.Sprintf("%.0f", median(r["allocs/op"]))
			if relay := r["relay-ns/datagram"]; relay != nil {
				time, allocs = relay, "see its test"
			}
			t.add(name, nanos(median(time)), through, allocs)
		}
	}
	b.out.table(t)
	return b.iperf()
}

func nanos(ns float64) string {
	switch {
	case ns >= 1e6:
		return fmt.Sprintf("%.2f ms", ns/1e6)
	case ns >= 1e3:
		return fmt.Sprintf("%.1f µs", ns/1e3)
	case ns >= 10:
		return fmt.Sprintf("%.0f ns", ns)
	}
	return fmt.Sprintf("%.1f ns", ns)
}

// iperf measures what the machine can move over its loopback interface.
func (b *bench) iperf() error {
	t := &table{
		title:   "the ceiling of this machine: iperf3 over ::1, sender and receiver on its cores together",
		command: "iperf3 -s · iperf3 -c ::1 -t 3 [-u -b 0 -l 1228]",
		columns: []string{"protocol", "received, Gbit/s", "sender's CPU, s / GB"},
	}
	if !have(t, "iperf3") {
		b.out.table(t)
		return nil
	}
	for _, mode := range []struct {
		name string
		args []string
	}{{"TCP", nil}, {"UDP, datagrams of 1228 bytes", []string{"-u", "-b", "0", "-l", "1228"}}} {
		var rate, cost []float64
		for range b.runs {
			server, err := start(exec.CommandContext(b.ctx, "iperf3", "-s", "-1", "-p", "5201"))
			if err != nil {
				return err
			}
			if err := sleep(b.ctx, 300*time.Millisecond); err != nil {
				return err
			}
			client := exec.CommandContext(b.ctx, "iperf3", append([]string{"-c", "::1", "-p", "5201", "-t", "3", "-J"}, mode.args...)...)
			client.Stderr = os.Stderr
			out, err := client.Output()
			server.stop()
			if err != nil {
				return fmt.Errorf("iperf3: %w: %s", err, out)
			}
			var r struct {
				End struct {
					Sent     iperfSum `json:"sum_sent"`
					Received iperfSum `json:"sum_received"`
					Sum      iperfSum `json:"sum"`
				} `json:"end"`
			}
			if err := json.Unmarshal(out, &r); err != nil {
				return fmt.Errorf("iperf3: %w", err)
			}
			got := r.End.Received.Rate
			if got == 0 {
				got = r.End.Sum.Rate * (1 - r.End.Sum.Lost/100)
			}
			sent := max(r.End.Sent.Bytes, r.End.Sum.Bytes)
			cpu, _ := usage(client)
			rate, cost = append(rate, got/1e9), append(cost, cpu.Seconds()/(sent/1e9))
		}
		t.add(mode.name, spread("%.1f", rate), spread("%.2f", cost))
	}
	b.out.table(t)
	return nil
}

type iperfSum struct {
	Bytes float64 `json:"bytes"`
	Rate  float64 `json:"bits_per_second"`
	Lost  float64 `json:"lost_percent"`
}
