package pace

import (
	"math"
	"slices"
	"time"
)

const (
	// capDepth is how much of the hard cap may leave in one go, paceDepth of
	// the learnt rate: it is a queue in the uplink for so long.
	capDepth  = 20 * time.Millisecond
	paceDepth = 10 * time.Millisecond

	// target is the standing queue that we suffer in our uplink. LEDBAT has
	// 100 ms at most (RFC 6817 section 2.2); a household notices 50.
	target = 20 * time.Millisecond
	// calm is a queue that lets the rate grow.
	calm = target / 2
	// uneasyMost is how long a queue between the two may stand: it should go
	// while less is sent than passes, unless another keeps it.
	uneasyMost = 3 * time.Second
	// drainTime is the time in which a queue above calm is to be gone: what
	// is sent is less than the rate by its share of that.
	drainTime  = 300 * time.Millisecond
	drainLeast = 0.65
	// backOff is what is left of what was delivered when a queue stood.
	backOff = 0.9

	// startRate is believed of an uplink that nothing is known of: 4 Mbit/s.
	startRate Rate = 500_000
	// startTimes what has passed is tried next until the first queue is met.
	startTimes = 1.35
	// measuredTimes is the same where a train has shown what passes: to try much
	// more fills the queue.
	measuredTimes = 1.15
	// beyondShown is how far the rate may stand above what has been shown to pass.
	beyondShown = 1.4
	// beyondPassed is the same for what others may build on: what is taken
	// back from them hurts.
	beyondPassed = 1.2
	// used is the share of the rate that must be used for it to grow.
	used = 0.75
	// usedBeyond is the same beyond beyondKnee: there the pace must have been
	// needed, since a train of datagrams that leaves faster than the uplink
	// takes it is a queue of our own.
	usedBeyond = 0.9
	// usualStep is what may be left of it at least: room for one child more,
	// unless Step says what that takes.
	usualStep Rate = 125_000
	// Growth a second: around the rate at which the last queue was met, below
	// it, and the most beyond it.
	growNear, growBelow, growMost = 0.04, 0.3, 0.3
	// growAgain is how fast the promise comes back to what has passed before.
	growAgain = 0.2
	// beyondKnee of what the last queue was met at, the promise grows faster.
	beyondKnee       = 1.15
	nearFrom, nearTo = 0.92, 1.05

	// floorShare of what has been seen to pass is kept whatever stands in the
	// queue: somebody else fills it, and shares with us.
	floorShare      = 1.0 / 3
	floorLeast Rate = 8_000
	// ownQueue is how long a queue of our own making stands at most once we
	// retreat; believeMet is how far one such corrects what was thought to pass.
	ownQueue = 2500 * time.Millisecond
	calmTime = 500 * time.Millisecond
	// floorPasses of what is sent arrives in time where somebody else fills
	// the queue; less for shortTime, and it is the uplink that is less.
	floorPasses = 0.8
	shortTime   = 3 * time.Second
	// At the floor we give way a little more now and then, by giveWay, and see
	// whose queue it is: ours goes, at least at giveFall s a second, and what
	// was thought to pass was too much; another's stays. First at once, then
	// after giveFirst, doubled up to giveMost.
	giveWay             = 0.5
	giveFall            = 0.1
	giveLook            = 1200 * time.Millisecond
	giveFirst, giveMost = 10 * time.Second, 60 * time.Second
	believeMet          = 0.4

	// holdFirst and holdMost: how long after a queue the promise is not
	// raised beyond the rate at which it was met; doubled each time.
	holdFirst, holdMost = 5 * time.Second, 20 * time.Second

	// deafShare of the rate is what goes out while nobody answers.
	deafShare = 0.25

	// capShare and learntShare are what of the cap and of the learnt capacity
	// is promised: the rest is for control, repairs and those who join.
	capShare, learntShare = 0.95, 0.9

	// Somebody is beside us when the least delay on the paths has risen by
	// half a packet's time, and busyRise, for busyTime, while we use no more
	// than busyUse of what passes, or may use no more than busyRate of it: then
	// there should be gaps. We come
	// down to busyShare, by busyBack a second, as long as it stays so but no
	// longer than busyMost: clocks drift, and ways become longer.
	busyRise          = 800 * time.Microsecond
	busyPacket        = 0.5 * 1514
	busyTime          = time.Second
	busyUse, busyRate = 0.8, 0.93
	busyShare         = 0.35
	busyBack          = 0.4
	busyMost          = time.Minute

	// few paths are believed that a queue stands in our uplink only after
	// doubtTime.
	few       = 3
	doubtTime = 600 * time.Millisecond

	judgeEvery = 40 * time.Millisecond
	steadyTime = 200 * time.Millisecond
	useTime    = 600 * time.Millisecond
	shownTime  = 15 * time.Second
)

// Uplink is what a node may send in all.
type Uplink struct {
	limit bucket // the hard cap
	pacer bucket // what has been learnt
	paths []*Path

	sent     float64 // bytes so far, without groups
	rate     Rate    // learnt
	promise  Rate    // what others may build on
	starting bool    // no queue met yet
	measured bool    // by a Train
	queue    time.Duration

	judged   Time
	sentThen float64
	use      Rate // what is sent, smoothed
	heard    Time
	unheard  Time
	rested   Time

	service   Rate // as measured a moment ago
	serviceAt Time

	shown     [2]Rate // the most delivered, in this window and the one before
	shownAt   Time
	best      Rate // the most that was ever delivered and has not been disproved
	met       Rate // what is known to pass since a queue last stood; 0: none ever did
	knee      Rate // what was delivered then
	metAt     Time
	hold      time.Duration
	calmFor   time.Duration
	standsFor time.Duration // how long a queue above target has stood
	fullFor   time.Duration // how long a queue has stood
	shortFor  time.Duration // how long not even the floor has passed
	giving    Time          // giving way since; 0 not
	giveFrom  time.Duration // the queue then
	giveAt    Time          // the next time
	giveGap   time.Duration
	uneasyFor time.Duration // how long the queue has not been calm
	restless  bool          // the queue has not been empty for a second or two
	busyFor   time.Duration // how long the uplink has never been free
	busyFrom  Time          // since when we give way to that; 0 not

	step Rate // what one child more takes
	loss lossGuard

	scratch []float64
}

// Init sets the hard cap: NoCap is none, 0 allows nothing but control.
func (u *Uplink) Init(cap Rate) {
	if cap < 0 {
		cap = NoCap
	}
	*u = Uplink{starting: true, hold: holdFirst, step: usualStep, paths: u.paths[:0]}
	u.limit = bucket{rate: cap, depth: capDepth, least: 4 * datagram}
	u.rate = startRate
	u.bound()
	u.promise = u.rate
	u.pacer = bucket{rate: u.rate, depth: paceDepth, least: 2 * datagram}
}

// Step says what one child more takes: so much room beyond what has been shown
// to pass there always is, to find out.
func (u *Uplink) Step(r Rate) { u.step = r }

// Start replaces the rate that is believed before anything is known.
func (u *Uplink) Start(r Rate) {
	u.rate, u.promise = r, r
	u.bound()
	u.pace()
}

// Expect raises what is believed before anything is known to what is about to
// be asked of it.
func (u *Uplink) Expect(r Rate) {
	if u.starting && u.met == 0 && !u.measured && r > u.rate {
		u.rate, u.promise = r, max(u.promise, r)
		u.bound()
		u.pace()
	}
}

// Measured says what a Train has shown. Until a queue is met the rate grows
// from there as from any other belief.
func (u *Uplink) Measured(r Rate) {
	if !u.starting || u.met != 0 {
		return
	}
	u.measured = true
	u.rate = max(r, u.most())
	u.promise = u.rate
	u.bound()
	u.pace()
}

func (u *Uplink) bound() {
	if u.limit.rate >= 0 {
		most := u.limit.rate * (capShare / learntShare)
		u.rate = min(u.rate, most)
		u.promise = min(u.promise, most)
	}
}

// Refill is called before a round of sending.
func (u *Uplink) Refill(now Time) {
	u.limit.refill(now)
	u.pacer.refill(now)
	if now-u.heard > stale {
		u.rest(now)
	}
	if u.unheard != 0 && now-u.unheard > deaf && len(u.paths) > 0 {
		// Nobody answers: the way out may be choked (RFC 8085 section 3.1.1),
		// or the only child has gone.
		u.pacer.rate = max(u.rate*deafShare, floorLeast)
	}
}

// rest is while nobody tells anything: no queue is known, and what has passed
// before is believed again. Else who could promise nothing would learn nothing.
func (u *Uplink) rest(now Time) {
	s := (now - u.rested).Seconds()
	if s < 0.1 {
		return
	}
	u.rested, u.queue, u.use = now, 0, 0
	if u.met != 0 && u.met < u.best && now-u.metAt > u.hold && s < 1 {
		u.met = min(u.best, u.met*Rate(1+growAgain*s))
		u.promise = max(u.promise, u.met)
		u.rate = max(u.rate, u.promise)
		u.bound()
	}
	u.pace()
}

// Spend counts a datagram that was sent to one host, whatever it was, at the
// IP layer. What goes on a Path is counted there.
func (u *Uplink) Spend(now Time, bytes int) {
	u.sent += float64(bytes)
	if u.unheard == 0 {
		u.unheard = now
	}
	u.limit.spend(now, float64(bytes))
	u.pacer.spend(now, float64(bytes))
}

// SpendGroup counts a datagram that was sent to a multicast group: the cap
// covers it, but nothing is learnt of it.
func (u *Uplink) SpendGroup(now Time, bytes int) { u.limit.spend(now, float64(bytes)) }

// Open reports whether something may be sent to one host now.
func (u *Uplink) Open() bool { return u.limit.open() && u.pacer.open() }

// OpenGroup reports whether something may be sent to a group now.
func (u *Uplink) OpenGroup() bool { return u.limit.open() }

// Wait is how long to wait until it is worth while to send again; 0 if Open.
func (u *Uplink) Wait() time.Duration { return max(u.limit.wait(), u.pacer.wait()) }

// WaitGroup is the same for a group.
func (u *Uplink) WaitGroup() time.Duration { return u.limit.wait() }

// Cap is the hard cap, NoCap if there is none.
func (u *Uplink) Cap() Rate { return u.limit.rate }

// Capacity is what the uplink is believed to take, within the cap. It changes
// calmly: it does not follow each probe for more, nor each retreat from it.
func (u *Uplink) Capacity() Rate {
	if u.limit.rate >= 0 {
		return min(u.promise, u.limit.rate)
	}
	return u.promise
}

// Promisable is how much of the capacity may be promised to children in all.
func (u *Uplink) Promisable() Rate {
	r := u.promise * learntShare
	if u.limit.rate >= 0 {
		r = min(r, u.limit.rate*capShare)
	}
	return r
}

// Pace is the rate at which datagrams leave now.
func (u *Uplink) Pace() Rate { return u.pacer.rate }

// Queue is what stands in our uplink.
func (u *Uplink) Queue() time.Duration { return u.queue }

// Loss is the share that is usually lost on the ways to the children, of
// those of them that lose least.
func (u *Uplink) Loss() float64 { return u.loss.usual }

// Used is what is sent, smoothed over half a second or so.
func (u *Uplink) Used() Rate { return u.use }

// Learnt reports whether the capacity has been met: before, it is a guess
// that has been shown to pass, or to which nothing has come yet.
func (u *Uplink) Learnt() bool { return u.met != 0 }

func (u *Uplink) add(p *Path) {
	p.listed = true
	u.unheard = 0
	u.paths = append(u.paths, p)
}

func (u *Uplink) remove(p *Path) {
	p.listed = false
	if i := slices.Index(u.paths, p); i >= 0 {
		u.paths = slices.Delete(u.paths, i, i+1)
	}
}

func (u *Uplink) floor() Rate { return max(floorLeast, u.best*floorShare) }

// most is the most that was delivered of late.
func (u *Uplink) most() Rate { return max(u.shown[0], u.shown[1]) }

// What nearly all paths have is the uplink's, and no one child's word is
// enough: of what they say, sorted, that at one of these shares counts.
const (
	third = 1.0 / 3
	half  = 1.0 / 2
)

// among is the value at a share of what paths measured less than age ago, less
// than 0 left out; false if none did.
func (u *Uplink) among(now Time, age time.Duration, share float64, of func(p *Path) float64) (float64, bool) {
	v := u.scratch[:0]
	for _, p := range u.paths {
		if p.measured != 0 && now-p.measured < age {
			if x := of(p); x >= 0 {
				v = append(v, x)
			}
		}
	}
	u.scratch = v
	if len(v) == 0 {
		return 0, false
	}
	slices.Sort(v)
	return v[int(share*float64(len(v)))], true
}

// judge looks at all paths together.
func (u *Uplink) judge(now Time) {
	u.heard, u.unheard = now, 0
	dt := now - u.judged
	if dt < judgeEvery {
		return
	}
	fresh := dt < 2*time.Second
	u.judged = now
	share := 1 - math.Exp(-dt.Seconds()/useTime.Seconds())
	u.use += (Rate((u.sent-u.sentThen)/dt.Seconds()) - u.use) * Rate(share)
	u.sentThen = u.sent
	if !fresh {
		dt = judgeEvery
	}

	queue, ok := u.among(now, stale, third, (*Path).standing)
	if !ok {
		queue, ok = u.among(now, stale, third, func(p *Path) float64 { return p.queue.Seconds() })
	} else if queue < calm.Seconds() {
		// Nothing is in the delays of those any more who began in a queue.
		for _, p := range u.paths {
			if p.guessed && now-p.measured < stale && p.measured != 0 {
				p.guessed, p.queue = false, 0
			}
		}
	}
	if !ok {
		u.queue = 0
		u.pace()
		return
	}
	u.queue = time.Duration(queue * float64(time.Second))
	service, through := u.use, 1.0
	u.loss.now = 0
	if v, ok := u.among(now, stale/2, half, func(p *Path) float64 { return float64(p.service) }); ok {
		u.loss.now, _ = u.among(now, stale/2, half, func(p *Path) float64 { return max(0, 1-p.passed/(1-u.loss.usual)) })
		through, _ = u.among(now, stale/2, half, func(p *Path) float64 { return p.through })
		service = Rate(v * (1 - u.loss.now))
		through *= 1 - u.loss.now
	}
	if now-u.metAt > lossClear || u.met == 0 {
		u.loss.judge(u, now)
	} else {
		u.loss.waiting = false
	}
	for now-u.shownAt > shownTime {
		u.shown[1], u.shown[0] = u.shown[0], 0
		u.shownAt = max(u.shownAt+shownTime, now-2*shownTime)
	}
	// Only what was measured twice is taken for more than was known.
	steady := min(service, u.service)
	if now-u.serviceAt > steadyTime {
		u.service, u.serviceAt = service, now
	}
	u.shown[0] = max(u.shown[0], steady)
	u.best = max(u.best, steady)

	u.giveWay(now)
	u.beside(now, dt)
	if u.queue > calm {
		u.uneasyFor += dt
	} else {
		u.uneasyFor = 0
	}
	if u.queue <= target {
		u.standsFor = 0
	} else {
		u.standsFor += dt
	}
	switch {
	case u.queue > target && len(u.paths) < few && u.standsFor < doubtTime:
		// One child that stood still for a moment looks the same.
	case u.queue > target || u.uneasyFor > uneasyMost:
		u.back(now, dt, service, through)
		u.uneasyFor = 0
	case u.busy():
	case u.queue < calm:
		u.grow(now, dt, steady)
	}
	u.bound()
	u.pace()
}

// back comes down to what is delivered.
func (u *Uplink) back(now Time, dt time.Duration, service Rate, through float64) {
	if now-u.metAt > 2*time.Second && u.met != 0 && service < u.met*1.2 {
		u.hold = min(2*u.hold, holdMost)
	}
	u.starting = false
	u.calmFor = 0
	u.fullFor += dt
	u.metAt = now
	if u.met == 0 || service < u.met {
		u.met = service
	} else {
		u.met += (service - u.met) / 4
	}
	u.knee = u.met
	if u.rate > u.floor()*1.05 || through >= floorPasses {
		u.shortFor = 0
	} else if u.shortFor += dt; u.shortFor > shortTime || u.shortFor > shortTime/3 && through < floorPasses/2 {
		// Not even the floor passes: the uplink is not what it was.
		if most := service / 0.6; u.best > most {
			u.best += (most - u.best) * Rate(min(1, dt.Seconds()))
		}
	}
	u.rate = max(min(u.rate, service*backOff), u.floor())
	u.promise = max(min(u.promise, service), u.floor())
}

// uses reports whether so much of r is used that more may be wanted.
func (u *Uplink) uses(r Rate) bool { return u.use >= min(r*used, r*learntShare-u.step) }

// busy reports whether we give way to somebody who leaves the uplink no rest.
func (u *Uplink) busy() bool { return u.busyFrom != 0 }

// proven is what passes for certain.
func (u *Uplink) proven() Rate {
	if u.met != 0 {
		return max(1, min(u.met, u.best))
	}
	return max(1, u.best)
}

// passes is what is thought to pass: what did when a queue stood, or else as
// much as we might send.
func (u *Uplink) passes() Rate {
	if u.met != 0 {
		return u.met
	}
	return u.pacer.rate
}

// packet is by how many seconds somebody's packets raise the least delay.
func (u *Uplink) packet() float64 {
	return max(busyRise.Seconds(), busyPacket/float64(u.proven()))
}

// beside notices who fills the uplink next to us without a queue to speak of,
// as a TCP of this very host does, whose stack keeps two packets in the queue
// and no more: the least delay rises by a packet's time on all paths and stays,
// though what we send should leave gaps. On all paths: those that come last in
// a train of our own datagrams see the others' queue. It is over when half of
// them do not see it any more.
func (u *Uplink) beside(now Time, dt time.Duration) {
	share := 0.0
	if u.busy() {
		share = half
	}
	rise, _ := u.among(now, stale, share, (*Path).risen)
	if known := len(u.scratch); !u.busy() {
		if u.among(now, stale, 0, func(*Path) float64 { return 0 }); known < (len(u.scratch)+1)/2 {
			rise = 0 // most cannot tell
		}
	}
	lately, _ := u.among(now, stale, 0, (*Path).risenLately)
	packet := u.packet()
	u.restless = lately >= packet
	switch {
	case u.busy():
		if rise > packet/2 {
			u.busyFor = 0
		} else {
			u.busyFor += dt
		}
		if u.busyFor > busyTime/2 || now-u.busyFrom > busyMost {
			u.busyFrom, u.busyFor = 0, 0
			return
		}
		u.rate = max(min(u.rate, max(u.rate*Rate(1-busyBack*dt.Seconds()), u.best*busyShare)), u.floor())
		u.promise = min(u.promise, u.rate)
		u.calmFor = 0
	case rise >= packet && u.use > u.best*busyShare:
		if passes := u.passes(); u.use > passes*busyUse && u.pacer.rate > passes*busyRate {
			u.busyFor = 0 // what is only ours fills it too
			break
		}
		if u.busyFor += dt; u.busyFor > busyTime {
			u.busyFrom, u.busyFor = now, 0
			u.starting = false
			for _, p := range u.paths {
				p.frozen = p.usually()
			}
		}
	default:
		u.busyFor = 0
	}
}

// giveWay finds out whose queue keeps us at the floor.
func (u *Uplink) giveWay(now Time) {
	pressed := u.queue > target && u.rate <= u.floor()*1.05
	switch took := now - u.giving; {
	case u.giving == 0:
		if pressed && now >= u.giveAt {
			u.giving, u.giveFrom = now, u.queue
		}
	case u.queue < calm:
		u.best = min(u.best, u.met*1.05)
		u.giving, u.giveGap, u.giveAt = 0, 0, now+giveFirst/2
	case took > giveLook && (u.giveFrom-u.queue).Seconds() < giveFall*took.Seconds():
		u.giveGap = min(max(2*u.giveGap, giveFirst), giveMost)
		u.giving, u.giveAt = 0, now+u.giveGap
	}
}

// grow goes up while all is calm.
func (u *Uplink) grow(now Time, dt time.Duration, service Rate) {
	s := dt.Seconds()
	if u.fullFor != 0 && now-u.metAt > calmTime {
		if u.fullFor < ownQueue {
			// It went as we did: that was all that passes.
			u.best += (u.met - u.best) * believeMet
		}
		u.fullFor = 0
	}
	if u.loss.held(now) {
		u.calmFor = 0
		return
	}
	if u.restless && u.rate < u.knee {
		return // it has not been empty since we came down
	}
	most := u.most()
	if u.starting {
		if u.loss.now < lossRise*2 && !u.loss.waiting {
			more := max(most*startTimes, (most+u.step)/learntShare)
			if u.measured {
				more = most * measuredTimes
			}
			u.rate = max(u.rate, more)
		}
		u.promise = max(u.promise, u.rate)
		return
	}
	promised := max(most*beyondPassed, (most+u.step)/learntShare)
	most = max(most*beyondShown, (most+u.step)/learntShare)
	again := u.met < u.best*nearFrom // more has passed before: somebody else was here
	if u.uses(u.pacer.rate) && (u.rate < u.knee*beyondKnee || u.use > u.rate*usedBeyond) {
		u.calmFor += dt
		g := growBelow
		switch at := float64(u.rate / u.knee); {
		case again && u.rate < u.best*nearFrom:
			g /= 2
		case at >= nearTo:
			g = min(growMost, growNear*math.Exp2(u.calmFor.Seconds()/2))
		case at >= nearFrom:
			g = growNear
		}
		u.rate = max(u.rate, min(most, u.rate*Rate(1+g*s)))
	}
	if service > u.met {
		u.met = service // more than that passes
		u.hold = holdFirst
	}
	if now-u.metAt > u.hold {
		switch {
		case again:
			u.met *= Rate(1 + growAgain*s)
		case u.uses(u.promise):
			g := growNear
			if u.met > u.knee*beyondKnee {
				g = growAgain / 2 // there is more than there was
			}
			u.met = max(u.met, min(promised, u.met*Rate(1+g*s)))
			u.rate = max(u.rate, u.met)
		}
	}
	if to := min(u.rate, u.met); again || u.promise < to {
		u.promise = max(u.promise, min(u.met, u.promise*Rate(1+growBelow*s)))
		u.rate = max(u.rate, u.promise)
	}
}

// pace sets the rate at which datagrams leave.
func (u *Uplink) pace() {
	r := u.rate
	if u.queue > calm {
		r *= Rate(max(drainLeast, 1-float64(u.queue-calm)/float64(drainTime)))
	}
	least := min(u.floor(), u.rate)
	if u.giving != 0 {
		least *= giveWay
		r = least
	}
	u.pacer.rate = max(r, least)
}

// Stats is what is known of an uplink, rates in bit/s at the IP layer.
type Stats struct {
	Cap      int64   `json:"cap_bps"`      // -1: none
	Capacity int64   `json:"capacity_bps"` // what it is believed to take
	Measured bool    `json:"measured"`     // which a train has shown
	Learnt   bool    `json:"learnt"`       // or has been met
	Used     int64   `json:"used_bps"`
	Queue    float64 `json:"queue_ms"` // that stands in it
}

// Stats takes a reading.
func (u *Uplink) Stats() Stats {
	bits := func(r Rate) int64 {
		if r < 0 {
			return -1
		}
		return int64(r * 8)
	}
	return Stats{
		Cap: bits(u.limit.rate), Capacity: bits(u.Capacity()), Measured: u.measured, Learnt: u.Learnt(), Used: bits(u.use),
		Queue: math.Round(u.queue.Seconds()*1e4) / 10,
	}
}
