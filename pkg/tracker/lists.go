package tracker

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/channel"
)

// maxList bounds a list, in channels.
const maxList = 1_000_000

// List is a set of channels, by both of their names.
type List struct {
	ids    map[channel.ID]bool
	swarms map[announce.SwarmID]bool
}

// NewList makes one.
func NewList(ids ...channel.ID) *List {
	l := &List{make(map[channel.ID]bool), make(map[announce.SwarmID]bool)}
	for _, id := range ids {
		l.Add(id)
	}
	return l
}

// Add puts a channel into it.
func (l *List) Add(id channel.ID) {
	l.ids[id] = true
	l.swarms[id.SwarmID()] = true
}

// Len is how many there are.
func (l *List) Len() int { return len(l.ids) }

// ParseList reads one: a key or a sixcast: URI a line, # begins a comment. The error names the line.
func ParseList(r io.Reader) (*List, error) {
	l := NewList()
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		text, _, _ := strings.Cut(in.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		id, err := parseChannel(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", n, err)
		case l.Len() >= maxList:
			return nil, fmt.Errorf("line %d: more than %d channels", n, maxList)
		}
		l.Add(id)
	}
	return l, in.Err()
}

func parseChannel(s string) (channel.ID, error) {
	if strings.Contains(s, ":") {
		u, err := channel.ParseURI(s)
		return u.ID, err
	}
	return channel.ParseID(s)
}
