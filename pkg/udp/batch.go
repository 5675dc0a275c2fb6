package udp

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Datagram is one received datagram.
type Datagram struct {
	// Addr is the sender; link-local addresses have their zone.
	Addr netip.AddrPort
	// Data lies in the Batch and lives until its next ReadBatch.
	Data []byte
}

// Batch is where ReadBatch puts datagrams. The zero value is ready for use; its buffers (1 MiB of address space, of which only
// what traffic fills is ever backed by memory) are made at the first ReadBatch and kept. It belongs to one goroutine.
type Batch struct {
	// Datagrams is what the last ReadBatch received, in order of arrival. Never empty after a ReadBatch without error.
	Datagrams []Datagram

	shape shape // that the buffers are made for
	rx    receiver
}

// ReadBatch blocks until at least one datagram has come and returns how many did; they are b.Datagrams[:n]. It returns
// [net.ErrClosed] after Close and [os.ErrDeadlineExceeded] after the deadline. Empty datagrams and those longer than
// Config.MaxDatagram are dropped and counted.
func (c *Conn) ReadBatch(b *Batch) (n int, err error) {
	if s := (shape{c.batched, c.info.GRO, c.maxDatagram}); b.shape != s {
		b.shape = s
		b.rx.init(c, b)
	}
	for {
		b.Datagrams = b.Datagrams[:0]
		if err = b.rx.read(c, b); err != nil || len(b.Datagrams) > 0 {
			return len(b.Datagrams), err
		}
	}
}

// errorPause is how long Serve rests after an error, so as never to spin on one that stays.
const errorPause = 10 * time.Millisecond

// Serve gives what comes to take, a batch at a time, until the socket is closed. The datagrams live until take returns. Other errors are
// told to failed.
func (c *Conn) Serve(take func([]Datagram), failed func(error)) {
	batch := new(Batch)
	for {
		n, err := c.ReadBatch(batch)
		switch {
		case err == nil:
			take(batch.Datagrams[:n])
		case errors.Is(err, net.ErrClosed):
			return
		default:
			failed(err)
			time.Sleep(errorPause)
		}
	}
}

// shape is what the sizes of a Batch depend on.
type shape struct {
	batched, gro bool
	maxDatagram  int
}

// tally is what one ReadBatch adds to the counters.
type tally struct{ datagrams, bytes, empty, tooLong uint64 }

// split appends the datagrams of payload, which the kernel coalesced from datagrams of size bytes, the last perhaps shorter.
// Size 0 means that it is a single one.
func (b *Batch) split(t *tally, addr netip.AddrPort, payload []byte, size, longest int) {
	if len(payload) == 0 {
		t.empty++
		return
	}
	if size <= 0 || size > len(payload) {
		size = len(payload)
	}
	if size > longest {
		t.tooLong += uint64((len(payload) + size - 1) / size)
		return
	}
	t.bytes += uint64(len(payload))
	for len(payload) > 0 {
		n := min(size, len(payload))
		b.Datagrams = append(b.Datagrams, Datagram{Addr: addr, Data: payload[:n:n]})
		payload = payload[n:]
		t.datagrams++
	}
}

// maxZones bounds a zoneCache: scope ids come from the kernel, so there are as many as interfaces.
const maxZones = 256

// zoneCache maps zones to scope ids and back. A host has few: a linear search is best. Not safe for concurrent use.
type zoneCache struct{ zones []zone }

type zone struct {
	id   uint32
	name string
	hold netip.Addr // keeps the name interned, so that Addr.WithZone does not allocate
}

func (z *zoneCache) name(id uint32) string {
	for i := range z.zones {
		if z.zones[i].id == id {
			return z.zones[i].name
		}
	}
	name := strconv.FormatUint(uint64(id), 10)
	if ifi, err := net.InterfaceByIndex(int(id)); err == nil {
		name = ifi.Name
	}
	z.add(id, name)
	return name
}

// id returns false for a zone that is no interface of this host.
func (z *zoneCache) id(name string) (uint32, bool) {
	for i := range z.zones {
		if z.zones[i].name == name {
			return z.zones[i].id, true
		}
	}
	ifi, err := interfaceByZone(name)
	if err != nil {
		return 0, false
	}
	z.add(uint32(ifi.Index), name)
	return uint32(ifi.Index), true
}

// scope returns the scope id for a destination, false if an IPv6 socket cannot send to it at all.
func (z *zoneCache) scope(to netip.AddrPort) (id uint32, ok bool) {
	a := to.Addr()
	if !a.Is6() || a.Is4In6() || to.Port() == 0 {
		return 0, false
	}
	if zone := a.Zone(); zone != "" {
		return z.id(zone)
	}
	return 0, true
}

func (z *zoneCache) add(id uint32, name string) {
	if len(z.zones) == maxZones {
		z.forget()
	}
	z.zones = append(z.zones, zone{id, name, netip.IPv6LinkLocalAllNodes().WithZone(name)})
}

// forget drops everything: interfaces came or went.
func (z *zoneCache) forget() {
	clear(z.zones)
	z.zones = z.zones[:0]
}
