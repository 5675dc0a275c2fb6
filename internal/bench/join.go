//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testcard"
	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/ts"
)

const (
	joins     = 15
	joinRTT   = 50 * time.Millisecond
	joinEvery = 370 * time.Millisecond // between two joins: every phase of the second between two random access points
	mpvJoins  = 5
)

// chain is a source and relays behind one another, each on a host of its own, and a host for the viewer.
type chain struct {
	cleanup
	net    *testnet.Net
	uri    string // through the last relay
	viewer *testnet.Host
	stop   []func()
}

// chain starts a source and relays; begin makes the stream go.
func (b *bench) chain(relays int, down netem.Params, seed uint64, begin func(*chain, *source) error) (c *chain, err error) {
	c = &chain{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.net, err = testnet.Open(testnet.Config{Seed: seed, Acquainted: true, Hosts: testnet.Hosts(relays+2, netem.Params{}, down)}); err != nil {
		return c, err
	}
	hosts := c.net.Hosts()
	s, err := b.source(&c.cleanup, hosts[0])
	if err != nil {
		return c, err
	}
	if err = begin(c, s); err != nil {
		return c, err
	}
	if err = s.await(); err != nil {
		return c, err
	}
	c.uri = s.uri(s.addr)
	for _, h := range hosts[1 : relays+1] {
		_, at, err := b.joinRelay(&c.cleanup, h, c.uri)
		if err != nil {
			return c, err
		}
		c.uri = s.uri(at)
	}
	c.viewer = hosts[relays+1]
	return c, nil
}

func (c *chain) close() error {
	for _, f := range c.stop {
		f()
	}
	c.cleanup.stop()
	if c.net == nil {
		return nil
	}
	return c.net.Close()
}

// fed is a begin that feeds the stream that is measured with.
func (b *bench) fed(f **feeder) func(*chain, *source) error {
	return func(c *chain, s *source) error {
		take, done := toPipe(s.ingest)
		*f = b.feed(streamRate, 3*time.Minute, take)
		c.stop = append(c.stop, func() { (*f).close(); done() })
		return nil
	}
}

// firstByte remembers when something came, and whether it was what a decoder can begin with.
type firstByte struct {
	at   chan time.Time
	seen bool
	head []byte
}

func (w *firstByte) Write(b []byte) (int, error) {
	if !w.seen {
		w.seen = true
		w.head = bytes.Clone(b[:min(len(b), 3*ts.PacketSize)])
		w.at <- time.Now()
	}
	return len(b), nil
}

// decodable: PAT, PMT, and the start of a random access point.
func (w *firstByte) decodable() bool {
	return len(w.head) == 3*ts.PacketSize && ts.Packet(w.head).PID() == ts.PIDPAT && ts.Packet(w.head[ts.PacketSize:]).PID() == testcard.TablePID &&
		ts.Packet(w.head[2*ts.PacketSize:]).RandomAccess()
}

// join measures how soon there is something to see.
func (b *bench) join() error {
	t := &table{
		title:   fmt.Sprintf("start-up through two relays, %v from each host to the next, from exec of watch", joinRTT),
		command: "ingest | relay ← relay ← relay ← watch 'sixcast:…?peer=…' -o - ;  … ← watch … --player mpv",
		columns: []string{"until", "joins", "median, ms", "p95, ms", "least", "greatest", "target"},
	}
	row := func(what string, v []time.Duration, target string) {
		ms := func(d time.Duration) string { return fmt.Sprintf("%.0f", 1e3*d.Seconds()) }
		t.add(what, fmt.Sprint(len(v)), ms(median(v)), ms(quantile(v, 0.95)), ms(quantile(v, 0)), ms(quantile(v, 1)), target)
	}
	first, err := b.joinBytes()
	if err != nil {
		return err
	}
	row("the first byte of a decodable picture (8 Mbit/s, a random access point a second)", first, "median ≤ 500, p95 ≤ 1000")
	if have(t, "mpv", "ffmpeg") {
		shown, err := b.joinMPV()
		if err != nil {
			return err
		}
		row("mpv's first picture (testsrc2, H.264, 2 Mbit/s, a random access point a second)", shown, "")
	}
	b.out.table(t)
	return nil
}

func (b *bench) joinBytes() (took []time.Duration, err error) {
	var f *feeder
	c, err := b.chain(2, netem.Params{Delay: joinRTT / 2}, 1, b.fed(&f))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := sleep(b.ctx, 2*time.Second); err != nil {
		return nil, err
	}
	for range joins {
		w := &firstByte{at: make(chan time.Time, 1)}
		cmd := b.on(c.viewer, "watch", c.uri, "-o", "-", "--listen", listenOn(c.viewer))
		cmd.Stdout = w
		begun := time.Now()
		p, err := start(cmd)
		if err != nil {
			return nil, err
		}
		select {
		case at := <-w.at:
			took = append(took, at.Sub(begun))
			p.stop()
		case <-p.done:
			return nil, fmt.Errorf("watch ended: %w: %s", p.err, p.log)
		case <-time.After(15 * time.Second):
			p.stop()
			return nil, fmt.Errorf("watch wrote nothing in 15 s: %s", p.log)
		}
		if !w.decodable() {
			return nil, errors.New("watch did not begin with PAT, PMT and a random access point")
		}
		if err := sleep(b.ctx, joinEvery); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// joinMPV takes a clip that can be shown.
func (b *bench) joinMPV() (took []time.Duration, err error) {
	clip := filepath.Join(b.dir, "clip.ts")
	if out, err := exec.CommandContext(b.ctx, "ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=25", "-f", "lavfi", "-i", "sine",
		"-t", "20", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "25", "-b:v", "1700k", "-c:a", "aac", "-f", "mpegts", "-muxrate", "2M", clip).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ffmpeg: %w: %s", err, out)
	}
	home := filepath.Join(b.dir, "mpv")
	if err := os.Mkdir(home, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(home, "mpv.conf"), []byte("vo=null\nao=null\nmsg-level=all=v\n"), 0o644); err != nil {
		return nil, err
	}
	c, err := b.chain(2, netem.Params{Delay: joinRTT / 2}, 1, func(c *chain, s *source) error {
		cmd := exec.CommandContext(b.ctx, "ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", clip, "-c", "copy", "-f", "mpegts", "-muxrate", "2M", "-")
		cmd.Stdout = s.ingest
		_, err := c.start(cmd)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := sleep(b.ctx, 3*time.Second); err != nil {
		return nil, err
	}
	for range mpvJoins {
		cmd := b.on(c.viewer, "watch", c.uri, "--player", "mpv", "--listen", listenOn(c.viewer))
		cmd.Env = append(os.Environ(), "MPV_HOME="+home)
		begun := time.Now()
		p, err := start(cmd)
		if err != nil {
			return nil, err
		}
		_, err = p.says("first video frame after restart shown", 20*time.Second)
		took = append(took, time.Since(begun))
		p.stop()
		if err != nil {
			return nil, err
		}
		if err := sleep(b.ctx, joinEvery); err != nil {
			return nil, err
		}
	}
	return took, nil
}

const delayHop = 20 * time.Millisecond

// delay measures three hops: source, two relays, viewer.
func (b *bench) delay() error {
	t := &table{
		title:   fmt.Sprintf("delay of each packet from ingest's input to watch's output over three hops of %v each way, 8 Mbit/s, %v, defaults", delayHop, lossWindow),
		command: "ingest | relay ← relay ← relay ← watch",
		columns: []string{"loss on each hop, each way", "p50, ms", "p99, ms", "greatest, ms", "continuity errors", "a relay sent / stream", "target"},
	}
	targets := []string{"p50 ≤ 500, p99 ≤ 1000; sent ≤ 1.20", "sent ≤ 1.32"}
	for i, loss := range []float64{0, 0.05} {
		var all []carried
		for run := range b.runs {
			v, err := b.delayOnce(netem.Params{Loss: loss, Delay: delayHop}, uint64(run+1))
			if err != nil {
				return err
			}
			all = append(all, v)
		}
		ms := func(f func(carried) time.Duration) string {
			return spread("%.0f", each(all, func(v carried) float64 { return 1e3 * f(v).Seconds() }))
		}
		t.add(fmt.Sprintf("%v %%", 100*loss), ms(func(v carried) time.Duration { return v.p50 }), ms(func(v carried) time.Duration { return v.p99 }),
			ms(func(v carried) time.Duration { return v.most }), spread("%.0f", each(all, func(v carried) float64 { return float64(v.errors) })),
			fmt.Sprintf("%.3f", median(each(all, func(v carried) float64 { return v.sent }))), targets[i])
	}
	t.notes = append(t.notes, fmt.Sprintf("Of this, %v are the way, and up to %v the time until a block is full.", 3*delayHop, (57600*time.Microsecond).Round(time.Millisecond)))
	b.out.table(t)
	return nil
}

func (b *bench) delayOnce(down netem.Params, seed uint64) (v carried, err error) {
	var f *feeder
	c, err := b.chain(2, down, seed, b.fed(&f))
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	col := newCollector()
	watch := b.on(c.viewer, "watch", c.uri, "-o", "-", "--listen", listenOn(c.viewer))
	watch.Stdout = io.Writer(col)
	if _, err := c.start(watch); err != nil {
		return v, err
	}
	if err := sleep(b.ctx, lossSettle+time.Second); err != nil {
		return v, err
	}
	from := f.next() + 100
	col.window(f, from, from+windowPackets)
	last := c.net.Hosts()[2] // the relay that serves the viewer
	before := last.Traffic()
	if err := sleep(b.ctx, lossWindow); err != nil {
		return v, err
	}
	sent := last.Traffic().Minus(before).Sent.Unicast.Bytes
	if err := sleep(b.ctx, lossDrain); err != nil {
		return v, err
	}
	return carried{verdict: col.verdict(), sent: float64(sent) / float64(windowPackets*ts.PacketSize)}, nil
}
