package udp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/internal/ci"
)

// network runs the calling test again in a network namespace of its own, where the test goes on past this call, with
//
//	west 2001:db8::1 2001:db8::2 fe80::1 ──── east 2001:db8:1::1 fe80::2
//	apart 2001:db8:2::1 ──── void                                             loopback up
//
// two veth pairs all of whose ends lie in the namespace: enough for multicast, which crosses a pair and also loops back to listeners on
// the interface it left by. Unicast between the ends does not leave the host.
func network(t *testing.T) (inside bool) {
	t.Helper()
	const variable = "SIXCAST_UDP_TEST_NETWORK"
	if os.Getenv(variable) == t.Name() {
		ip := func(commands string) {
			for _, line := range strings.Split(strings.TrimSpace(commands), "\n") {
				run(t, "ip", strings.Fields(line)...)
			}
		}
		ip(`link set lo up
			link add west type veth peer name east
			link add apart type veth peer name void
			link set west addrgenmode none up
			link set east addrgenmode none up
			link set apart addrgenmode none up
			link set void addrgenmode none up`)
		// Links come up in their own time, and the kernel settles addresses and routes again when they do.
		begin := time.Now()
		for _, name := range []string{"west", "east", "apart", "void"} {
			for up := false; !up; time.Sleep(time.Millisecond) {
				ifi, err := net.InterfaceByName(name)
				if err != nil || time.Since(begin) > 5*time.Second {
					t.Fatalf("%s does not come up: %v", name, err)
				}
				up = ifi.Flags&net.FlagRunning != 0
			}
		}
		ip(`address add 2001:db8::1/64 dev west nodad
			address add 2001:db8::2/64 dev west nodad
			address add fe80::1/64 dev west nodad
			address add 2001:db8:1::1/64 dev east nodad
			address add fe80::2/64 dev east nodad
			address add 2001:db8:2::1/64 dev apart nodad`)
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "-Urn", "ip", "link").CombinedOutput(); err != nil {
		ci.Skip(t, "no network namespaces here (unshare and iproute2, user namespaces allowed): unshare -Urn ip link:", err, string(out))
	}
	cmd := exec.Command("unshare", "-Urn", self, "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.timeout=20s")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	out, err := cmd.CombinedOutput()
	t.Logf("in a network namespace:\n%s", out)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("in a network namespace: %v", err)
	}
	return false
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func group(t *testing.T, addr, iface, source string, cfg Config) *Conn {
	t.Helper()
	var s netip.Addr
	if source != "" {
		s = netip.MustParseAddr(source)
	}
	c, err := ListenGroup(netip.MustParseAddrPort(addr), iface, s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// burst sends 60 datagrams of body to addr.
func burst(t *testing.T, c *Conn, addr, body string) {
	t.Helper()
	var q SendQueue
	for range 60 {
		q.Add(netip.MustParseAddrPort(addr), []byte("tag "), []byte(body))
	}
	flush(t, c, &q)
}

// heard checks that c gets the bursts of these bodies, in this order, and nothing else.
func heard(t *testing.T, who string, c *Conn, bodies ...string) {
	t.Helper()
	var got []string
	for _, d := range receive(t, c, 60*len(bodies)) {
		if b := string(d.Data); len(got) == 0 || got[len(got)-1] != b {
			got = append(got, b)
		}
	}
	if want := "tag " + strings.Join(bodies, ",tag "); len(bodies) > 0 && strings.Join(got, ",") != want {
		t.Errorf("%s heard %q, want %s", who, got, want)
	}
	silent(t, c)
}

func TestGroups(t *testing.T) {
	if !network(t) {
		return
	}
	out := func(addr, iface string) *Conn {
		return listen(t, Config{Listen: netip.MustParseAddrPort(addr), MulticastInterface: iface, Hops: 4})
	}
	one, two, east := out("[2001:db8::1]:0", "west"), out("[2001:db8::2]:0", "west"), out("[2001:db8:1::1]:0", "east")

	const anyGroup, other, specific = "[ff15::1234]:6466", "[ff15::5678]:6466", "[ff35::8000:1]:6466"
	first := group(t, anyGroup, "west", "", Config{})
	second := group(t, anyGroup, "west", "", Config{NoOffload: true}) // another listener on this host
	third := group(t, other, "west", "", Config{})
	far := group(t, anyGroup, "east", "", Config{}) // at the other end of the cable
	apart := group(t, anyGroup, "apart", "", Config{})
	fromOne := group(t, specific, "west", "2001:db8::1", Config{})
	fromTwo := group(t, specific, "west", "2001:db8::2", Config{NoOffload: true})
	fromNone := group(t, specific, "west", "2001:db8::3", Config{})

	burst(t, one, anyGroup, "one")
	burst(t, two, anyGroup, "two")
	burst(t, one, other, "other")
	burst(t, one, specific, "one")
	burst(t, two, specific, "two")
	burst(t, one, "[2001:db8::2]:6466", "unicast to the port")

	heard(t, "first", first, "one", "two")
	heard(t, "second", second, "one", "two")
	heard(t, "third", third, "other")
	heard(t, "fromOne", fromOne, "one")
	heard(t, "fromTwo", fromTwo, "two")
	heard(t, "fromNone", fromNone)
	heard(t, "far", far, "one", "two")
	heard(t, "apart", apart)
	burst(t, east, anyGroup, "east")
	heard(t, "far", far, "east")
	heard(t, "first", first, "east")
	heard(t, "apart", apart)

	i := fromOne.Info()
	if i.Group != netip.MustParseAddr("ff35::8000:1") || i.Source != netip.MustParseAddr("2001:db8::1") || i.Interface != "west" {
		t.Errorf("Info: %+v", i)
	}
	if a := first.LocalAddr(); a != netip.MustParseAddrPort(anyGroup) {
		t.Errorf("a group's listener has the address %s", a)
	}
	if i := one.Info(); i.Interface != "west" {
		t.Errorf("Info: %+v", i)
	}

	// A link's group, whose address has a zone; the sender is link-local, too.
	link := group(t, "[ff12::1%east]:0", "", "", Config{})
	port := link.LocalAddr().Port()
	local := listen(t, Config{Listen: netip.MustParseAddrPort("[fe80::2%east]:0")})
	burst(t, local, netip.AddrPortFrom(netip.MustParseAddr("ff12::1%east"), port).String(), "link")
	got := receive(t, link, 60)
	if len(got) > 0 && got[0].Addr != local.LocalAddr() {
		t.Errorf("came from %s, was sent from %s", got[0].Addr, local.LocalAddr())
	}
	// And back, to the address as it was received.
	burst(t, link, got[0].Addr.String(), "back")
	heard(t, "local", local, "back")

	// Zones cost no allocation.
	body := []byte("zoned")
	var q SendQueue
	var batch Batch
	if err := local.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		q.Add(got[0].Addr, nil, body)
		if _, err := local.Flush(&q); err != nil {
			t.Fatal(err)
		}
		if _, err := local.ReadBatch(&batch); err != nil || batch.Datagrams[0].Addr != local.LocalAddr() {
			t.Fatal(batch.Datagrams, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a datagram with a zone", n)
	}
}

func TestInterfaceOfAGroup(t *testing.T) {
	if !network(t) {
		return
	}
	run(t, "ip", "-6", "route", "add", "multicast", "ff35::/16", "dev", "east", "table", "local", "metric", "1")
	if i := group(t, "[ff35::8000:1]:6466", "", "2001:db8:1::1", Config{}).Info(); i.Interface != "east" {
		t.Errorf("the route says east; joined on %s", i.Interface)
	}
	for addr, want := range map[string]string{"::1": "lo", "2001:db8::99": "west", "2001:db8:1::99": "east", "fe80::9%east": "east"} {
		if ifi, err := RouteInterface(netip.MustParseAddr(addr)); err != nil || ifi.Name != want {
			t.Errorf("RouteInterface(%s) = %v, %v; want %s", addr, ifi, err, want)
		}
	}
	run(t, "ip", "link", "set", "west", "down")
	for name, text := range map[string]string{"west": "is down", "lo": "cannot do multicast", "nosuch": "there is none"} {
		if _, err := Interface(name); !errors.Is(err, ErrInterface) || !strings.Contains(err.Error(), text) {
			t.Errorf("Interface(%s): %v; want %q", name, err, text)
		}
	}
	if _, err := RouteInterface(netip.MustParseAddr("2001:db8:ffff::1")); !errors.Is(err, ErrInterface) {
		t.Errorf("RouteInterface to nowhere: %v", err)
	}
	run(t, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	if _, err := Listen(Config{Listen: netip.MustParseAddrPort("[::1]:0")}); !errors.Is(err, ErrNoIPv6) {
		t.Errorf("Listen without IPv6: %v", err)
	}
	if _, err := Interface("east"); err == nil || !strings.Contains(err.Error(), "no interface of this host") {
		t.Errorf("Interface without IPv6: %v", err)
	}
}

// What a device cannot take as one is sent as many.
func TestRefusedOffloadFallsBack(t *testing.T) {
	const noChecksumTx, noChecksumRx = 101, 102 // UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX: the kernel refuses GSO without checksums
	set := func(c *Conn, option int) {
		if err := c.raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), unix.SOL_UDP, option, 1); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	from, a, b := listen(t, Config{}), listen(t, Config{}), listen(t, Config{})
	if !from.Info().GSO {
		ci.Skip(t, "this kernel has no GSO")
	}
	set(from, noChecksumTx)
	set(a, noChecksumRx)
	set(b, noChecksumRx)
	var q SendQueue
	for range 3 {
		for range 100 {
			q.Add(a.LocalAddr(), []byte("tag"), make([]byte, 1000))
		}
		q.Add(netip.AddrPort{}, nil, []byte("counted once"))
		for range 30 {
			q.Add(b.LocalAddr(), []byte("tag"), make([]byte, 1000))
		}
		flush(t, from, &q)
		receive(t, a, 100)
		receive(t, b, 30)
	}
	if s := from.Stats(); s.OffloadRefused != 2 || s.Sent != 390 || s.Unreachable != 3 || s.Unsent() != 3 {
		t.Errorf("%+v, want offload refused once a destination, 390 sent, 3 unreachable", s)
	}
	from.tx.gsoRefusedT = from.tx.gsoRefusedT.Add(-2 * refusedFor)
	if from.tx.refusesGSO(a.LocalAddr()) {
		t.Error("a refusal is remembered for ever")
	}
	for i := range 2 * maxRefused {
		from.tx.refuseGSO(netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i)))
	}
	if n := len(from.tx.gsoRefused); n > maxRefused {
		t.Errorf("%d refusals are remembered", n)
	}
}

func TestWhatCannotLeaveIsCounted(t *testing.T) {
	if !network(t) {
		return
	}
	run(t, "ip", "link", "set", "west", "mtu", "1280")
	// A neighbour that is not there, but whose link-layer address is known: the device takes what is sent to it.
	run(t, "ip", "-6", "neighbour", "add", "2001:db8::99", "lladdr", "02:00:00:00:00:99", "dev", "west")
	const west, nowhere = "[2001:db8::99]:9", "[2001:db8:ffff::1]:9"

	c := listen(t, Config{Listen: netip.MustParseAddrPort("[::]:0")})
	to := listen(t, Config{})
	var q SendQueue
	for range 10 {
		q.Add(netip.MustParseAddrPort(nowhere), nil, make([]byte, 1000))
		q.Add(netip.MustParseAddrPort(nowhere), nil, make([]byte, 1000))
		q.Add(netip.MustParseAddrPort(west), nil, make([]byte, 1232))
		q.Add(netip.MustParseAddrPort(west), nil, make([]byte, 1233)) // 1281 with its headers
		q.Add(netip.MustParseAddrPort(west), nil, make([]byte, 1233))
		q.Add(to.LocalAddr(), nil, make([]byte, 1232))
	}
	flush(t, c, &q)
	receive(t, to, 10)
	if s := c.Stats(); s.Unreachable != 20 || s.TooBig != 20 || s.Sent != 20 {
		t.Errorf("%+v, want 20 unreachable, 20 too big, 20 sent", s)
	}

	// A slow device: the send buffer fills, and Flush gives up soon. Room comes back at 5 datagrams a second.
	run(t, "tc", "qdisc", "add", "dev", "west", "root", "tbf", "rate", "50kbit", "burst", "2000", "limit", "10000000")
	for _, cfg := range []Config{{SendBuffer: 100 << 10}, {SendBuffer: 100 << 10, NoOffload: true}} {
		slow := listen(t, Config{Listen: netip.MustParseAddrPort("[::]:0"), SendBuffer: cfg.SendBuffer, NoOffload: cfg.NoOffload})
		slow.sendWait = defaultSendWait
		for range 1000 {
			q.Add(netip.MustParseAddrPort(west), nil, make([]byte, 1232))
		}
		begin := time.Now()
		flush(t, slow, &q)
		took := time.Since(begin)
		s := slow.Stats()
		if s.Busy == 0 || s.Sent == 0 || s.Sent+s.Busy != 1000 || took > 500*time.Millisecond {
			t.Errorf("%+v: %v, %+v; want some sent, the rest busy, in a few milliseconds", cfg, took, s)
		}
		t.Logf("%+v: gave up %d of 1000 after %v", cfg, s.Busy, took)
	}

	// A full receive buffer is the kernel's drop.
	small := listen(t, Config{ReceiveBuffer: 16 << 10})
	for range 100 {
		q.Add(small.LocalAddr(), nil, make([]byte, 1200))
		flush(t, c, &q)
	}
	if s := small.Stats(); s.KernelDrops == 0 {
		t.Errorf("%+v: no kernel drops", s)
	}
}

func TestAnswersLeaveFromTheAddressWrittenTo(t *testing.T) {
	if !network(t) {
		return
	}
	for _, noOffload := range []bool{false, true} {
		server := listen(t, Config{Listen: netip.MustParseAddrPort("[::]:0"), NoOffload: noOffload})
		client := listen(t, Config{Listen: netip.MustParseAddrPort("[2001:db8:1::1]:0"), NoOffload: noOffload})
		port := server.LocalAddr().Port()
		var q SendQueue
		answers := func(count, size int) netip.Addr {
			t.Helper()
			for range count {
				q.Add(client.LocalAddr(), []byte("tag"), make([]byte, size))
			}
			flush(t, server, &q)
			got := receive(t, client, count)
			if len(got) == 0 {
				t.FailNow()
			}
			for _, d := range got {
				if d.Addr != got[0].Addr {
					t.Errorf("answers come from %s and %s", got[0].Addr, d.Addr)
				}
			}
			return got[0].Addr.Addr()
		}
		// ask sends a question to one address of the server, again where the
		// kernel, which is still changing routes, has lost it.
		ask := func(to string) {
			t.Helper()
			var b Batch
			for range 20 {
				q.Add(netip.AddrPortFrom(netip.MustParseAddr(to), port), nil, []byte("question"))
				flush(t, client, &q)
				if err := server.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				if n, err := server.ReadBatch(&b); err == nil && n > 0 {
					return
				}
			}
			t.Fatalf("a question to %s does not come", to)
		}
		for _, to := range []string{"2001:db8::1", "2001:db8::2", "2001:db8:2::1"} {
			addr := netip.MustParseAddr(to)
			ask(to)
			for _, count := range []int{1, 100} {
				if from := answers(count, 1000); from != addr {
					t.Errorf("asked at %s, %d answers came from %s", to, count, from)
				}
			}
		}
		// Once it has gone, another has to do, and nothing is lost.
		run(t, "ip", "address", "del", "2001:db8:2::1/64", "dev", "apart")
		if from := answers(100, 1000); from == netip.MustParseAddr("2001:db8:2::1") {
			t.Errorf("answers come from %s, which has gone", from)
		}
		if s := server.Stats(); s.Unsent() != 0 || s.OffloadRefused != 0 {
			t.Errorf("%+v, want all sent", s)
		}
		run(t, "ip", "address", "add", "2001:db8:2::1/64", "dev", "apart", "nodad")

		// So it is once the peer has been silent for long.
		ask("2001:db8::2")
		server.sources.start = server.sources.start.Add(-2 * sourceLife)
		if from := answers(1, 10); from == netip.MustParseAddr("2001:db8::2") {
			t.Errorf("answers come from %s, which was written to long ago", from)
		}
	}
}

func TestSourcesAreBounded(t *testing.T) {
	var s sources
	s.init()
	local := netip.MustParseAddr("2001:db8::1").As16()
	kept := 0
	peer := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 14: byte(i >> 8), 15: byte(i)}), uint16(i))
	}
	for i := range sourceSlots {
		s.heard(peer(i), &local, 0)
	}
	for i := range sourceSlots {
		if l := s.local(peer(i), sourceLife); l != nil {
			kept++
			if *l != local {
				t.Fatal("not what was noted")
			}
		}
	}
	if kept < sourceSlots/2 { // 1 − 1/e for random places
		t.Errorf("%d of %d peers are remembered: the hash is poor", kept, sourceSlots)
	}
	if s.local(peer(1), sourceLife+1) != nil {
		t.Error("remembered for too long")
	}
}
