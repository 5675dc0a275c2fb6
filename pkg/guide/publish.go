package guide

import (
	"bytes"
	"errors"
	"net/netip"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// ErrLimited is returned to whoever publishes too much.
var ErrLimited = errors.New("too many descriptors: come again later")

// Publish takes an item that came from an address by another way than PUT, within the same limits, which whoever is on this machine does not have. It
// does not keep item. Errors are ErrLimited and those of catalog.Put.
func (g *Guide) Publish(from netip.Addr, item []byte) error {
	now := g.cfg.Now()
	if !from.IsLoopback() && g.puts.take(networkOf(from), now) > 0 {
		g.Stats.Limited.Add(1)
		return ErrLimited
	}
	if id, _, ok := channel.PeekItem(item); ok {
		if _, wait := g.verifyWait(id, item, now); wait > 0 {
			g.Stats.Limited.Add(1)
			return ErrLimited
		}
	}
	_, err := g.cfg.Catalog.Put(item)
	return err
}

// verifyWait is how long whoever gives us an item has to wait until there is time to verify it: what the catalogue has already is not verified
// again. known: it has one of that channel.
func (g *Guide) verifyWait(id channel.ID, item []byte, now time.Time) (known bool, wait time.Duration) {
	e, known := g.cfg.Catalog.Get(id)
	if !known || !bytes.Equal(e.Descriptor.Item, item) {
		wait = g.signatures.take(netip.Addr{}, now)
	}
	return known, wait
}
