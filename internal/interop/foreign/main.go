// Command foreign is a tracker whose every byte on the wire is written and read by github.com/anacrolix/torrent: other people's code,
// for tests of ours to talk with. It keeps the swarms in a map, for ever.
//
// It is a module of its own, since that library is a newer and far larger one than what sixcast needs.
//
// usage: foreign [ADDRESS]:PORT
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/anacrolix/generics"
	"github.com/anacrolix/torrent/tracker"
	trackerServer "github.com/anacrolix/torrent/tracker/server"
	"github.com/anacrolix/torrent/tracker/udp"
	udpTrackerServer "github.com/anacrolix/torrent/tracker/udp/server"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: foreign [ADDRESS]:PORT")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "foreign:", err)
		os.Exit(1)
	}
}

func run(listen string) error {
	conn, err := net.ListenPacket("udp6", listen)
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Println("listening on", conn.LocalAddr())
	s := &swarms{peers: map[[20]byte]map[netip.AddrPort]bool{}, ids: map[string]udp.ConnectionId{}}
	return udpTrackerServer.RunSimple(context.Background(), &udpTrackerServer.Server{
		ConnTracker:  s,
		SendResponse: func(_ context.Context, b []byte, to net.Addr) (int, error) { return conn.WriteTo(b, to) },
		Announce:     &trackerServer.AnnounceHandler{AnnounceTracker: s},
	}, conn, udp.AddrFamilyIpv6)
}

// swarms is what the library leaves to its user.
type swarms struct {
	mu    sync.Mutex
	peers map[[20]byte]map[netip.AddrPort]bool // those that have everything: true
	ids   map[string]udp.ConnectionId
}

func (s *swarms) Add(_ context.Context, addr string, id udp.ConnectionId) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids[addr] = id
	return nil
}

func (s *swarms) Check(_ context.Context, addr string, id udp.ConnectionId) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.ids[addr]
	return ok && known == id, nil
}

func (s *swarms) TrackAnnounce(_ context.Context, req udp.AnnounceRequest, addr netip.AddrPort) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Printf("announce %x %v event %q left %d want %d\n", req.InfoHash, addr, req.Event, req.Left, req.NumWant)
	if req.Event == tracker.Stopped {
		delete(s.peers[req.InfoHash], addr)
		return nil
	}
	if s.peers[req.InfoHash] == nil {
		s.peers[req.InfoHash] = map[netip.AddrPort]bool{}
	}
	s.peers[req.InfoHash][addr] = req.Left == 0
	return nil
}

func (s *swarms) GetPeers(_ context.Context, swarm trackerServer.InfoHash, opts trackerServer.GetPeersOpts, from netip.AddrPort) (r trackerServer.ServerAnnounceResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var seeders, leechers int32
	for a, seeder := range s.peers[swarm] {
		if seeder {
			seeders++
		} else {
			leechers++
		}
		if a != from && uint(len(r.Peers)) < opts.MaxCount.Value {
			r.Peers = append(r.Peers, trackerServer.PeerInfo{AnnounceAddr: a})
		}
	}
	r.Seeders, r.Leechers, r.Interval = generics.Some(seeders), generics.Some(leechers), generics.Some[int32](60)
	return r
}

func (s *swarms) Scrape(context.Context, []trackerServer.InfoHash) ([]udp.ScrapeInfohashResult, error) {
	return nil, errors.New("the library's server does not ask for this")
}
