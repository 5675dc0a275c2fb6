package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	// DefaultEvery is how often a source is asked.
	DefaultEvery = time.Minute
	// MaxSources is how many a Puller takes.
	MaxSources = 64
	// maxPull is how many items of one source are looked at every time; the rest waits for the next. An answer is cut there too.
	maxPull = 10_000
	// pullsASecond are verified a second, of each source.
	pullsASecond = 2000
	pullStep     = 64
	fetchTime    = time.Minute
	// After an error the next try comes after Every, doubling to pullMost.
	pullMost = 15 * time.Minute
	// A source of whose items more than half are forged, and more than fewForged, is left alone for leaveAlone.
	fewForged  = 3
	leaveAlone = time.Hour
	// A source is read from the beginning every fromStart: what was refused the last time may be welcome now.
	fromStart = 24 * time.Hour
)

// ErrSources is about the sources of a Puller.
var ErrSources = fmt.Errorf("pull from 1 to %d sources, each once", MaxSources)

// PullConfig of a Puller.
type PullConfig struct {
	// Sources are the base URLs of other operators' program lists.
	Sources []string
	// Fetch gets what changed at a source after version since of an instance, which is empty the first time: items, the oldest first, the version
	// to go on from, and the source's instance now. Another instance counts its versions anew, and answers from its beginning. Fetch bounds what
	// it reads, and ends with ctx.
	Fetch func(ctx context.Context, base string, since uint64, instance string) (items [][]byte, next uint64, instance2 string, err error)
	Store Store
	Every time.Duration // DefaultEvery if 0
	// Logger, Now and After may be nil.
	Logger *slog.Logger
	Now    func() time.Time
	After  func(time.Duration) <-chan time.Time
}

// SourceStats counts what a source sent since the start.
type SourceStats struct {
	Source   string
	Pulls    uint64
	Failures uint64
	Fresh    uint64
	Stale    uint64 // known already or not wanted
	Forged   uint64 // malformed or with a wrong signature
	Excess   uint64 // beyond what is taken of one answer
	Since    uint64 // the version to go on from
	Next     time.Time
	LastErr  string // of the last pull; empty if it went well
}

// Puller asks sources again and again for what is news. What it puts into the store is in the store's Since, so that who pulls from here gets it too;
// an item that comes round in a circle is not news, and goes no further.
type Puller struct {
	cfg PullConfig

	mu    sync.Mutex
	stats []SourceStats
}

// source is where a Puller is with one of them.
type source struct {
	base     string
	stats    *SourceStats // under the Puller's lock
	since    uint64
	instance string
	begun    time.Time // at 0
	failed   int       // times in a row
	pace     allowance
}

var errForged = errors.New("most of what it sends is forged")

// NewPuller checks the configuration. Errors are ErrSources.
func NewPuller(cfg PullConfig) (*Puller, error) {
	sorted := slices.Sorted(slices.Values(cfg.Sources))
	if n := len(sorted); n == 0 || n > MaxSources || len(slices.Compact(sorted)) != n {
		return nil, ErrSources
	}
	if cfg.Every <= 0 {
		cfg.Every = DefaultEvery
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.After == nil {
		cfg.After = time.After
	}
	p := &Puller{cfg: cfg, stats: make([]SourceStats, len(cfg.Sources))}
	for i, base := range cfg.Sources {
		p.stats[i].Source = base
	}
	return p, nil
}

// Run pulls until ctx ends, and waits for what has begun.
func (p *Puller) Run(ctx context.Context) {
	var work sync.WaitGroup
	for i := range p.stats {
		s := &source{base: p.cfg.Sources[i], stats: &p.stats[i], pace: allowance{rate: pullsASecond, burst: pullsASecond}}
		work.Go(func() { p.follow(ctx, s) })
	}
	work.Wait()
}

// Stats of all sources, in the order of the configuration.
func (p *Puller) Stats() []SourceStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.stats)
}

// follow pulls from one source.
func (p *Puller) follow(ctx context.Context, s *source) {
	wait := rand.N(min(p.cfg.Every, 5*time.Second)) // not all at once
	for {
		p.count(s, func(st *SourceStats) { st.Next, st.Since = p.cfg.Now().Add(wait), s.since })
		select {
		case <-ctx.Done():
			return
		case <-p.cfg.After(wait):
		}
		err := p.pull(ctx, s)
		if ctx.Err() != nil {
			return
		}
		wait = p.rest(s, err)
	}
}

func (p *Puller) count(s *source, f func(*SourceStats)) {
	p.mu.Lock()
	f(s.stats)
	p.mu.Unlock()
}

// rest is how long to wait after a pull that ended with err; what changed for a source is logged.
func (p *Puller) rest(s *source, err error) time.Duration {
	wait := p.cfg.Every
	p.count(s, func(st *SourceStats) {
		st.Pulls++
		st.LastErr = ""
		if err != nil {
			st.Failures++
			st.LastErr = err.Error()
		}
	})
	switch {
	case errors.Is(err, errForged):
		p.cfg.Logger.Warn(fmt.Sprintf("pull: %s: %v: left alone for %v", s.base, err, leaveAlone))
		s.failed = 0
		wait = leaveAlone
	case err != nil:
		if s.failed == 0 {
			p.cfg.Logger.Warn(fmt.Sprintf("pull: %s: %v", s.base, err))
		}
		wait = min(wait<<min(s.failed, 10), max(pullMost, p.cfg.Every))
		s.failed++
	default:
		if s.failed > 0 {
			p.cfg.Logger.Info("pull: " + s.base + " answers again")
		}
		s.failed = 0
	}
	return wait*9/10 + rand.N(wait/5+1)
}

// pull takes what is new at a source, page by page.
func (p *Puller) pull(ctx context.Context, s *source) error {
	if now := p.cfg.Now(); s.since == 0 || now.Sub(s.begun) >= fromStart {
		s.since, s.begun = 0, now
	}
	var all, bad int
	for all < maxPull {
		items, next, instance, err := p.fetch(ctx, s)
		if err != nil {
			return err
		}
		if instance != s.instance { // then this is from its beginning
			s.instance, s.since, s.begun = instance, 0, p.cfg.Now()
		}
		if room := maxPull - all; len(items) > room {
			p.count(s, func(st *SourceStats) { st.Excess += uint64(len(items) - room) })
			items = items[:room]
		}
		for i, item := range items {
			if i%pullStep == 0 {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-p.cfg.After(s.pace.owe(p.cfg.Now(), float64(min(pullStep, len(items)-i)))):
				}
			}
			all++
			if !p.put(s, item) {
				bad++
			}
			if bad > pullStep && 2*bad > all { // no need to see the rest
				return errForged
			}
		}
		if bad > fewForged && 2*bad > all {
			return errForged
		}
		if more := next > s.since && len(items) > 0; !more {
			s.since = max(s.since, next)
			return nil
		}
		s.since = next
	}
	return nil
}

func (p *Puller) fetch(ctx context.Context, s *source) ([][]byte, uint64, string, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	return p.cfg.Fetch(ctx, s.base, s.since, s.instance)
}

// put gives an item to the store, and tells whether it was a descriptor.
func (p *Puller) put(s *source, item []byte) (ok bool) {
	if len(item) > channel.MaxItem {
		p.count(s, func(st *SourceStats) { st.Forged++ })
		return false
	}
	fresh, err := p.cfg.Store.Put(item)
	p.count(s, func(st *SourceStats) {
		switch {
		case forged(err):
			st.Forged++
		case err == nil && fresh:
			st.Fresh++
		default:
			st.Stale++
		}
	})
	return !forged(err)
}
