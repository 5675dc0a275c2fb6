package play

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/mesh"
	"github.com/sixcast/sixcast/pkg/node"
)

// State of a Tuner, as statistics show it.
type State string

// The states.
const (
	Connecting State = "connecting"                        // no peer answers yet
	Waiting    State = "waiting"                           // connected, no block came yet
	Seeking    State = "waiting for a random access point" // blocks come, none to begin with
	Playing    State = "playing"
	Stalled    State = "stalled"  // nothing came for stallAfter
	Recorded   State = "recorded" // playing what was made more than 30 s ago (docs/protocol.md section 2.3)
	Ended      State = "ended"    // the run is over; a next one may come
)

const (
	stallAfter = 3 * time.Second
	// A person is told what is waited for after sayAfter, and again every
	// sayAgain while it stays so.
	sayAfter = 2 * time.Second
	sayAgain = 30 * time.Second
)

// TunerConfig sets up a Tuner.
type TunerConfig struct {
	// Node is the peer; its Channel, and Peers or Multicast must be set. OnBlock and OnEvent are the Tuner's own.
	Node node.Config
	// Sequencer puts the blocks in order.
	Sequencer Config
}

// Tuner is a peer that is tuned to a channel: it connects, keeps trying, and
// puts what comes in order for the readers of its Stream.
type Tuner struct {
	*Stream
	node   *node.Node
	log    *slog.Logger
	peers  []netip.AddrPort
	group  string
	events chan node.Event

	mu        sync.Mutex
	began     time.Time
	last      time.Time // a block came
	ended     bool      // the newest run's last block was given out
	connected []netip.AddrPort
	complaint string // what a peer said last
}

// Tune starts a peer. Readers must be added before blocks come: within
// prepare, which is called before the first of them can.
func Tune(c TunerConfig, prepare func(*Stream)) (*Tuner, error) {
	t := &Tuner{log: c.Node.Logger, peers: c.Node.Peers, began: time.Now(), events: make(chan node.Event, 64)}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if m := c.Node.Multicast; m != nil {
		t.group = m.Interface
	}
	t.Stream = NewStream(c.Sequencer, t.given)
	prepare(t.Stream)
	c.Node.OnBlock, c.Node.OnEvent = t.block, t.event
	var err error
	if t.node, err = node.Start(c.Node); err != nil {
		t.Stream.Close()
		return nil, err
	}
	return t, nil
}

// block is called under the node's lock.
func (t *Tuner) block(at time.Time, b *block.Block) {
	if b.Manifest().Kind != block.Media {
		return
	}
	t.mu.Lock()
	t.last = at
	t.mu.Unlock()
	t.Put(at, FromBlock(b))
}

func (t *Tuner) given(u Unit) {
	t.mu.Lock()
	t.ended = u.Block.End
	t.mu.Unlock()
}

// event is called under the node's lock, where nothing must be waited for,
// not even a slow stderr.
func (t *Tuner) event(e node.Event) {
	t.mu.Lock()
	switch e.Kind {
	case mesh.EventConnected:
		if !slices.Contains(t.connected, e.Peer) {
			t.connected = append(t.connected, e.Peer)
		}
	case mesh.EventClosed:
		t.connected = slices.DeleteFunc(t.connected, func(p netip.AddrPort) bool { return p == e.Peer })
	case mesh.EventUnknown:
		t.complaint = fmt.Sprintf("%v does not know the channel (yet): is it on air there?", e.Peer)
	case mesh.EventFull:
		t.complaint = fmt.Sprintf("%v has no room for us: give another --peer, or wait", e.Peer)
	case mesh.EventWaiting:
		t.complaint = e.Text
	case mesh.EventParent:
		t.complaint = ""
	}
	t.mu.Unlock()
	select {
	case t.events <- e:
	default: // only words are lost
	}
}

// Node is the peer, for its statistics.
func (t *Tuner) Node() *node.Node { return t.node }

// Name is the channel's name, empty while it is unknown.
func (t *Tuner) Name() string {
	d, _ := t.node.Descriptor()
	return d.Values.Name
}

// Close leaves the channel; readers get what is held and then io.EOF.
func (t *Tuner) Close() error {
	err := t.node.Close()
	t.Stream.Close()
	return err
}

// State now.
func (t *Tuner) State() State {
	c := t.Counters()
	recorded := t.node.Stats().Recorded
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.last.IsZero() && len(t.connected) == 0:
		return Connecting
	case t.last.IsZero():
		return Waiting
	case t.ended:
		return Ended
	case time.Since(t.last) > stallAfter:
		return Stalled
	case !c.Started && c.Blocks == 0:
		return Seeking
	case recorded:
		return Recorded
	}
	return Playing
}

// Wants tells a person what is waited for; empty while the stream plays.
func (t *Tuner) Wants() string {
	state := t.State()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch state {
	case Connecting:
		s := ""
		if len(t.peers) > 0 {
			var names []string
			for _, p := range t.peers {
				names = append(names, p.String())
			}
			s = fmt.Sprintf("no peer answers (tried %d): %s; is the address right, does a firewall drop UDP?", len(t.peers), strings.Join(names, ", "))
		}
		if t.group != "" {
			if s != "" {
				s += "; and "
			}
			s += "nothing comes from the multicast group on " + t.group
		}
		if s == "" {
			return "nobody who has the channel is known yet: looking on"
		}
		return s
	case Waiting:
		if t.complaint != "" {
			return t.complaint
		}
		return fmt.Sprintf("connected to %v, but no block comes: is the channel on air?", t.connected[0])
	case Seeking:
		return "waiting for a random access point to begin with"
	case Stalled:
		s := fmt.Sprintf("nothing came for %v: ", time.Since(t.last).Round(time.Second))
		switch {
		case t.complaint != "":
			s += t.complaint
		case len(t.connected) == 0 && len(t.peers) > 0:
			s += "no peer answers any more; trying again"
		default:
			s += "the source is silent"
		}
		return s
	case Ended:
		return "the run has ended; waiting for the next one"
	}
	return ""
}

// ErrSilent is wrapped by Supervise when nothing came for its timeout.
var ErrSilent = errors.New("nothing came in time")

// Patience says how Supervise bears silence.
type Patience struct {
	// Start and Later end it when no block came for so long, since Begun (the
	// zero time: since Tune) and after one came; 0 is for ever.
	Start, Later time.Duration
	Begun        time.Time
}

// Supervise logs what the tuner waits for and what happens to it, until ctx
// is done (nil) or nothing came for too long (ErrSilent).
func (t *Tuner) Supervise(ctx context.Context, p Patience) error {
	var company node.Company
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	waiting, since := Connecting, t.began
	var said time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-t.events:
			if !company.Many() || e.Kind != mesh.EventParent || !e.Peer.IsValid() {
				t.say(e)
			}
			continue
		case <-tick.C:
		}
		now := time.Now()
		t.mu.Lock()
		limit, from := p.Start, p.Begun
		if from.IsZero() {
			from = t.began
		}
		if !t.last.IsZero() {
			limit, from = p.Later, t.last
		}
		t.mu.Unlock()
		if limit > 0 && now.Sub(from) > limit {
			text := t.Wants()
			if text == "" {
				text = "no block came"
			}
			return fmt.Errorf("%w (%v): %s", ErrSilent, limit, text)
		}
		state := t.State()
		if state != waiting {
			if said.After(since) && (state == Playing || state == Recorded) {
				t.log.Info("blocks come again")
			}
			waiting, since = state, now
		}
		if text := company.Note(now, t.node.Stats()); text != "" {
			t.log.Info(text)
		}
		if text := t.Wants(); text != "" && now.Sub(since) >= sayAfter && (said.Before(since) || now.Sub(said) >= sayAgain) {
			t.log.Info(text)
			said = now
		}
	}
}

func (t *Tuner) say(e node.Event) {
	switch e.Kind {
	case mesh.EventParent:
		if e.Peer.IsValid() {
			t.log.Info("blocks come from " + e.Peer.String())
		} else {
			t.log.Info("blocks come from the multicast group")
		}
	case mesh.EventNewRun:
		t.log.Debug("a new run of the channel", "run", e.Run)
	case mesh.EventMisbehaved:
		t.log.Warn("dropped a neighbour: it sent "+e.Text, "peer", e.Peer)
	case mesh.EventForked, mesh.EventClock:
		t.log.Warn(e.Text)
	case mesh.EventClosed:
		t.log.Debug("link closed", "peer", e.Peer, "why", e.Text)
	}
}
