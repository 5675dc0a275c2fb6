//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/link"
	"github.com/sixcast/sixcast/pkg/udp"
	"github.com/sixcast/sixcast/pkg/wire"
)

// A child is a receiver that costs as little as can be: it does the handshake, joins the channel, subscribes to stripes, keeps
// the link alive and reports as docs/protocol.md asks, but only counts the shards. Without a relay it is a socket that is emptied.
type child struct {
	conn *udp.Conn

	mu    sync.Mutex
	begun time.Time
	table *link.Table
	link  *link.Link
	queue udp.SendQueue
	tag   uint32

	all              atomic.Bool
	datagrams, bytes atomic.Uint64
	number           block.Number
	index            uint8
	arrival          time.Duration
	reported         time.Duration
}

// reportEvery is how often a child reports (docs/protocol.md section 6).
const reportEvery = 200 * time.Millisecond

// childAddr is the address of child i, each in a /64 of its own as homes are.
func childAddr(i int) netip.Addr {
	a := netip.MustParseAddr("fd00:6:50::1").As16()
	binary.BigEndian.PutUint16(a[6:], uint16(i+1))
	return netip.AddrFrom16(a)
}

// children opens n sockets, each with an address of its own on the loopback interface.
func (b *bench) children(n int, noOffload bool) (all []*child, err error) {
	defer func() {
		if err != nil {
			closeAll(all)
		}
	}()
	for i := range n {
		a := childAddr(i)
		if out, err := exec.CommandContext(b.ctx, "ip", "-6", "addr", "replace", a.String()+"/128", "dev", "lo", "nodad").CombinedOutput(); err != nil {
			return all, fmt.Errorf("ip addr: %w: %s", err, out)
		}
		conn, err := udp.Listen(udp.Config{Listen: netip.AddrPortFrom(a, 0), ReceiveBuffer: 4 << 20, NoOffload: noOffload})
		if err != nil {
			return all, err
		}
		c := &child{conn: conn, begun: time.Now()}
		all = append(all, c)
		go c.read()
	}
	return all, nil
}

func closeAll(all []*child) {
	for _, c := range all {
		c.conn.Close()
	}
}

// join makes the child a child of the relay.
func (c *child) join(to netip.AddrPort, id channel.ID, mask wire.StripeMask) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tag = id.Tag()
	c.table = link.NewTable(link.Config{}, (*childSide)(c))
	now := time.Since(c.begun)
	c.link = c.table.Dial(now, to, func(dst []byte) []byte {
		dst = (&wire.Join{Key: id, Tag: c.table.NewTag(c.link, c)}).Append(dst)
		m := wire.Subscribe{Channel: c.tag, Serial: 1, Feeds: wire.FeedMask(mask) | wire.Manifest, First: wire.FromNext}
		for i := range m.Hop {
			m.Hop[i] = wire.NoHop
		}
		return m.Append(dst)
	})
	c.conn.Flush(&c.queue)
}

// leave forgets the link without a word: from now on everything counts as a datagram.
func (c *child) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table, c.link = nil, nil
	c.all.Store(true)
}

func (c *child) read() {
	batch := new(udp.Batch)
	for {
		n, err := c.conn.ReadBatch(batch)
		if err != nil {
			return
		}
		now := time.Since(c.begun)
		bytes, bare := 0, 0
		for _, d := range batch.Datagrams[:n] {
			if b := d.Data; c.all.Load() || len(b) > wire.TagSize && b[0] >= 0x80 && (b[wire.TagSize] == wire.TypeShard || b[wire.TagSize] == wire.TypeManifest) {
				bytes += len(b)
				bare++
				if len(b) > wire.TagSize+block.ShardHeader && b[wire.TagSize] == wire.TypeShard {
					c.number, c.index, c.arrival = block.Number(binary.BigEndian.Uint32(b[wire.TagSize+16:])), b[wire.TagSize+1], now
				}
				continue
			}
			c.mu.Lock()
			if c.table != nil {
				c.table.Receive(now, d.Addr, d.Data)
				c.conn.Flush(&c.queue)
			}
			c.mu.Unlock()
		}
		c.datagrams.Add(uint64(bare))
		c.bytes.Add(uint64(bytes))
		c.keep(now)
	}
}

// keep does what is due. Called by read only: something comes all the time.
func (c *child) keep(now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table == nil {
		return
	}
	if now >= c.table.NextDeadline() {
		c.table.Tick(now)
	}
	if c.link.Established() && now-c.reported >= reportEvery {
		c.reported = now
		r := wire.Report{Channel: c.tag, Datagrams: uint32(c.datagrams.Load()), Kilobytes: uint32(c.bytes.Load() / 1000),
			Number: c.number, Index: c.index, Arrival: uint32(c.arrival / time.Microsecond)}
		_ = c.link.SendControl(now, r.Append(nil))
	}
	c.conn.Flush(&c.queue)
}

// childSide is what the link table sees of a child.
type childSide child

func (s *childSide) Send(to netip.AddrPort, b []byte) {
	s.queue.Add(to, nil, append([]byte(nil), b...))
}
func (s *childSide) Established(*link.Link) {}
func (s *childSide) Closed(_ *link.Link, why wire.ByeReason, text string) {
	fmt.Printf("a receiver's link was closed: %v %s\n", why, text)
}
func (s *childSide) Moved(*link.Link, netip.AddrPort) {}
