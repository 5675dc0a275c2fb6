package tracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/cluster"
	"github.com/sixcast/sixcast/pkg/guide"
)

const (
	// The state is written saveEvery if there is something new in it, and refreshEvery in any case.
	saveEvery    = time.Minute
	refreshEvery = 15 * time.Minute
	expireEvery  = time.Second
	// maxEvents wait for who takes them; then they are lost, and counted.
	maxEvents = 4096
	// tellTime is what they are given at the end.
	tellTime = time.Second
	// forgetBatch is how many channels SetLists looks at at once.
	forgetBatch = 1000
)

// ServiceConfig of a Service.
type ServiceConfig struct {
	// UDP is how peers are served; Known and Publish are the service's.
	UDP Config
	// HTTP is where the list of channels is served, a listener that the service closes; nil: on the TCP port that has the number of the UDP
	// one, or nowhere if NoHTTP is set.
	HTTP   net.Listener
	NoHTTP bool
	// Guide says how; Catalog and Swarm are the service's.
	Guide guide.Config
	// Open serves swarms of channels that nobody has described, too.
	Open bool
	// Lists say which channels are served at all.
	Lists Lists
	// Channels is how many descriptors are kept at most; 0: the catalogue's default.
	Channels int
	// State is a file that the descriptors are kept in; empty: none.
	State string
	// Cluster joins trackers of one operator; nil: this one is alone. Store is the service's.
	Cluster *cluster.Config
	// Pull are trackers of others, base URLs, whose descriptors are taken over, every PullEvery; 0: cluster.DefaultEvery.
	Pull      []string
	PullEvery time.Duration
	// OnEvent gets what happens, one after the other, on a goroutine of the service's; nil: nobody. What the state file brings is no event:
	// it is not new.
	OnEvent func(Event)
	Logger  *slog.Logger
}

// Lists say which channels a tracker serves: of Allow, if it is not nil, and none of Deny.
type Lists struct{ Allow, Deny *List }

func (l *Lists) serves(id channel.ID) bool {
	return (l.Allow == nil || l.Allow.ids[id]) && (l.Deny == nil || !l.Deny.ids[id])
}

// Event is something that happened, for scripts.
type Event struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"` // channel-added, channel-changed, channel-removed, member-joined, member-left
	// Of a channel.
	ID         string   `json:"id,omitempty"`
	Name       string   `json:"name,omitempty"`
	Seq        int64    `json:"seq,omitempty"`
	LookAlikes []string `json:"look_alikes,omitempty"` // other channels with such a name
	// Of a tracker of the cluster.
	Member  string `json:"member,omitempty"`
	Address string `json:"address,omitempty"`
}

// Service is a tracker with all that belongs to it: peers by UDP, the list of channels by HTTP, other trackers.
type Service struct {
	cfg     ServiceConfig
	lists   atomic.Pointer[Lists]
	tracker *Tracker
	catalog *catalog.Catalog
	guide   *guide.Guide
	cluster atomic.Pointer[cluster.Cluster] // nil: alone
	joined  map[string]cluster.Member       // of members alone
	loading bool                            // until the state file is read
	cancel  context.CancelFunc
	work    sync.WaitGroup
	telling sync.WaitGroup
	events  chan Event
	lost    atomic.Uint64

	eventsMu sync.Mutex
	over     bool // events is closed

	mu     sync.RWMutex
	swarms map[announce.SwarmID]bool // of the channels in the catalogue
}

// StartService opens the sockets and begins. Errors are those of Start, guide.New and cluster.Start, and a state file that cannot be read.
func StartService(cfg ServiceConfig) (*Service, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{cfg: cfg, events: make(chan Event, maxEvents), swarms: make(map[announce.SwarmID]bool)}
	s.lists.Store(&cfg.Lists)
	s.catalog = catalog.New(catalog.Config{Max: cfg.Channels, Accept: func(id channel.ID) bool { return s.lists.Load().serves(id) }, OnChange: s.changed})
	s.loading = true
	if err := s.load(); err != nil {
		s.closeSockets()
		return nil, err
	}
	s.loading = false
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	if err := s.open(ctx); err != nil {
		cancel()
		err = errors.Join(err, s.closeAll())
		s.closeSockets()
		return nil, err
	}
	s.work.Go(func() { s.keep(ctx) })
	s.telling.Go(s.tell)
	return s, nil
}

// closeSockets closes those that were given to a service that does not come about.
func (s *Service) closeSockets() {
	if s.cfg.HTTP != nil {
		_ = s.cfg.HTTP.Close() // perhaps a second time
	}
	if s.tracker == nil {
		for _, c := range s.cfg.UDP.Bound {
			_ = c.Close()
		}
	}
}

// open begins with the sockets.
func (s *Service) open(ctx context.Context) (err error) {
	gc := s.cfg.Guide
	gc.Catalog, gc.Swarm, gc.Logger = s.catalog, s.counts, s.cfg.Logger
	if s.guide, err = guide.New(gc); err != nil {
		return err
	}
	uc := s.cfg.UDP
	uc.Known, uc.Publish, uc.Logger = s.known, s.publish, s.cfg.Logger
	if s.tracker, err = Start(uc); err != nil {
		return err
	}
	if s.cfg.Cluster != nil {
		cc := *s.cfg.Cluster
		cc.Store, cc.OnMembers, cc.Logger = gossip{s.catalog}, s.members, s.cfg.Logger
		c, err := cluster.Start(cc)
		if err != nil {
			return err
		}
		s.cluster.Store(c)
	}
	if s.cfg.HTTP != nil && s.cfg.NoHTTP {
		_ = s.cfg.HTTP.Close()
		s.cfg.HTTP = nil
	}
	if s.cfg.HTTP == nil && !s.cfg.NoHTTP {
		if s.cfg.HTTP, err = net.Listen("tcp6", s.tracker.Addr().String()); err != nil {
			return fmt.Errorf("the list of channels: %w", err)
		}
	}
	if s.cfg.HTTP != nil {
		s.work.Go(func() {
			if err := s.guide.Serve(ctx, s.cfg.HTTP); err != nil {
				s.cfg.Logger.Error("the list of channels is served no more", "err", err)
			}
		})
	}
	if len(s.cfg.Pull) > 0 {
		p, err := cluster.NewPuller(cluster.PullConfig{Sources: s.cfg.Pull, Fetch: fetch, Store: gossip{s.catalog}, Every: s.cfg.PullEvery, Logger: s.cfg.Logger})
		if err != nil {
			return err
		}
		s.work.Go(func() { p.Run(ctx) })
	}
	return nil
}

// gossip is the catalogue as other trackers fill it: what they know is not published by that.
type gossip struct{ *catalog.Catalog }

// Put takes what another tracker knows.
func (g gossip) Put(item []byte) (fresh bool, err error) { return g.Merge(item) }

// fetch asks a tracker of others for what has changed.
func fetch(ctx context.Context, base string, since uint64, instance string) (items [][]byte, next uint64, instance2 string, err error) {
	c := guide.Client{Base: base}
	defer c.Close()
	ch, err := c.Changes(ctx, since, instance)
	if err != nil {
		return nil, 0, "", err
	}
	// What did not verify is left out there; the puller wants to know, so as to leave a source alone that sends nothing else.
	return append(ch.Items, make([][]byte, ch.Refused)...), ch.Next, ch.Instance, nil
}

// known reports whether a swarm is served. It is called for every announce.
func (s *Service) known(id *announce.SwarmID) bool {
	l := s.lists.Load()
	switch {
	case l.Deny != nil && l.Deny.swarms[*id]:
		return false
	case l.Allow != nil:
		return l.Allow.swarms[*id]
	case s.cfg.Open:
		return true
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.swarms[*id]
}

// publish takes a descriptor that came by UDP.
func (s *Service) publish(from netip.Addr, item []byte) error {
	err := s.guide.Publish(from, item)
	if errors.Is(err, channel.ErrSignature) {
		return channel.ErrSignature // an answer has no room for whose
	}
	return err
}

func (s *Service) counts(id channel.ID) (seeders, leechers int) {
	return s.tracker.Counts(id.SwarmID())
}

// changed follows the catalogue.
func (s *Service) changed(c catalog.Change) {
	d := c.Entry.Descriptor
	s.mu.Lock()
	if c.Kind == catalog.Removed {
		delete(s.swarms, d.ID.SwarmID())
	} else {
		s.swarms[d.ID.SwarmID()] = true
	}
	s.mu.Unlock()
	if s.loading {
		return
	}
	if cl := s.cluster.Load(); cl != nil && c.Kind != catalog.Removed {
		cl.Publish(d.Item)
	}
	e := Event{Event: "channel-" + c.Kind.String(), ID: d.ID.String(), Name: catalog.Plain(d.Values.Name), Seq: d.Seq}
	for _, id := range c.Entry.LookAlikes {
		e.LookAlikes = append(e.LookAlikes, id.String())
	}
	s.happened(e)
}

// members follows the cluster.
func (s *Service) members(now []cluster.Member) {
	before := s.joined
	s.joined = make(map[string]cluster.Member)
	for _, m := range now {
		if m.Self {
			continue
		}
		s.joined[m.Name] = m
		if _, known := before[m.Name]; !known {
			s.happened(Event{Event: "member-joined", Member: m.Name, Address: m.Addr.String()})
		}
		delete(before, m.Name)
	}
	for _, m := range before {
		s.happened(Event{Event: "member-left", Member: m.Name, Address: m.Addr.String()})
	}
}

// happened queues an event.
func (s *Service) happened(e Event) {
	if s.cfg.OnEvent == nil {
		return
	}
	e.Time = time.Now().Truncate(time.Millisecond)
	s.eventsMu.Lock()
	defer s.eventsMu.Unlock()
	if s.over {
		return
	}
	select {
	case s.events <- e:
	default:
		s.lost.Add(1)
	}
}

// tell hands events on until there are no more.
func (s *Service) tell() {
	for e := range s.events {
		s.cfg.OnEvent(e)
	}
}

// load reads the state file, if there is one.
func (s *Service) load() error {
	if s.cfg.State == "" {
		return nil
	}
	n, err := s.catalog.LoadFile(s.cfg.State)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil && n == 0:
		return err
	case err != nil:
		s.cfg.Logger.Warn("a part of the state file is lost", "err", err)
	}
	return nil
}

// save writes it.
func (s *Service) save() {
	if s.cfg.State == "" {
		return
	}
	if err := s.catalog.SaveFile(s.cfg.State); err != nil {
		s.cfg.Logger.Warn("the state file is not written; what it held before is still there", "err", err)
	}
}

// keep saves and expires, until ctx is done.
func (s *Service) keep(ctx context.Context) {
	saved, expire := time.NewTicker(saveEvery), time.NewTicker(expireEvery)
	version, written := s.catalog.Version(), time.Now()
	defer saved.Stop()
	defer expire.Stop()
	for {
		select {
		case <-ctx.Done():
			s.save()
			return
		case now := <-saved.C:
			// When a channel was last published is a smaller thing than a new one.
			if v := s.catalog.Version(); v != version || now.Sub(written) > refreshEvery {
				version, written = v, now
				s.save()
			}
		case now := <-expire.C:
			s.catalog.Expire(now)
		}
	}
}

// SetLists has other channels served from now on. Those that are no longer are forgotten.
func (s *Service) SetLists(l Lists) {
	s.lists.Store(&l)
	items, next := s.catalog.Since(0, forgetBatch)
	for len(items) > 0 {
		for _, item := range items {
			// It was verified when it came.
			if id, _, ok := channel.PeekItem(item); ok && !l.serves(id) {
				s.catalog.Remove(id)
			}
		}
		items, next = s.catalog.Since(next, forgetBatch)
	}
}

// ServiceStats is a reading of a service's counters.
type ServiceStats struct {
	Stats
	Channels   int    `json:"channels"`     // descriptors that are known
	Members    int    `json:"members"`      // trackers of the cluster, this one included
	Lists      uint64 `json:"lists"`        // requests by HTTP that were answered
	Puts       uint64 `json:"puts"`         // descriptors by HTTP, taken or not
	PutsBad    uint64 `json:"puts_refused"` // of these, not taken
	Limited    uint64 `json:"limited"`      // requests of those who asked too often
	Busy       uint64 `json:"busy"`         // requests for which there was no time
	Crowded    uint64 `json:"refused_http"` // connections beyond what one network may have
	EventsLost uint64 `json:"events_lost"`  // since whoever takes them is too slow
}

// Stats takes a reading.
func (s *Service) Stats() ServiceStats {
	g := &s.guide.Stats
	st := ServiceStats{
		Stats: s.tracker.Stats(), Channels: s.catalog.Len(), Lists: g.Lists.Load() + g.Pages.Load() + g.Playlists.Load() + g.Changes.Load(),
		Puts: g.Puts.Load(), PutsBad: g.Refused.Load(), Limited: g.Limited.Load(), Busy: g.Busy.Load(), Crowded: g.Connections.Load(), EventsLost: s.lost.Load(),
	}
	if c := s.cluster.Load(); c != nil {
		st.Members = len(c.Members())
	}
	return st
}

// Addr is where peers are served.
func (s *Service) Addr() netip.AddrPort { return s.tracker.Addr() }

// Close says goodbye, saves, and ends.
func (s *Service) Close() error {
	s.cancel()
	return s.closeAll()
}

func (s *Service) closeAll() (err error) {
	if c := s.cluster.Load(); c != nil {
		err = errors.Join(err, c.Close())
	}
	if s.tracker != nil {
		err = errors.Join(err, s.tracker.Close())
	}
	s.work.Wait()
	s.eventsMu.Lock()
	s.over = true
	close(s.events)
	s.eventsMu.Unlock()
	told := make(chan struct{})
	go func() {
		s.telling.Wait()
		close(told)
	}()
	select {
	case <-told:
	case <-time.After(tellTime): // whoever takes the events has stopped taking them
	}
	return err
}
