package lan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/udp"
)

// helper has the test program announce key(1)'s channel at port 7001, and do nothing else, until its standard input ends.
const helper = "SIXCAST_LAN_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helper) != "" {
		a, err := Start(Config{Self: &Announcement{Channel: key(1).ID(), Port: 7001}})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		bufio.NewScanner(os.Stdin).Scan()
		a.Close()
		os.Exit(0)
	}
	testnet.Main(m)
}

// heard is what the callbacks of an announcer were told.
type heard struct {
	*Announcer
	host     *testnet.Host
	began    time.Time
	channels chan Channel
	peers    chan []netip.AddrPort
	groups   chan Group
}

// hosts are n on one link with a millisecond of delay.
func hosts(t *testing.T, n int) []*testnet.Host {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	link := netem.Params{Delay: 500 * time.Microsecond}
	return testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(n, link, link)}).Hosts()
}

func begin(t *testing.T, h *testnet.Host, self *Announcement, names ...string) *heard {
	t.Helper()
	return beginWith(t, h, self, func(names []string) ([]net.Interface, error) { return interfaces(names) }, names...)
}

func beginWith(t *testing.T, h *testnet.Host, self *Announcement, list func([]string) ([]net.Interface, error), names ...string) *heard {
	t.Helper()
	e := &heard{host: h, began: time.Now(), channels: make(chan Channel, 100), peers: make(chan []netip.AddrPort, 100), groups: make(chan Group, 100)}
	cfg := Config{
		Interfaces: names, Self: self, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		OnChannel: func(c Channel) { e.channels <- c },
		OnPeers:   func(_ channel.ID, p []netip.AddrPort) { e.peers <- p },
		OnGroup:   func(_ channel.ID, g Group) { e.groups <- g },
	}
	// Later looks at the interfaces come from another thread.
	sys := system{rescan: 100 * time.Millisecond, interfaces: func(names []string) (found []net.Interface, err error) {
		err = h.Do(func() (err error) { found, err = list(names); return err })
		return found, err
	}}
	err := h.Do(func() (err error) { e.Announcer, err = start(cfg, sys); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// within waits for what a callback is told.
func within[T any](t *testing.T, c <-chan T, what string) (x T) {
	t.Helper()
	select {
	case x = <-c:
	case <-time.After(5 * time.Second):
		t.Fatalf("no %s within 5 s", what)
	}
	return x
}

// until waits for something that is not told.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

func TestHostsFindEachOther(t *testing.T) {
	h := hosts(t, 3)
	d := describe(t, 1, 1, "one")
	feeder := begin(t, h[0], &Announcement{Channel: d.ID, Port: 7000, Source: true, Item: d.Item, Group: Group{Scope: channel.ScopeSite, Port: 6466}})
	viewer := begin(t, h[1], &Announcement{Channel: d.ID, Port: 7001})

	within(t, viewer.peers, "peer")
	first := time.Since(viewer.began)
	within(t, feeder.peers, "peer")
	// Who joins between two copies of an announcement may be told of a link-local address before.
	for _, x := range []struct {
		at   *heard
		peer netip.AddrPort
	}{{viewer, netip.AddrPortFrom(h[0].Addr(), 7000)}, {feeder, netip.AddrPortFrom(h[1].Addr(), 7001)}} {
		until(t, fmt.Sprintf("%s knows %v", x.at.host.Name(), x.peer), func() bool {
			c, _ := x.at.Channel(d.ID)
			return slices.Equal(c.Peers, []netip.AddrPort{x.peer})
		})
	}
	if g, want := within(t, viewer.groups, "group"), (Group{Scope: channel.ScopeSite, Port: 6466, Interface: testnet.Interface}); g != want {
		t.Errorf("the viewer was told of the group %+v, want %+v", g, want)
	}

	picker := begin(t, h[2], nil)
	picker.Query(channel.ID{})
	c := within(t, picker.channels, "channel")
	t.Logf("from Start to the first peer %v; from a question to the first channel %v", first.Round(time.Millisecond), time.Since(picker.began).Round(time.Millisecond))
	until(t, "descriptor and both peers", func() bool {
		c, _ = picker.Channel(d.ID)
		return c.Descriptor.Values.Name == "one" && len(c.Peers) == 2 && c.Source && len(c.Groups) == 1
	})
	if first > time.Second {
		t.Errorf("the first peer came after %v", first)
	}
	if list := picker.Channels(); len(list) != 1 || list[0].ID != d.ID || time.Since(list[0].Heard) > 5*time.Second {
		t.Errorf("channels: %+v", list)
	}
	named := begin(t, h[2], nil)
	named.QueryName("ONE")
	within(t, named.channels, "channel")
	// What was announced just then may have come first, without a descriptor.
	until(t, "the descriptor that was asked for by name", func() bool {
		c, _ = named.Channel(d.ID)
		return c.Descriptor.Values.Name == "one"
	})

	if err := viewer.Close(); err != nil {
		t.Error(err)
	}
	until(t, "the viewer is forgotten", func() bool { c, _ := picker.Channel(d.ID); return len(c.Peers) == 1 })
	newer := describe(t, 1, 2, "renamed")
	if err := feeder.Update(Announcement{Channel: d.ID, Port: 7000, Source: true, Item: newer.Item}); err != nil {
		t.Error(err)
	}
	until(t, "the new name", func() bool { c, _ := picker.Channel(d.ID); return c.Descriptor.Values.Name == "renamed" })
}

// How long it takes to find somebody.
func TestTimeToFirstPeer(t *testing.T) {
	h := hosts(t, 5)
	id := key(1).ID()
	for i, host := range h[:4] {
		begin(t, host, &Announcement{Channel: id, Port: uint16(7000 + i)})
	}
	var all []time.Duration
	for range 10 {
		time.Sleep(200 * time.Millisecond) // answers are rationed
		j := begin(t, h[4], &Announcement{Channel: id, Port: 7777})
		within(t, j.peers, "peer")
		all = append(all, time.Since(j.began))
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(all)
	t.Logf("from Start to the first of 4 peers: median %v, at most %v", all[5].Round(100*time.Microsecond), all[9].Round(100*time.Microsecond))
	if all[5] > 300*time.Millisecond || all[9] > time.Second {
		t.Errorf("it took %v", all)
	}
}

// Several processes of one host have the port, and hear each other and others.
func TestProcessesOfOneHost(t *testing.T) {
	h := hosts(t, 2)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := h[0].Command(ctx, self)
	cmd.Env = append(os.Environ(), helper+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the other process said %q", lines.Text())
	}
	id := key(1).ID()
	other := netip.AddrPortFrom(h[0].Addr(), 7001)
	near, far := begin(t, h[0], nil), begin(t, h[1], nil)
	for _, e := range []*heard{near, far} {
		e.Query(id)
		within(t, e.peers, "peer")
		until(t, fmt.Sprintf("%s knows %v", e.host.Name(), other), func() bool {
			c, _ := e.Channel(id)
			return slices.Equal(c.Peers, []netip.AddrPort{other})
		})
	}
	// It ends, and says so.
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Errorf("the other process: %v", err)
		}
	}
	for _, e := range []*heard{near, far} {
		until(t, "the other process is forgotten", func() bool { c, _ := e.Channel(id); return len(c.Peers) == 0 })
	}
}

// A network without a router has link-local addresses only.
func TestLinkLocalOnly(t *testing.T) {
	h := hosts(t, 2)
	for _, host := range h {
		if out, err := host.Command(t.Context(), "ip", "-6", "address", "flush", "dev", testnet.Interface, "scope", "global").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	id := key(1).ID()
	begin(t, h[0], &Announcement{Channel: id, Port: 7000})
	j := begin(t, h[1], &Announcement{Channel: id, Port: 7001})
	want := netip.AddrPortFrom(h[0].LinkLocal(), 7000)
	if p := within(t, j.peers, "peer"); !slices.Equal(p, []netip.AddrPort{want}) {
		t.Errorf("told of %v, want %v", p, want)
	}
}

// A cable that is plugged in later.
func TestInterfaceComesLater(t *testing.T) {
	h := hosts(t, 2)
	id := key(1).ID()
	begin(t, h[0], &Announcement{Channel: id, Port: 7000})
	plugged := make(chan struct{})
	j := beginWith(t, h[1], &Announcement{Channel: id, Port: 7001}, func(names []string) ([]net.Interface, error) {
		select {
		case <-plugged:
			return interfaces(names)
		default:
			return nil, nil
		}
	})
	j.Query(id)
	select {
	case p := <-j.peers:
		t.Fatalf("told of %v without an interface", p)
	case <-time.After(250 * time.Millisecond):
	}
	close(plugged)
	within(t, j.peers, "peer")
}

// What is sent to a host's own address is not heard: it can come from anywhere.
func TestUnicastIsNotHeard(t *testing.T) {
	h := hosts(t, 2)
	j := begin(t, h[0], nil)
	var conn net.PacketConn
	if err := h[1].Do(func() (err error) { conn, err = net.ListenPacket("udp6", "[::]:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, to := range []netip.Addr{h[0].Addr(), groupOf(channel.ScopeLink), groupOf(channel.ScopeSite)} {
		id := key(byte(to.As16()[1])).ID() // 0, 0x12, 0x15
		b := (&announcement{id: id, port: 1}).append(appendHead(nil, 1))
		if _, err := conn.WriteTo(b, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, Port))); err != nil {
			t.Fatal(err)
		}
	}
	// The one to the group in site scope came last. That in link scope left with a hop limit of 1.
	until(t, "what was sent to the group", func() bool { _, ok := j.Channel(key(0x15).ID()); return ok })
	if list := j.Channels(); len(list) != 1 {
		t.Errorf("%d channels were taken", len(list))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.engine.stats.far != 1 {
		t.Errorf("%+v", j.engine.stats)
	}
}

func TestPortInUse(t *testing.T) {
	h := hosts(t, 1)[0]
	err := h.Do(func() error {
		c, err := net.ListenPacket("udp6", fmt.Sprintf("[::]:%d", Port))
		if err != nil {
			return err
		}
		defer c.Close()
		a, err := Start(Config{})
		if err == nil {
			return errors.Join(errors.New("no error"), a.Close())
		}
		if !strings.Contains(err.Error(), "another program") {
			return err
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestUnknownInterface(t *testing.T) {
	if _, err := Start(Config{Interfaces: []string{"nosuch"}}); !errors.Is(err, udp.ErrInterface) {
		t.Errorf("error %v", err)
	}
}

func TestUpdateRefuses(t *testing.T) {
	h := hosts(t, 1)[0]
	a := begin(t, h, nil)
	d, other := describe(t, 1, 1, "one"), describe(t, 2, 1, "two")
	for name, x := range map[string]Announcement{
		"no port":               {Channel: d.ID},
		"another's descriptor":  {Channel: d.ID, Port: 1, Item: other.Item},
		"a group of all scopes": {Channel: d.ID, Port: 1, Group: Group{Scope: 14, Port: 1}},
	} {
		if err := a.Update(x); !errors.Is(err, ErrAnnouncement) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := a.Update(Announcement{Channel: d.ID, Port: 1, Item: []byte("nonsense")}); !errors.Is(err, channel.ErrDescriptor) {
		t.Errorf("%v", err)
	}
	if err := a.Update(Announcement{}); err != nil {
		t.Error(err)
	}
}
