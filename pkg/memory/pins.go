package memory

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

// known_channels is text that people edit. A line is a name, a key, and when it was first met, with a comment if somebody wrote one:
//
//	Radio%20Nord d75a…q 2026-11-22T18:00:00Z # asked Anna
//
// In the name a space is %20, # is %23 and % is %25. The time may be missing. Of two lines with one name the first counts. What we do not
// understand stays as it is.

// maxPins is the largest known_channels in bytes, some 10,000 names.
const maxPins = 1 << 20

const pinsHeader = "# Names of channels, the keys they had when they were first met, and when that was.\n" +
	"# Remove a line, and the next key that comes with its name is believed.\n"

// Errors about pins.
var (
	ErrName      = errors.New("bad name")
	ErrNotPinned = errors.New("the name is not known")
	ErrPinsFull  = errors.New("too many names are known")
	errPinLine   = errors.New("want NAME KEY TIME")
)

// Pinned is a name and the channel that it means.
type Pinned struct {
	Name  string
	ID    channel.ID
	Since time.Time // zero where it is not known
	Line  int       // of known_channels, from 1; 0 until it is written
}

// Verdict is what Check thinks of a name and a key.
type Verdict uint8

// The verdicts beside a *Conflict.
const (
	New  Verdict = iota // the name was never met
	Same                // it is the key that the name is pinned to
)

// Conflict is a name that is pinned to another key than the one that now comes with it.
type Conflict struct {
	Name    string // as pinned
	Claimed channel.ID
	Pinned  channel.ID
	Since   time.Time
	File    string // empty: pinned in this run only
	Line    int    // 0: not written yet
}

// Error is several lines: what it means, and what to do.
func (c *Conflict) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q is not the channel that it was: its key has changed.\n", c.Name)
	fmt.Fprintf(&b, "  known %s: %s\n", since(c.Since), c.Pinned)
	fmt.Fprintf(&b, "  claimed now: %s\n", c.Claimed)
	b.WriteString("Either somebody passes himself off as this channel, or it really has a new key, as when the old one got lost.\n")
	b.WriteString("Ask whoever runs it, by another way than this key came. ")
	switch {
	case c.File == "":
		b.WriteString("If the new key is right, start again.")
	case c.Line == 0:
		fmt.Fprintf(&b, "If the new key is right, remove the line that begins with %s from\n  %s", escapeName(c.Name), c.File)
	default:
		fmt.Fprintf(&b, "If the new key is right, remove line %d, which begins with %s, from\n  %s", c.Line, escapeName(c.Name), c.File)
	}
	return b.String()
}

// LookAlike is a name never met that is easily taken for one that is pinned to another key.
type LookAlike struct {
	Claimed string // the name that is new
	Name    string // the one it looks like
	ID      channel.ID
	Since   time.Time
}

func (l *LookAlike) Error() string {
	// As Go escapes: what looks the same must not look the same here.
	return fmt.Sprintf("%q (%+q) looks like %q (%+q), known %s, but it is another channel: that one's key is %s",
		l.Claimed, l.Claimed, l.Name, l.Name, since(l.Since), l.ID)
}

func since(t time.Time) string {
	if t.IsZero() {
		return "for some time"
	}
	return "since " + t.Format(time.DateOnly)
}

// pins are by their folded names.
type pins map[string]*pin

type pin struct {
	Pinned
	looks [2]string // empty until somebody asks
}

// change is a name to be added to the file, or removed.
type change struct {
	Pinned
	remove bool
}

// Check compares a name that comes with a channel with what is pinned: names are the same if they differ only in case and in how
// accents are encoded. Errors are *Conflict, *LookAlike (with New), and what wraps ErrName.
func (m *Memory) Check(name string, id channel.ID) (Verdict, error) {
	if err := checkName(name, id); err != nil {
		return New, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pins[channel.FoldName(name)]; p != nil {
		if p.ID != id {
			return New, m.conflict(p, id)
		}
		return Same, nil
	}
	mine := looks(name)
	var like *pin
	for _, p := range m.pins {
		if p.ID == id {
			continue
		}
		if p.looks[0] == "" {
			p.looks = looks(p.Name)
		}
		if (p.looks[0] == mine[0] || p.looks[1] == mine[1]) && (like == nil || p.Since.Before(like.Since)) {
			like = p
		}
	}
	if like != nil {
		return New, &LookAlike{Claimed: name, Name: like.Name, ID: like.ID, Since: like.Since}
	}
	return New, nil
}

func checkName(name string, id channel.ID) error {
	if err := channel.CheckName(name); err != nil {
		return fmt.Errorf("%w: %w", ErrName, err)
	}
	if id.IsZero() {
		return fmt.Errorf("%w: %q stands for no channel", ErrName, name)
	}
	return nil
}

func (m *Memory) conflict(p *pin, claimed channel.ID) *Conflict {
	c := &Conflict{Name: p.Name, Claimed: claimed, Pinned: p.ID, Since: p.Since}
	if m.known.on() {
		c.File, c.Line = m.known.path, p.Line
	}
	return c
}

// Pin has a name mean a channel from now on, unless it is pinned already. It returns what is pinned. Look-alikes are pinned too: ask
// Check before. Errors are *Conflict, ErrPinsFull, and what wraps ErrName.
func (m *Memory) Pin(name string, id channel.ID) (Pinned, error) {
	if err := checkName(name, id); err != nil {
		return Pinned{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := channel.FoldName(name)
	if p := m.pins[key]; p != nil {
		if p.ID != id {
			return p.Pinned, m.conflict(p, id)
		}
		return p.Pinned, nil
	}
	if len(m.pins) >= maxPins/64 {
		return Pinned{}, ErrPinsFull
	}
	p := Pinned{Name: name, ID: id}
	if m.now() >= born { // the clock is set
		p.Since = m.opts.Now().UTC().Truncate(time.Second)
	}
	m.pins[key] = &pin{Pinned: p}
	if m.known.on() {
		m.changes = append(m.changes, change{Pinned: p})
		poke(m.pinned)
	}
	return p, nil
}

// Unpin forgets what a name means, and is done when that is written. Errors are ErrNotPinned, and those of writing.
func (m *Memory) Unpin(name string) error {
	return m.ask(func() error {
		m.mu.Lock()
		p := m.pins[channel.FoldName(name)]
		if p == nil {
			m.mu.Unlock()
			return fmt.Errorf("%q: %w", name, ErrNotPinned)
		}
		delete(m.pins, channel.FoldName(name))
		if m.known.on() {
			m.changes = append(m.changes, change{Pinned: p.Pinned, remove: true})
		}
		m.mu.Unlock()
		return m.writePins(time.Now().Add(lockWait))
	})
}

// writePins changes the file as we changed ours, and takes from it what others, or people, changed. Of two processes
// that pin one name to two keys the first to write is right.
func (m *Memory) writePins(deadline time.Time) error {
	m.mu.Lock()
	changes := m.changes
	m.mu.Unlock()
	if len(changes) == 0 {
		return nil
	}
	var all pins
	var lost []string
	err := m.known.update(deadline, func(text []byte) ([]byte, error) {
		all, _ = parsePins(text)
		text = slices.Clip(text)
		for _, c := range changes {
			key := channel.FoldName(c.Name)
			switch p := all[key]; {
			case c.remove:
				text = removePin(text, key)
				delete(all, key)
			case p == nil:
				text = appendPin(text, c.Pinned)
				all[key] = &pin{Pinned: c.Pinned}
			case p.ID != c.ID:
				lost = append(lost, fmt.Sprintf("%q is known as %s to another process by now, and is not pinned to %s", c.Name, p.ID, c.ID))
			}
		}
		if len(text) > maxPins {
			return nil, fmt.Errorf("%s would be larger than %d bytes: %w: remove lines from it", m.known.path, maxPins, ErrPinsFull)
		}
		all, _ = parsePins(text) // for the numbers of the lines
		return text, nil
	})
	if err != nil {
		return err
	}
	for _, l := range lost {
		m.opts.Logger.Warn(l)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes = m.changes[len(changes):]
	for _, c := range m.changes { // made meanwhile
		switch key := channel.FoldName(c.Name); {
		case c.remove:
			delete(all, key)
		case all[key] == nil:
			all[key] = &pin{Pinned: c.Pinned}
		}
	}
	m.pins = all
	return nil
}

// broken is a line that is skipped.
type broken struct {
	line int
	err  error
}

func parsePins(text []byte) (all pins, bad []broken) {
	all = pins{}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		p, err := parsePin(string(line))
		if p.Name == "" && err == nil {
			continue
		}
		p.Line = n
		key := channel.FoldName(p.Name)
		first := all[key]
		switch {
		case err != nil:
			bad = append(bad, broken{n, err})
		case first == nil:
			all[key] = &pin{Pinned: p}
		case first.ID != p.ID:
			bad = append(bad, broken{n, fmt.Errorf("%q has another key in line %d, which counts", p.Name, first.Line)})
		}
	}
	return all, bad
}

// parsePin reads a line; the name is empty if it holds none.
func parsePin(line string) (p Pinned, err error) {
	f := strings.Fields(strings.TrimPrefix(line, "\ufeff")) // what Notepad puts first
	for i, s := range f {
		if s[0] == '#' {
			f = f[:i]
			break
		}
	}
	switch {
	case len(f) == 0:
		return Pinned{}, nil
	case len(f) == 1 || len(f) > 3:
		return Pinned{}, fmt.Errorf("%w: it has %d words", errPinLine, len(f))
	}
	if p.Name, err = url.PathUnescape(f[0]); err != nil {
		return Pinned{}, fmt.Errorf("name: %w", err)
	}
	if p.ID, err = channel.ParseID(f[1]); err != nil {
		return Pinned{}, err
	}
	if err := checkName(p.Name, p.ID); err != nil {
		return Pinned{}, err
	}
	if len(f) == 3 {
		if p.Since, err = time.Parse(time.RFC3339, f[2]); err != nil {
			return Pinned{}, fmt.Errorf("%q is no time such as 2026-11-22T18:00:00Z", f[2])
		}
	}
	return p, nil
}

func escapeName(name string) string {
	return strings.NewReplacer("%", "%25", " ", "%20", "#", "%23").Replace(name)
}

// appendPin appends a line to a file's text.
func appendPin(text []byte, p Pinned) []byte {
	switch {
	case len(text) == 0:
		text = append(text, pinsHeader...)
	case text[len(text)-1] != '\n':
		text = append(text, '\n')
	}
	text = fmt.Appendf(text, "%s %s", escapeName(p.Name), p.ID)
	if !p.Since.IsZero() {
		text = p.Since.UTC().AppendFormat(append(text, ' '), time.RFC3339)
	}
	return append(text, '\n')
}

// removePin leaves out all lines of a folded name.
func removePin(text []byte, key string) []byte {
	out := make([]byte, 0, len(text))
	for line := range bytes.Lines(text) {
		if p, err := parsePin(string(line)); err == nil && p.Name != "" && channel.FoldName(p.Name) == key {
			continue
		}
		out = append(out, line...)
	}
	return out
}
