package pace

import (
	"math"
	"time"
)

const (
	// lossRise above what was usual, after the rate has risen by rateRise, is
	// blamed on the rate until shown otherwise.
	lossRise = 0.03
	rateRise = 1.05
	// lossSigmas deviations of what a usual loss (lossLeast, if it is less) does
	// by chance are none, where losses come lossTogether at a time or so.
	lossSigmas   = 3
	lossTogether = 10
	lossLeast    = 0.02
	// lossMemory bounds how many datagrams are looked at together.
	lossMemory = 4000
	// lossDatagrams, or lossWait, decide that a higher rate lost no more.
	lossDatagrams = 400
	lossWait      = 3 * time.Second
	// lossMuch above what was usual is blamed on the rate in any case.
	lossMuch = 0.12
	// lossFirst is the most that is taken for usual unseen.
	lossFirst = 0.15
	// lossGone is how much of it may be left for the rate to be blamed.
	lossGone = 0.7
	// trialTime is how long the lower rate is tried; what is counted in the
	// first trialBlind of it was sent before.
	trialTime  = 3 * time.Second
	trialBlind = time.Second
	// lossClear is how long after a queue loss is read again: a queue that
	// overflows loses too, and has said so already.
	lossClear = 2500 * time.Millisecond
	// lossHold is how long the rate does not grow after a trial that blamed it.
	lossHold = 5 * time.Second
	// lossShare of the paths, those that lose least, are looked at: one child's
	// downlink, or word, is not ours.
	lossShare = 3.0 / 4
)

// lossGuard finds loss that comes with the rate: a bottleneck with next to no
// buffer, or a policer, shows no delay.
type lossGuard struct {
	now     float64 // what is lost beyond usual in the last reports
	usual   float64
	at      Rate // the rate at which that was
	looked  Time
	level   Rate // the rate of what is counted below
	since   Time
	sent    float64
	lost    float64
	waiting bool // not decided whether this rate loses more
	doubt   Time // too much was lost, and is looked for once more since then; 0 no
	trial   Time // began; 0 none
	excess  float64
	before  Rate // the rate before the trial
	heldFor time.Duration
	until   Time
}

// held reports whether the rate must not grow.
func (g *lossGuard) held(now Time) bool { return g.trial != 0 || g.waiting || now < g.until }

// begin counts anew, at a rate.
func (g *lossGuard) begin(now Time, r Rate) {
	g.level, g.since, g.sent, g.lost = r, now, 0, 0
}

// count adds what the paths counted in the last second or so; false if
// nothing did.
func (g *lossGuard) count(u *Uplink, now Time) bool {
	if _, ok := u.among(now, stale, 0, (*Path).knownLoss); !ok {
		return false
	}
	most := u.scratch[int(math.Ceil(lossShare*float64(len(u.scratch))))-1]
	for _, p := range u.paths {
		if p.lossKnown && p.lossFrom >= g.since && now-p.measured < stale {
			if p.loss <= most {
				g.sent += float64(p.lossOf)
				g.lost += float64(p.lossOf) * p.loss
			}
			p.lossOf = 0
		}
	}
	return g.sent > 0
}

// judge looks at the paths' losses once in lossTime.
func (g *lossGuard) judge(u *Uplink, now Time) {
	if now-g.looked < lossTime {
		return
	}
	if g.level == 0 || u.use > g.level*rateRise || u.use < g.level/rateRise {
		g.begin(now, u.use)
	}
	if now-g.doubt > lossWait {
		g.doubt = 0
	}
	g.waiting = g.doubt != 0
	if !g.count(u, now) {
		return
	}
	g.looked = now
	loss := g.lost / g.sent
	if g.at == 0 {
		if g.waiting = loss > lossRise/3 && g.sent < lossDatagrams && now-g.since < lossWait; g.waiting {
			return
		}
		g.at = u.use
		if loss < lossFirst {
			g.usual = loss
		}
	}
	rise := loss - g.usual
	p := min(max(g.usual, lossLeast), 0.5)
	chance := lossSigmas * math.Sqrt(p*(1-p)*lossTogether/g.sent)
	if g.sent > lossMemory {
		g.sent, g.lost = g.sent/2, g.lost/2
	}
	switch higher := u.use > g.at*rateRise; {
	case g.trial != 0:
		if now-g.trial < trialBlind {
			g.begin(now, u.use)
		}
		if now-g.trial < trialTime {
			break
		}
		if rise < g.excess*lossGone {
			// It was the rate.
			g.heldFor = min(max(2*g.heldFor, lossHold), holdMost)
			g.until = now + g.heldFor
			u.met, u.knee, u.metAt = u.rate, u.rate, now
			u.promise = min(u.promise, u.rate)
			g.usual = min(g.usual, loss)
		} else {
			u.rate = max(u.rate, g.before)
			g.usual, g.at = loss, u.use
		}
		g.trial, g.excess = 0, 0
	case rise > max(lossMuch, chance), higher && rise > max(lossRise, chance):
		if g.doubt == 0 && g.sent < lossDatagrams {
			// One burst alone is an accident, and what is gone later no proof.
			g.doubt, g.waiting = now, true
			g.begin(now, u.use)
			return
		}
		g.doubt = 0
		rise = max(rise, g.now)
		g.trial, g.excess, g.before = now, rise, u.rate
		u.starting = false
		to := u.use * Rate(1-rise) * backOff
		if rise <= lossMuch {
			to = max(to, g.at)
		}
		u.rate = max(min(u.rate, to), u.floor())
		g.begin(now, u.rate)
	case higher && rise > lossRise/3 && g.sent < lossDatagrams && now-g.since < lossWait:
		g.waiting = true
	case higher:
		g.usual += (loss - g.usual) * 0.5
		g.at = u.use
	default:
		g.usual += (loss - g.usual) * 0.3
		g.at += (u.use - g.at) * 0.3
	}
}
