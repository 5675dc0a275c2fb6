package find

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/sixcast/sixcast/internal/vectors"
	"github.com/sixcast/sixcast/pkg/channel"
)

// rendezvous is one entry of docs/vectors/rendezvous.json: the trackers of one name in the order in which a swarm prefers them.
type rendezvous struct {
	Swarm     string       `json:"swarm_id"`
	Addresses []netip.Addr `json:"addresses"`
	Order     []netip.Addr `json:"order"`
	ListedBy  []netip.Addr `json:"listed_by"`
}

func TestVectors(t *testing.T) {
	var names []netip.AddrPort
	var addrs []netip.Addr
	for _, a := range []string{"2001:db8::1", "2001:db8::2", "2001:db8:1::1", "fd00::53", "2001:db8:ffff:1234:5678:9abc:def0:1"} {
		addrs = append(addrs, netip.MustParseAddr(a))
		names = append(names, netip.AddrPortFrom(netip.MustParseAddr(a), 6969))
	}
	var all []rendezvous
	for seed := range byte(3) {
		swarm := channel.KeyFromSeed([channel.SeedSize]byte{seed}).ID().SwarmID()
		v := rendezvous{Swarm: hex.EncodeToString(swarm[:]), Addresses: addrs}
		for _, a := range order(swarm, names) {
			v.Order = append(v.Order, a.Addr())
		}
		v.ListedBy = v.Order[:listedBy]
		all = append(all, v)
	}
	vectors.CheckJSON(t, "rendezvous.json", all)
}
