// Package tracker runs a tracker: announce's servers on sockets, one a core.
package tracker

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/udp"
)

const (
	// DefaultInterval is how often peers are asked to come back.
	DefaultInterval = 2 * time.Minute
	// DefaultSwarms is how many swarms are kept at most.
	DefaultSwarms = 1_000_000
	// RefreshEvery is how often whoever publishes a descriptor is asked to do it again: a tracker that has forgotten it, since it was started
	// anew, does not notice. What is known costs no signature check.
	RefreshEvery = 5 * time.Minute

	// A peer that does not come back is forgotten after so many intervals.
	lifeIntervals = 2.5
	// All is looked through for the expired within a sweepPart of their life, at most sweepTime, some every sweepEvery.
	sweepEvery = 50 * time.Millisecond
	sweepPart  = 10
	sweepTime  = 30 * time.Second

	receiveBuffer = 8 << 20
)

// Config of a Tracker.
type Config struct {
	// Listen is the UDP address; the zero value is a free port of every address.
	Listen netip.AddrPort
	// Sockets share the port, each with a goroutine; 0: one for every core, where the system can.
	Sockets int
	// Sockets that somebody else has bound, instead of those.
	Bound []*net.UDPConn
	// Known says which swarms are served; nil: all.
	Known func(*announce.SwarmID) bool
	// Key makes connection ids; trackers of a cluster share one. The zero value is a random one.
	Key announce.Key
	// Interval is DefaultInterval if 0, Swarms DefaultSwarms.
	Interval time.Duration
	Swarms   int
	// Publish takes signed items (announce.ServerConfig); nil: none are taken.
	Publish func(from netip.Addr, item []byte) error
	Logger  *slog.Logger
}

// Counts of a swarm: how many feed it, how many take part besides.
func (t *Tracker) Counts(id announce.SwarmID) (seeders, leechers int) {
	c := t.store.Scrape(&id)
	return int(c.Seeders), int(c.Leechers)
}

// Tracker is a running one.
type Tracker struct {
	cfg   Config
	store *announce.Store
	stats announce.Stats
	conns []*udp.Conn
	done  chan struct{}
	work  sync.WaitGroup
}

// Start opens the sockets and begins. Errors are those of udp.Listen.
func Start(cfg Config) (*Tracker, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Swarms == 0 {
		cfg.Swarms = DefaultSwarms
	}
	if cfg.Key == (announce.Key{}) {
		cfg.Key = announce.NewKey()
	}
	t := &Tracker{cfg: cfg, done: make(chan struct{})}
	t.store = announce.NewStore(rand.Uint64(), uint32(lifeIntervals*cfg.Interval.Seconds()), cfg.Swarms)
	if err := t.listen(); err != nil {
		return nil, err
	}
	for _, c := range t.conns {
		t.work.Go(func() { t.serve(c) })
	}
	t.work.Go(t.sweep)
	return t, nil
}

// listen opens the sockets; the first one may find the port.
func (t *Tracker) listen() error {
	uc := udp.Config{Listen: t.cfg.Listen, ReceiveBuffer: receiveBuffer, SendBuffer: receiveBuffer, NoOffload: true}
	for _, pc := range t.cfg.Bound {
		c, err := udp.Adopt(pc, uc)
		if err != nil {
			t.closeAll()
			return err
		}
		t.conns = append(t.conns, c)
	}
	if len(t.conns) > 0 {
		return nil
	}
	if t.cfg.Listen.Port() != 0 {
		// Alone at first: another tracker, which shares the port among its own sockets, would share it with us too.
		c, err := udp.Listen(uc)
		if err != nil {
			return err
		}
		c.Close()
	}
	n := t.cfg.Sockets
	if n == 0 {
		n = runtime.GOMAXPROCS(0)
	}
	uc.Shared = n > 1
	for range n {
		c, err := udp.Listen(uc)
		if errors.Is(err, udp.ErrNotShared) && t.cfg.Sockets == 0 {
			uc.Shared, n = false, 1
			c, err = udp.Listen(uc)
		}
		if err != nil {
			t.closeAll()
			return err
		}
		t.conns = append(t.conns, c)
		if !uc.Shared {
			break
		}
		uc.Listen = c.LocalAddr()
	}
	return nil
}

func (t *Tracker) closeAll() (err error) {
	for _, c := range t.conns {
		err = errors.Join(err, c.Close())
	}
	return err
}

// serve answers what comes to one socket, a batch at a time.
func (t *Tracker) serve(c *udp.Conn) {
	server := announce.NewServer(announce.ServerConfig{
		Key: t.cfg.Key, Store: t.store, Known: t.cfg.Known, Interval: uint32(t.cfg.Interval.Seconds()),
		Publish: t.cfg.Publish, Refresh: uint32(RefreshEvery.Seconds()),
	}, &t.stats)
	random := rand.NewPCG(rand.Uint64(), rand.Uint64())
	replies := make([]byte, 0, 256*announce.MaxMessage) // what is queued lies here until it is sent
	var queue udp.SendQueue
	c.Serve(func(datagrams []udp.Datagram) {
		now := time.Now().Unix()
		for _, d := range datagrams {
			if cap(replies)-len(replies) < announce.MaxMessage {
				_, _ = c.Flush(&queue)
				replies = replies[:0]
			}
			begin := len(replies)
			replies = server.Handle(now, uint32(random.Uint64()), d.Addr, d.Data, replies)
			queue.Add(d.Addr, nil, replies[begin:])
		}
		_, _ = c.Flush(&queue)
		replies = replies[:0]
	}, func(err error) { t.cfg.Logger.Debug("reading a socket", "err", err) })
}

// sweep forgets who has not come back, a little at a time.
func (t *Tracker) sweep() {
	life := time.Duration(lifeIntervals * float64(t.cfg.Interval))
	calls := max(1, int(min(life/sweepPart, sweepTime)/sweepEvery))
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.done:
			return
		case <-tick.C:
			t.store.Sweep(uint32(time.Now().Unix()), calls)
		}
	}
}

// Addr is where it listens.
func (t *Tracker) Addr() netip.AddrPort { return t.conns[0].LocalAddr() }

// Stats is a reading of a tracker's counters.
type Stats struct {
	Swarms    int    `json:"swarms"`
	Peers     int    `json:"peers"`
	Connects  uint64 `json:"connects"`
	Announces uint64 `json:"announces"`
	Scrapes   uint64 `json:"scrapes"`
	Unknown   uint64 `json:"unknown"`      // announces to channels that it does not know
	Full      uint64 `json:"full"`         // announces for which there was no room
	Strangers uint64 `json:"strangers"`    // connection ids that were not good
	Published uint64 `json:"published"`    // descriptors taken by UDP
	Refused   uint64 `json:"refused"`      // and not taken
	Malformed uint64 `json:"malformed"`    //
	Unsent    uint64 `json:"unsent"`       // replies that the kernel did not take
	Dropped   uint64 `json:"kernel_drops"` // requests lost in our receive buffers
}

// Stats takes a reading.
func (t *Tracker) Stats() (s Stats) {
	s.Swarms, s.Peers = t.store.Len()
	a := &t.stats
	s.Connects, s.Announces, s.Scrapes = a.Connects.Load(), a.Announces.Load(), a.Scrapes.Load()
	s.Unknown, s.Full, s.Strangers, s.Malformed = a.Unknown.Load(), a.Full.Load(), a.Strangers.Load(), a.Malformed.Load()
	s.Published, s.Refused = a.Published.Load(), a.Refused.Load()
	for _, c := range t.conns {
		u := c.Stats()
		s.Unsent += u.Unsent()
		s.Dropped += u.KernelDrops
	}
	return s
}

// Close ends it.
func (t *Tracker) Close() error {
	close(t.done)
	err := t.closeAll()
	t.work.Wait()
	return err
}
