package mesh

import "fmt"

// AppendDebug appends a line for people who look into the mesh: what the
// channel takes, from how many, and how it fares.
func (c *Channel) AppendDebug(dst []byte) []byte {
	n := c.node
	rate := max(c.rate, 1)
	shown, unshown, suspect := 0, 0, 0
	for _, nb := range c.neighbours {
		switch k := nb.push.mask.Count(); {
		case nb.suspect():
			suspect += k
		case nb.delivered:
			shown += k
		default:
			unshown += k
		}
	}
	dst = fmt.Appendf(dst, "pushes %d feeds to who has delivered, %d to others, %d to suspects of %d remembered; ", shown, unshown, suspect, len(c.liars))
	return fmt.Appendf(dst, "loss %.4f wants %d second %v; live %018b from %d of %d neighbours; hops %d and %d; promised %.2f of %.2f, pace %.2f used %.2f queue %v waiting %.2f; requests %d repaired %d duplicates %d evictions %d shed %d waits %d",
		c.loss, c.wanted, c.second, c.live(), c.Parents(), len(c.neighbours), c.hop(0), c.hop(16),
		n.used(nil)/rate, n.capacity()/rate, float64(n.bucket.Pace())/rate, float64(n.bucket.Used())/rate, n.bucket.Queue(), c.waiting, n.stats.Requests, n.stats.Repaired, n.stats.Duplicates, n.stats.Evictions, n.stats.Shed, n.stats.Waits)
}
