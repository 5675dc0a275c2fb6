package pace

import (
	"time"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/wire"
)

const (
	// reportEvery is how often a child reports while all is well; a sender
	// sees a change of its uplink after this and a round trip.
	reportEvery = 400 * time.Millisecond
	// reportFirst is how often it does so at first, for a sender that has
	// everything to learn, and for how long.
	reportFirst = 100 * time.Millisecond
	firstTime   = 3 * time.Second
	// sampleEvery is the least time between two arrivals in a report: what
	// came together says the same.
	sampleEvery = 40 * time.Millisecond
	// pause ends a flow: what comes after it is a beginning again.
	pause = 5 * time.Second
)

// Arrivals is the receiver's side of one path: it notes what a parent sends
// behind a channel tag and reports it.
type Arrivals struct {
	datagrams uint32
	bytes     uint64
	samples   [wire.MaxEarlier + 1]arrival // a ring
	n         int                          // samples ever taken
	began     Time
	reported  Time
	fresh     bool // a shard came since the last report

	// As of the latest shard.
	shard     arrival
	counted   uint32
	kilobytes uint32
}

type arrival struct {
	block block.Number
	index uint8
	at    Time
}

// Datagram counts one datagram that came behind the channel tag; bytes is its
// UDP payload. It comes before Shard for a datagram that is one.
func (a *Arrivals) Datagram(bytes int) {
	a.datagrams++
	a.bytes += uint64(bytes)
}

// Shard notes the arrival of a shard.
func (a *Arrivals) Shard(now Time, number block.Number, index uint8) {
	if a.counted == 0 || now-a.shard.at > pause {
		a.began = now
	}
	a.shard = arrival{number, index, now}
	a.counted, a.kilobytes = a.datagrams, uint32(a.bytes/1000)
	a.fresh = true
	if a.n == 0 || now-a.samples[(a.n-1)%len(a.samples)].at >= sampleEvery {
		a.samples[a.n%len(a.samples)] = a.shard
		a.n++
	}
}

// Due reports whether a REPORT should go now. One that goes earlier, with
// another message, does no harm.
func (a *Arrivals) Due(now Time) bool {
	if !a.fresh {
		return false
	}
	every := reportEvery
	if now-a.began < firstTime {
		every = reportFirst
	}
	return now-a.reported >= every
}

// Reported is when a REPORT was last filled.
func (a *Arrivals) Reported() Time { return a.reported }

// Fresh reports whether there is anything to report.
func (a *Arrivals) Fresh() bool { return a.fresh }

// Report fills all of m but Channel and Loss, and begins a new interval.
func (a *Arrivals) Report(now Time, m *wire.Report) {
	m.Datagrams, m.Kilobytes = a.counted, a.kilobytes
	m.Number, m.Index = a.shard.block, a.shard.index
	m.Arrival = uint32(a.shard.at / time.Microsecond)
	m.Earliers = 0
	for i := a.n - 1; i >= max(0, a.n-len(a.samples)); i-- {
		s := &a.samples[i%len(a.samples)]
		before := (a.shard.at - s.at) / wire.EarlierUnit
		if s.at <= a.reported && a.reported != 0 || before > 0xffff || int(m.Earliers) == len(m.Earlier) {
			break
		}
		if *s == a.shard || a.shard.block-s.block > 255 {
			continue // that one itself; a repair of long ago, or out of order
		}
		m.Earlier[m.Earliers] = wire.Earlier{Back: uint8(a.shard.block - s.block), Index: s.index, Before: uint16(before)}
		m.Earliers++
	}
	a.reported, a.fresh = now, false
}
