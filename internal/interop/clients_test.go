//go:build linux

package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anacrolix/torrent/tracker/udp"

	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/announce"
)

// content is what torrents are made of.
func content() []byte {
	b := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

// watchAnswers counts, of our tracker's announce answers to a host, those that name a peer.
func watchAnswers(h *testnet.Host, peer netip.AddrPort) *atomic.Int32 {
	var n atomic.Int32
	a := peer.Addr().As16()
	want := binary.BigEndian.AppendUint16(a[:], peer.Port())
	h.Watch(func(ip []byte, sent bool) {
		const headers = 40 + 8
		if sent || len(ip) < headers+8 || ip[6] != 17 || binary.BigEndian.Uint16(ip[40:]) != trackerPort {
			return
		}
		if body := ip[headers:]; binary.BigEndian.Uint32(body) == announce.ActionAnnounce && len(body) >= 20 {
			for b := range slices.Chunk(body[20:], 18) {
				if bytes.Equal(b, want) {
					n.Add(1)
				}
			}
		}
	})
	return &n
}

// Two libtorrents know nothing but our tracker: one learns of the other from it, and a file goes from one to the other.
func TestLibtorrentThroughOurTracker(t *testing.T) {
	t.Parallel() // the hosts are its own
	py := python(t)
	h := hosts(t, 3)
	startTracker(t, h[0])
	file := content()
	meta, swarm := torrent(t, "udp://"+at(h[0]).String(), file)
	named := watchAnswers(h[2], netip.AddrPortFrom(h[1].Addr(), 7001))
	client := func(h *testnet.Host, port int, dir string) *process {
		return start(t, h, py, "torrent_libtorrent.py", h.Addr().String(), strconv.Itoa(port), meta, dir)
	}
	first := client(h[1], 7001, folder(t, file))
	first.says(`(?m)^peers 0$`)
	if n := scrape(t, h[0], at(h[0]), swarm); n.Seeders != 1 || n.Leechers != 0 {
		t.Errorf("a scrape counts %+v, want one seeder", n)
	}
	dir, begun := folder(t, nil), time.Now()
	second := client(h[2], 7002, dir)
	second.says(`(?m)^peers 1$`)
	if got, want := second.says(`(?m)^connect (\S+)$`), fmt.Sprintf("[%v]:7001", h[1].Addr()); got != want {
		t.Errorf("the second goes to %s, want %s", got, want)
	}
	second.says(`(?m)^complete$`)
	t.Logf("libtorrent had %d bytes %v after its start", len(file), time.Since(begun).Round(time.Millisecond))
	arrived(t, dir, file)
	if named.Load() == 0 {
		t.Error("no answer of the tracker to the second named the first")
	}
	eventually(t, "both seed", func() bool { return scrape(t, h[0], at(h[0]), swarm).Seeders == 2 })
}

// Transmission seeds; libtorrent learns of it from our tracker and has the file from it. Not the other way round: Transmission 3.00
// reads answers over IPv6 as if they were IPv4's, and makes three addresses of 6 bytes from one of 18.
func TestTransmissionThroughOurTracker(t *testing.T) {
	t.Parallel() // the hosts are its own
	program := installed(t, "transmission-cli", "apt-get install transmission-cli")
	py := python(t)
	h := hosts(t, 3)
	startTracker(t, h[0])
	file := content()
	// It takes no address in a tracker's URL, and reads names from /etc/hosts.
	names := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(names, fmt.Appendf(nil, "127.0.0.1 localhost\n%v tracker.example\n", h[0].Addr()), 0o644); err != nil {
		t.Fatal(err)
	}
	byName, swarm := torrent(t, fmt.Sprintf("udp://tracker.example:%d", trackerPort), file)
	byAddress, same := torrent(t, "udp://"+at(h[0]).String(), file)
	if swarm != same {
		t.Fatal("the tracker is part of the swarm's id")
	}
	config := t.TempDir()
	settings := fmt.Sprintf(`{"bind-address-ipv4": "127.0.0.1", "bind-address-ipv6": %q, "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false,
		"port-forwarding-enabled": false, "rpc-enabled": false}`, h[1].Addr())
	if err := os.WriteFile(filepath.Join(config, "settings.json"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	start(t, h[1], "unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, names,
		program, "-M", "-p", "7001", "-g", config, "-w", folder(t, file), byName)
	eventually(t, "the tracker lists Transmission", func() bool { return scrape(t, h[0], at(h[0]), swarm).Seeders == 1 })

	t.Logf("Transmission was listed %v after its start", time.Since(begun).Round(time.Millisecond))

	named := watchAnswers(h[2], netip.AddrPortFrom(h[1].Addr(), 7001))
	dir, begun := folder(t, nil), time.Now()
	second := start(t, h[2], py, "torrent_libtorrent.py", h[2].Addr().String(), "7002", byAddress, dir)
	second.says(`(?m)^peers 1$`)
	second.says(`(?m)^complete$`)
	t.Logf("libtorrent had %d bytes %v after its start", len(file), time.Since(begun).Round(time.Millisecond))
	arrived(t, dir, file)
	if named.Load() == 0 {
		t.Error("no answer of the tracker to libtorrent named Transmission")
	}
}

// client is anacrolix/torrent's, on a host.
func client(t *testing.T, h *testnet.Host, tracker netip.AddrPort) *udp.ConnClient {
	t.Helper()
	var c *udp.ConnClient
	err := h.Do(func() (err error) {
		c, err = udp.NewConnClient(udp.NewConnClientOpts{Network: "udp6", Host: tracker.String(), ListenPacket: func(network, _ string) (net.PacketConn, error) {
			return net.ListenPacket(network, netip.AddrPortFrom(h.Addr(), 0).String())
		}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Not closed: closing has its reader panic if it sees the socket's end before the flag. It goes with the process.
	return c
}

// scrape asks a tracker with anacrolix/torrent's client.
func scrape(t *testing.T, h *testnet.Host, tracker netip.AddrPort, swarm [20]byte) announce.Counts {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := client(t, h, tracker).Client.Scrape(ctx, []udp.InfoHash{swarm})
	if err != nil || len(r) != 1 {
		t.Fatalf("scrape: %v %v", r, err)
	}
	return announce.Counts{Seeders: uint32(r[0].Seeders), Leechers: uint32(r[0].Leechers), Completed: uint32(r[0].Completed)}
}

// anacrolix/torrent's client, of which each announce gets those who came before.
func TestAnacrolixThroughOurTracker(t *testing.T) {
	t.Parallel() // the hosts are its own
	const peers = 8
	h := hosts(t, peers+1)
	startTracker(t, h[0])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	swarm := [20]byte{1, 2, 3}
	ask := func(i int, req udp.AnnounceRequest, opts udp.Options) (udp.AnnounceResponseHeader, []netip.AddrPort) {
		t.Helper()
		req.InfoHash, req.PeerId[0], req.Port = swarm, byte(i), uint16(7000+i)
		header, r, err := client(t, h[i], at(h[0])).Announce(ctx, req, opts)
		if err != nil {
			t.Fatal(err)
		}
		var named []netip.AddrPort
		for _, n := range r.NodeAddrs() {
			a, _ := netip.AddrFromSlice(n.IP)
			named = append(named, netip.AddrPortFrom(a, uint16(n.Port)))
		}
		slices.SortFunc(named, netip.AddrPort.Compare)
		return header, named
	}
	var before []netip.AddrPort
	for i := 1; i <= peers; i++ {
		req := udp.AnnounceRequest{Event: 2, NumWant: -1, Left: int64(i - 1)} // the first has everything
		header, named := ask(i, req, udp.Options{RequestUri: "/announce?key=" + string(bytes.Repeat([]byte{'x'}, 300))})
		if !slices.Equal(named, before) {
			t.Errorf("peer %d is told of %v, want %v", i, named, before)
		}
		if header.Seeders != 1 || int(header.Leechers) != i-1 || header.Interval != 120 {
			t.Errorf("peer %d reads %+v, want 1 seeder, %d leechers, an interval of 120 s", i, header, i-1)
		}
		before = append(before, netip.AddrPortFrom(h[i].Addr(), uint16(7000+i)))
	}
	if _, named := ask(1, udp.AnnounceRequest{NumWant: 3}, udp.Options{}); len(named) != 3 {
		t.Errorf("who wants 3 gets %d", len(named))
	}
	if _, named := ask(2, udp.AnnounceRequest{Event: 3}, udp.Options{}); len(named) != 0 {
		t.Errorf("who leaves is told of %v", named)
	}
	if n := scrape(t, h[3], at(h[0]), swarm); n.Seeders != 1 || n.Leechers != peers-2 {
		t.Errorf("a scrape counts %+v, want 1 and %d", n, peers-2)
	}

	// An id that was made for somebody else is refused in a way that it understands.
	stranger := client(t, h[4], at(h[0]))
	stranger.Client.Writer = forger{stranger.Client.Writer}
	if _, _, err := stranger.Announce(ctx, udp.AnnounceRequest{InfoHash: swarm, Port: 1}, udp.Options{}); err == nil || !bytes.Contains([]byte(err.Error()), []byte("connect again")) {
		t.Errorf("an announce with a wrong id: %v", err)
	}
}

// forger spoils connection ids.
type forger struct {
	w interface{ Write([]byte) (int, error) }
}

func (f forger) Write(b []byte) (int, error) {
	if binary.BigEndian.Uint32(b[8:]) == announce.ActionAnnounce {
		b = bytes.Clone(b)
		b[0] ^= 1
	}
	return f.w.Write(b)
}
