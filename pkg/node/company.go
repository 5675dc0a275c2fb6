package node

import (
	"fmt"
	"time"
)

// Company tells a person with how many peers a node shares a channel: once
// that has settled, and again when it has changed much. The zero value is
// ready.
type Company struct {
	seen, said company
	since      time.Time // when seen began
	saidAt     time.Time
}

type company struct{ parents, children int }

// unlike reports whether a number is no longer what it was: it came from or
// went to nothing, or to the half or the double.
func (k company) unlike(o company) bool {
	much := func(a, b int) bool { return a != b && max(a, b) >= 2*min(a, b) }
	return much(k.parents, o.parents) || much(k.children, o.children)
}

const (
	companySettles = 3 * time.Second
	companyAgain   = 30 * time.Second
)

// Note takes what Stats said at now, and returns words or nothing.
func (c *Company) Note(now time.Time, s Stats) string {
	k := company{s.Parents, s.Children}
	switch {
	case k.parents == 0 || k.unlike(c.seen):
		c.seen, c.since = k, now
		return ""
	case now.Sub(c.since) < companySettles, !c.saidAt.IsZero() && now.Sub(c.saidAt) < companyAgain:
		return ""
	case !k.unlike(c.said), c.saidAt.IsZero() && k == company{1, 0}: // one parent has been named
		return ""
	}
	c.said, c.saidAt = k, now
	text := fmt.Sprintf("blocks come from %d peers", k.parents)
	if k.parents == 1 {
		text = "blocks come from 1 peer"
	}
	if k.children > 0 {
		text += fmt.Sprintf(", and go to %d", k.children)
	}
	return text
}

// Many reports whether blocks came from several peers when that was last
// told: then a single one is not worth a word.
func (c *Company) Many() bool { return c.said.parents > 1 }
