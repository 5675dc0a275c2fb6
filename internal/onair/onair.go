// Package onair puts a small made-up channel on air, for tests of the commands
// that receive: one run of blocks over a real socket on [::1], of which some
// can be withheld.
package onair

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/node"
	"github.com/sixcast/sixcast/pkg/ts"
)

// BlockPackets is the number of packets in each block.
const BlockPackets = 20

// Options of a Source.
type Options struct {
	Blocks   int           // of the run; 0: without end
	Every    time.Duration // a block
	GOP      int           // blocks from one random access point to the next
	Withhold []int         // blocks that nobody gets
	Abort    bool          // the last block is not marked as such
	Run      block.Run
	Listen   netip.AddrPort
}

// Source is a channel on air.
type Source struct {
	Addr netip.AddrPort
	opt  Options
	node *node.Node
	quit chan struct{}
	done sync.WaitGroup
}

// Key is that of every Source.
func Key() channel.Key { return channel.KeyFromSeed([channel.SeedSize]byte{'o', 'n', 'a', 'i', 'r'}) }

// URI of a Source, without peers.
func URI() string { return channel.URI{ID: Key().ID(), Name: "made up"}.String() }

// Start goes on air. Close must be called.
func Start(o Options) (*Source, error) {
	if !o.Listen.IsValid() {
		o.Listen = netip.AddrPortFrom(netip.IPv6Loopback(), 0)
	}
	n, err := node.Start(node.Config{Listen: o.Listen, Upload: -1})
	if err != nil {
		return nil, err
	}
	enc, err := block.NewEncoder(block.EncoderConfig{Key: Key(), Run: o.Run})
	if err != nil {
		n.Close()
		return nil, err
	}
	d, err := channel.SignDescriptor(Key(), 1, channel.Values{Name: "made up"})
	if err != nil {
		n.Close()
		return nil, err
	}
	enc.SetDescriptor(d.Item)
	s := &Source{Addr: n.Addr(), opt: o, node: n, quit: make(chan struct{})}
	s.done.Go(func() { s.run(enc) })
	return s, nil
}

func (s *Source) run(enc *block.Encoder) {
	tick := time.NewTicker(s.opt.Every)
	defer tick.Stop()
	for n := 0; s.opt.Blocks == 0 || n < s.opt.Blocks; n++ {
		select {
		case <-s.quit:
			return
		case <-tick.C:
		}
		f := block.Fields{Created: time.Now(), Duration: s.opt.Every}
		var payload []byte
		if n%s.opt.GOP == 0 {
			payload = Preamble()
			f.Flags, f.Preamble = block.RAP, len(payload)
		}
		if n == s.opt.Blocks-1 && !s.opt.Abort {
			f.Flags |= block.End
		}
		records, err := enc.Encode(nil, append(payload, Packets(s.opt.Run, n)...), f)
		if err != nil {
			panic(err)
		}
		s.feed(records, n)
	}
}

func (s *Source) feed(records []byte, n int) {
	for _, w := range s.opt.Withhold {
		if w == n {
			return
		}
	}
	r := block.NewReader(bytes.NewReader(records))
	for {
		datagram, err := r.Next()
		if err != nil {
			return
		}
		s.node.Feed(datagram)
	}
}

// Close goes off air.
func (s *Source) Close() error {
	close(s.quit)
	s.done.Wait()
	return s.node.Close()
}

// Packets of block n of a run.
func Packets(run block.Run, n int) []byte {
	var out []byte
	for i := range BlockPackets {
		k := n*BlockPackets + i
		p := make([]byte, ts.PacketSize)
		p[0], p[1], p[2], p[3] = ts.SyncByte, 0x01, 0x01, 0x10|byte(k&15)
		binary.BigEndian.PutUint64(p[8:], uint64(run))
		binary.BigEndian.PutUint64(p[16:], uint64(k))
		out = append(out, p...)
	}
	return out
}

// Preamble is a PAT with programme 1 and its PMT on 0x100: H.264 on 0x101.
func Preamble() []byte {
	pat := []byte{0x00, 0xb0, 0x0d, 0, 1, 0xc1, 0, 0, 0, 1, 0xe1, 0x00}
	pmt := []byte{0x02, 0xb0, 0x12, 0, 1, 0xc1, 0, 0, 0xe1, 0x01, 0xf0, 0, 0x1b, 0xe1, 0x01, 0xf0, 0}
	return append(section(0, pat), section(0x100, pmt)...)
}

func section(pid ts.PID, body []byte) []byte {
	crc := uint32(0xffffffff) // 13818-1 annex A
	for _, b := range body {
		crc ^= uint32(b) << 24
		for range 8 {
			carry := crc >> 31
			crc = crc<<1 ^ carry*0x04c11db7
		}
	}
	p := append([]byte{ts.SyncByte, 0x40 | byte(pid>>8), byte(pid), 0x10, 0}, body...)
	p = binary.BigEndian.AppendUint32(p, crc)
	return append(p, bytes.Repeat([]byte{0xff}, ts.PacketSize-len(p))...)
}

// Commands for scripts:
//
//	onair BLOCKS [gop=N] [every=TIME] [lose=N,N…] [abort]   goes on air; sets $URI and $PEER. A second one is a newer run at the same address.
//	offair                                                   ends it before the script does
//	waitfor FILE BLOCKS                                      waits until FILE holds that many blocks
//	truth FILE RUN FROM TO [RUN FROM TO …]                   writes what a receiver must write of these blocks: runs count from 1, TO is left out
func Commands() map[string]func(*testscript.TestScript, bool, []string) {
	var mu sync.Mutex // scripts run in parallel
	sources := make(map[*testscript.TestScript]*Source)
	runs := make(map[*testscript.TestScript]int)
	first := block.NewRun(time.Now().Add(-time.Hour), 0)
	stop := func(t *testscript.TestScript) (at netip.AddrPort) {
		mu.Lock()
		s := sources[t]
		delete(sources, t)
		mu.Unlock()
		if s != nil {
			at = s.Addr
			t.Check(s.Close())
		}
		return at
	}
	return map[string]func(*testscript.TestScript, bool, []string){
		"onair": func(t *testscript.TestScript, _ bool, args []string) {
			o := Options{Every: 20 * time.Millisecond, GOP: 1 << 20}
			if at := stop(t); at.IsValid() {
				o.Listen = at
			} else {
				t.Defer(func() { stop(t) })
			}
			mu.Lock()
			runs[t]++
			o.Run = first + block.Run(runs[t])
			mu.Unlock()
			for i, a := range args {
				key, value, _ := strings.Cut(a, "=")
				var err error
				switch {
				case i == 0:
					o.Blocks, err = strconv.Atoi(a)
				case key == "gop":
					o.GOP, err = strconv.Atoi(value)
				case key == "every":
					o.Every, err = time.ParseDuration(value)
				case key == "abort":
					o.Abort = true
				case key == "lose":
					for _, v := range strings.Split(value, ",") {
						var n int
						n, err = strconv.Atoi(v)
						t.Check(err)
						o.Withhold = append(o.Withhold, n)
					}
				default:
					err = fmt.Errorf("onair: %s?", a)
				}
				t.Check(err)
			}
			s, err := Start(o)
			t.Check(err)
			mu.Lock()
			sources[t] = s
			mu.Unlock()
			t.Setenv("URI", URI()+"&peer="+s.Addr.String())
			t.Setenv("PEER", s.Addr.String())
		},
		"offair": func(t *testscript.TestScript, _ bool, _ []string) { stop(t) },
		"waitfor": func(t *testscript.TestScript, _ bool, args []string) {
			n, err := strconv.Atoi(args[1])
			t.Check(err)
			for range 1000 {
				info, err := os.Stat(t.MkAbs(args[0]))
				if err == nil && info.Size() >= int64(n*BlockPackets*ts.PacketSize) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Fatalf("%s does not come to %d blocks", args[0], n)
		},
		"truth": func(t *testscript.TestScript, _ bool, args []string) {
			var out []byte
			last := ""
			for a := args[1:]; len(a) >= 3; a = a[3:] {
				run, err := strconv.Atoi(a[0])
				t.Check(err)
				from, err := strconv.Atoi(a[1])
				t.Check(err)
				to, err := strconv.Atoi(a[2])
				t.Check(err)
				var blocks []byte
				for n := from; n < to; n++ {
					blocks = append(blocks, Packets(first+block.Run(run), n)...)
				}
				if a[0] != last {
					whole := append(Preamble(), blocks...)
					if last != "" {
						out = ts.AppendDiscontinuity(out, whole, ts.PIDsOfPreamble(Preamble())...)
					}
					blocks = whole
				}
				last = a[0]
				out = append(out, blocks...)
			}
			t.Check(os.WriteFile(t.MkAbs(args[0]), out, 0o644))
		},
	}
}
