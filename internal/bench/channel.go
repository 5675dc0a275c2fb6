//go:build linux

package main

import (
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/ts"
)

// A source is ingest and the relay that serves what it makes.
type source struct {
	ingest io.WriteCloser // its standard input
	relay  *process
	id     channel.ID
	addr   netip.AddrPort
}

// on is a command of ours in a host, or here if that is nil.
func (b *bench) on(h *testnet.Host, name string, args ...string) *exec.Cmd {
	if h == nil {
		return b.our(name, args...)
	}
	return h.Command(b.ctx, b.bin+"/"+name, args...)
}

// listenOn is what our commands listen on.
func listenOn(h *testnet.Host) string {
	if h == nil {
		return "[::1]:0"
	}
	return netip.AddrPortFrom(h.Addr(), 0).String()
}

// source starts a source; it says where it is once the stream comes (await).
func (b *bench) source(c *cleanup, h *testnet.Host) (*source, error) {
	ingest := b.our("ingest")
	in, err := ingest.StdinPipe()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	ingest.Stdout = w
	relay := b.on(h, "relay", "--listen", listenOn(h))
	relay.Stdin = r
	if _, err := c.start(ingest); err != nil {
		return nil, err
	}
	p, err := c.start(relay)
	return &source{ingest: in, relay: p}, err
}

// uriPattern is what relay prints for viewers.
const uriPattern = `(sixcast:[a-z2-7]{52}\S*?)'`

// await waits until the source is on air.
func (s *source) await() error {
	m, err := s.relay.says(uriPattern, 10*time.Second)
	if err != nil {
		return err
	}
	u, err := channel.ParseURI(m[1])
	if err != nil {
		return err
	}
	s.id = u.ID
	s.addr, err = netip.ParseAddrPort(u.Peers[0])
	return err
}

// uri of the channel through a peer.
func (s *source) uri(at netip.AddrPort) string {
	return channel.URI{ID: s.id, Peers: []string{at.String()}}.String()
}

// joinRelay starts a relay that takes the channel from a peer, and returns when it has it.
func (b *bench) joinRelay(c *cleanup, h *testnet.Host, uri string, args ...string) (*process, netip.AddrPort, error) {
	listen := listenOn(h)
	if h == nil {
		listen = "[::]:0" // as most people have it
	}
	p, err := c.start(b.on(h, "relay", append([]string{uri, "--listen", listen}, args...)...))
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	m, err := p.says(`listening on (\S+)`, 5*time.Second)
	if err != nil {
		return p, netip.AddrPort{}, err
	}
	at, err := netip.ParseAddrPort(m[1])
	if err != nil {
		return p, at, err
	}
	if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
	}
	_, err = p.says("blocks come from", 10*time.Second)
	return p, at, err
}

// onAir is a source on this host, kept going, and a relay that joined it.
type onAir struct {
	cleanup
	feeder *feeder
	done   func()
	id     channel.ID
	relay  *process
	addr   netip.AddrPort
	stats  string // file with the relay's statistics
}

func (b *bench) onAir(rate ts.BitRate) (o *onAir, err error) {
	o = &onAir{stats: filepath.Join(b.dir, "relay.json")}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	s, err := b.source(&o.cleanup, nil)
	if err != nil {
		return o, err
	}
	take, done := toPipe(s.ingest)
	o.feeder, o.done = b.feed(rate, time.Minute, take), done
	if err = s.await(); err != nil {
		return o, err
	}
	o.id = s.id
	o.relay, o.addr, err = b.joinRelay(&o.cleanup, nil, s.uri(s.addr), "--stats=200ms", "--stats-file", o.stats)
	return o, err
}

// close may be called twice.
func (o *onAir) close() {
	if o.feeder != nil {
		o.feeder.close()
		o.done()
		o.feeder = nil
	}
	o.stop()
}
