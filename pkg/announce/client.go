package announce

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"time"
)

const (
	// A request that is not answered is sent again after firstWait, each time twice as late, up to mostWait. BEP 15 begins with
	// 15 s, which is for who has all day.
	firstWait = 300 * time.Millisecond
	mostWait  = time.Minute
	// An error is no reason to come again soon: firstWait at first, doubling up to mostRefused.
	mostRefused = 10 * time.Minute
	// A connection id is used for so long (BEP 15), and taken by trackers for twice as long, of which a goodbye makes use.
	connectionLife = time.Minute
	// Between two announces lie so much at least and at most, whatever the tracker wants.
	leastInterval = 20 * time.Second
	mostInterval  = time.Hour
	// hungryWait is the first wait of who needs others and was named nobody; it doubles up to leastInterval.
	hungryWait = 2 * time.Second
	// What is published is published again after leastRefresh to mostRefresh, as the tracker wants, and after refusedRefresh where
	// it was not taken; publishTries without an answer, and it waits as long.
	leastRefresh   = time.Minute
	mostRefresh    = 24 * time.Hour
	refusedRefresh = time.Minute
	publishTries   = 4
)

// ClientConfig is what a Client tells its tracker.
type ClientConfig struct {
	Swarm SwarmID
	Peer  [20]byte // the same for all trackers
	Key   uint32
	Port  uint16 // where the node listens
	Want  int32
	// Seeder says that the node feeds the channel.
	Seeder bool
}

// Client announces a node to one tracker, over and over. It is sans-I/O and not safe for concurrent use.
//
// Call Poll at Deadline or later, and send what it returns; give what comes from the tracker to Receive. An answer that belongs to
// no open request changes nothing.
type Client struct {
	cfg         ClientConfig
	random      *rand.Rand
	event       Event
	connection  uint64
	connected   time.Duration // when; 0 not
	transaction uint32
	asked       uint32 // what the open request was
	open        bool
	tries       int
	hungry      int           // answers in a row that named nobody
	failures    int           // errors in a row
	at          time.Duration // when to announce next, or again
	done        bool

	item       []byte        // to be published
	publishAt  time.Duration // when
	publishing bool          // the open request is that
	announceAt time.Duration // then: when to announce

	// Answered is when the tracker last answered an announce, 0 never. Interval is what it asked for.
	Answered, Interval time.Duration
	Counts             Counts
	Failure            string // what it said last, if that was an error
	Published          bool   // the item is listed
	Refusal            string // what it said of the item, if that was an error
}

// Never is the Deadline of a client that has nothing to do any more.
const Never time.Duration = math.MaxInt64

// NewClient makes a client that begins at once.
func NewClient(cfg ClientConfig, random *rand.Rand) *Client {
	return &Client{cfg: cfg, random: random, event: EventStarted}
}

// Soon has the client announce itself now: the node is alone, or its address has changed.
func (c *Client) Soon(now time.Duration) {
	if !c.open {
		c.at = min(c.at, now)
	}
}

// Publish has the tracker list a signed item of at most MaxItem bytes, again when it wants so, and a newer one when it is given.
// It comes before the announce, since there are trackers that know no other channels. It keeps item.
func (c *Client) Publish(now time.Duration, item []byte) {
	c.item, c.publishAt, c.Published, c.Refusal = item, now, false, ""
}

// Stop makes the next Poll say goodbye; after that nothing is due any more.
func (c *Client) Stop(now time.Duration) {
	c.event, c.at, c.open, c.tries = EventStopped, now, false, 0
	c.item, c.publishing = nil, false
	if c.connected == 0 || c.Answered == 0 || now-c.connected > 2*connectionLife {
		c.done = true // it does not know us, or no longer takes our id: it forgets by itself
	}
}

// Deadline is when Poll wants to be called next.
func (c *Client) Deadline() time.Duration {
	if c.done {
		return Never
	}
	if c.mayPublish() {
		return min(c.at, c.publishAt)
	}
	return c.at
}

// mayPublish reports whether the next thing to do may be that.
func (c *Client) mayPublish() bool {
	return !c.open && c.item != nil && c.connected != 0
}

// Unanswered is how many requests in a row have had no answer so far.
func (c *Client) Unanswered() int {
	if !c.open {
		return 0
	}
	return c.tries
}

// retryAfter is how long a request is waited for that so many others went before in vain.
func retryAfter(tries int) time.Duration { return min(firstWait<<min(tries, 16), mostWait) }

// Poll appends the datagram that is due, if one is.
func (c *Client) Poll(now time.Duration, dst []byte) []byte {
	if c.done {
		return dst
	}
	publish := c.mayPublish() && now >= c.publishAt
	if publish && now-c.connected > connectionLife {
		publish, c.at = false, now // an announce brings a new id
	}
	if c.publishing && now >= c.at {
		if publish = c.tries < publishTries; !publish {
			c.published(now + refusedRefresh)
		}
	}
	if !publish && now < c.at {
		return dst
	}
	if publish && !c.publishing {
		c.publishing, c.announceAt, c.tries = true, c.at, 0
	}
	c.transaction, c.open = c.random.Uint32(), true
	c.at = now + retryAfter(c.tries)
	c.at += time.Duration(c.random.Int64N(int64(c.at-now)/4 + 1))
	if c.tries++; publish {
		c.asked = ActionPublish
		return AppendPublish(dst, c.connection, c.transaction, c.item)
	}
	if c.tries%4 == 0 {
		c.connected = 0 // perhaps it was started again, with another key
	}
	if c.connected == 0 || now-c.connected > connectionLife && c.event != EventStopped {
		c.connected, c.asked = 0, ActionConnect
		return AppendConnect(dst, c.transaction)
	}
	c.asked = ActionAnnounce
	a := Announce{
		Connection: c.connection, Transaction: c.transaction, Swarm: c.cfg.Swarm, Peer: c.cfg.Peer, Left: 1,
		Event: c.event, Key: c.cfg.Key, Want: c.cfg.Want, Port: c.cfg.Port,
	}
	if c.cfg.Seeder {
		a.Left = 0
	}
	if c.event == EventStopped {
		a.Want, c.done = 0, true
	}
	return a.Append(dst)
}

// published ends a publish; the next one is due at a time.
func (c *Client) published(next time.Duration) {
	c.publishing, c.open, c.tries = false, false, 0
	c.publishAt, c.at = next, c.announceAt
}

// Receive takes a datagram from the tracker, and returns the peers that it names; they are good until the next call.
func (c *Client) Receive(now time.Duration, r *Reply) []netip.AddrPort {
	if !c.open || r.Transaction != c.transaction || r.Action != c.asked && r.Action != ActionError {
		return nil
	}
	c.open = false
	if c.publishing {
		if c.Published = r.Action == ActionPublish; c.Published {
			c.Refusal = ""
			c.published(now + min(max(time.Duration(r.Interval)*time.Second, leastRefresh), mostRefresh))
		} else {
			c.Refusal = r.Reason
			c.published(now + refusedRefresh)
		}
		return nil
	}
	switch r.Action {
	case ActionConnect:
		c.connection, c.connected = r.Connection, max(now, 1)
		c.at, c.tries = now, 0
		return nil
	case ActionError:
		c.Failure, c.connected = r.Reason, 0
		if c.Published {
			c.publishAt = now // it has forgotten the channel
		}
		// The first may be of a tracker that was started again; who is refused comes ever more seldom.
		c.at = now + min(firstWait<<min(c.failures, 16), mostRefused)
		c.failures++
		return nil
	}
	c.tries, c.failures, c.Failure = 0, 0, ""
	c.Answered, c.Counts = max(now, 1), r.Counts
	if c.event == EventStarted {
		c.event = EventNone
	}
	c.Interval = min(max(time.Duration(r.Interval)*time.Second, leastInterval), mostInterval)
	wait := c.Interval
	if len(r.Peers) == 0 && !c.cfg.Seeder {
		wait = min(c.Interval, leastInterval, hungryWait<<min(c.hungry, 8))
		c.hungry++
	} else {
		c.hungry = 0
	}
	c.at = now + wait - time.Duration(c.random.Int64N(int64(wait)/10+1))
	return r.Peers
}
