//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/ts"
	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	fanoutChildren = 50
	fanoutMask     = wire.StripeMask(0x1fff) // the data and one stripe to spare, as a viewer subscribes
	fanoutWindow   = 6 * time.Second
	fanoutSettle   = 2 * time.Second
)

// relayStats is what we read of a relay's statistics.
type relayStats struct {
	Socket struct {
		Sent         uint64 `json:"sent"`
		SentBytes    uint64 `json:"sent_bytes"`
		SendCalls    uint64 `json:"send_calls"`
		SendMessages uint64 `json:"send_messages"`
		ReceiveCalls uint64 `json:"receive_calls"`
	} `json:"socket"`
	Unsent   uint64 `json:"unsent"`
	Children int    `json:"children"`
}

// lastStats reads the last whole line of a statistics file.
func lastStats(path string) (s relayStats, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return s, json.Unmarshal([]byte(lines[len(lines)-1]), &s)
}

// fanoutRun is what one way of sending to all children took.
type fanoutRun struct {
	cpu       time.Duration
	datagrams uint64 // that arrived
	bytes     uint64 // UDP payload
	peak      int64
	segments  float64 // datagrams a message
	messages  float64 // a call
}

func (r fanoutRun) nanos() float64 { return float64(r.cpu) / float64(r.datagrams) }

// fanout measures the relay, and beside it what its datagrams cost when nothing else is done with them.
func (b *bench) fanout() error {
	t := &table{
		title: fmt.Sprintf("relay: one stream of 8 Mbit/s to %d receivers over loopback, %v", fanoutChildren, fanoutWindow),
		command: "ingest | relay            (the source)\n" +
			"    relay 'sixcast:…?peer=…'  (measured; its children subscribe to 13 stripes)",
		columns: []string{"sender", "receivers", "% of a core", "CPU ns a datagram", "ratio to relay", "CPU s / GB sent", "datagrams/s", "a GSO send", "a call", "peak memory, MB"},
	}
	for _, plain := range []bool{false, true} {
		kind := "take GRO"
		if plain {
			kind = "without GRO"
		}
		var runs [3][]fanoutRun
		for range b.runs {
			r, err := b.fanoutOnce(plain)
			if err != nil {
				return err
			}
			for i := range r {
				runs[i] = append(runs[i], r[i])
			}
		}
		relay := median(each(runs[0], fanoutRun.nanos))
		for i, name := range []string{"relay", "Go loop, a sendto a datagram", "bare loop, sendmmsg and GSO"} {
			nanos := each(runs[i], fanoutRun.nanos)
			row := []string{name, kind,
				spread("%.1f", each(runs[i], func(r fanoutRun) float64 { return 100 * r.cpu.Seconds() / fanoutWindow.Seconds() })),
				spread("%.0f", nanos), fmt.Sprintf("%.2f", median(nanos)/relay),
				fmt.Sprintf("%.2f", median(each(runs[i], func(r fanoutRun) float64 { return r.cpu.Seconds() / (float64(r.bytes) / 1e9) }))),
				fmt.Sprintf("%.0f", median(each(runs[i], func(r fanoutRun) float64 { return float64(r.datagrams) / fanoutWindow.Seconds() }))),
				fmt.Sprintf("%.1f", median(each(runs[i], func(r fanoutRun) float64 { return r.segments }))),
				fmt.Sprintf("%.1f", median(each(runs[i], func(r fanoutRun) float64 { return r.messages }))),
				fmt.Sprintf("%.0f", median(each(runs[i], func(r fanoutRun) float64 { return float64(r.peak) / (1 << 20) })))}
			t.add(row...)
		}
		naive, bare := median(each(runs[1], fanoutRun.nanos)), median(each(runs[2], fanoutRun.nanos))
		t.notes = append(t.notes, fmt.Sprintf("%s: relay / Go loop = %.2f (target ≤ 0.25), relay / bare loop = %.2f (target ≤ 1.3)", kind, relay/naive, relay/bare))
	}
	t.notes = append(t.notes, "The bare loops send the same datagrams by the same clock; the GSO loop has the relay's datagrams a send, and one call for all receivers.")
	b.out.table(t)
	return nil
}

// fanoutOnce measures the relay, then the two loops to the same sockets.
func (b *bench) fanoutOnce(plain bool) (runs [3]fanoutRun, err error) {
	all, err := b.children(fanoutChildren, plain)
	if err != nil {
		return runs, err
	}
	defer closeAll(all)
	o, err := b.onAir(streamRate)
	if err != nil {
		return runs, err
	}
	defer o.close()
	for _, c := range all {
		c.join(o.addr, o.id, fanoutMask)
	}
	if err := sleep(b.ctx, fanoutSettle); err != nil {
		return runs, err
	}
	before, err := lastStats(o.stats)
	if err != nil {
		return runs, err
	}
	if before.Children != fanoutChildren {
		return runs, fmt.Errorf("%d of %d receivers were taken as children: %s", before.Children, fanoutChildren, o.relay.log)
	}
	if runs[0], err = b.window(o.relay, all, fanoutWindow); err != nil {
		return runs, err
	}
	after, err := lastStats(o.stats)
	if err != nil {
		return runs, err
	}
	runs[0].peak = o.relay.peak()
	messages := float64(after.Socket.SendMessages - before.Socket.SendMessages)
	runs[0].segments = float64(after.Socket.Sent-before.Socket.Sent) / messages
	runs[0].messages = messages / float64(after.Socket.SendCalls-before.Socket.SendCalls)
	for _, c := range all {
		c.leave()
	}
	o.close()

	self, err := os.Executable()
	if err != nil {
		return runs, err
	}
	var to []string
	for _, c := range all {
		to = append(to, c.conn.LocalAddr().String())
	}
	rows := block.MaxRows
	payload := block.DefaultData * rows * block.MaxShard / ts.PacketSize * ts.PacketSize
	every := streamRate.Duration(int64(payload))
	for i, segments := range []int{0, max(1, int(runs[0].segments+0.5))} {
		cmd := exec.CommandContext(b.ctx, self, helperArg, "-to", strings.Join(to, ","), "-every", every.String(),
			"-datagrams", strconv.Itoa(13*rows+1), "-segments", strconv.Itoa(segments))
		p, err := start(cmd)
		if err != nil {
			return runs, err
		}
		if err = sleep(b.ctx, time.Second); err == nil {
			runs[i+1], err = b.window(p, all, fanoutWindow)
		}
		runs[i+1].peak = p.peak()
		runs[i+1].segments, runs[i+1].messages = float64(max(1, segments)), 1
		if segments > 0 {
			runs[i+1].messages = fanoutChildren
		}
		p.stop()
		if err != nil {
			return runs, fmt.Errorf("%w: %s", err, p.log)
		}
	}
	return runs, nil
}

// window watches a sender for a while.
func (b *bench) window(p *process, all []*child, long time.Duration) (r fanoutRun, err error) {
	count := func() (datagrams, bytes uint64) {
		for _, c := range all {
			datagrams += c.datagrams.Load()
			bytes += c.bytes.Load()
		}
		return datagrams, bytes
	}
	d0, b0 := count()
	c0, err := p.cpu()
	if err != nil {
		return r, err
	}
	if err := sleep(b.ctx, long); err != nil {
		return r, err
	}
	c1, err := p.cpu()
	if err != nil {
		return r, err
	}
	d1, b1 := count()
	return fanoutRun{cpu: c1 - c0, datagrams: d1 - d0, bytes: b1 - b0}, nil
}
