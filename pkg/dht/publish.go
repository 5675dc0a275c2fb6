package dht

import (
	"context"
	"errors"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/anacrolix/dht/v2"
	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"

	"github.com/sixcast/sixcast/pkg/channel"
)

// jobKey is a channel's announcement, or its descriptor.
type jobKey struct {
	id       channel.ID
	announce bool
}

// job is one that is kept up.
type job struct {
	cancel  context.CancelFunc
	again   chan struct{} // do it now
	port    uint16
	item    channel.Descriptor
	holders int // nodes that took it the last time
}

// Announce says that this host is a peer of a channel, at a port of its own, and says so again until Withdraw or Close. The address is
// that which the nodes see. A second call changes the port.
func (n *Node) Announce(id channel.ID, port uint16) error {
	if port == 0 {
		return errors.New("dht: no port to announce")
	}
	return n.publish(jobKey{id, true}, func(j *job) (bool, error) {
		changed := j.port != port
		j.port = port
		return changed, nil
	})
}

// Put publishes a channel's descriptor, and does so again until Withdraw or Close. A newer one takes the place of the last; errors wrap
// ErrStale, ErrFull, ErrClosed, and those of channel.ParseDescriptor.
func (n *Node) Put(d channel.Descriptor) error {
	d, err := channel.ParseDescriptor(slices.Clone(d.Item))
	if err != nil {
		return err
	}
	return n.publish(jobKey{d.ID, false}, func(j *job) (bool, error) {
		if j.item.Item != nil && d.Seq < j.item.Seq {
			return false, ErrStale
		}
		changed := string(d.Item) != string(j.item.Item)
		j.item = d
		return changed, nil
	})
}

// publish starts a job or changes it.
func (n *Node) publish(key jobKey, change func(*job) (bool, error)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrClosed
	}
	j := n.jobs[key]
	if j == nil {
		if len(n.jobs) >= MaxPublished {
			return ErrFull
		}
		ctx, cancel := context.WithCancel(n.ctx)
		j = &job{cancel: cancel, again: make(chan struct{}, 1)}
		_, _ = change(j)
		n.jobs[key] = j
		n.work.Go(func() { n.keep(ctx, key, j) })
		return nil
	}
	changed, err := change(j)
	if changed {
		select {
		case j.again <- struct{}{}:
		default:
		}
	}
	return err
}

// Withdraw ends what Announce and Put began for a channel. The DHT forgets in half an hour and in two hours: it cannot be told to.
func (n *Node) Withdraw(id channel.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, key := range []jobKey{{id, true}, {id, false}} {
		if j := n.jobs[key]; j != nil {
			j.cancel()
			delete(n.jobs, key)
		}
	}
}

// Holders tells how many nodes took a channel's announcement and its descriptor when they were last given; 8 is what is sought.
func (n *Node) Holders(id channel.ID) (announcement, descriptor int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if j := n.jobs[jobKey{id, true}]; j != nil {
		announcement = j.holders
	}
	if j := n.jobs[jobKey{id, false}]; j != nil {
		descriptor = j.holders
	}
	return announcement, descriptor
}

// keep does a job again and again.
func (n *Node) keep(ctx context.Context, key jobKey, j *job) {
	if n.ready(ctx) != nil {
		return
	}
	every, what := putEvery, "descriptor"
	if key.announce {
		every, what = announceEvery, "announcement"
	}
	retry := retryAfter
	for {
		holders, err := n.give(ctx, key, j)
		if ctx.Err() != nil {
			return
		}
		n.mu.Lock()
		j.holders = holders
		n.mu.Unlock()
		wait := every - mrand.N(every/5)
		if holders > 0 {
			retry = retryAfter
		} else {
			wait = retry + mrand.N(retry/5)
			retry = min(2*retry, mostRetry)
		}
		n.cfg.Logger.Debug("DHT: "+what+" given", "channel", key.id, "nodes", holders, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-j.again:
		case <-time.After(wait):
		}
	}
}

// give hands an announcement or a descriptor to the nodes nearest to its channel, and returns how many took it.
func (n *Node) give(ctx context.Context, key jobKey, j *job) (holders int, err error) {
	select {
	case n.giving <- struct{}{}:
		defer func() { <-n.giving }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	target, warned := key.id.SwarmID(), false
	n.mu.Lock()
	port, d := int(j.port), j.item
	n.mu.Unlock()
	ask, tell := methodGetPeers, methodAnnounce
	question, args := krpc.MsgArgs{InfoHash: target}, krpc.MsgArgs{InfoHash: target, Port: &port}
	if !key.announce {
		ask, tell = methodGet, methodPut
		question, args = krpc.MsgArgs{Target: target, Seq: &d.Seq}, putArgs(d)
	}
	l, err := n.run(ctx, target, ask, question, func(_ *contact, r *krpc.Return) {
		if newer, ok := descriptor(key.id, r); ok && newer.Seq > d.Seq && !key.announce && !warned {
			warned = true
			n.cfg.Logger.Warn("DHT: others have a newer descriptor of this channel: is it published elsewhere, or was this clock set back?", "channel", key.id,
				"theirs", newer.Seq, "ours", d.Seq)
		}
	})
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex
	var work sync.WaitGroup
	for _, c := range l.nearest() {
		if c.token == "" {
			continue
		}
		args := args
		args.Token = c.token
		work.Go(func() {
			res := n.server.Query(ctx, libraryAddr(c.addr), tell, dht.QueryInput{MsgArgs: args, NumTries: tries, RateLimiting: dht.QueryRateLimiting{WaitOnRetries: true}})
			mu.Lock()
			defer mu.Unlock()
			switch refused := res.ToError(); {
			case refused != nil:
				err = refused
			default:
				holders++
			}
		})
	}
	work.Wait()
	return holders, err
}

// putArgs are the arguments of put for a descriptor that ParseDescriptor has passed.
func putArgs(d channel.Descriptor) krpc.MsgArgs {
	args := krpc.MsgArgs{K: d.ID, Seq: &d.Seq}
	dict(d.Item, func(key, value []byte) {
		switch string(key) {
		case "sig":
			copy(args.Sig[:], str(value))
		case "v":
			args.V = bencode.Bytes(value)
		}
	})
	return args
}
