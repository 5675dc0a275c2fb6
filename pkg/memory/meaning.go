package memory

import "github.com/sixcast/sixcast/pkg/channel"

// Meaning is what a name is pinned to; ok is false for one that is not. Names are compared as Check does.
func (m *Memory) Meaning(name string) (p Pinned, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pin := m.pins[channel.FoldName(name)]; pin != nil {
		return pin.Pinned, true
	}
	return Pinned{}, false
}
