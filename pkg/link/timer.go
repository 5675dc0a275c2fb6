package link

// timer is an entry of the heap of deadlines: a link's or a half-open
// handshake's. A deadline that moves into the future stays where it is in the
// heap and is put right when it comes up, so that a datagram costs nothing here.
type timer struct {
	at    Time
	index int // in the heap, -1 outside
	link  *Link
	half  *halfOpen
}

// timers is a binary heap, soonest first.
type timers []*timer

func (h timers) next() Time {
	if len(h) == 0 {
		return Never
	}
	return h[0].at
}

// set makes t come up at the given time, adding it if needed.
func (h *timers) set(t *timer, at Time) {
	t.at = at
	if t.index < 0 {
		t.index = len(*h)
		*h = append(*h, t)
	}
	h.up(t.index)
	h.down(t.index)
}

// sooner makes t come up no later than at.
func (h *timers) sooner(t *timer, at Time) {
	if t.index < 0 || at < t.at {
		h.set(t, at)
	}
}

func (h *timers) remove(t *timer) {
	i := t.index
	if i < 0 {
		return
	}
	last := len(*h) - 1
	h.swap(i, last)
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	if i < last {
		h.up(i)
		h.down(i)
	}
}

func (h timers) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h timers) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].at <= h[i].at {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h timers) down(i int) {
	for {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h[c].at < h[least].at {
				least = c
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}
