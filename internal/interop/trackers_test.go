//go:build linux

package interop

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/find"
)

// listed is a node of ours that a tracker lists.
type listed struct {
	*find.Trackers
	leave func() error // says goodbye, once

	mu    sync.Mutex
	log   bytes.Buffer
	peers []netip.AddrPort
}

func (l *listed) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(b)
}

func (l *listed) said(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.log.String(), s)
}

// knows reports whether it was told of exactly these.
func (l *listed) knows(peers ...netip.AddrPort) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(l.peers, netip.AddrPort.Compare)
	l.peers = slices.Compact(l.peers)
	return slices.Equal(l.peers, peers)
}

// list has a tracker list a host, as find.StartTrackers does for relay and watch.
func list(t *testing.T, h *testnet.Host, tracker netip.AddrPort, swarm announce.SwarmID, seeder bool) *listed {
	t.Helper()
	l := &listed{}
	err := h.Do(func() (err error) {
		l.Trackers, err = find.StartTrackers(find.TrackersConfig{
			Swarm: swarm, Listen: h.Addr(), Port: 6400, Names: []string{"udp://" + tracker.String()}, Seeder: seeder,
			Logger: slog.New(slog.NewTextHandler(l, nil)),
			OnPeers: func(peers []netip.AddrPort) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.peers = append(l.peers, peers...)
			},
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.leave = sync.OnceValue(l.Close)
	t.Cleanup(func() {
		if err := l.leave(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s logs:\n%s", h.Name(), l.log.String())
		}
	})
	return l
}

// Our client with the tracker of anacrolix/torrent: a source, and then viewers who are told of those before them.
func TestOurClientWithAnacrolixTracker(t *testing.T) {
	t.Parallel() // the hosts are its own
	program := filepath.Join(testnet.Dir(), "foreign")
	if testnet.Dir() != "" { // else hosts skips
		cmd := exec.Command("go", "build", "-o", program, ".")
		cmd.Dir = "foreign"
		if out, err := cmd.CombinedOutput(); err != nil {
			if bytes.Contains(out, []byte("dial tcp")) || bytes.Contains(out, []byte("GOPROXY")) || bytes.Contains(out, []byte("disabled by")) {
				t.Skipf("the modules of internal/interop/foreign are not here: go -C internal/interop/foreign mod download\n%s", out)
			}
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	h := hosts(t, 4)
	foreign := start(t, h[0], program, at(h[0]).String())
	foreign.says(`listening on`)
	swarm := announce.SwarmID{0x6c, 1}
	peer := func(i int) netip.AddrPort { return netip.AddrPortFrom(h[i].Addr(), 6400) }
	begun := time.Now()
	source := list(t, h[1], at(h[0]), swarm, true)
	eventually(t, "the source is listed", func() bool { return source.said(": 1 in the swarm") })
	t.Logf("listed after %v", time.Since(begun).Round(time.Millisecond))
	second := list(t, h[2], at(h[0]), swarm, false)
	eventually(t, "the second is told of the source", func() bool { return second.knows(peer(1)) })
	third := list(t, h[3], at(h[0]), swarm, false)
	eventually(t, "the third is told of both", func() bool { return third.knows(peer(1), peer(2)) })
	if !third.said(": 3 in the swarm") {
		t.Error("the third was not told how many there are")
	}
	if err := second.leave(); err != nil {
		t.Error(err)
	}
	foreign.says(`announce 6c01\S* \[2001:db8:6::3\]:6400 event "stopped"`)
	foreign.says(`announce 6c01\S* \[2001:db8:6::2\]:6400 event "started" left 0 want 50`)
}

// Our client with the server of the npm package bittorrent-tracker, which counts peers over IPv6 and names none: it puts into UDP
// answers only those that have IPv4 addresses.
func TestOurClientWithNpmTracker(t *testing.T) {
	t.Parallel() // the hosts are its own
	node := installed(t, "node", "install Node.js 18 or newer")
	modules, err := filepath.Abs("../../build/interop/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "bittorrent-tracker")); err != nil {
		t.Skip("no bittorrent-tracker here: npm install --prefix build/interop --ignore-scripts bittorrent-tracker@11.2.3")
	}
	h := hosts(t, 3)
	program := filepath.Join(t.TempDir(), "server.mjs")
	if err := os.WriteFile(program, []byte(`import { pathToFileURL } from 'node:url'
const [modules, address, port] = process.argv.slice(2)
const { default: Server } = await import(pathToFileURL(modules + '/bittorrent-tracker/server.js'))
const server = new Server({ http: false, ws: false, stats: false, udp: true })
for (const event of ['error', 'warning']) server.on(event, e => console.log(event, e.message))
for (const event of ['start', 'stop']) server.on(event, (_, p) => console.log(event, p.ip, p.port, p.left))
server.on('listening', () => console.log('listening on', server.udp6.address().port))
server.listen(Number(port), { udp4: '127.0.0.1', udp6: address })
`), 0o600); err != nil {
		t.Fatal(err)
	}
	server := start(t, h[0], node, program, modules, h[0].Addr().String(), "6969")
	server.says(`listening on`)
	swarm := announce.SwarmID{0x6c, 2}
	source := list(t, h[1], at(h[0]), swarm, true)
	eventually(t, "the source is listed", func() bool { return source.said(": 1 in the swarm") })
	viewer := list(t, h[2], at(h[0]), swarm, false)
	eventually(t, "the viewer is listed", func() bool { return viewer.said(": 2 in the swarm") })
	if !viewer.knows() {
		t.Errorf("the viewer is told of %v: the server has learned to name peers over IPv6, and this test may ask for more", viewer.peers)
	}
	server.says(`start 2001:db8:6::2 6400 0`)
	server.says(`start 2001:db8:6::3 6400 1`)
	if err := viewer.leave(); err != nil {
		t.Error(err)
	}
	server.says(`stop 2001:db8:6::3 6400`)
}

// Our messages with opentracker. As Debian builds it, it knows no IPv6 and only swarms of a list, so that this goes over IPv4, which
// nothing else of ours does: all but the addresses of peers is the same.
func TestOurClientWithOpentracker(t *testing.T) {
	t.Parallel() // the hosts are its own
	program := installed(t, "opentracker", "apt-get install opentracker")
	// Without root, this process is root in a user namespace that has no other users.
	if ids, err := os.ReadFile("/proc/self/uid_map"); err != nil || len(bytes.Fields(ids)) != 3 || bytes.Equal(bytes.Fields(ids)[2], []byte("1")) {
		t.Skip("opentracker wants to become another user: this needs root")
	}
	h := hosts(t, 1)[0]
	swarm := announce.SwarmID{0x6c, 3, 0xff}
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) { // it runs as nobody
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "swarms"), fmt.Appendf(nil, "%X\n", swarm), 0o644); err != nil {
		t.Fatal(err)
	}
	const port = "6969"
	server := start(t, h, program, "-i", "127.0.0.1", "-P", port, "-p", port, "-d", dir, "-w", "swarms")
	dial := func() net.Conn {
		var c net.Conn
		if err := h.Do(func() (err error) { c, err = net.Dial("udp4", "127.0.0.1:"+port); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// exchange runs a client of ours until its tracker has answered an announce.
	begun := time.Now()
	exchange := func(c net.Conn, client *announce.Client) (connection uint64) {
		t.Helper()
		buf := make([]byte, 1500)
		for client.Answered == 0 {
			now := time.Since(begun)
			if now > patience {
				t.Fatalf("opentracker does not answer: %s", server.text())
			}
			if b := client.Poll(now, nil); len(b) > 0 {
				_, _ = c.Write(b)
			}
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			n, err := c.Read(buf)
			if err != nil {
				time.Sleep(10 * time.Millisecond) // refused: it does not listen yet
				continue
			}
			var r announce.Reply
			if err := r.Decode(buf[:n]); err != nil {
				t.Fatalf("%x: %v", buf[:n], err)
			}
			client.Receive(time.Since(begun), &r)
			if client.Failure != "" {
				t.Fatalf("opentracker says %q", client.Failure)
			}
			if r.Action == announce.ActionConnect {
				connection = r.Connection
			}
		}
		return connection
	}
	for i := range 3 {
		client := announce.NewClient(announce.ClientConfig{Swarm: swarm, Peer: [20]byte{byte(i)}, Port: uint16(6400 + i), Want: 50, Seeder: i == 0}, rand.New(rand.NewPCG(1, uint64(i))))
		c := dial()
		connection := exchange(c, client)
		if client.Counts.Seeders != 1 || int(client.Counts.Leechers) != i {
			t.Errorf("announce %d counts %+v, want 1 seeder and %d leechers", i, client.Counts, i)
		}
		t.Logf("announce %d: %+v, again in %v", i, client.Counts, client.Interval)

		if _, err := c.Write(announce.AppendScrape(nil, connection, 7, swarm)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1500)
		_ = c.SetReadDeadline(time.Now().Add(patience))
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		var r announce.Reply
		if err := r.Decode(buf[:n]); err != nil || r.Action != announce.ActionScrape || r.Transaction != 7 || !slices.Equal(r.Swarms, []announce.Counts{client.Counts}) {
			t.Errorf("scrape %x: %+v, %v", buf[:n], r, err)
		}
	}
}
