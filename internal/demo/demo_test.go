package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/internal/ci"
	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/ts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const clip = "../../testdata/demo.ts"

func readClip(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(clip)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatArrivesIsComparedByteForByte(t *testing.T) {
	sent := readClip(t)
	tables := tablesOf(t, sent)
	from := 5000 * ts.PacketSize
	for name, c := range map[string]struct {
		got           []byte
		start, length int
		ok            bool
	}{
		"all":                     {sent, 0, len(sent), true},
		"from later on":           {sent[from:], from, len(sent) - from, true},
		"behind a preamble":       {append(bytes.Clone(tables), sent[from:]...), from, len(sent) - from, true},
		"a part":                  {sent[from : from+1000*ts.PacketSize], from, 1000 * ts.PacketSize, true},
		"nothing":                 {nil, 0, 0, false},
		"a wrong byte":            {flip(sent, len(sent)/2), 0, 0, false},
		"a wrong first byte":      {flip(sent, 10), 0, 0, false},
		"a wrong last byte":       {flip(sent, len(sent)-1), 0, 0, false},
		"a packet left out":       {append(bytes.Clone(sent[:from]), sent[from+ts.PacketSize:]...), 0, 0, false},
		"packets twice":           {append(bytes.Clone(sent[:from]), sent[from-ts.PacketSize:]...), 0, 0, false},
		"more than was sent":      {append(bytes.Clone(sent), tables...), 0, 0, false},
		"another stream in front": {append(bytes.Repeat([]byte{0x47, 1, 2, 3}, 47), sent[from:]...), 0, 0, false},
	} {
		start, length, err := compare(sent, c.got)
		if c.ok && (err != nil || start != c.start || length != c.length) {
			t.Errorf("%s: %d bytes from %d, %v; want %d from %d", name, length, start, err, c.length, c.start)
		}
		if !c.ok && !errors.Is(err, errDifferent) {
			t.Errorf("%s: %d bytes from %d, %v", name, length, start, err)
		}
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// tablesOf is the first PAT and the first PMT of a stream, with other continuity counters.
func tablesOf(t *testing.T, stream []byte) (tables []byte) {
	t.Helper()
	w := ts.NewWalker()
	for b := stream; len(b) > 0; b = b[ts.PacketSize:] {
		w.Walk(ts.Packet(b[:ts.PacketSize]))
	}
	tables = w.AppendPreamble(nil)
	if len(tables) < 2*ts.PacketSize {
		t.Fatal("the clip has no tables")
	}
	return tables
}

func TestLinkLosesItsShareAndKeepsTheOrder(t *testing.T) {
	server, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		ci.Skip(t, "no IPv6 on the loopback:", err)
	}
	defer server.Close()
	l, err := newLossyLink("test", server.LocalAddr().(*net.UDPAddr).AddrPort(), 1, netem.Params{Loss: 0.1, Delay: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(l.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	const count = 250
	begin := time.Now()
	for i := range count {
		client.Write([]byte{byte(i)})
	}
	last, came := -1, 0
	buf := make([]byte, 10)
	var from netip.AddrPort
	server.SetReadDeadline(begin.Add(5 * time.Second))
	for {
		total, lost := l.Counts()
		if total == count && came == count-int(lost) {
			break
		}
		n, addr, err := server.ReadFromUDPAddrPort(buf)
		if err != nil || n != 1 || int(buf[0]) <= last {
			t.Fatalf("%d after %d: %v", buf[:n], last, err)
		}
		if came == 0 && time.Since(begin) < 5*time.Millisecond {
			t.Error("nothing was held back")
		}
		from, last, came = addr, int(buf[0]), came+1
	}
	if came == count || came < count*8/10 {
		t.Errorf("%d of %d came, with a loss of 10 %%", came, count)
	}
	for range 50 { // some answer gets through
		server.WriteToUDPAddrPort([]byte("answer"), from)
	}
	client.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "answer" {
		t.Errorf("%q %v", buf[:n], err)
	}
}

// The demo itself, with the first seconds of the clip.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("plays for seconds")
	}
	if err := checkIPv6(); err != nil {
		ci.Skip(t, err)
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "../../cmd/ingest", "../../cmd/relay", "../../cmd/watch")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	short := filepath.Join(dir, "short.ts")
	if err := os.WriteFile(short, readClip(t)[:1500*ts.PacketSize], 0o600); err != nil {
		t.Fatal(err)
	}
	o := options{bin: dir, clip: short, seed: 1, link: netem.Params{Loss: 0.05, Delay: 5 * time.Millisecond}}
	if err := run(t.Context(), o); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, context.Canceled)
	defer cancel()
	if err := run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
