//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"time"

	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	forwardWindow = 4 * time.Second
	forwardIn     = 5001 // UDP ports
	forwardMiddle = 5002
	forwardOut    = 5003
)

// forwarder is a program that passes a stream on from forwardIn to the sink, and what has to stand before and behind it.
type forwarder struct {
	name     string
	programs []string
	argv     func(sink netip.AddrPort) []string
	before   []string // takes UDP over IPv4, the only one srt-live-transmit takes
	after    []string // writes to stdout what the sink would get
}

var forwarders = []forwarder{
	{
		name: "multicat, UDP", programs: []string{"multicat"},
		argv: func(sink netip.AddrPort) []string {
			return []string{"multicat", "-u", "-U", fmt.Sprintf("@[::1]:%d", forwardIn), sink.String()}
		},
	},
	{
		name: "socat, UDP", programs: []string{"socat"},
		argv: func(sink netip.AddrPort) []string {
			return []string{"socat", "-u", fmt.Sprintf("UDP6-RECV:%d,bind=[::1]", forwardIn), "UDP6-SENDTO:" + sink.String()}
		},
	},
	{
		name: "srt-live-transmit, SRT to SRT", programs: []string{"srt-live-transmit"},
		before: []string{"srt-live-transmit", fmt.Sprintf("udp://127.0.0.1:%d", forwardIn), fmt.Sprintf("srt://[::1]:%d", forwardMiddle)},
		argv: func(netip.AddrPort) []string {
			return []string{"srt-live-transmit", fmt.Sprintf("srt://[::1]:%d?mode=listener", forwardMiddle), fmt.Sprintf("srt://[::1]:%d?mode=listener", forwardOut)}
		},
		after: []string{"srt-live-transmit", fmt.Sprintf("srt://[::1]:%d", forwardOut), "file://con"},
	},
}

// forward measures one stream through one process.
func (b *bench) forward() error {
	t := &table{
		title:   fmt.Sprintf("one stream through one process to one receiver over loopback, %v: CPU seconds for a GB of transport stream", forwardWindow),
		command: "relay 'sixcast:…?peer=…' · multicat -u -U @[::1]:5001 [::1]:PORT · socat -u UDP6-RECV:5001 UDP6-SENDTO:… · srt-live-transmit srt://…?mode=listener srt://…?mode=listener",
		columns: []string{"program", "8 Mbit/s", "50 Mbit/s", "stream that arrived"},
	}
	rates := []ts.BitRate{8_000_000, 50_000_000}
	type row struct {
		name string
		once func(ts.BitRate) (cost, share float64, err error)
	}
	rows := []row{{"relay: checked, sealed links, 13 of 16 stripes", b.forwardOurs}}
	for _, f := range forwarders {
		if have(t, f.programs...) {
			rows = append(rows, row{f.name, func(r ts.BitRate) (float64, float64, error) { return b.forwardOther(f, r) }})
		}
	}
	costs, shares := make([][2][]float64, len(rows)), make([]float64, len(rows))
	for i := range shares {
		shares[i] = 1
	}
	for range b.runs {
		for i, r := range rows {
			for k, rate := range rates {
				cost, share, err := r.once(rate)
				if err != nil {
					return fmt.Errorf("%s: %w", r.name, err)
				}
				costs[i][k] = append(costs[i][k], cost)
				shares[i] = min(shares[i], share)
			}
		}
	}
	for i, r := range rows {
		t.add(r.name, spread("%.1f", costs[i][0]), spread("%.1f", costs[i][1]), fmt.Sprintf("≥ %.1f %%", 100*shares[i]))
	}
	b.out.table(t)
	return nil
}

func (b *bench) forwardOurs(rate ts.BitRate) (cost, share float64, err error) {
	all, err := b.children(1, false)
	if err != nil {
		return 0, 0, err
	}
	defer closeAll(all)
	o, err := b.onAir(rate)
	if err != nil {
		return 0, 0, err
	}
	defer o.close()
	all[0].join(o.addr, o.id, fanoutMask)
	if err := sleep(b.ctx, time.Second); err != nil {
		return 0, 0, err
	}
	r, err := b.window(o.relay, all, forwardWindow)
	all[0].leave()
	stream := float64(rate) / 8 * forwardWindow.Seconds()
	// 13 stripes for 12 of data, a tag and a header for each shard, and the manifests.
	return r.cpu.Seconds() / (stream / 1e9), min(1, float64(r.bytes)/stream/(13./12*1228/1200)), err
}

// countingWriter counts for a child what does not come to its socket.
type countingWriter child

func (c *countingWriter) Write(b []byte) (int, error) {
	c.bytes.Add(uint64(len(b)))
	c.datagrams.Add(1)
	return len(b), nil
}

func (b *bench) forwardOther(f forwarder, rate ts.BitRate) (cost, share float64, err error) {
	all, err := b.children(1, false)
	if err != nil {
		return 0, 0, err
	}
	defer closeAll(all)
	sink := all[0]
	sink.all.Store(true)
	var c cleanup
	defer c.stop()
	run := func(argv []string, out io.Writer) (*process, error) {
		cmd := exec.CommandContext(b.ctx, argv[0], argv[1:]...)
		cmd.Stdout = out
		p, err := c.start(cmd)
		if err == nil {
			err = sleep(b.ctx, 300*time.Millisecond)
		}
		return p, err
	}
	p, err := run(f.argv(sink.conn.LocalAddr()), nil)
	if err != nil {
		return 0, 0, err
	}
	in := netip.AddrPortFrom(netip.IPv6Loopback(), forwardIn)
	if f.before != nil {
		in = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), forwardIn)
		if _, err := run(f.before, nil); err != nil {
			return 0, 0, err
		}
		if _, err := run(f.after, (*countingWriter)(sink)); err != nil {
			return 0, 0, err
		}
	}
	out, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(in))
	if err != nil {
		return 0, 0, err
	}
	defer out.Close()
	feeder := b.feed(rate, time.Minute, func(g []byte) { _, _ = out.Write(g) })
	defer feeder.close()
	if err := sleep(b.ctx, 2*time.Second); err != nil {
		return 0, 0, err
	}
	r, err := b.window(p, all, forwardWindow)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %s", err, p.log)
	}
	if r.bytes == 0 {
		return 0, 0, fmt.Errorf("nothing came through: %s", p.log)
	}
	stream := float64(rate) / 8 * forwardWindow.Seconds()
	return r.cpu.Seconds() / (stream / 1e9), min(1, float64(r.bytes)/stream), nil
}
