package mesh

import "github.com/sixcast/sixcast/pkg/link"

const (
	// maxOffences bounds the keys that are remembered for one kind of offence,
	// and offenceTimes how often it is counted: what doubles ends there.
	maxOffences  = 256
	offenceTimes = 6
)

// offence is what is remembered of a peer's key, so that hanging up and coming
// back helps nobody.
type offence struct {
	key   link.PublicKey
	at    Time // the last time
	times uint8
}

type offences []offence

// of returns what is remembered of a neighbour, nil if nothing is.
func (o offences) of(nb *neighbour) *offence {
	if len(o) == 0 {
		return nil
	}
	key := nb.peer.link.Peer()
	for i := range o {
		if o[i].key == key {
			return &o[i]
		}
	}
	return nil
}

// note counts one more; of too many keys the first is forgotten.
func (o *offences) note(nb *neighbour) {
	x := o.of(nb)
	if x == nil {
		if len(*o) >= maxOffences {
			*o = append((*o)[:0], (*o)[1:]...)
		}
		*o = append(*o, offence{key: nb.peer.link.Peer()})
		x = &(*o)[len(*o)-1]
	}
	x.at = nb.ch.node.now
	x.times = min(x.times+1, offenceTimes)
}
