//go:build linux

package main

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/testcard"
	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/node"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// BenchmarkRelay runs a relay with 50 receivers in this process, in real time, so that it can be profiled:
//
//	go test -run '^$' -bench Relay -benchtime 200x -cpuprofile relay.pprof ./internal/bench
//	go tool pprof -focus 'node..\*Node' relay.pprof
//
// An operation is a block, 57.6 ms; the metric is what the whole process takes, receivers included.
func BenchmarkRelay(b *testing.B) {
	if testnet.Dir() == "" {
		b.Skip("no test hosts on this machine")
	}
	key := channel.KeyFromSeed([32]byte{6})
	enc, err := block.NewEncoder(block.EncoderConfig{Key: key, Run: block.NewRun(time.Now(), 1)})
	if err != nil {
		b.Fatal(err)
	}
	start := func(cfg node.Config) *node.Node {
		n, err := node.Start(cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { n.Close() })
		return n
	}
	loopback := func(n *node.Node) []netip.AddrPort { return []netip.AddrPort{onLoopback(n.Addr())} }
	source := start(node.Config{Upload: -1})
	relay := start(node.Config{Upload: -1, Channel: key.ID(), Peers: loopback(source)})
	all, err := (&bench{ctx: context.Background()}).children(fanoutChildren, false)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closeAll(all) })

	const every = 57600 * time.Microsecond
	packets := testcard.New(streamRate, streamEvery)
	item, err := channel.SignDescriptor(key, 1, channel.Values{Name: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	if err := enc.SetDescriptor(item.Item); err != nil {
		b.Fatal(err)
	}
	due := time.Now()
	var payload, records []byte
	next := func() {
		payload = packets.Append(payload[:0], 306)
		flags := block.Flags(0)
		if enc.Next().Number%17 == 0 {
			flags = block.RAP
		}
		if records, err = enc.Encode(records[:0], payload, block.Fields{Flags: flags, Created: time.Now(), Duration: every}); err != nil {
			b.Fatal(err)
		}
		var datagrams [][]byte
		for r := records; len(r) > 0; {
			n := int(r[4])<<8 | int(r[5])
			datagrams = append(datagrams, r[block.RecordHeader:block.RecordHeader+n])
			r = r[block.RecordHeader+n:]
		}
		if err := source.Feed(datagrams...); err != nil {
			b.Fatal(err)
		}
		due = due.Add(every)
		time.Sleep(time.Until(due))
	}
	for range 10 {
		next()
	}
	for _, c := range all {
		c.join(onLoopback(relay.Addr()), key.ID(), fanoutMask)
	}
	for range 10 {
		next()
	}
	before := relay.Stats()
	begun, _ := cpuOf(0)
	for b.Loop() {
		next()
	}
	took, _ := cpuOf(0)
	after := relay.Stats()
	if after.Children != fanoutChildren {
		b.Fatalf("%d children", after.Children)
	}
	sent := after.Sockets.Sent - before.Sockets.Sent
	b.ReportMetric(float64(took-begun)/float64(sent), "process-ns/datagram")
	b.ReportMetric(float64(sent)/float64(after.Sockets.SendMessages-before.Sockets.SendMessages), "datagrams/send")
	for _, c := range all {
		c.leave()
	}
}

func onLoopback(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
}
