package dht

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"time"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPeerStoreIsBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := newPeerStore()
	swarm := [20]byte{1}
	// One /64 takes eight places in a swarm, its newest.
	for i := range 100 {
		if !s.add(now.Add(time.Duration(i)), swarm, netip.AddrPortFrom(home(1).Addr(), uint16(1+i))) {
			t.Fatal("refused")
		}
	}
	if got := s.some(now, swarm, home(9), 1000); len(got) != maxPeersPer64 || s.peers != maxPeersPer64 {
		t.Errorf("%d of one /64", len(got))
	}
	for i := range 2 * maxPeersOfSwarm {
		s.add(now, swarm, home(10+i))
	}
	if _, n := s.len(); n != maxPeersOfSwarm {
		t.Errorf("%d in a swarm", n)
	}
	// One /64 does not fill the store by naming many swarms.
	for i := range 2 * maxPer64 {
		s.add(now, [20]byte{2, byte(i), byte(i >> 8)}, home(2))
	}
	if got := s.of64[network(home(2).Addr())]; got != maxPer64 {
		t.Errorf("%d of one /64 in all", got)
	}
	for i := range 2 * maxSwarms {
		s.add(now, [20]byte{3, byte(i), byte(i >> 8)}, home(1000+i%40000))
	}
	if swarms, _ := s.len(); swarms > maxSwarms {
		t.Errorf("%d swarms", swarms)
	}
	for i := range 2 * maxPeers {
		s.add(now, [20]byte{3, byte(i), byte(i>>8) & 3}, home(1+i))
	}
	if _, peers := s.len(); peers > maxPeers {
		t.Errorf("%d peers", peers)
	}
	s.sweep(now.Add(peerLife + time.Second))
	if swarms, peers := s.len(); swarms != 0 || peers != 0 || len(s.of64) != 0 {
		t.Errorf("after half an hour there are %d swarms, %d peers, %d networks", swarms, peers, len(s.of64))
	}
}

func TestItemStoreIsBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := newItemStore()
	value := func(i int) item { return item{value: appendInt(nil, int64(i))} }
	for i := range 2 * maxPer64 {
		s.put(now, value(i), nil, home(1).Addr())
	}
	if n := s.len(); n != maxPer64 {
		t.Errorf("%d of one /64", n)
	}
	for i := range 2 * maxItems {
		s.put(now, value(1_000_000+i), nil, home(2+i).Addr())
	}
	if n := s.len(); n != maxItems {
		t.Errorf("%d items", n)
	}
	s.sweep(now.Add(itemLife))
	if n := s.len(); n != 0 || len(s.of64) != 0 {
		t.Errorf("after two hours there are %d", n)
	}
}
