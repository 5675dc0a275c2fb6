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
	// lossSigmas deviations of what a usual loss does by chance are none.
	lossSigmas = 4
	// lossMuch above what was usual is blamed on the rate in any case.
	lossMuch = 0.12
	// lossFirst is the most that is taken for usual unseen.
	lossFirst = 0.12
	// lossGone is how much of it may be left for the rate to be blamed.
	lossGone = 0.7
	// trialTime is how long the lower rate is tried.
	trialTime = 2500 * time.Millisecond
	// lossClear is how long after a queue loss is read again: a queue that
	// overflows loses too, and has said so already.
	lossClear = 2500 * time.Millisecond
	// lossHold is how long the rate does not grow after a trial that blamed it.
	lossHold = 5 * time.Second
)

// lossGuard finds loss that comes with the rate: a bottleneck with next to no
// buffer, or a policer, shows no delay.
type lossGuard struct {
	now     float64 // what is lost beyond usual in the last reports
	usual   float64
	at      Rate // the rate at which that was
	looked  Time
	trial   Time // began; 0 none
	excess  float64
	before  Rate // the rate before the trial
	heldFor time.Duration
	until   Time
}

func (g *lossGuard) held(now Time) bool { return g.trial != 0 || now < g.until }

// judge looks at the paths' losses once in lossTime.
func (g *lossGuard) judge(u *Uplink, now Time) {
	if now-g.looked < lossTime {
		return
	}
	loss, ok := u.among(now, stale, third, (*Path).knownLoss)
	if !ok {
		return
	}
	g.looked = now
	if g.at == 0 {
		g.at = u.use
		if loss < lossFirst {
			g.usual = loss
		}
	}
	rise := loss - g.usual
	// What chance does to so few datagrams is no rise.
	usual := min(max(g.usual, 0.01), 0.5)
	chance := lossSigmas * math.Sqrt(usual*(1-usual)/lossCount)
	switch {
	case g.trial != 0:
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
	case rise > max(lossMuch, chance), rise > max(lossRise, chance) && u.use > g.at*rateRise:
		rise = max(rise, g.now)
		g.trial, g.excess, g.before = now, rise, u.rate
		u.starting = false
		to := u.use * Rate(1-rise) * backOff
		if rise <= lossMuch {
			to = max(to, g.at)
		}
		u.rate = max(min(u.rate, to), u.floor())
	default:
		g.usual += (loss - g.usual) * 0.3
		g.at += (u.use - g.at) * 0.3
	}
}
