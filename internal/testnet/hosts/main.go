//go:build linux

// Command hosts runs a command beside test hosts: network namespaces joined by a switch that loses, delays and limits
// what passes, by seed. No root is needed where the kernel lets users make user namespaces.
//
//	go run ./internal/testnet/hosts --hosts 3 --loss 5% --delay 25ms -- sh -c '
//	    on h2 some-server &
//	    on h1 ping -c 3 $ADDR_h2
//	    shape h2 up rate=4M; shape h3 cut-for=2s
//	    traffic'
//
// The command finds in its PATH:
//
//	on HOST COMMAND…            runs COMMAND in a host, as the same process
//	shape HOST|all [up|down] WORD…
//	                            changes links: loss=5% burst=8|40ms delay=25ms jitter=5ms rate=8M queue=64000 reorder=1%
//	                            reorder-by=10ms duplicate=1% cut cut=off clear, and cut-for=2s (both directions)
//	traffic [HOST…]             a JSON line a host: packets and bytes at the IP layer, and what its links did
//
// and in its environment HOSTS, the names of all hosts, and ADDR_name, their addresses. When the command ends,
// everything that still runs in the hosts is killed; hosts exits with the command's exit code.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

const (
	exitFailure = 1
	exitUsage   = 2
	// controlEnv names the socket that shape and traffic talk to.
	controlEnv = "SIXCAST_TESTNET_CONTROL"
)

func main() {
	if tool := filepath.Base(os.Args[0]); tool == "shape" || tool == "traffic" {
		if err := ask(tool, os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", tool, err)
			os.Exit(exitFailure)
		}
		return
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "hosts: %v\n", err)
		os.Exit(exitUsage)
	}
	code, err := testnet.Inside(func() int {
		code, err := run(o)
		if err != nil {
			fmt.Fprintf(os.Stderr, "hosts: %v\n", err)
		}
		return code
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "hosts: %v\n", err)
		code = exitFailure
	}
	os.Exit(code)
}

type options struct {
	config   testnet.Config
	firewall []string
	capture  string
	command  []string
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, "; ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("hosts", flag.ContinueOnError)
	var up, down netem.Params
	var links, addresses list
	hosts := f.String("hosts", "2", "how many hosts (named h1, h2 …), or their `names`, with commas")
	f.Uint64Var(&o.config.Seed, "seed", 1, "decides all luck")
	f.IntVar(&o.config.MTU, "mtu", 1500, "of all interfaces")
	for _, word := range []string{"loss", "burst", "delay", "jitter", "reorder", "duplicate"} {
		f.Func(word, "`value` for every host's downlink: a packet from host to host meets it once", func(s string) error { return down.Set(word + "=" + s) })
	}
	f.Func("up", "`words` for every host's uplink, as shape takes them: \"rate=8M loss=1%\"", func(s string) error { return up.Set(s) })
	f.Func("down", "`words` for every host's downlink", func(s string) error { return down.Set(s) })
	f.Var(&links, "link", "one host's link, as shape takes it: `\"h2 up rate=4M\"`; may be repeated")
	f.Var(&addresses, "address", "`HOST=ADDRESS/BITS` instead of fd00:6:0:1::N/64; may be repeated")
	firewall := f.String("firewall", "", "`hosts` that are homes behind a stateful firewall, with commas")
	f.StringVar(&o.capture, "capture", "", "write what each host sends and receives to `DIR`/HOST.pcap")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: hosts [flags] -- COMMAND…")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if o.command = f.Args(); len(o.command) == 0 {
		return nil, errors.New("no command: want hosts [flags] -- COMMAND…, and see hosts --help")
	}
	if n, err := strconv.Atoi(*hosts); err == nil {
		if n < 1 || n > 1000 {
			return nil, fmt.Errorf("--hosts %d: want 1 to 1000", n)
		}
		o.config.Hosts = testnet.Hosts(n, up, down)
	} else {
		for _, name := range strings.Split(*hosts, ",") {
			o.config.Hosts = append(o.config.Hosts, testnet.HostConfig{Name: name, Up: up, Down: down})
		}
	}
	find := func(name string) (*testnet.HostConfig, error) {
		for i := range o.config.Hosts {
			if o.config.Hosts[i].Name == name {
				return &o.config.Hosts[i], nil
			}
		}
		return nil, fmt.Errorf("no host is named %q", name)
	}
	for _, l := range links {
		words := strings.Fields(l)
		if len(words) < 2 {
			return nil, fmt.Errorf("--link %q: want HOST [up|down] WORD…", l)
		}
		h, err := find(words[0])
		if err == nil {
			err = change(words[1:], func(w []string) error { return h.Up.Set(w...) }, func(w []string) error { return h.Down.Set(w...) })
		}
		if err != nil {
			return nil, fmt.Errorf("--link %q: %w", l, err)
		}
	}
	for _, a := range addresses {
		name, text, _ := strings.Cut(a, "=")
		h, err := find(name)
		if err == nil {
			h.Address, err = netip.ParsePrefix(text)
		}
		if err != nil {
			return nil, fmt.Errorf("--address %q: %w", a, err)
		}
	}
	if *firewall != "" {
		o.firewall = strings.Split(*firewall, ",")
	}
	for _, name := range o.firewall {
		if _, err := find(name); err != nil {
			return nil, fmt.Errorf("--firewall: %w", err)
		}
	}
	return o, nil
}

// change applies words to one direction, or to both where none is named.
func change(words []string, up, down func([]string) error) error {
	switch words[0] {
	case "up":
		return up(words[1:])
	case "down":
		return down(words[1:])
	default:
		return errors.Join(up(words), down(words))
	}
}

func run(o *options) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	n, err := testnet.Open(o.config)
	if err != nil {
		return exitFailure, err
	}
	defer func() {
		if e := n.Close(); e != nil {
			code, err = max(code, exitFailure), errors.Join(err, e)
		}
	}()
	for _, name := range o.firewall {
		if err := n.Host(name).Firewall(); err != nil {
			return exitFailure, err
		}
	}
	if o.capture != "" {
		for _, h := range n.Hosts() {
			if err := h.Capture(filepath.Join(o.capture, h.Name()+".pcap")); err != nil {
				return exitFailure, err
			}
		}
	}
	bin, err := tools()
	if err != nil {
		return exitFailure, err
	}
	control := filepath.Join(testnet.Dir(), "control")
	l, err := net.Listen("unix", control)
	if err != nil {
		return exitFailure, err
	}
	defer l.Close()
	go serve(l, n)

	cmd := exec.CommandContext(ctx, o.command[0], o.command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), controlEnv+"="+control)
	var names []string
	for _, h := range n.Hosts() {
		names = append(names, h.Name())
		cmd.Env = append(cmd.Env, "ADDR_"+strings.ReplaceAll(h.Name(), "-", "_")+"="+h.Addr().String())
	}
	cmd.Env = append(cmd.Env, "HOSTS="+strings.Join(names, " "))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	if err != nil {
		return exitFailure, err
	}
	return 0, nil
}

// tools makes the folder with on, shape and traffic.
func tools() (string, error) {
	bin := filepath.Join(testnet.Dir(), "bin")
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	on := fmt.Sprintf(`#!/bin/sh
[ $# -ge 2 ] || { echo "on: want on HOST COMMAND…" >&2; exit 2; }
[ -e %[1]s/"$1" ] || { echo "on: no host is named $1: there are $HOSTS" >&2; exit 2; }
ns=%[1]s/$1
shift
exec nsenter --net="$ns" -- "$@"
`, testnet.Dir())
	return bin, errors.Join(
		os.Mkdir(bin, 0o755),
		os.WriteFile(filepath.Join(bin, "on"), []byte(on), 0o755),
		os.Symlink(self, filepath.Join(bin, "shape")),
		os.Symlink(self, filepath.Join(bin, "traffic")),
	)
}

// request is what a tool asks for, as one JSON line; the answer is text, and then either nothing or "error: …".
type request struct {
	Tool string
	Args []string
}

// ask is the tools' side of the control socket.
func ask(tool string, args []string) error {
	path := os.Getenv(controlEnv)
	if path == "" {
		return errors.New("this runs only under hosts")
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(request{tool, args}); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if text, failed := strings.CutPrefix(string(answer), "error: "); failed {
		return errors.New(strings.TrimSpace(text))
	}
	_, err = os.Stdout.Write(answer)
	return err
}

func serve(l net.Listener, n *testnet.Net) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		var r request
		line, err := bufio.NewReader(conn).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &r)
		}
		var answer []byte
		if err == nil {
			answer, err = do(n, r)
		}
		if err != nil {
			answer = fmt.Appendf(nil, "error: %v\n", err)
		}
		conn.Write(answer)
		conn.Close()
	}
}

func do(n *testnet.Net, r request) ([]byte, error) {
	hosts := n.Hosts()
	if len(r.Args) > 0 && r.Args[0] != "all" {
		hosts = nil
		names := r.Args
		if r.Tool == "shape" {
			names = names[:1]
		}
		for _, name := range names {
			h := n.Host(name)
			if h == nil {
				return nil, fmt.Errorf("no host is named %q", name)
			}
			hosts = append(hosts, h)
		}
	}
	if r.Tool == "traffic" {
		var out []byte
		for _, h := range hosts {
			up, down := h.Stats()
			line, err := json.Marshal(struct {
				Host string `json:"host"`
				netem.Traffic
				Up   netem.Stats `json:"up"`
				Down netem.Stats `json:"down"`
			}{h.Name(), h.Traffic(), up, down})
			if err != nil {
				return nil, err
			}
			out = append(append(out, line...), '\n')
		}
		return out, nil
	}
	if len(r.Args) < 2 {
		return nil, errors.New("want shape HOST|all [up|down] WORD…")
	}
	for _, h := range hosts {
		if err := shape(h, r.Args[1:]); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func shape(h *testnet.Host, words []string) error {
	if text, ok := strings.CutPrefix(words[0], "cut-for="); ok && len(words) == 1 {
		d, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		h.CutFor(d)
		return nil
	}
	set := func(get func() netem.Params, put func(netem.Params) error) func([]string) error {
		return func(words []string) error {
			p := get()
			if err := p.Set(words...); err != nil {
				return err
			}
			return put(p)
		}
	}
	return change(words, set(h.Up, h.SetUp), set(h.Down, h.SetDown))
}
