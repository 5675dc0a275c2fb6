package udp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// modes are the ways by which datagrams travel.
var modes = []struct {
	name                string
	noOffload, oneByOne bool
}{
	{name: "offload"},
	{name: "batches", noOffload: true},
	{name: "one by one", noOffload: true, oneByOne: true},
}

func listen(t testing.TB, cfg Config) *Conn {
	t.Helper()
	if !cfg.Listen.IsValid() {
		cfg.Listen = netip.AddrPortFrom(netip.IPv6Loopback(), 0)
	}
	c, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.sendWait = time.Second // for tests on a busy machine
	t.Cleanup(func() { c.Close() })
	return c
}

// receive reads want datagrams, fewer if they do not come within 2 s, and copies them.
func receive(t testing.TB, c *Conn, want int) (got []Datagram) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var b Batch
	for len(got) < want {
		n, err := c.ReadBatch(&b)
		if err != nil {
			t.Errorf("received %d of %d datagrams: %v", len(got), want, err)
			return got
		}
		if n != len(b.Datagrams) {
			t.Fatalf("ReadBatch = %d, but there are %d datagrams", n, len(b.Datagrams))
		}
		for _, d := range b.Datagrams {
			got = append(got, Datagram{d.Addr, bytes.Clone(d.Data)})
		}
	}
	return got
}

// silent checks that nothing more comes.
func silent(t testing.TB, c *Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var b Batch
	if n, err := c.ReadBatch(&b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("received %d datagrams, error %v; want none", n, err)
	}
}

func flush(t testing.TB, c *Conn, q *SendQueue) int {
	t.Helper()
	n, err := c.Flush(q)
	if err != nil {
		t.Fatal(err)
	}
	if q.Len() != 0 || q.Bytes() != 0 {
		t.Errorf("after Flush %d datagrams of %d bytes are queued", q.Len(), q.Bytes())
	}
	return n
}

func TestDatagramsArriveWholeAndInOrder(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			cfg := Config{NoOffload: mode.noOffload}
			from := listen(t, cfg)
			if mode.oneByOne {
				from.batched = false
			}
			const receivers, rounds = 5, 150
			to := make([]*Conn, receivers)
			for i := range to {
				to[i] = listen(t, cfg)
				if mode.oneByOne {
					to[i].batched = false
				}
			}
			random := rand.New(rand.NewPCG(1, 2))
			want := make([][][]byte, receivers)
			var q SendQueue
			total, queued := 0, 0
			for range rounds {
				i := random.IntN(receivers)
				// Runs of one length, a shorter or a longer one in between, with and without a head, some of one byte.
				size := []int{1, 9, 160, 1208, 1228}[random.IntN(5)]
				for range 1 + random.IntN(70) {
					n := size
					if random.IntN(20) == 0 {
						n = 1 + random.IntN(1500)
					}
					datagram := make([]byte, n)
					for k := range datagram {
						datagram[k] = byte(random.Uint32())
					}
					cut := []int{0, min(8, n), min(8, n), n}[random.IntN(4)]
					if n > 16 && cut == n {
						cut = 16
					}
					head := bytes.Clone(datagram[:cut])
					q.Add(to[i].LocalAddr(), head, datagram[cut:])
					clear(head) // it was copied
					want[i] = append(want[i], datagram)
					total += n
					queued++
				}
				if q.Len() > 200 {
					flush(t, from, &q)
				}
			}
			flush(t, from, &q)
			for i, c := range to {
				got := receive(t, c, len(want[i]))
				for k := range got {
					if !bytes.Equal(got[k].Data, want[i][k]) {
						t.Fatalf("receiver %d, datagram %d: %d bytes came, %d were sent", i, k, len(got[k].Data), len(want[i][k]))
					}
					if got[k].Addr != from.LocalAddr() {
						t.Fatalf("came from %s, was sent from %s", got[k].Addr, from.LocalAddr())
					}
				}
				s := c.Stats()
				if s.Received != uint64(len(want[i])) || s.KernelDrops != 0 {
					t.Errorf("receiver %d counts %+v, want %d received", i, s, len(want[i]))
				}
			}
			s := from.Stats()
			if s.Sent != uint64(queued) || s.SentBytes != uint64(total) || s.Unsent() != 0 || s.OffloadRefused != 0 {
				t.Errorf("sender counts %+v, want %d sent of %d bytes", s, queued, total)
			}
		})
	}
}

func TestOneDestinationDoesNotLoseTheOthers(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			from, good := listen(t, Config{NoOffload: mode.noOffload}), listen(t, Config{})
			from.batched = from.batched && !mode.oneByOne
			port := good.LocalAddr().Port()
			var q SendQueue
			body := make([]byte, 1200)
			bad := []netip.AddrPort{
				netip.MustParseAddrPort("[fe80::1%nosuch0]:9"), // no such zone
				netip.MustParseAddrPort("192.0.2.1:9"),
				{},
				netip.AddrPortFrom(netip.IPv6Loopback(), 0),
			}
			for i := range 400 {
				q.Add(bad[i/4%len(bad)], nil, body)
				q.Add(netip.AddrPortFrom(netip.IPv6Loopback(), port), nil, body)
			}
			if n := flush(t, from, &q); n != 400*len(body) {
				t.Errorf("Flush = %d bytes, want %d", n, 400*len(body))
			}
			receive(t, good, 400)
			if s := from.Stats(); s.Sent != 400 || s.Unsent() != 400 {
				t.Errorf("%+v, want 400 sent and 400 not", s)
			}
		})
	}
}

func TestNobodyListensIsNoError(t *testing.T) {
	from, gone, good := listen(t, Config{}), listen(t, Config{}), listen(t, Config{})
	gone.Close()
	var q SendQueue
	for range 50 {
		q.Add(gone.LocalAddr(), nil, make([]byte, 100))
		q.Add(good.LocalAddr(), nil, make([]byte, 100))
		flush(t, from, &q)
	}
	receive(t, good, 50)
	silent(t, from) // and its own reader does not fail for it
}

func TestNoiseIsDroppedAndCounted(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			to := listen(t, Config{NoOffload: mode.noOffload})
			to.batched = to.batched && !mode.oneByOne
			noise, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(to.LocalAddr()))
			if err != nil {
				t.Fatal(err)
			}
			defer noise.Close()
			for _, n := range []int{0, DefaultMaxDatagram, DefaultMaxDatagram + 1, 65000, 65507, 0, 1} {
				if _, err := noise.Write(make([]byte, n)); err != nil {
					t.Fatal(err)
				}
			}
			got := receive(t, to, 2)
			if len(got) != 2 || len(got[0].Data) != DefaultMaxDatagram || len(got[1].Data) != 1 {
				t.Errorf("received %d datagrams, want those of %d bytes and 1 byte", len(got), DefaultMaxDatagram)
			}
			if s := to.Stats(); s.Received != 2 || s.Empty != 2 || s.TooLong != 3 {
				t.Errorf("%+v, want 2 received, 2 empty, 3 too long", s)
			}
		})
	}
}

func TestJumboDatagramsWhereAskedFor(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			cfg := Config{NoOffload: mode.noOffload, MaxDatagram: 1 << 20}
			from, to := listen(t, cfg), listen(t, cfg)
			from.batched, to.batched = from.batched && !mode.oneByOne, to.batched && !mode.oneByOne
			var q SendQueue
			for _, n := range []int{9000, 9000, 65488, 65488, 65489} { // the last does not fit lo's MTU of 65536
				q.Add(to.LocalAddr(), nil, make([]byte, n))
			}
			flush(t, from, &q)
			if got := receive(t, to, 4); len(got) == 4 && len(got[3].Data) != 65488 {
				t.Errorf("the fourth has %d bytes", len(got[3].Data))
			}
			if s := from.Stats(); s.TooBig != 1 {
				t.Errorf("%+v, want 1 too big", s)
			}
		})
	}
}

func TestCloseAndDeadlineUnblock(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			c := listen(t, Config{NoOffload: mode.noOffload})
			c.batched = c.batched && !mode.oneByOne
			silent(t, c)
			if err := c.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			done := make(chan error)
			go func() {
				var b Batch
				_, err := c.ReadBatch(&b)
				done <- err
			}()
			c.Close()
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				t.Errorf("ReadBatch after Close: %v", err)
			}
			var q SendQueue
			q.Add(c.LocalAddr(), nil, []byte("late"))
			if _, err := c.Flush(&q); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Flush after Close: %v", err)
			}
			if s := c.Stats(); s.Failed != 1 {
				t.Errorf("%+v, want 1 failed", s)
			}
		})
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	for _, mode := range modes[:2] {
		t.Run(mode.name, func(t *testing.T) {
			cfg := Config{NoOffload: mode.noOffload}
			from, a, b := listen(t, cfg), listen(t, cfg), listen(t, cfg)
			var q SendQueue
			var batch Batch
			body, tag := make([]byte, 1220), make([]byte, 8)
			round := func() {
				for _, to := range []*Conn{a, b} {
					for i := range 40 {
						binary.BigEndian.PutUint64(tag, uint64(i/10))
						q.Add(to.LocalAddr(), tag, body[:1208+i/39])
					}
				}
				if _, err := from.Flush(&q); err != nil {
					t.Fatal(err)
				}
				for _, to := range []*Conn{a, b} {
					for n := 0; n < 40; {
						k, err := to.ReadBatch(&batch)
						if err != nil {
							t.Fatal(err)
						}
						n += k
					}
				}
			}
			round()
			if n := testing.AllocsPerRun(100, round); n != 0 {
				t.Errorf("%v allocations a round of 80 datagrams", n)
			}
		})
	}
}

func TestInfoTellsWhatTheSocketGot(t *testing.T) {
	c := listen(t, Config{ReceiveBuffer: 300 << 10, SendBuffer: 200 << 10})
	i := c.Info()
	if i.Local != c.LocalAddr() || i.Local.Port() == 0 || i.Local.Addr() != netip.IPv6Loopback() {
		t.Errorf("local address %s", i.Local)
	}
	if i.ReceiveBuffer < 100<<10 || i.SendBuffer < 100<<10 {
		t.Errorf("buffers %d, %d", i.ReceiveBuffer, i.SendBuffer)
	}
	if i := listen(t, Config{NoOffload: true}).Info(); i.GSO || i.GRO {
		t.Errorf("offload is on: %+v", i)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	taken := listen(t, Config{})
	for _, test := range []struct {
		cfg  Config
		want error
		text string
	}{
		{Config{Listen: taken.LocalAddr()}, ErrPortInUse, "choose another port"},
		{Config{Listen: netip.MustParseAddrPort("[2001:db8::dead]:0")}, ErrAddressNotHere, "listen on one that is"},
		{Config{Listen: netip.MustParseAddrPort("[fe80::1]:0")}, ErrAddressNotHere, "needs its interface"},
		{Config{Listen: netip.MustParseAddrPort("[fe80::1%nosuch0]:0")}, ErrInterface, `"nosuch0"`},
		{Config{Listen: netip.MustParseAddrPort("127.0.0.1:0")}, nil, "IPv6 only"},
		{Config{Listen: netip.MustParseAddrPort("[ff15::1]:0")}, nil, "ListenGroup"},
		{Config{MulticastInterface: "nosuch0"}, ErrInterface, "multicast"},
		{Config{Hops: 1000}, nil, "hop limit"},
	} {
		c, err := Listen(test.cfg)
		if err == nil {
			c.Close()
			t.Errorf("%+v: no error", test.cfg)
			continue
		}
		if test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%+v: %v; want %v with %q", test.cfg, err, test.want, test.text)
		}
	}
	for errno, want := range map[error]error{errnoAccess: ErrPrivilegedPort, errnoNoFamily: ErrNoIPv6} {
		err := explainListen(netip.MustParseAddrPort("[::]:80"), &net.OpError{Err: os.NewSyscallError("bind", errno)})
		if !errors.Is(err, want) || !errors.Is(err, errno) {
			t.Errorf("%v: %v; want %v", errno, err, want)
		}
	}
	for _, test := range []struct {
		group, iface, source, text string
	}{
		{"[2001:db8::1]:6466", "", "", "not a multicast group"},
		{"224.0.0.1:6466", "", "", "IPv6 only"},
		{"[ff15::1]:6466", "nosuch0", "", `"nosuch0"`},
		{"[ff15::1%a]:6466", "b", "", "disagree"},
		{"[ff35::8000:1]:6466", "", "ff02::1", "unicast address of a sender"},
		{"[ff35::8000:1]:6466", "", "192.0.2.1", "unicast address of a sender"},
	} {
		var source netip.Addr
		if test.source != "" {
			source = netip.MustParseAddr(test.source)
		}
		c, err := ListenGroup(netip.MustParseAddrPort(test.group), test.iface, source, Config{})
		if err == nil {
			c.Close()
			t.Errorf("%+v: no error", test)
		} else if !strings.Contains(err.Error(), test.text) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestQueueMakesRunsOfOneLength(t *testing.T) {
	a, b := netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:1")
	type add struct {
		to         netip.AddrPort
		head, body int
	}
	repeat := func(n int, x add) []add {
		out := make([]add, n)
		for i := range out {
			out[i] = x
		}
		return out
	}
	for _, test := range []struct {
		name string
		adds []add
		want string // datagrams × bytes of each message
	}{
		{"nothing", nil, ""},
		{"empty datagrams", []add{{a, 0, 0}}, ""},
		{"one length", repeat(3, add{a, 8, 100}), "3:324"},
		{"a shorter one ends a run", []add{{a, 8, 100}, {a, 8, 100}, {a, 8, 50}, {a, 8, 50}}, "3:274 1:58"},
		{"a longer one begins one", []add{{a, 8, 100}, {a, 8, 101}, {a, 8, 101}}, "1:108 2:218"},
		{"two destinations", []add{{a, 8, 100}, {b, 8, 100}, {a, 8, 100}}, "1:108 1:108 1:108"},
		{"with and without head", []add{{a, 8, 100}, {a, 0, 108}, {a, 16, 0}}, "1:108 2:124"},
		{"64 a run", repeat(70, add{a, 0, 10}), "64:640 6:60"},
		{"65,000 bytes a run", repeat(60, add{a, 8, 1220}), "52:63856 8:9824"},
		{"a datagram longer than that", []add{{a, 0, 65507}, {a, 0, 65507}}, "1:65507 1:65507"},
	} {
		var q SendQueue
		body := make([]byte, 1<<16)
		n, bytes := 0, 0
		for _, x := range test.adds {
			q.Add(x.to, body[:x.head], body[:x.body])
			if x.head+x.body > 0 {
				n, bytes = n+1, bytes+x.head+x.body
			}
		}
		var got []string
		for i := range q.messages {
			got = append(got, fmt.Sprintf("%d:%d", q.messages[i].count, q.messages[i].bytes))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v, want %s", test.name, got, test.want)
		}
		if q.Len() != n || q.Bytes() != bytes {
			t.Errorf("%s: Len %d, Bytes %d; want %d, %d", test.name, q.Len(), q.Bytes(), n, bytes)
		}
		q.Reset()
		if q.Len() != 0 || q.Bytes() != 0 || len(q.messages) != 0 {
			t.Errorf("%s: Reset left something", test.name)
		}
	}
}

func TestSplitGivesSingleDatagrams(t *testing.T) {
	payload := []byte("abcdefgh")
	for _, test := range []struct {
		length, size, longest int
		want                  string
		tally                 tally
	}{
		{8, 0, 8, "abcdefgh", tally{datagrams: 1, bytes: 8}},
		{8, 3, 8, "abc def gh", tally{datagrams: 3, bytes: 8}},
		{8, 4, 8, "abcd efgh", tally{datagrams: 2, bytes: 8}},
		{8, 1, 8, "a b c d e f g h", tally{datagrams: 8, bytes: 8}},
		{8, 9, 8, "abcdefgh", tally{datagrams: 1, bytes: 8}},
		{8, -1, 8, "abcdefgh", tally{datagrams: 1, bytes: 8}},
		{8, 5, 4, "", tally{tooLong: 2}},
		{0, 5, 4, "", tally{empty: 1}},
	} {
		var b Batch
		var got tally
		b.split(&got, netip.AddrPort{}, payload[:test.length], test.size, test.longest)
		var parts []string
		for _, d := range b.Datagrams {
			parts = append(parts, string(d.Data))
			if cap(d.Data) != len(d.Data) {
				t.Errorf("%+v: an append would overwrite the next datagram", test)
			}
		}
		if strings.Join(parts, " ") != test.want || got != test.tally {
			t.Errorf("%+v: got %q, %+v", test, parts, got)
		}
	}
}
