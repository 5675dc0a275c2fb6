package input

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pion/rtp"
	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/internal/ci"
	"github.com/sixcast/sixcast/pkg/ts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func contains(s, part string) bool { return strings.Contains(s, part) }

func TestParseSpec(t *testing.T) {
	addr := netip.MustParseAddr
	compare := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	for in, want := range map[string]Spec{
		"-":                            {Kind: Stdin},
		"film.ts":                      {Kind: File, Path: "film.ts"},
		"./a@b:1":                      {Kind: File, Path: "./a@b:1"},
		"C:film.ts":                    {Kind: File, Path: "C:film.ts"},
		"file:///srv/a%20b.ts":         {Kind: File, Path: "/srv/a b.ts"},
		"http://h/x?a=b":               {Kind: HTTP, URL: "http://h/x?a=b"},
		"HTTPS://h":                    {Kind: HTTP, URL: "HTTPS://h"},
		"udp://[ff15::1]:5004":         {Kind: UDP, Host: addr("ff15::1"), Port: 5004},
		"rtp://[ff15::1%25eth0]:5004":  {Kind: UDP, Host: addr("ff15::1"), Port: 5004, Interface: "eth0"},
		"udp://[ff15::1%eth0]:5004":    {Kind: UDP, Host: addr("ff15::1"), Port: 5004, Interface: "eth0"},
		"udp://@[ff15::1]:5004":        {Kind: UDP, Host: addr("ff15::1"), Port: 5004},
		"udp://@:5004":                 {Kind: UDP, Port: 5004},
		"udp://:5004/":                 {Kind: UDP, Port: 5004},
		"@:5004":                       {Kind: UDP, Port: 5004},
		"@[ff15::1%eth0]:5004":         {Kind: UDP, Host: addr("ff15::1"), Port: 5004, Interface: "eth0"},
		"2001:db8::1@[ff35::1%eth0]:5": {Kind: UDP, Host: addr("ff35::1"), Port: 5, Interface: "eth0", Source: addr("2001:db8::1")},
		"[2001:db8::1]@[ff35::1]:5":    {Kind: UDP, Host: addr("ff35::1"), Port: 5, Source: addr("2001:db8::1")},
		"udp://10.0.0.1@232.1.1.1:5":   {Kind: UDP, Host: addr("232.1.1.1"), Port: 5, Source: addr("10.0.0.1")},
		"udp://[fe80::1%25eth0]:5":     {Kind: UDP, Host: addr("fe80::1%eth0"), Port: 5},
		"udp://239.1.1.1:5?localaddr=10.0.0.2&ttl=3&pkt_size=1316&fifo_size=100": {Kind: UDP, Host: addr("239.1.1.1"), Port: 5, Interface: "10.0.0.2"},
		"udp://[ff35::1]:5?sources=2001:db8::1&iface=eth0&rcvbuf=4M": {Kind: UDP, Host: addr("ff35::1"), Port: 5, Interface: "eth0",
			Source: addr("2001:db8::1"), Buffer: 4 << 20},
		"udp://[ff35::1]:5?source=%5B2001:db8::1%5D": {Kind: UDP, Host: addr("ff35::1"), Port: 5, Source: addr("2001:db8::1")},
	} {
		got, err := ParseSpec(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if diff := cmp.Diff(want, got, compare); diff != "" {
			t.Errorf("%s: %s", in, diff)
		}
	}
	for in, want := range map[string]string{
		"":                                  "empty",
		"udp://[ff15::1]":                   "written [ff15::1]:5004",
		"udp://ff15::1:5004":                "written [ff15::1]:5004",
		"udp://[ff15::1]:0":                 "port",
		"udp://[ff15::1]:70000":             "port",
		"udp://host.example:5":              "not looked up",
		"udp://[ff35::1]:5":                 "name its source",
		"udp://232.1.1.1:5":                 "name its source",
		"udp://[ff35::1]:5?source=10.0.0.1": "two address families",
		"udp://[ff35::1]:5?source=ff02::1":  "single host",
		"udp://[ff35::1]:5?sources=::1,::2": "one source",
		"udp://::1@[ff35::1]:5?source=::2":  "two sources",
		"@[ff15::1%eth0]:5?iface=eth1":      "two interfaces",
		"udp://[ff15::1]:5?ifcae=eth0":      "ifcae is not known",
		"udp://[ff15::1]:5?rcvbuf=lots":     "no size",
		"srt://host:9000":                   "srt-live-transmit",
		"rtmp://host/x":                     "ffmpeg -i rtmp://host/x",
		"gopher://host":                     "not known",
		"http://":                           "host is missing",
		"http://[::1":                       "missing",
	} {
		if _, err := ParseSpec(in); !errors.Is(err, ErrAddress) || !contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add("udp://2001:db8::1@[ff35::1%25eth0]:5?iface=eth0&rcvbuf=4M")
	f.Fuzz(func(t *testing.T, s string) {
		if spec, err := ParseSpec(s); err == nil {
			_ = spec.String()
		}
	})
}

func rtpPacket(ssrc uint32, seq uint16, payload []byte) []byte {
	b, err := (&rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 33, SSRC: ssrc, SequenceNumber: seq}, Payload: payload}).Marshal()
	if err != nil {
		panic(err)
	}
	return b
}

func TestRTPComesInOrder(t *testing.T) {
	payload := func(n int) []byte { return bytes.Repeat([]byte{ts.SyncByte, byte(n >> 8), byte(n)}, 63)[:188] }
	now := time.Unix(0, 0)
	for _, c := range []struct {
		name string
		seqs []int // −1: 50 ms pass; −2: another sender
		want []int
		st   RTPStats
	}{
		{"in order", []int{1, 2, 3}, []int{1, 2, 3}, RTPStats{Packets: 3}},
		{"wrap", []int{65534, 65535, 65536, 65537}, []int{65534, 65535, 65536, 65537}, RTPStats{Packets: 4}},
		{"swapped", []int{1, 3, 2, 4}, []int{1, 2, 3, 4}, RTPStats{Packets: 4, Reordered: 1}},
		{"reversed", []int{1, 5, 4, 3, 2}, []int{1, 2, 3, 4, 5}, RTPStats{Packets: 5, Reordered: 1}},
		{"twice", []int{1, 2, 2, 3, 5, 5, 4}, []int{1, 2, 3, 4, 5}, RTPStats{Packets: 7, Late: 2, Reordered: 1}},
		{"lost, waits", []int{1, 3, 4}, []int{1}, RTPStats{Packets: 3}},
		{"lost, gives up", []int{1, 3, 4, -1}, []int{1, 3, 4}, RTPStats{Packets: 3, Lost: 1}},
		{"lost twice", []int{1, 3, 5, -1, -1}, []int{1, 3, 5}, RTPStats{Packets: 3, Lost: 2}},
		{"too late", []int{1, 3, -1, 2, 4}, []int{1, 3, 4}, RTPStats{Packets: 4, Lost: 1, Late: 1}},
		{"a hole wider than the buffer", []int{1, 3, 100}, []int{1, 3}, RTPStats{Packets: 3, Lost: 34}},
		{"jump", []int{1, 3, 20000, 20001}, []int{1, 3, 20000, 20001}, RTPStats{Packets: 4, Lost: 1, Switches: 1}},
		{"another sender", []int{1, 3, -2, 2, 3}, []int{1, 3, 2, 3}, RTPStats{Packets: 4, Lost: 1, Switches: 1}},
	} {
		var d depacketizer
		var got []byte
		ssrc, at := uint32(7), now
		jumps := uint64(0)
		for _, n := range c.seqs {
			switch n {
			case -1:
				at = at.Add(50 * time.Millisecond)
				got = d.expire(got, at)
			case -2:
				ssrc++
			default:
				var jump bool
				if got, jump = d.add(got, rtpPacket(ssrc, uint16(n), payload(n)), at); jump {
					jumps++
				}
			}
		}
		var want []byte
		for _, n := range c.want {
			want = append(want, payload(n)...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d, or in another order", c.name, len(got), len(want))
		}
		if d.stats != c.st || jumps != c.st.Switches {
			t.Errorf("%s: %+v, want %+v", c.name, d.stats, c.st)
		}
	}
}

func TestRawAndRTPAreToldApart(t *testing.T) {
	raw := clip(7, 1e6, 0)
	padded, _ := (&rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96, Padding: true, CSRC: []uint32{1, 2}}, Payload: raw, PaddingSize: 8}).Marshal()
	for name, b := range map[string][]byte{"raw": raw, "rtp": rtpPacket(1, 1, raw), "padding, CSRC, another type": padded} {
		var d depacketizer
		if got, _ := d.add(nil, b, time.Time{}); !bytes.Equal(got, raw) {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
	var d depacketizer
	for _, b := range [][]byte{{}, {0x80}, bytes.Repeat([]byte{0x80}, 11), bytes.Repeat([]byte{0xff}, 40)} {
		if got, _ := d.add(nil, b, time.Time{}); !bytes.Equal(got, b) {
			t.Errorf("%x became %x", b, got)
		}
	}
}

func FuzzDepacketizer(f *testing.F) {
	f.Add(rtpPacket(1, 1, clip(1, 1e6, 0)), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, seq uint16) {
		var d depacketizer
		now := time.Unix(0, 0)
		for i := range uint16(5) {
			d.add(nil, b, now)
			d.add(nil, rtpPacket(1, seq+i*seq, b), now)
			d.expire(nil, now.Add(time.Duration(i)*time.Second))
		}
		if d.held < 0 || d.held > reorderSlots {
			t.Fatal(d.held)
		}
	})
}

// collect reads until n bytes have come.
func collect(t *testing.T, s *Stream, n int) (got []byte, jumps int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for len(got) < n {
		b, err := s.Read(ctx, time.Time{})
		if err != nil {
			t.Fatalf("after %d bytes of %d: %v", len(got), n, err)
		}
		if b.Jump {
			jumps++
		}
		got = append(got, b.Packets...)
	}
	return got, jumps
}

func open(t *testing.T, spec string, o Options) *Stream {
	t.Helper()
	sp, err := ParseSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := Open(t.Context(), sp, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestUDP(t *testing.T) {
	in := clip(700, 1e6, 0)
	for i, listen := range []string{"udp://[::1]:%d", "@:%d", "udp://127.0.0.1:%d", "rtp://[::1]:%d"} {
		host := "::1"
		if i == 2 {
			host = "127.0.0.1"
		}
		probe, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		if err != nil {
			ci.Skip(t, err)
		}
		port := probe.LocalAddr().(*net.UDPAddr).Port
		probe.Close()
		s := open(t, fmt.Sprintf(listen, port), Options{})
		c, err := net.Dial("udp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for j := 0; j < len(in); j += 1316 {
			b := in[j : j+1316]
			if i == 3 {
				b = rtpPacket(1, uint16(j/1316), b)
			}
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if got, _ := collect(t, s, len(in)); !bytes.Equal(got, in) {
			t.Errorf("%s: %d bytes, or others", listen, len(got))
		}
		s.publish(time.Now(), Running)
		if st := s.Stats(); st.Datagrams != 100 || (st.RTP != nil) != (i == 3) {
			t.Errorf("%s: %+v", listen, st)
		}
		// Nothing more: the wait ends at the deadline.
		begun := time.Now()
		if _, err := s.Read(t.Context(), begun.Add(20*time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) > time.Second {
			t.Errorf("%s: %v after %v", listen, err, time.Since(begun))
		}
	}
}

func TestUDPTakesOnlyTheSourceAskedFor(t *testing.T) {
	free, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.LocalAddr().String()
	free.Close()
	s := open(t, "udp://2001:db8::1@"+at, Options{})
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write(clip(7, 1e6, 0))
	if _, err := s.Read(t.Context(), time.Now().Add(100*time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if st := s.Stats(); st.Foreign != 1 {
		t.Errorf("%+v", st)
	}
}

func TestFilesAndPipes(t *testing.T) {
	in := clip(100, 10e6, 0)
	path := filepath.Join(t.TempDir(), "in.ts")
	if err := os.WriteFile(path, append([]byte("junk"), in...), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, Options{})
	if got, _ := collect(t, s, len(in)); !bytes.Equal(got, in) || s.Live() {
		t.Errorf("file: %d bytes", len(got))
	}
	if _, err := s.Read(t.Context(), time.Time{}); !errors.Is(err, io.EOF) {
		t.Error(err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s = open(t, "-", Options{Stdin: r})
	if _, err := s.Read(t.Context(), time.Now().Add(20*time.Millisecond)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an empty pipe: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Read(ctx, time.Time{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an empty pipe: %v", err)
	}
	go func() {
		w.Write(in)
		w.Close()
	}()
	if got, _ := collect(t, s, len(in)); !bytes.Equal(got, in) || !s.Live() {
		t.Errorf("pipe: %d bytes", len(got))
	}
	if _, err := s.Read(t.Context(), time.Time{}); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	for _, o := range []struct {
		path string
		o    Options
		want error
	}{
		{filepath.Join(t.TempDir(), "missing"), Options{}, ErrUnavailable},
		{t.TempDir(), Options{}, ErrUnavailable},
		{"/dev/null", Options{Loop: true}, ErrAddress},
	} {
		if _, err := Open(t.Context(), Spec{Kind: File, Path: o.path}, o.o); !errors.Is(err, o.want) {
			t.Errorf("%s: %v", o.path, err)
		}
	}
}

func TestHTTPResumesAndReconnects(t *testing.T) {
	in := clip(2000, 100e6, 0)
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := requests.Add(1)
		switch r.URL.Path {
		case "/file": // cut short once; the rest is asked for
			if n == 1 {
				w.Header().Set("Content-Length", fmt.Sprint(len(in)))
				w.Write(in[:len(in)/3])
				return
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(in))
		case "/live": // ends after each clip, and fails in between
			if n == 2 {
				http.Error(w, "busy", http.StatusServiceUnavailable)
				return
			}
			w.(http.Flusher).Flush()
			w.Write(in)
		case "/page":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Write([]byte("<html>"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()

	s := open(t, server.URL+"/file", Options{})
	got, jumps := collect(t, s, len(in))
	if !bytes.Equal(got, in) || jumps != 0 {
		t.Errorf("resumed: %d bytes of %d, %d jumps", len(got), len(in), jumps)
	}
	if _, err := s.Read(t.Context(), time.Time{}); !errors.Is(err, io.EOF) {
		t.Error(err)
	}

	requests.Store(0)
	s = open(t, server.URL+"/live", Options{})
	got, jumps = collect(t, s, 2*len(in)-ts.PacketSize)
	if !bytes.Equal(got, append(bytes.Clone(in), in...)[:len(got)]) || jumps != 1 {
		t.Errorf("connected again: %d bytes of %d, %d jumps", len(got), 2*len(in), jumps)
	}
	s.Close()

	requests.Store(5)
	s = open(t, server.URL+"/live", Options{Once: true})
	if got, _ = collect(t, s, len(in)); !bytes.Equal(got, in) {
		t.Errorf("once: %d bytes", len(got))
	}
	if _, err := s.Read(t.Context(), time.Time{}); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	for path, want := range map[string]error{"/page": ErrNotStream, "/missing": ErrUnavailable} {
		s = open(t, server.URL+path, Options{})
		if _, err := s.Read(t.Context(), time.Time{}); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func BenchmarkUDPPath(b *testing.B) {
	in := clip(7*32, 1e6, 0)
	s := newStream(paceNone)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		s.put(s.sync.Flush(s.sync.Append(s.pace.room(), in)))
		if p, _ := s.pace.take(b.Context(), time.Time{}); len(p) == 0 {
			b.Fatal()
		}
	}
}
