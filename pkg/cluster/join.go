package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// An address of Join, or of a member that was lost, that is not a member's is tried after joinWait, doubling to joinMost.
	joinWait = time.Second
	joinMost = 10 * time.Second
	// A lost member's is tried for lostTime, and maxLost of them; an address of a name for namedTime after it was looked up.
	lostTime   = 24 * time.Hour
	maxLost    = 64
	namedTime  = time.Minute
	lookUpTime = 5 * time.Second
	// maxTries go on at once, half of them at most to lost members. A name stands for maxAddrs addresses at most.
	maxTries = 16
	maxAddrs = 8
)

// target is an address that should be a member's.
type target struct {
	named bool // by Join
	until time.Time
	wait  time.Duration
	at    time.Time // of the next try
	busy  bool
}

type joiner struct {
	mu      sync.Mutex
	targets map[netip.AddrPort]*target
	lost    int // targets that are not named
	tries   int // that go on
}

// remember has an address tried: one that Join names, or that of a member that is gone. A partition parts members that know of each other only from
// others, too.
func (j *joiner) remember(a netip.AddrPort, named bool, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	t := j.targets[a]
	if t == nil {
		if !named && j.lost == maxLost {
			return
		}
		t = &target{at: now, named: named}
		j.targets[a] = t
		if !named {
			j.lost++
		}
	}
	if named {
		t.until = now.Add(namedTime)
	} else if !t.named {
		t.until = now.Add(lostTime)
	}
}

// drop forgets a target. Called with the lock held.
func (j *joiner) drop(a netip.AddrPort, t *target) {
	delete(j.targets, a)
	if !t.named {
		j.lost--
	}
}

// lookUp looks a name of Join up, again and again while one of its addresses is not a member's.
func (c *Cluster) lookUp(name string) {
	var addrs []netip.AddrPort
	wait, said := c.tune.joinWait, false
	for {
		missing := len(addrs) == 0
		for _, a := range addrs {
			missing = missing || !c.isThere(a)
		}
		if missing {
			found, err := resolve(c.ctx, name)
			if len(found) > 0 {
				addrs, said = found, false
			} else if !said && c.ctx.Err() == nil {
				said = true
				c.cfg.Logger.Warn(fmt.Sprintf("cluster: looking for %s: %v", name, err))
			}
			for _, a := range addrs {
				c.join.remember(a, true, c.cfg.Now())
			}
			wait = min(2*wait, c.tune.joinMost)
		} else {
			wait = c.tune.joinWait
		}
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// resolve is the IPv6 addresses of host:port.
func resolve(ctx context.Context, name string) (all []netip.AddrPort, err error) {
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpTime)
	defer cancel()
	p, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip6", host)
	if err != nil {
		return nil, err
	}
	for _, ip := range ips {
		if ip.Is6() && !ip.Is4In6() && len(all) < maxAddrs {
			all = append(all, netip.AddrPortFrom(ip, uint16(p)))
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no IPv6 address", host)
	}
	return all, nil
}

// isThere tells whether an address is a member's or our own.
func (c *Cluster) isThere(a netip.AddrPort) bool {
	if a == c.transport.advertise || a == c.transport.bound {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.Addr == a {
			return true
		}
	}
	return false
}

// keepJoined tries what is due.
func (c *Cluster) keepJoined() {
	j := &c.join
	for {
		now := c.cfg.Now()
		j.mu.Lock()
		for a, t := range j.targets {
			switch {
			case t.busy:
			case c.isThere(a) || now.After(t.until):
				j.drop(a, t)
			case !now.Before(t.at) && (j.tries < maxTries/2 || t.named && j.tries < maxTries):
				t.busy = true
				t.wait = min(max(2*t.wait, c.tune.joinWait), c.tune.joinMost)
				j.tries++
				c.work.Go(func() { c.try(a, t) })
			}
		}
		j.mu.Unlock()
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(c.tune.joinWait / 4):
		}
	}
}

// try joins by an address.
func (c *Cluster) try(a netip.AddrPort, t *target) {
	_, err := c.list.Join([]string{a.String()})
	if err != nil && c.ctx.Err() == nil {
		c.cfg.Logger.Debug("cluster: joining failed", "addr", a, "err", err)
	}
	c.join.mu.Lock()
	defer c.join.mu.Unlock()
	c.join.tries--
	t.busy, t.at = false, c.cfg.Now().Add(t.wait)
}
