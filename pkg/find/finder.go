// Package find looks for channels and their peers in every way that there is: at trackers, on this network, in the DHT, and in what was
// remembered. Each that answers helps, and any may be missing.
package find

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/lan"
	"github.com/sixcast/sixcast/pkg/memory"
)

const (
	// The DHT is asked for peers at first, again after peersFirst, and each time twice as late up to peersAgain.
	peersFirst = 5 * time.Second
	peersAgain = 5 * time.Minute
	// describeTime is how long it is asked for a descriptor, which names trackers.
	describeTime = 30 * time.Second
)

// Config of a Finder.
type Config struct {
	Channel channel.ID
	// Listen is the address that the node listens on, Port its port.
	Listen netip.Addr
	Port   uint16
	// Source says that the node feeds the channel, Group to which multicast group it does, if that is one of the channel's own.
	Source bool
	Group  lan.Group
	// Trackers that list the channel, beside those of Options.
	Trackers []string
	// OnPeers gets peers that were found; it may be called concurrently, and the slice is its own.
	OnPeers func([]netip.AddrPort)
	// OnGroup is told of a multicast group that somebody on this network sends to; nil: nobody is.
	OnGroup func(lan.Group)
}

// Finder finds peers for a node, and has it found, until it is closed.
type Finder struct {
	ways   *Ways
	cfg    Config
	log    *slog.Logger
	alone  chan struct{} // the node is: the DHT is to be asked
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	newest   channel.Descriptor
	trackers *Trackers // nil without any
}

// Find begins. There is one Finder at a time. Errors are those of StartTrackers.
func (w *Ways) Find(cfg Config) (*Finder, error) {
	f := &Finder{ways: w, cfg: cfg, log: w.opts.Logger, alone: make(chan struct{}, 1)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	if err := f.ask(slices.Concat(w.opts.Trackers, cfg.Trackers)); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.finder = f
	w.mu.Unlock()
	if m := w.opts.Memory; m != nil && !cfg.Source {
		if peers := m.Peers(cfg.Channel); len(peers) > 0 {
			f.found(peers)
		}
	}
	f.announce(nil)
	if w.lan != nil && !cfg.Source {
		w.lan.Query(cfg.Channel)
		if c, ok := w.lan.Channel(cfg.Channel); ok {
			f.found(c.Peers)
			for _, g := range c.Groups {
				w.onGroup(cfg.Channel, g)
			}
		}
	}
	if w.opts.DHT != nil {
		if err := w.opts.DHT.Announce(cfg.Channel, cfg.Port); err != nil {
			f.log.Warn("the DHT does not announce the node", "err", err)
		}
		if !cfg.Source {
			f.work.Go(f.askDHT)
		}
	}
	return f, nil
}

// ask has further trackers asked.
func (f *Finder) ask(names []string) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case len(names) == 0 || f.ctx.Err() != nil:
	case f.trackers != nil:
		f.trackers.Add(names)
	default:
		f.trackers, err = StartTrackers(TrackersConfig{
			Swarm: f.cfg.Channel.SwarmID(), Listen: f.cfg.Listen, Port: f.cfg.Port, Names: names, Seeder: f.cfg.Source, OnPeers: f.found, Logger: f.log,
		})
	}
	return err
}

// asked are the trackers that are, nil if there are none.
func (f *Finder) asked() *Trackers {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trackers
}

// announce tells this network of the node.
func (f *Finder) announce(item []byte) {
	if f.ways.lan == nil {
		return
	}
	err := f.ways.lan.Update(lan.Announcement{Channel: f.cfg.Channel, Port: f.cfg.Port, Source: f.cfg.Source, Group: f.cfg.Group, Item: item})
	if err != nil {
		f.log.Warn("this network is not told of the node", "err", err)
	}
}

func (f *Finder) found(peers []netip.AddrPort) {
	if f.ctx.Err() == nil && len(peers) > 0 {
		f.cfg.OnPeers(slices.Clone(peers))
	}
}

// askDHT asks for peers over and over, sooner while the node is alone, and once for the descriptor, which names trackers.
func (f *Finder) askDHT() {
	f.work.Go(func() {
		ctx, cancel := context.WithTimeout(f.ctx, describeTime)
		defer cancel()
		if d, err := f.ways.opts.DHT.Get(ctx, f.cfg.Channel); err == nil {
			f.Describe(d)
		}
	})
	for wait := peersFirst; ; wait = min(2*wait, peersAgain) {
		if err := f.ways.opts.DHT.Peers(f.ctx, f.cfg.Channel, f.found); err != nil && f.ctx.Err() == nil {
			f.log.Debug("asking the DHT for peers", "err", err)
		}
		select {
		case <-f.ctx.Done():
			return
		case <-f.alone:
			wait = peersFirst
		case <-time.After(wait):
		}
	}
}

// Describe tells all of the channel's descriptor, once it is known and when there is a newer one.
func (f *Finder) Describe(d channel.Descriptor) {
	f.mu.Lock()
	news := d.ID == f.cfg.Channel && (f.newest.Item == nil || d.Seq > f.newest.Seq)
	if news {
		f.newest = d
	}
	f.mu.Unlock()
	if !news {
		return
	}
	f.announce(d.Item)
	if m := f.ways.opts.Memory; m != nil {
		_ = m.RememberChannel(d.Item)
	}
	// Those that the channel names itself.
	if err := f.ask(Usable(d.Values.Trackers)); err != nil {
		f.log.Warn("the channel's trackers are not asked", "err", err)
	}
	if !f.cfg.Source {
		return
	}
	if t := f.asked(); t != nil {
		t.Publish(d.Item)
	}
	if f.ways.opts.DHT != nil {
		if err := f.ways.opts.DHT.Put(d); err != nil {
			f.log.Warn("the DHT does not take the descriptor", "err", err)
		}
	}
}

// Fed remembers who feeds the node.
func (f *Finder) Fed(peers []netip.AddrPort) {
	if f.ways.opts.Memory == nil || f.cfg.Source {
		return
	}
	all := make([]memory.Peer, 0, len(peers))
	for _, p := range peers {
		all = append(all, memory.Peer{Addr: p, Seen: time.Now(), Fed: true})
	}
	f.ways.opts.Memory.RememberPeers(f.cfg.Channel, all)
}

// Soon has all be asked again now: the node is alone. Call it no more often than every few seconds.
func (f *Finder) Soon() {
	if t := f.asked(); t != nil {
		t.Soon()
	}
	if f.ways.lan != nil {
		f.ways.lan.Query(f.cfg.Channel)
	}
	if m := f.ways.opts.Memory; m != nil {
		f.found(m.Peers(f.cfg.Channel))
	}
	select {
	case f.alone <- struct{}{}:
	default:
	}
}

// Close tells all that the node is gone, and ends.
func (f *Finder) Close() {
	f.ways.mu.Lock()
	f.ways.finder = nil
	f.ways.mu.Unlock()
	f.cancel()
	if t := f.asked(); t != nil {
		_ = t.Close()
	}
	if f.ways.lan != nil {
		_ = f.ways.lan.Update(lan.Announcement{})
	}
	if f.ways.opts.DHT != nil {
		f.ways.opts.DHT.Withdraw(f.cfg.Channel)
	}
	f.work.Wait()
}
