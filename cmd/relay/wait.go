package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// sayAfter is how long nothing comes until a person is told what is waited for, and sayAgain how long until again.
	sayAfter = 3 * time.Second
	sayAgain = time.Minute
)

// waiting is what is known of the peers while no block comes, guarded by relay.mu.
type waiting struct {
	peers     []netip.AddrPort // that were asked for
	connected []netip.AddrPort
	complaint string // of the peer that answered last
	ended     bool   // the newest block was the run's last
}

func (w *waiting) connect(p netip.AddrPort) {
	if !slices.Contains(w.connected, p) {
		w.connected = append(w.connected, p)
	}
}

func (w *waiting) disconnect(p netip.AddrPort) {
	w.connected = slices.DeleteFunc(w.connected, func(x netip.AddrPort) bool { return x == p })
}

// text tells a person what is waited for. source is where a source reads, empty for one that joins.
func (w *waiting) text(source string) string {
	switch {
	case source != "":
		return "waiting for a block stream on " + source
	case w.ended:
		return "the run has ended; waiting for the next one"
	case w.complaint != "":
		return w.complaint
	case len(w.connected) > 0:
		return fmt.Sprintf("connected to %v, but no block comes: is the channel on air?", w.connected[0])
	case len(w.peers) > 0:
		var names []string
		for _, p := range w.peers {
			names = append(names, p.String())
		}
		return fmt.Sprintf("no peer answers (tried %d): %s; is the address right, does a firewall drop UDP?", len(names), strings.Join(names, ", "))
	}
	return "nobody who has the channel is known yet: looking on"
}

// tell says now and then what is waited for, until ctx ends.
func (r *relay) tell(ctx context.Context, source string) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var said time.Time
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return
		case now = <-tick.C:
		}
		stats := r.node.Stats() // takes the lock that block and event are called under
		r.mu.Lock()
		company := r.company.Note(now, stats)
		silent := now.Sub(r.lastBlock)
		text := r.waits.text(source)
		stalled := r.blocks > 0 && !r.waits.ended
		if silent < sayAfter {
			said = time.Time{}
		}
		r.mu.Unlock()
		if company != "" {
			r.app.Log.Info(company)
		}
		if silent < sayAfter || now.Sub(said) < sayAgain {
			continue
		}
		said = now
		if stalled {
			text = fmt.Sprintf("nothing came for %v: %s", silent.Round(time.Second), text)
		}
		r.app.Log.Info(text)
	}
}
