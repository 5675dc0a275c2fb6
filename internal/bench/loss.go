//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	lossWindow = 20 * time.Second
	lossSettle = 3 * time.Second // after the last of them has begun
	lossDrain  = 2 * time.Second
	lossIn     = 5001 // UDP ports of each host: IPv4 on the loopback interface, for SRT's and RIST's plain ends
	lossOut    = 5009
	lossPort   = 5000 // and between the hosts

	windowPackets = uint64(streamRate) / 8 * uint64(lossWindow/time.Second) / ts.PacketSize
)

// A carrier brings the stream from one host to another.
type carrier struct {
	name     string
	command  string
	programs []string
	start    func(b *bench, c *cleanup, from, to *testnet.Host, out io.Writer) (take func([]byte), done func(), err error)
}

func ours(latency string) carrier {
	return carrier{
		name: "sixcast, --latency " + latency, command: "ingest | relay → watch --latency " + latency,
		start: func(b *bench, c *cleanup, from, to *testnet.Host, out io.Writer) (func([]byte), func(), error) {
			s, err := b.source(c, from)
			if err != nil {
				return nil, nil, err
			}
			take, done := toPipe(s.ingest)
			// The URI is known once the stream comes, so watch waits for that beside the others.
			go func() {
				if s.await() == nil {
					watch := b.on(to, "watch", s.uri(s.addr), "-o", "-", "--latency", latency, "--listen", listenOn(to))
					watch.Stdout = out
					_, _ = c.start(watch)
				}
			}()
			return take, done, nil
		},
	}
}

func srt(latency int) carrier {
	return carrier{
		name: fmt.Sprintf("SRT, latency %d ms", latency), programs: []string{"srt-live-transmit"},
		command: fmt.Sprintf("srt-live-transmit -chunk:1316 udp://127.0.0.1:5001 srt://[…]:5000?latency=%d → srt-live-transmit srt://[::]:5000?mode=listener&latency=%[1]d udp://…", latency),
		start: throughUDP(func(to netip.Addr) (tx, rx []string) {
			return []string{"srt-live-transmit", "-chunk:1316", fmt.Sprintf("udp://127.0.0.1:%d", lossIn), fmt.Sprintf("srt://[%v]:%d?latency=%d", to, lossPort, latency)},
				[]string{"srt-live-transmit", "-chunk:1316", fmt.Sprintf("srt://[::]:%d?mode=listener&latency=%d", lossPort, latency), fmt.Sprintf("udp://127.0.0.1:%d", lossOut)}
		}),
	}
}

func rist(buffer int) carrier {
	return carrier{
		name: fmt.Sprintf("RIST, buffer %d ms", buffer), programs: []string{"ristsender", "ristreceiver"},
		command: fmt.Sprintf("ristsender -i udp://127.0.0.1:5001 -o rist://[…]:5000?buffer=%d → ristreceiver -i rist://@[::]:5000?buffer=%[1]d -o udp://…", buffer),
		start: throughUDP(func(to netip.Addr) (tx, rx []string) {
			return []string{"ristsender", "-v", "3", "-S", "0", "-i", fmt.Sprintf("udp://127.0.0.1:%d", lossIn), "-o", fmt.Sprintf("rist://[%v]:%d?buffer=%d", to, lossPort, buffer)},
				[]string{"ristreceiver", "-v", "3", "-S", "0", "-i", fmt.Sprintf("rist://@[::]:%d?buffer=%d", lossPort, buffer), "-o", fmt.Sprintf("udp://127.0.0.1:%d", lossOut)}
		}),
	}
}

var plainUDP = carrier{
	name: "plain UDP", command: "7 packets a datagram",
	start: func(b *bench, c *cleanup, from, to *testnet.Host, out io.Writer) (func([]byte), func(), error) {
		in, err := listenIn(to, netip.AddrPortFrom(to.Addr(), lossOut), out)
		if err != nil {
			return nil, nil, err
		}
		conn, err := dialIn(from, in.LocalAddr().(*net.UDPAddr).AddrPort())
		if err != nil {
			in.Close()
			return nil, nil, err
		}
		return func(g []byte) { _, _ = conn.Write(g) }, func() { conn.Close(); in.Close() }, nil
	},
}

var carriers = []carrier{ours("1s"), ours("300ms"), srt(120), srt(1000), rist(120), rist(1000), plainUDP}

// throughUDP starts a pair of programs that take and give UDP on their hosts' loopback interfaces.
func throughUDP(argv func(to netip.Addr) (tx, rx []string)) func(*bench, *cleanup, *testnet.Host, *testnet.Host, io.Writer) (func([]byte), func(), error) {
	return func(b *bench, c *cleanup, from, to *testnet.Host, out io.Writer) (func([]byte), func(), error) {
		local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		in, err := listenIn(to, netip.AddrPortFrom(local, lossOut), out)
		if err != nil {
			return nil, nil, err
		}
		tx, rx := argv(to.Addr())
		_, err = c.start(to.Command(b.ctx, rx[0], rx[1:]...))
		if err == nil {
			err = sleep(b.ctx, 200*time.Millisecond)
		}
		if err == nil {
			_, err = c.start(from.Command(b.ctx, tx[0], tx[1:]...))
		}
		var conn *net.UDPConn
		if err == nil {
			conn, err = dialIn(from, netip.AddrPortFrom(local, lossIn))
		}
		if err != nil {
			in.Close()
			return nil, nil, err
		}
		return func(g []byte) { _, _ = conn.Write(g) }, func() { conn.Close(); in.Close() }, nil
	}
}

// listenIn takes datagrams in a host, on a goroutine that ends with the socket.
func listenIn(h *testnet.Host, at netip.AddrPort, out io.Writer) (conn *net.UDPConn, err error) {
	err = h.Do(func() error {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadBuffer(4 << 20)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := conn.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = out.Write(buf[:n])
		}
	}()
	return conn, nil
}

func dialIn(h *testnet.Host, to netip.AddrPort) (conn *net.UDPConn, err error) {
	err = h.Do(func() error {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	})
	return conn, err
}

// carried is what one carrier did in one run.
type carried struct {
	verdict
	sent, back float64 // bytes at the IP layer for a byte of the stream, to the receiver and from it
}

// loss runs all carriers side by side, each between two hosts of its own, for every kind of link.
func (b *bench) loss() error {
	what := &table{}
	var present []carrier
	for _, c := range carriers {
		if have(what, c.programs...) {
			present = append(present, c)
			what.notes = append(what.notes, c.name+": "+c.command)
		}
	}
	columns := []string{"carrier"}
	var results [][][]carried // by kind of link, carrier, run
	for _, rtt := range []time.Duration{0, 100 * time.Millisecond} {
		for _, loss := range []float64{0.01, 0.05, 0.1} {
			columns = append(columns, fmt.Sprintf("%v %%, %d ms", loss*100, rtt.Milliseconds()))
			link := make([][]carried, len(present))
			for run := range b.runs {
				r, err := b.carry(present, netem.Params{Loss: loss, Delay: rtt / 2}, uint64(run+1))
				if err != nil {
					return err
				}
				for i := range r {
					link[i] = append(link[i], r[i])
				}
			}
			results = append(results, link)
		}
	}
	tables := []struct {
		title string
		cell  func([]carried) string
	}{
		{fmt.Sprintf("8 Mbit/s for %v over links that lose so much each way, at this round trip: continuity errors left", lossWindow), func(r []carried) string {
			return spread("%.0f", each(r, func(r carried) float64 { return float64(r.errors) }))
		}},
		{fmt.Sprintf("… transport stream packets lost, of %d", windowPackets), func(r []carried) string {
			return spread("%.0f", each(r, func(r carried) float64 { return float64(r.lost) }))
		}},
		{"… what the sender put on the wire, IP headers included, for a byte of the stream (target: ≤ 1.20 without loss, ≤ 1.32 at 5 %)", func(r []carried) string {
			return fmt.Sprintf("%.3f", median(each(r, func(r carried) float64 { return r.sent })))
		}},
		{"… delay of each packet from the sender's input to the receiver's output, p50 / p99 in ms", func(r []carried) string {
			return fmt.Sprintf("%.0f / %.0f", median(each(r, func(r carried) float64 { return 1e3 * r.p50.Seconds() })), median(each(r, func(r carried) float64 { return 1e3 * r.p99.Seconds() })))
		}},
	}
	for k, x := range tables {
		t := &table{title: x.title, columns: columns}
		for i, c := range present {
			row := []string{c.name}
			for _, link := range results {
				row = append(row, x.cell(link[i]))
			}
			t.add(row...)
		}
		if k == 0 {
			t.notes = what.notes
		}
		b.out.table(t)
	}
	return nil
}

// carry runs the carriers once, over links of these parameters.
func (b *bench) carry(all []carrier, down netem.Params, seed uint64) (results []carried, err error) {
	n, err := testnet.Open(testnet.Config{Seed: seed, Acquainted: true, Hosts: testnet.Hosts(2*len(all), netem.Params{}, down)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	cleanups := make([]cleanup, len(all)) // each carrier's own: they start things on goroutines
	collectors := make([]*collector, len(all))
	var takers []func([]byte)
	var ends []func()
	defer func() {
		for i := range cleanups {
			cleanups[i].stop()
		}
		for _, end := range ends {
			end()
		}
	}()
	hosts := n.Hosts()
	for i, c := range all {
		collectors[i] = newCollector()
		take, done, err := c.start(b, &cleanups[i], hosts[2*i], hosts[2*i+1], collectors[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		takers, ends = append(takers, take), append(ends, done)
	}
	feeder := b.feed(streamRate, 2*time.Minute, takers...)
	defer feeder.close()
	for deadline := time.Now().Add(15 * time.Second); ; {
		waiting := slices.IndexFunc(collectors, func(c *collector) bool { return !c.started() })
		if waiting < 0 {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s: nothing came: %s", all[waiting].name, cleanups[waiting].logs())
		}
		if err := sleep(b.ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if err := sleep(b.ctx, lossSettle); err != nil {
		return nil, err
	}
	from := feeder.next() + 100
	for _, c := range collectors {
		c.window(feeder, from, from+windowPackets)
	}
	before := make([]netem.Traffic, len(hosts))
	for i, h := range hosts {
		before[i] = h.Traffic()
	}
	if err := sleep(b.ctx, lossWindow); err != nil {
		return nil, err
	}
	after := make([]netem.Traffic, len(hosts))
	for i, h := range hosts {
		after[i] = h.Traffic()
	}
	if err := sleep(b.ctx, lossDrain); err != nil {
		return nil, err
	}
	stream := float64(windowPackets * ts.PacketSize)
	for i, c := range collectors {
		tx, rx := after[2*i].Minus(before[2*i]), after[2*i+1].Minus(before[2*i+1])
		if lost := tx.Overruns + rx.Overruns; lost > 0 {
			b.out.note("%s: the emulator could not keep up and lost %d packets: void", all[i].name, lost)
		}
		results = append(results, carried{c.verdict(), float64(tx.Sent.Unicast.Bytes) / stream, float64(rx.Sent.Unicast.Bytes) / stream})
	}
	return results, nil
}
