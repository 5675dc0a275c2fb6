package guide

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Rate is a token bucket: PerSecond in the long run, Burst at once.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) or(other Rate) Rate {
	if r.PerSecond <= 0 || r.Burst <= 0 {
		return other
	}
	return r
}

// A limiter has a bucket for each network that has taken something of late, at most max of them. A bucket is the time at which it will be
// full again: one that is full is as good as none, and is forgotten.
type limiter struct {
	every, slack time.Duration // a token; all but one of the burst
	max          int

	mu    sync.Mutex
	full  map[netip.Addr]time.Time
	swept time.Time
}

func newLimiter(r Rate, buckets int) *limiter {
	every := max(time.Duration(float64(time.Second)/r.PerSecond), 1)
	return &limiter{every: every, slack: time.Duration(r.Burst-1) * every, max: buckets, full: map[netip.Addr]time.Time{}}
}

// take takes a token, or says how long it will be until there is one.
func (l *limiter) take(key netip.Addr, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	full, known := l.full[key]
	if full.Before(now) {
		full = now
	}
	if wait = full.Sub(now) - l.slack; wait > 0 {
		return wait
	}
	if !known && len(l.full) >= l.max {
		// Somebody is forgotten, whoever it be: to refuse newcomers would let one who has many networks shut all others out.
		for other := range l.full {
			delete(l.full, other)
			break
		}
	}
	l.full[key] = full.Add(l.every)
	return 0
}

// charge takes n tokens more for what has been done already; the next take waits for them.
func (l *limiter) charge(key netip.Addr, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if full, known := l.full[key]; known {
		l.full[key] = full.Add(time.Duration(n) * l.every)
	}
}

// sweep forgets full buckets now and then. Called with the lock held.
func (l *limiter) sweep(now time.Time) {
	again := time.Minute
	if len(l.full) >= l.max {
		again = time.Second
	}
	if since := now.Sub(l.swept); since >= 0 && since < again {
		return
	}
	l.swept = now
	for key, full := range l.full {
		if !full.After(now) {
			delete(l.full, key)
		}
	}
}

func retryAfter(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
}
