//go:build linux

// Package testnet makes test hosts: network namespaces joined by a switch that loses, delays and limits what passes,
// by seed. It needs no root where the kernel lets users make user namespaces, and neither tc nor netem.
//
//	 h1 namespace        h2 namespace        h3 namespace            each host: lo, eth0
//	┌────────────┐      ┌────────────┐      ┌────────────┐           fd00:6:0:1::N/64, fe80::N
//	│ programs   │      │ programs   │      │ programs   │           usable at once (no DAD)
//	│    eth0    │      │    eth0    │      │    eth0    │
//	└─────┬──────┘      └─────┬──────┘      └─────┬──────┘
//	      │ veth, gso_max_segs 1: single datagrams│
//	┌─────┴──────┐      ┌─────┴──────┐      ┌─────┴──────┐
//	│ up    down │      │ up    down │      │ up    down │           a netem.Link each
//	└─┬────────▲─┘      └─┬────────▲─┘      └─┬────────▲─┘
//	┌─▼────────┴──────────▼────────┴──────────▼────────┴─┐
//	│ netem.Switch: learns addresses, floods groups      │           one thread of the test's process
//	└────────────────────────────────────────────────────┘
//
// A frame meets its sender's uplink once and every receiver's downlink on its own: loss in downlinks is independent
// at each receiver. A test package calls [Main] from TestMain and [New] in its tests; a program calls [Inside] and
// [Open]; scripts use the command in the folder hosts.
package testnet

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/internal/ci"
	"github.com/sixcast/sixcast/internal/netem"
)

// Interface is the name of every host's network interface.
const Interface = "eth0"

// Config describes a network.
type Config struct {
	// Seed decides all luck. The same seed gives frame n of a link the same fate in every run.
	Seed uint64
	// Hosts are usually made by Hosts.
	Hosts []HostConfig
	// MTU of all interfaces; 0 means 1500.
	MTU int
	// Acquainted hosts know each other's link-layer addresses from the start. The kernel remembers 1024 neighbours it has found
	// out itself, in all namespaces together (net.ipv6.neigh.default.gc_thresh3): above 30 hosts that all talk with
	// each other it forgets some, and what is sent to those is lost.
	Acquainted bool
}

// HostConfig describes a host.
type HostConfig struct {
	// Name is one word, unique in the network.
	Name string
	// Address is the host's address with its prefix length. The zero value means fd00:6:0:1::N/64, N counted from 1.
	// Hosts with different prefixes reach each other all the same: each has a default route onto the one link.
	Address netip.Prefix
	// Up is what happens to frames from the host, Down to those for it.
	Up, Down netem.Params
}

// Hosts describes n hosts h1, h2 … whose links are alike.
func Hosts(n int, up, down netem.Params) []HostConfig {
	hosts := make([]HostConfig, n)
	for i := range hosts {
		hosts[i] = HostConfig{Name: "h" + strconv.Itoa(i+1), Up: up, Down: down}
	}
	return hosts
}

// Net is a network of test hosts. Its methods may be called concurrently.
type Net struct {
	sw    *netem.Switch
	hosts []*Host
	done  chan error // the switch's loop
	once  sync.Once
	err   error // of Close
}

// Host is one test host.
type Host struct {
	name string
	addr netip.Prefix
	link netip.Addr
	ns   *namespace
	port *netem.Port

	mu       sync.Mutex
	captures []*os.File
}

// Main runs a package's tests where test hosts can be made: func TestMain(m *testing.M) { testnet.Main(m) }.
// Where they cannot, New skips its test with the reason, and with CI=true the whole run fails.
// It also fails a run whose networks were left open.
func Main(m interface{ Run() int }) {
	for _, arg := range os.Args[1:] {
		if strings.HasPrefix(arg, "-test.fuzz=") && arg != "-test.fuzz=" || strings.HasPrefix(arg, "-test.fuzzworker") || strings.HasPrefix(arg, "-test.list=") {
			os.Exit(m.Run()) // speaks with its parent through file descriptors, or runs nothing
		}
	}
	code, err := Inside(m.Run)
	if err != nil {
		if ci.On() {
			fmt.Fprintf(os.Stderr, "testnet: %v\nFAIL: CI=true, and tests that need hosts are not skipped in CI\n", err)
			os.Exit(1)
		}
		unavailable = err
		code = m.Run()
	}
	os.Exit(code)
}

// Together has n parallel tests run at once, before Main, if nobody says otherwise on the command line: those of hosts wait for clips and
// timers, mostly, and may wait together.
func Together(n int) {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said {
		flag.Set("test.parallel", strconv.Itoa(n))
	}
}

// unavailable is why Main could not make namespaces.
var unavailable error

// New makes a network for one test and takes it down when the test ends, with every process that runs in a host.
func New(t testing.TB, c Config) *Net {
	t.Helper()
	if unavailable != nil {
		t.Skip(unavailable)
	}
	n, err := Open(c)
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("testnet: %v", err)
		}
		for _, h := range n.hosts {
			traffic := h.Traffic()
			if traffic.Supers > 0 {
				t.Errorf("testnet: %s sent %d GSO super-packets, which were dropped: something raised gso_max_segs of its %s", h.name, traffic.Supers, Interface)
			}
			if traffic.Overruns > 0 {
				t.Logf("testnet: the emulator could not keep up and lost %d frames of %s", traffic.Overruns, h.name)
			}
		}
	})
	return n
}

// Open makes a network. The program must run under [Inside].
func Open(c Config) (n *Net, err error) {
	if dir == "" {
		return nil, errors.New("not in namespaces of its own: a test package calls testnet.Main(m) from TestMain, a program testnet.Inside")
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	n = &Net{done: make(chan error, 1)}
	if n.sw, err = netem.NewSwitch(c.Seed, c.MTU); err != nil {
		return nil, err
	}
	go func() { n.done <- n.sw.Run() }()
	defer func() {
		if err != nil {
			n.Close()
			n = nil
		}
	}()
	nl, err := openNetlink()
	if err != nil {
		return n, err
	}
	defer nl.close()
	for i, hc := range c.Hosts {
		if hc.Name == "" || strings.ContainsAny(hc.Name, "/ \t\n") || n.Host(hc.Name) != nil {
			return n, fmt.Errorf("host %d: the name %q is not one word of its own", i+1, hc.Name)
		}
		h, err := open(nl, n.sw, i+1, hc, c.MTU)
		if err != nil {
			return n, fmt.Errorf("host %s: %w", hc.Name, err)
		}
		n.hosts = append(n.hosts, h)
	}
	if c.Acquainted {
		for i := range n.hosts {
			if err := n.acquaint(i); err != nil {
				return n, fmt.Errorf("host %s: %w", n.hosts[i].name, err)
			}
		}
	}
	return n, nil
}

// acquaint tells host i where all others are.
func (n *Net) acquaint(i int) error {
	return n.hosts[i].ns.do(func() error {
		nl, err := openNetlink()
		if err != nil {
			return err
		}
		defer nl.close()
		eth, err := net.InterfaceByName(Interface)
		if err != nil {
			return err
		}
		for j, h := range n.hosts {
			if i == j {
				continue
			}
			for _, a := range []netip.Addr{h.addr.Addr(), h.link} {
				if err := nl.addNeighbour(eth.Index, a, macOf(j+1)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// macOf is the link-layer address of a host's interface, by the host's number.
func macOf(number int) [6]byte { return [6]byte{0x02, 0x06, 0, 0, byte(number >> 8), byte(number)} }

// open makes host number.
func open(nl *netlink, sw *netem.Switch, number int, c HostConfig, mtu int) (*Host, error) {
	h := &Host{name: c.Name, addr: c.Address, link: netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(number >> 8), 15: byte(number)})}
	if !h.addr.IsValid() {
		h.addr = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x06, 7: 0x01, 14: byte(number >> 8), 15: byte(number)}), 64)
	}
	if !h.addr.Addr().Is6() || h.addr.Addr().Is4In6() {
		return nil, fmt.Errorf("%v is not an IPv6 address", h.addr)
	}
	mac := macOf(number)
	index := int(firstIndex + serial.Add(1))
	var err error
	h.ns, err = newNamespace(c.Name, func(ns *namespace) error {
		// nl is a socket of the switch's namespace, whichever thread uses it.
		if err := nl.addVeth("sw-"+strconv.Itoa(index), index, Interface, ns.fd, mac, mtu); err != nil {
			return err
		}
		if err := nl.up(index); err != nil {
			return err
		}
		inside, err := openNetlink()
		if err != nil {
			return err
		}
		defer inside.close()
		if err := inside.request(unix.RTM_NEWLINK, 0, link(loopback, unix.IFF_UP, unix.IFF_UP)); err != nil {
			return err
		}
		eth, err := net.InterfaceByName(Interface)
		if err != nil {
			return err
		}
		if err := inside.up(eth.Index); err != nil {
			return err
		}
		if err := waitRunning(eth.Index); err != nil {
			return err
		}
		if err := errors.Join(
			inside.addAddress(eth.Index, netip.PrefixFrom(h.link, 64)),
			inside.addAddress(eth.Index, h.addr),
			inside.addDefaultRoute(eth.Index),
		); err != nil {
			return err
		}
		return errors.Join(waitSolicited(h.link), waitSolicited(h.addr.Addr()))
	})
	if err != nil {
		return nil, err
	}
	if err = waitRunning(index); err == nil {
		h.port, err = sw.AddPort(c.Name, index, c.Up, c.Down)
	}
	if err != nil {
		h.ns.close()
		return nil, err
	}
	return h, nil
}

// waitRunning waits for an interface's carrier. Until the kernel has noticed it, what is sent vanishes without a word.
func waitRunning(index int) error {
	return wait(fmt.Sprintf("the carrier of interface %d", index), func() (bool, error) {
		i, err := net.InterfaceByIndex(index)
		return err == nil && i.Flags&net.FlagRunning != 0, err
	})
}

// waitSolicited waits until the thread's namespace answers neighbour solicitations for an address (RFC 4291 section
// 2.7.1). The kernel joins the group some time after the address is there, and who asks before waits for a second.
func waitSolicited(a netip.Addr) error {
	b := a.As16()
	group := fmt.Sprintf("ff0200000000000000000001ff%02x%02x%02x", b[13], b[14], b[15])
	return wait("the group "+group, func() (bool, error) {
		groups, err := os.ReadFile("/proc/thread-self/net/igmp6")
		return bytes.Contains(groups, []byte(group)), err
	})
}

// wait asks the kernel again and again, since it does not tell.
func wait(what string, done func() (bool, error)) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited 10 s in vain for %s", what)
		}
	}
}

// firstIndex is above the indices of hosts' interfaces.
const firstIndex = 1000

// serial numbers the switch's interfaces: networks of parallel tests share its namespace.
var serial atomic.Int64

// Close kills every process in the hosts and takes the network down.
func (n *Net) Close() error {
	n.once.Do(func() {
		for _, h := range n.hosts {
			n.err = errors.Join(n.err, h.killAll())
		}
		n.err = errors.Join(n.err, n.sw.Close(), <-n.done)
		n.sw.Release()
		for _, h := range n.hosts {
			for _, f := range h.captures {
				n.err = errors.Join(n.err, f.Close())
			}
			h.ns.close()
		}
	})
	return n.err
}

// Host returns the host of a name, nil if there is none.
func (n *Net) Host(name string) *Host {
	for _, h := range n.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

// Load returns the processor time that the emulator took so far, and how late it delivered.
func (n *Net) Load() (cpu time.Duration, late netem.Lateness) { return n.sw.Load() }

// Hosts returns all hosts in order.
func (n *Net) Hosts() []*Host { return n.hosts }

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Addr returns the host's address.
func (h *Host) Addr() netip.Addr { return h.addr.Addr() }

// LinkLocal returns the host's link-local address, with its zone.
func (h *Host) LinkLocal() netip.Addr { return h.link.WithZone(Interface) }

// Up returns the parameters of the direction from the host.
func (h *Host) Up() netem.Params { return h.port.Up() }

// Down returns the parameters of the direction to the host.
func (h *Host) Down() netem.Params { return h.port.Down() }

// SetUp changes the direction from the host.
func (h *Host) SetUp(p netem.Params) error { return h.port.SetUp(p) }

// SetDown changes the direction to the host.
func (h *Host) SetDown(p netem.Params) error { return h.port.SetDown(p) }

// CutFor cuts the host off, both ways, for a time; 0 mends it. Nothing tells the programs: their interface stays up.
func (h *Host) CutFor(d time.Duration) { h.port.CutFor(d) }

// Traffic returns what the host sent and received since it was made. It may be called after Close.
func (h *Host) Traffic() netem.Traffic { return h.port.Traffic() }

// Stats returns what the host's links did since it was made.
func (h *Host) Stats() (up, down netem.Stats) { return h.port.Stats() }

// Backlog is how long what the host sends now would stand in the queue of its uplink.
func (h *Host) Backlog() time.Duration { return h.port.Backlog() }

// Rewrite lets f change or swallow what the host sends; see [netem.Port.Rewrite].
func (h *Host) Rewrite(f func(ip []byte) bool) { h.port.Rewrite(f) }

// Watch shows f what the host sends and gets; see [netem.Port.Watch].
func (h *Host) Watch(f func(ip []byte, sent bool)) { h.port.Watch(f) }

// Do calls f on a thread that is in the host's network namespace: a socket that f opens stays the host's wherever it
// is used later. f must not start goroutines that open sockets.
func (h *Host) Do(f func() error) error { return h.ns.do(f) }

// Command returns a command that runs in the host, in a process group of its own, which ends with ctx and with the
// network. Its process id is that of the program itself.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.ns.path, "--", name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Firewall makes the host a home behind RFC 6092's simple security: nothing comes in that was not asked for, except
// neighbour discovery and what ICMPv6 must. It needs nft.
func (h *Host) Firewall() error {
	const rules = `table ip6 home {
	chain input {
		type filter hook input priority filter; policy drop;
		iif lo accept
		ct state established,related accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, mld-listener-query, mld2-listener-report, packet-too-big, time-exceeded, parameter-problem, destination-unreachable } accept
	}
}`
	cmd := h.Command(context.Background(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft on %s: %w: %s", h.name, err, bytes.TrimSpace(out))
	}
	return nil
}

// Capture writes what the host sends and receives from now on to a new capture file at path.
func (h *Host) Capture(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.captures = append(h.captures, f)
	h.mu.Unlock()
	h.port.Capture(f)
	return nil
}

// killAll ends every process in the host's namespace, and waits until they are gone.
func (h *Host) killAll() error {
	for deadline := time.Now().Add(5 * time.Second); ; {
		pids := h.ns.processes()
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of host %s do not end", pids, h.name)
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
}
