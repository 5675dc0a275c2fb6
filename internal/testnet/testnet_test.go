//go:build linux

package testnet

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/internal/ci"
	"github.com/sixcast/sixcast/internal/netem"
)

func TestMain(m *testing.M) { Main(m) }

const port = 7000

// listen opens a UDP socket in a host, with room for everything a test sends.
func listen(t *testing.T, h *Host, addr netip.AddrPort) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	err := h.Do(func() (err error) {
		conn, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(addr))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) != nil {
				conn.SetReadBuffer(64 << 20)
			}
		})
	}
	return conn
}

// count reads datagrams until none comes for quiet, and returns how many of each number (their first four bytes) came.
func count(t *testing.T, conn *net.UDPConn, numbers int, quiet time.Duration) []int {
	t.Helper()
	got := make([]int, numbers)
	buf := make([]byte, 2048)
	for {
		conn.SetReadDeadline(time.Now().Add(quiet))
		n, err := conn.Read(buf)
		if err != nil {
			return got
		}
		if k := binary.BigEndian.Uint32(buf); n >= 4 && int(k) < numbers {
			got[k]++
		}
	}
}

func missing(got []int) (share float64, longest int) {
	lost, run := 0, 0
	for _, n := range got {
		if n > 0 {
			run = 0
			continue
		}
		lost++
		run++
		longest = max(longest, run)
	}
	return float64(lost) / float64(len(got)), longest
}

func TestRoundTripTime(t *testing.T) {
	n := New(t, Config{Seed: 1, Hosts: Hosts(2, netem.Params{}, netem.Params{Delay: 25 * time.Millisecond})})
	a, b := n.Host("h1"), n.Host("h2")
	echo := listen(t, b, netip.AddrPortFrom(b.Addr(), port))
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			echo.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	ask := listen(t, a, netip.AddrPortFrom(a.Addr(), 0))
	ping := func() time.Duration {
		start := time.Now()
		if _, err := ask.WriteToUDPAddrPort([]byte("ping"), netip.AddrPortFrom(b.Addr(), port)); err != nil {
			t.Fatal(err)
		}
		ask.SetReadDeadline(start.Add(2 * time.Second))
		if _, err := ask.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	ping()                              // neighbour discovery
	best := func(n int) time.Duration { // the best, since the test may share a busy machine
		least := time.Hour
		for range n {
			least = min(least, ping())
		}
		return least
	}
	if rtt := best(20); rtt < 50*time.Millisecond || rtt > 52*time.Millisecond {
		t.Errorf("the best round trip took %v, want 50 to 52 ms", rtt)
	}
	if err := b.SetDown(netem.Params{}); err != nil {
		t.Fatal(err)
	}
	if rtt := best(5); rtt < 25*time.Millisecond || rtt > 27*time.Millisecond {
		t.Errorf("the best round trip took %v after one direction lost its delay, want 25 to 27 ms", rtt)
	}
}

// A GSO send hands the kernel many datagrams in one call; each must meet its own luck.
func TestLossDropsSingleDatagramsOfAGSOSend(t *testing.T) {
	n := New(t, Config{Seed: 1, Hosts: Hosts(2, netem.Params{}, netem.Params{Loss: 0.05})})
	a, b := n.Host("h1"), n.Host("h2")
	sink := listen(t, b, netip.AddrPortFrom(b.Addr(), port))
	send := listen(t, a, netip.AddrPortFrom(a.Addr(), 0))
	const segment, segments, calls = 1200, 48, 250

	result := make(chan []int, 1)
	go func() { result <- count(t, sink, segments*calls, time.Second) }()
	control := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], segment)
	to := netip.AddrPortFrom(b.Addr(), port)
	if _, err := send.WriteToUDPAddrPort([]byte("neighbour discovery holds only a few datagrams"), to); err != nil {
		t.Fatal(err)
	}
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	buf := make([]byte, segment*segments)
	for call := range calls {
		for s := range segments {
			binary.BigEndian.PutUint32(buf[s*segment:], uint32(call*segments+s))
		}
		<-pace.C
		if _, _, err := send.WriteMsgUDPAddrPort(buf, control, to); err != nil {
			t.Fatal(err)
		}
	}
	got := <-result
	share, longest := missing(got)
	t.Logf("lost %.2f %% of %d datagrams, at most %d in a row", share*100, len(got), longest)
	if share < 0.04 || share > 0.06 {
		t.Errorf("lost %.2f %%, want 4 to 6", share*100)
	}
	if longest > 8 {
		t.Errorf("%d datagrams in a row were lost: whole GSO sends are dropped", longest)
	}
	sent := a.Traffic().Sent.Unicast
	if want := uint64(len(got)) + 1; sent.Packets != want || sent.Bytes < (want-1)*(segment+48) {
		t.Errorf("counted %+v for %d datagrams of %d bytes", sent, want, segment+48)
	}
	if r := b.Traffic().Received.Unicast; r.Packets != uint64(float64(len(got))*(1-share)+1.5) && r.Packets != uint64(float64(len(got))*(1-share)+0.5) {
		t.Errorf("counted %d received, %.0f came", r.Packets, float64(len(got))*(1-share))
	}
}

func TestMulticastReachesAllAndIsLostIndependently(t *testing.T) {
	n := New(t, Config{Seed: 2, Hosts: Hosts(5, netem.Params{}, netem.Params{Loss: 0.05})})
	group := netip.AddrPortFrom(netip.MustParseAddr("ff15::6:1"), port)
	const packets = 4000
	results := make([]chan []int, 5)
	for i, h := range n.Hosts()[1:] {
		conn := listen(t, h, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
		var joined error
		h.Do(func() error {
			eth, err := net.InterfaceByName(Interface)
			if err == nil {
				err = ipv6.NewPacketConn(conn).JoinGroup(eth, net.UDPAddrFromAddrPort(group))
			}
			joined = err
			return err
		})
		if joined != nil {
			t.Fatal(joined)
		}
		results[i+1] = make(chan []int, 1)
		go func() { results[i+1] <- count(t, conn, packets, time.Second) }()
	}
	h1 := n.Host("h1")
	conn := listen(t, h1, netip.AddrPortFrom(h1.Addr(), 0))
	h1.Do(func() error {
		eth, err := net.InterfaceByName(Interface)
		if err != nil {
			return err
		}
		return ipv6.NewPacketConn(conn).SetMulticastInterface(eth)
	})
	buf := make([]byte, 1000)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for k := range packets {
		if k%20 == 0 {
			<-pace.C
		}
		binary.BigEndian.PutUint32(buf, uint32(k))
		if _, err := conn.WriteToUDPAddrPort(buf, group); err != nil {
			t.Fatal(err)
		}
	}
	var got [5][]int
	for i := 1; i < 5; i++ {
		got[i] = <-results[i]
		if share, _ := missing(got[i]); share < 0.035 || share > 0.065 {
			h := n.Hosts()[i]
			_, down := h.Stats()
			udp, _ := h.Command(t.Context(), "grep", "Udp6.*[1-9]$", "/proc/net/snmp6").Output()
			t.Errorf("h%d lost %.2f %%, want about 5; its downlink: %+v, traffic %+v, its kernel:\n%s", i+1, share*100, down, h.Traffic(), udp)
		}
	}
	both := 0
	for k := range packets {
		if got[1][k] == 0 && got[2][k] == 0 {
			both++
		}
	}
	if share := float64(both) / packets; share > 0.01 {
		t.Errorf("h2 and h3 both lost %.2f %% of all packets: not independent", share*100)
	}
	if sent := h1.Traffic().Sent; sent.Multicast.Packets != packets || sent.Unicast.Packets != 0 {
		t.Errorf("counted %+v", sent)
	}
}

func TestRateLimit(t *testing.T) {
	n := New(t, Config{Seed: 1, Hosts: []HostConfig{{Name: "home", Up: netem.Params{Rate: 10e6}}, {Name: "peer"}}})
	home, peer := n.Host("home"), n.Host("peer")
	sink := listen(t, peer, netip.AddrPortFrom(peer.Addr(), port))
	conn := listen(t, home, netip.AddrPortFrom(home.Addr(), 0))
	const size, packets = 1200, 1500 // 14 Mbit, and the queue holds 1
	go func() {
		buf := make([]byte, size)
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for start, sent := time.Now(), 0; sent < packets; <-pace.C { // 20 Mbit/s offered
			for ; sent < packets && float64(sent*size*8) < 20e6*time.Since(start).Seconds(); sent++ {
				conn.WriteToUDPAddrPort(buf, netip.AddrPortFrom(peer.Addr(), port))
			}
		}
	}()
	buf := make([]byte, 2048)
	var first, last time.Time
	bytes := 0
	for {
		sink.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := sink.Read(buf); err != nil {
			break
		}
		last = time.Now()
		if first.IsZero() {
			first = last
			continue
		}
		bytes += size + 48
	}
	if rate := float64(bytes) * 8 / last.Sub(first).Seconds(); rate < 9.5e6 || rate > 10.5e6 {
		t.Errorf("%.2f Mbit/s came through a link of 10", rate/1e6)
	}
}

func TestCommandRunsInItsHost(t *testing.T) {
	n := New(t, Config{Hosts: Hosts(2, netem.Params{}, netem.Params{})})
	for _, h := range n.Hosts() {
		out, err := h.Command(t.Context(), "cat", "/proc/net/if_inet6").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		digits := strings.ReplaceAll(h.Addr().StringExpanded(), ":", "")
		if !strings.Contains(string(out), digits) {
			t.Errorf("%s has no address %v:\n%s", h.Name(), h.Addr(), out)
		}
	}
	h1, h2 := n.Host("h1"), n.Host("h2")
	exitCode := func(cmd *exec.Cmd) int { cmd.Run(); return cmd.ProcessState.ExitCode() }
	if got := exitCode(h1.Command(t.Context(), "sh", "-c", "exit 7")); got != 7 {
		t.Errorf("exit code %d, want 7", got)
	}
	if _, err := exec.LookPath("ping"); err == nil {
		for _, to := range []string{h2.Addr().String(), h2.LinkLocal().String()} {
			if out, err := h1.Command(t.Context(), "ping", "-c1", "-W2", to).CombinedOutput(); err != nil {
				t.Errorf("ping %s: %v\n%s", to, err, out)
			}
		}
	}
}

// Hosts whose addresses share no prefix reach each other, so that locality can be tested.
func TestDifferentPrefixes(t *testing.T) {
	n := New(t, Config{Hosts: []HostConfig{
		{Name: "town", Address: netip.MustParsePrefix("2001:db8:1::1/64")},
		{Name: "abroad", Address: netip.MustParsePrefix("2001:db8:ffff:2::7/64")},
	}})
	town, abroad := n.Host("town"), n.Host("abroad")
	sink := listen(t, abroad, netip.AddrPortFrom(abroad.Addr(), port))
	conn := listen(t, town, netip.AddrPortFrom(town.Addr(), 0))
	if _, err := conn.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(abroad.Addr(), port)); err != nil {
		t.Fatal(err)
	}
	sink.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := sink.Read(make([]byte, 16)); err != nil {
		t.Error(err)
	}
}

func TestCloseKillsWhatRunsInHosts(t *testing.T) {
	n, err := Open(Config{Hosts: Hosts(1, netem.Params{}, netem.Params{})})
	if unavailable != nil {
		t.Skip(unavailable)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := n.Host("h1").Command(context.Background(), "sh", "-c", "setsid sleep 1000 & echo started; sleep 1000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() {
		t.Errorf("the command ended with %v, want killed", cmd.ProcessState)
	}
	if left := n.hosts[0].ns.processes(); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestFiftyHostsAreUpAtOnce(t *testing.T) {
	start := time.Now()
	n := New(t, Config{Hosts: Hosts(50, netem.Params{}, netem.Params{})})
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("50 hosts took %v", took)
	} else {
		t.Logf("50 hosts took %v", took)
	}
	first := n.Host("h1")
	conn := listen(t, first, netip.AddrPortFrom(first.Addr(), 0))
	for _, h := range n.Hosts()[1:] {
		sink := listen(t, h, netip.AddrPortFrom(h.Addr(), port))
		if _, err := conn.WriteToUDPAddrPort([]byte("hello"), netip.AddrPortFrom(h.Addr(), port)); err != nil {
			t.Fatal(err)
		}
		sink.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := sink.Read(make([]byte, 16)); err != nil {
			t.Errorf("the first datagram for %s: %v", h.Name(), err)
		}
	}
}

func TestCutAndFirewall(t *testing.T) {
	n := New(t, Config{Hosts: Hosts(2, netem.Params{}, netem.Params{})})
	a, b := n.Host("h1"), n.Host("h2")
	sinkA := listen(t, a, netip.AddrPortFrom(a.Addr(), port))
	sinkB := listen(t, b, netip.AddrPortFrom(b.Addr(), port))
	passes := func(from, to *net.UDPConn, within time.Duration) bool {
		t.Helper()
		if _, err := from.WriteToUDP([]byte("hello"), to.LocalAddr().(*net.UDPAddr)); err != nil {
			t.Fatal(err)
		}
		to.SetReadDeadline(time.Now().Add(within))
		_, err := to.Read(make([]byte, 16))
		return err == nil
	}
	const short, long = 100 * time.Millisecond, 5 * time.Second
	if !passes(sinkA, sinkB, long) {
		t.Fatal("nothing passes")
	}
	b.CutFor(time.Hour)
	if passes(sinkA, sinkB, short) {
		t.Error("a datagram passed a cut")
	}
	b.CutFor(0)
	if !passes(sinkA, sinkB, long) {
		t.Error("the cut was not mended")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		ci.Skip(t, "no nft here: firewalled homes are not tested")
	}
	if err := b.Firewall(); err != nil {
		t.Fatal(err)
	}
	other := listen(t, a, netip.AddrPortFrom(a.Addr(), port+1))
	if passes(other, sinkB, short) {
		t.Error("an unsolicited datagram passed the firewall")
	}
	if !passes(sinkB, other, long) || !passes(other, sinkB, long) {
		t.Error("an answer does not pass the firewall")
	}
}

func TestCapture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h1.pcap")
	n, err := Open(Config{Hosts: Hosts(2, netem.Params{}, netem.Params{})})
	if unavailable != nil {
		t.Skip(unavailable)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Host("h1").Capture(path); err != nil {
		t.Fatal(err)
	}
	a, b := n.Host("h1"), n.Host("h2")
	sink := listen(t, b, netip.AddrPortFrom(b.Addr(), port))
	conn := listen(t, a, netip.AddrPortFrom(a.Addr(), 0))
	conn.WriteToUDPAddrPort([]byte("odd"), netip.AddrPortFrom(b.Addr(), port))
	sink.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := sink.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	b2, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for b2 = b2[24:]; len(b2) >= 16; {
		size := int(binary.LittleEndian.Uint32(b2[8:]))
		ether := b2[16 : 16+size]
		b2 = b2[16+size:]
		if ip := ether[14:]; ip[6] == 17 && string(ip[48:]) == "odd" {
			found = true
			if err := checkUDP(ip); err != nil {
				t.Error(err)
			}
		}
	}
	if !found {
		t.Error("the datagram is not in the capture")
	}
}

// checkUDP verifies the checksum of an IPv6 UDP packet.
func checkUDP(ip []byte) error {
	sum := uint32(17 + len(ip) - 40)
	for b := append(append([]byte{}, ip[8:]...), 0); len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if sum != 0xffff {
		return fmt.Errorf("wrong checksum: sums to %#x", sum)
	}
	return nil
}

// What a test does to datagrams under way arrives as it left them, some do not arrive, and all are shown as they were counted.
func TestRewriteAndWatch(t *testing.T) {
	n := New(t, Config{Seed: 1, Hosts: Hosts(2, netem.Params{}, netem.Params{})})
	a, b := n.Host("h1"), n.Host("h2")
	const payload = 48 // behind the headers of IPv6 and UDP
	udp := func(ip []byte) bool { return ip[6] == 17 && len(ip) == payload+4 }
	a.Rewrite(func(ip []byte) bool {
		if !udp(ip) {
			return true
		}
		if ip[payload+3] == 2 {
			return false
		}
		ip[payload] ^= 0x80
		return true
	})
	var sent, received atomic.Int32
	b.Watch(func(ip []byte, out bool) {
		if udp(ip) && !out {
			received.Add(1)
		}
	})
	a.Watch(func(ip []byte, out bool) {
		if udp(ip) && out {
			sent.Add(1)
		}
	})
	to := listen(t, b, netip.AddrPortFrom(b.Addr(), port))
	from := listen(t, a, netip.AddrPortFrom(a.Addr(), 0))
	for i := range 4 {
		if _, err := from.WriteToUDPAddrPort([]byte{1, 1, 1, byte(i)}, netip.AddrPortFrom(b.Addr(), port)); err != nil {
			t.Fatal(err)
		}
	}
	var got []byte
	buf := make([]byte, 16)
	for {
		to.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := to.Read(buf)
		if err != nil {
			break
		}
		if n != 4 || buf[0] != 0x81 {
			t.Errorf("% x came", buf[:n])
		}
		got = append(got, buf[3])
	}
	if string(got) != "\x00\x01\x03" || sent.Load() != 3 || received.Load() != 3 {
		t.Errorf("% x came; %d were shown as sent, %d as received", got, sent.Load(), received.Load())
	}
	if cpu, late := n.Load(); cpu <= 0 || late.Frames < 3 {
		t.Errorf("the emulator took %v for %d frames", cpu, late.Frames)
	}
}

// Hosts that are acquainted do not ask for each other, so the kernel's table of those it asked for cannot overflow.
func TestAcquainted(t *testing.T) {
	n := New(t, Config{Seed: 1, Hosts: Hosts(3, netem.Params{}, netem.Params{}), Acquainted: true})
	to := listen(t, n.Host("h3"), netip.AddrPortFrom(n.Host("h3").Addr(), port))
	asked := atomic.Int32{}
	for _, h := range n.Hosts() {
		h.Watch(func(ip []byte, sent bool) {
			if sent && ip[6] == 58 && ip[40] == 135 { // a neighbour solicitation
				asked.Add(1)
			}
		})
	}
	for _, name := range []string{"h1", "h2"} {
		from := listen(t, n.Host(name), netip.AddrPortFrom(n.Host(name).Addr(), 0))
		if _, err := from.WriteToUDPAddrPort([]byte{1}, netip.AddrPortFrom(n.Host("h3").Addr(), port)); err != nil {
			t.Fatal(err)
		}
		to.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := to.Read(make([]byte, 4)); err != nil {
			t.Errorf("from %s: %v", name, err)
		}
	}
	if asked.Load() > 0 {
		t.Errorf("%d solicitations", asked.Load())
	}
}
