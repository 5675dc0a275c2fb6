//go:build linux

package acceptance

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/internal/ci"
	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// Whoever calls a command wrongly gets the exit code for it at once, and words that name what is wrong.
func TestBadArguments(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h, _ := twoHosts(t)
	garbled := strings.Replace(s.uri, "sixcast:", "sixcast:1", 1)
	short := s.uri[:40]
	occupied := run(t, h, streams{}, "relay", s.uri, "--peer", "[fd00:6:0:1::2]:6400", "--listen", "[::]:6400")
	occupied.says("listening on")
	empty := func() *os.File {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const nobody = "[fd00:6:0:1::2]:6400"
	for _, c := range []struct {
		code  int
		words string // one of these, separated by |
		args  []string
	}{
		{1, "in use", []string{"relay", s.uri, "--peer", nobody, "--listen", "[::]:6400"}},
		{1, "in use", []string{"watch", s.uri, "--peer", nobody, "--listen", "[::]:6400", "-o", "/dev/null"}},
		{1, "in use", []string{"record", s.uri, "--peer", nobody, "--listen", "[::]:6400", "--dir", s.dir}},
		{2, "characters", []string{"watch", garbled, "--peer", nobody}},
		{2, "characters", []string{"relay", garbled, "--peer", nobody}},
		{2, "characters", []string{"record", garbled, "--peer", nobody}},
		{2, "characters", []string{"watch", short, "--peer", nobody}},
		{2, "characters", []string{"relay", short, "--peer", nobody}},
		{2, "characters", []string{"record", short, "--peer", nobody}},
		{2, "no channel of that name", []string{"watch", "nonsense", "--peer", nobody}},
		{2, "no-such-file", []string{"watch", "@" + filepath.Join(s.dir, "no-such-file")}},
		{2, "--peer", []string{"watch", s.uri}},
		{2, "--peer", []string{"relay", s.uri}},
		{2, "--peer", []string{"record", s.uri}},
		{2, "IPv6", []string{"watch", s.uri, "--peer", "192.0.2.1:6400"}},
		{2, "port", []string{"watch", s.uri, "--peer", "[2001:db8::1]"}},
		{2, "--listen", []string{"relay", s.uri, "--peer", nobody, "--listen", "0.0.0.0:1"}},
		{2, "rate", []string{"relay", s.uri, "--peer", nobody, "--upload", "fast"}},
		{2, "multicast", []string{"relay", s.uri, "--peer", nobody, "--multicast-source", "::1"}},
		{1, "wlan7", []string{"watch", s.uri, "--multicast", "wlan7"}},
		{1, "wlan7", []string{"relay", s.uri, "--peer", nobody, "--multicast", "wlan7"}},
		{3, "block stream", []string{"relay"}}, // stdin is empty
		{3, "neither a FIFO", []string{"relay", "--source", s.dir}},
		{3, "nothing came|no peer answers", []string{"watch", s.uri, "--peer", nobody, "--timeout", "700ms"}},
		{3, "no block came", []string{"relay", s.uri, "--peer", nobody, "--timeout", "700ms"}},
		{3, "nothing came|no peer answers", []string{"record", s.uri, "--peer", nobody, "--timeout", "700ms", "--dir", s.dir}},
		{3, "nothing came|multicast", []string{"watch", s.uri, "--multicast", testnet.Interface, "--timeout", "700ms"}},
	} {
		p := run(t, h, streams{stdin: empty()}, c.args...)
		p.ends(c.code, 5*time.Second)
		said, ok := p.words.String(), false
		for _, w := range strings.Split(c.words, "|") {
			ok = ok || strings.Contains(said, w)
		}
		if !ok {
			t.Errorf("%v says %q, nothing of %q", c.args, strings.TrimSpace(said), c.words)
		}
		if p.out.len() > 0 {
			t.Errorf("%v writes %d bytes to stdout", c.args, p.out.len())
		}
		if lines := strings.Count(strings.TrimSpace(said), "\n"); lines > 6 || strings.Contains(said, "goroutine") {
			t.Errorf("%v says too much:\n%s", c.args, said)
		}
	}
	occupied.stop()
}

// On a host without IPv6 the commands say so.
func TestNoIPv6(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	h, other := twoHosts(t)
	off := h.Command(context.Background(), "sh", "-c", "for i in all default lo eth0; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done")
	if out, err := off.CombinedOutput(); err != nil {
		ci.Skip(t, "IPv6 cannot be switched off here:", err, string(out))
	}
	for _, args := range [][]string{
		{"watch", s.uri, "--peer", peer(other), "--timeout", "3s"},
		{"relay", s.uri, "--peer", peer(other), "--timeout", "3s"},
		{"record", s.uri, "--peer", peer(other), "--timeout", "3s", "--dir", s.dir},
	} {
		p := run(t, h, streams{}, args...)
		code := p.wait(6 * time.Second)
		if said := p.words.String(); code != 1 && code != 3 || !strings.Contains(said, "IPv6") {
			t.Errorf("%s ended with %d and does not speak of IPv6: %s", args[0], code, strings.TrimSpace(said))
		} else {
			t.Logf("%s (exit %d): %s", args[0], code, strings.TrimSpace(said))
		}
	}
}

// Noise thrown at every open port, of the group too, costs a viewer nothing.
func TestNoise(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	n := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(5, netem.Params{}, netem.Params{Delay: time.Millisecond})})
	h := n.Hosts()
	src := s.source(h[0], "--multicast", testnet.Interface)
	s.join(h[1], h[0])
	byLink := s.watch(h[2], h[1], listen()...)
	byGroup := s.watch(h[3], nil, "--multicast", testnet.Interface, "--listen", "[::]:6400")
	ready()
	src.air(clipH264.path(t))
	src.relay.says("multicast to")
	group := netip.AddrPortFrom(s.id.Group(5), 6466)

	enough := make(chan struct{})
	sent := make(chan int)
	go func() {
		var conn *net.UDPConn
		err := h[4].Do(func() (err error) {
			if conn, err = net.ListenUDP("udp6", nil); err == nil {
				eth, e := net.InterfaceByName(testnet.Interface)
				if err = e; err == nil {
					raw, e := conn.SyscallConn()
					if err = e; err == nil {
						raw.Control(func(fd uintptr) {
							err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, eth.Index)
						})
					}
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
			sent <- 0
			return
		}
		defer conn.Close()
		targets := []netip.AddrPort{group}
		for _, host := range h[:4] {
			targets = append(targets, netip.AddrPortFrom(host.Addr(), listenPort))
		}
		r := rand.New(rand.NewPCG(1, 1))
		count := 0
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-enough:
				sent <- count
				return
			case <-tick.C:
			}
			for range 4 { // 2,000 a second
				if _, err := conn.WriteToUDPAddrPort(noise(r, s.id.Tag(), src), targets[r.IntN(len(targets))]); err == nil {
					count++
				}
			}
		}
	}()
	src.ingest.ends(0, time.Minute)
	for _, v := range []*viewer{byLink, byGroup} {
		v.ends(0, patience)
	}
	close(enough)
	t.Logf("%d datagrams of noise", <-sent)
	pieces := src.truth.all(t)
	exact(t, "the viewer behind a relay", pieces, byLink.out.bytes(), 0)
	exact(t, "the viewer in the group", pieces, byGroup.out.bytes(), 0)
}

// noise is a datagram that was never sent by a friend: of any length, often with the beginning of a true one.
func noise(r *rand.Rand, tag uint32, src *source) []byte {
	b := make([]byte, 1+r.IntN(1400))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	shape := func(first byte, size int) {
		if len(b) < size {
			b = append(b, make([]byte, size-len(b))...)
		}
		b[0] = first
	}
	switch r.IntN(8) {
	case 0: // HELLO
		shape(1, 1200)
		b = b[:1200]
		b[1] = 1
		b[2] |= 0x80
	case 1: // COOKIE, ANSWER
		shape(2+byte(r.IntN(2)), 132)
		b[1] = 1
	case 2, 3: // a shard of the channel's live run, of a block that comes soon
		shape(0x10, 400)
		run, number := uint64(1), uint32(0)
		if p, _ := src.truth.now(); len(p) > 0 {
			run, number = uint64(p[len(p)-1].Run), uint32(p[len(p)-1].Number)+r.Uint32N(3)
		}
		b[1] &= 0x1f
		b[2], b[3] = 0, 0
		binary.BigEndian.PutUint32(b[4:], tag)
		binary.BigEndian.PutUint64(b[8:], run)
		binary.BigEndian.PutUint32(b[16:], number)
	case 4: // a manifest of a newer run, with a signature that is none
		shape(0x11, 416)
		b = b[:416]
		b[1], b[2], b[3] = 1, 0, 3
		binary.BigEndian.PutUint32(b[4:], tag)
		binary.BigEndian.PutUint64(b[8:], uint64(time.Now().UnixMilli()+1000)<<16)
		binary.BigEndian.PutUint32(b[16:], 0)
		binary.BigEndian.PutUint32(b[20:], 0)
		binary.BigEndian.PutUint32(b[36:], 188*12)
		binary.BigEndian.PutUint16(b[40:], 188)
		binary.BigEndian.PutUint16(b[42:], 188)
		b[44], b[45], b[46], b[47] = 12, 1, 0, 0
	case 5: // a beacon that names another repair address, another run
		shape(0x12, 42)
		b = b[:42]
		b[1] = 1
		binary.BigEndian.PutUint32(b[4:], tag)
	case 6: // a link tag
		shape(0x80|b[0], 40)
		b[8] = [3]byte{0x04, 0x10, 0x20}[r.IntN(3)]
	}
	return b
}

// A full disk ends a recording with exit code 1 and says so; what was recorded is there and can be played.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := newStation(t)
	sender, other := twoHosts(t)
	disk := filepath.Join(testnet.Dir(), "small-disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=400k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(disk, unix.MNT_DETACH)
	src := s.source(sender)
	src.air(clipH264.path(t), "--loop")
	src.relay.says("watch 'sixcast:")
	p := run(t, other, streams{}, "record", s.uri, "--peer", peer(sender), "-o", filepath.Join(disk, "film.ts"))
	p.ends(1, 20*time.Second)
	if w := p.words.String(); !strings.Contains(w, "disk is full") {
		t.Errorf("record says %s", w)
	}
	files, _ := filepath.Glob(disk + "/*")
	t.Logf("left: %v; %s", files, lastLine(p.words.String()))
	src.ingest.signal(2)
	src.ingest.ends(0, patience)
	pieces := src.truth.all(t)
	kept := 0
	for _, f := range files {
		if strings.Contains(f, ".ts") && !strings.HasSuffix(f, ".json") {
			b, _ := os.ReadFile(f)
			kept += len(b)
			if played, err := match(pieces, b, true); err != nil || len(played.missing) > 0 {
				t.Errorf("%s: %+v %v", f, played, err)
			}
		}
	}
	if kept < 200_000 {
		t.Errorf("of a recording that filled a disk of 400 kB only %d bytes are left", kept)
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
