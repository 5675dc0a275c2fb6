package dht

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/dht/v2/krpc"

	"github.com/sixcast/sixcast/pkg/channel"
)

// libtorrent is the other implementation, in a process of its own.
type libtorrent struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

func startLibtorrent(t *testing.T, bootstrap netip.AddrPort) *libtorrent {
	t.Helper()
	python := ""
	for _, p := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(p, "-c", "import libtorrent").Run() == nil {
			python = p
			break
		}
	}
	if python == "" {
		t.Skip("no python3 with libtorrent here: apt-get install python3-libtorrent")
	}
	cmd := exec.Command(python, "../../internal/interop/dht_libtorrent.py", bootstrap.Addr().String(), fmt.Sprint(bootstrap.Port()))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var failed strings.Builder
	cmd.Stderr = &failed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		_ = in.Close()
		timer.Reset(5 * time.Second)
		defer timer.Stop()
		_ = cmd.Wait()
		if failed.Len() > 0 {
			t.Log(failed.String())
		}
	})
	l := &libtorrent{t, in, bufio.NewScanner(out)}
	if s := l.read(); !strings.HasPrefix(s, "ready ") || strings.HasSuffix(s, " 0") {
		t.Fatalf("libtorrent does not join: %q", s)
	}
	return l
}

func (l *libtorrent) read() string {
	l.out.Scan()
	return l.out.Text()
}

func (l *libtorrent) do(format string, a ...any) string {
	l.t.Helper()
	begun := time.Now()
	_, _ = fmt.Fprintf(l.in, format+"\n", a...)
	s := l.read()
	l.t.Logf("%s -> %s (%v)", strings.SplitN(format, " ", 2)[0], s, time.Since(begun).Round(time.Millisecond))
	return s
}

// What we put libtorrent keeps and gets, and the other way round; and peers likewise.
func TestLibtorrent(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	ours := func(bootstrap ...string) *Node {
		t.Helper()
		n, err := Start(Config{Listen: netip.MustParseAddrPort("[::1]:0"), Bootstrap: bootstrap, Rate: 1000})
		if err != nil {
			t.Skip("no IPv6 here: ", err)
		}
		t.Cleanup(func() { _ = n.Close() })
		return n
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	until := func(what string, f func() bool) {
		t.Helper()
		for !f() {
			select {
			case <-ctx.Done():
				t.Fatal(what)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	a := ours()
	l := startLibtorrent(t, a.Addr())

	// a knows libtorrent only, so that is who takes what it gives.
	key := newKey(t)
	first, second := sign(t, key, 5, "One"), sign(t, key, 6, "Two")
	swarm := key.ID().SwarmID()
	_ = a.Put(first)
	_ = a.Announce(key.ID(), 7000)
	until("libtorrent takes nothing", func() bool { x, y := a.Holders(key.ID()); return x > 0 && y > 0 })
	b := ours(a.Addr().String())
	got, err := b.Get(ctx, key.ID())
	if err != nil || string(got.Item) != string(first.Item) {
		t.Errorf("ours by way of libtorrent: %+v, %v", got, err)
	}
	found := map[netip.AddrPort]bool{}
	find := func(port uint16) func() bool {
		return func() bool {
			_ = b.Peers(ctx, key.ID(), func(batch []netip.AddrPort) {
				for _, p := range batch {
					found[p] = true
				}
			})
			return found[netip.AddrPortFrom(netip.IPv6Loopback(), port)]
		}
	}
	until("libtorrent does not name our peer", find(7000))

	// Of b's a takes its share, and libtorrent asks there.
	_ = b.Put(second)
	_ = b.Announce(key.ID(), 7001)
	until("a takes nothing", func() bool { x, y := b.Holders(key.ID()); return x > 1 && y > 1 })
	known := key.ID()
	if got := l.do("get %x", known[:]); !strings.Contains(got, "seq=6") || !strings.Contains(got, "'n': 'Two'") {
		t.Errorf("libtorrent gets %q", got)
	}
	if got := l.do("peers %x", swarm); !strings.Contains(got, "[::1]:7001") {
		t.Errorf("libtorrent gets %q", got)
	}

	// Its Python interface puts strings only, which are no descriptors: the item is looked at.
	seed := [32]byte{42}
	id := channel.KeyFromSeed(seed).ID()
	if got := l.do("put %x %x Hello", seed, id[:]); got == "stored 0" {
		t.Error("nobody takes what libtorrent puts")
	}
	var theirs item
	if _, err := b.run(ctx, id.SwarmID(), methodGet, krpc.MsgArgs{Target: id.SwarmID()}, func(_ *contact, r *krpc.Return) {
		if r.Seq != nil && r.V != nil {
			theirs = item{key: r.K[:], sig: r.Sig[:], seq: *r.Seq, value: r.V}
		}
	}); err != nil {
		t.Error(err)
	}
	if why := theirs.check(); why != nil || string(theirs.value) != "5:Hello" || theirs.target() != id.SwarmID() {
		t.Errorf("theirs: %+v, %v", theirs, why)
	}
	var port uint16
	if got := l.do("announce %x", swarm); got == "" {
		t.Fatal("libtorrent is gone")
	} else if _, err := fmt.Sscanf(got, "announced %d", &port); err != nil {
		t.Fatal(err)
	}
	until("we do not find libtorrent's peer", find(port))
}
