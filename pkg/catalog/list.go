package catalog

import (
	"hash/maphash"
	"strings"
)

const (
	// DefaultLimit is how many entries a list has where the query says nothing, MaxLimit the most.
	DefaultLimit = 50
	MaxLimit     = 1000
)

// Query says what List is to list. Empty fields do not matter.
type Query struct {
	// Text is searched for in name, description, category, and the titles of what is on now and next: each of its words must begin one of
	// theirs, whatever its case and without diacritics. Of a long text the beginning counts.
	Text string
	// Language is a BCP 47 tag, without regard to case. "de" finds "de-AT", too.
	Language string
	// Country is compared without regard to case.
	Country string
	// Category is compared like a whole text of a search.
	Category string
	// Offset is how many to leave out, Limit how many to return: DefaultLimit if zero, at most MaxLimit.
	Offset, Limit int
}

// ranks of what a search finds: the name is the text, begins with it, has all of its words, or other texts have them.
const (
	rankExact = iota
	rankPrefix
	rankName
	rankText
	ranks
)

// scratch is what a list needs while it is made.
type scratch struct {
	words, names []uint8 // how many words of the text a slot has, anywhere and in its name
	found        [ranks][]uint32
}

func (s *scratch) reset(slots int) {
	clear(s.words)
	clear(s.names)
	if len(s.words) < slots {
		s.words, s.names = make([]uint8, slots), make([]uint8, slots)
	}
	for i := range s.found {
		s.found[i] = s.found[i][:0]
	}
}

// List returns the entries that a query asks for: ordered by name, or, if it has a text, by how well that is met and then by name; of
// the same name those that were known first come first, and those without one last. total is how many there are without Offset and Limit.
func (c *Catalog) List(q Query) (entries []Entry, total int) {
	if q.Limit <= 0 {
		q.Limit = DefaultLimit
	}
	q.Limit, q.Offset = min(q.Limit, MaxLimit), max(q.Offset, 0)
	text := foldWords(cut(q.Text, maxText))
	want := c.attributes(q.Language, q.Country, q.Category)
	searches := strings.TrimSpace(q.Text) != ""

	c.mu.RLock()
	defer c.mu.RUnlock()
	switch {
	case searches && len(text) == 0:
		return nil, 0
	case !searches && want == (attributes{}):
		c.byName.at(q.Offset, func(el element) bool {
			if len(entries) == q.Limit {
				return false
			}
			entries = append(entries, c.entry(c.slots[el.ref]))
			return true
		})
		return entries, len(c.byID)
	}

	s := c.scratch.Get().(*scratch)
	defer c.scratch.Put(s)
	s.reset(len(c.slots))
	var words uint8
	var name, exactEnd, prefixEnd int // places of names that are the text, or begin with it
	if searches {
		words = c.mark(s, text)
		joined := strings.Join(text, " ")
		at := func(el element) string { return c.slots[el.ref].name }
		name = c.byName.rank(func(el element) bool { return at(el) >= joined })
		exactEnd = c.byName.rank(func(el element) bool { return at(el) > joined })
		prefixEnd = c.byName.rank(func(el element) bool { return at(el) > joined && !strings.HasPrefix(at(el), joined) })
	}
	// All that were found, in the order of names: nothing is sorted.
	n := -1
	c.byName.at(0, func(el element) bool {
		slot := el.ref
		n++
		if s.words[slot] != words || !c.attrs[slot].match(&want) {
			return true
		}
		rank := rankText
		switch {
		case !searches:
		case n >= name && n < exactEnd:
			rank = rankExact
		case n >= exactEnd && n < prefixEnd:
			rank = rankPrefix
		case s.names[slot] == words:
			rank = rankName
		}
		s.found[rank] = append(s.found[rank], slot)
		return true
	})
	for _, slots := range s.found {
		total += len(slots)
		skip := min(q.Offset, len(slots))
		q.Offset -= skip
		slots = slots[skip:]
		for _, slot := range slots[:min(len(slots), q.Limit-len(entries))] {
			entries = append(entries, c.entry(c.slots[slot]))
		}
	}
	return entries, total
}

// mark counts for each slot the words of a text that it has, and returns how many they are. A word counts only where those before it
// did, so that the count is whole only where all are met.
func (c *Catalog) mark(s *scratch, text []string) (words uint8) {
	for _, p := range queryWords(text) {
		c.words.from(func(el element) bool { return el.key.compare(p.from) >= 0 }, func(el element) bool {
			if el.key.compare(p.to) > 0 {
				return false
			}
			slot := el.ref >> 1
			if s.words[slot] == words {
				s.words[slot]++
			}
			if el.ref&1 == 0 && s.names[slot] == words {
				s.names[slot]++
			}
			return true
		})
		words++
	}
	return words
}

// match tells whether a has all that want wants.
func (a *attributes) match(want *attributes) bool {
	return (want.language == 0 || want.language == a.language || want.language == a.primary) &&
		(want.country == 0 || want.country == a.country) && (want.category == 0 || want.category == a.category)
}

// hash of a text; 0 is that of none. The seed is secret: nobody can make two texts of one hash.
func (c *Catalog) hash(s string) uint64 {
	if s == "" {
		return 0
	}
	return max(maphash.String(c.seed, s), 1)
}

// attributes hashes what lists are filtered by.
func (c *Catalog) attributes(language, country, category string) attributes {
	language = strings.ToLower(cut(strings.TrimSpace(language), maxName))
	primary, _, _ := strings.Cut(language, "-")
	folded := strings.Join(foldWords(cut(category, maxName)), " ")
	if folded == "" {
		folded = strings.TrimSpace(cut(category, maxName))
	}
	return attributes{c.hash(language), c.hash(primary), c.hash(strings.ToUpper(cut(strings.TrimSpace(country), maxName))), c.hash(folded)}
}

const (
	// maxWord is how many bytes of a word count, maxWords how many words (and parts of long ones) of an entry: those of its name first.
	maxWord  = 64
	maxWords = 64
	// maxText is how many bytes of a query's text count, maxQueryWords how many words.
	maxText       = 256
	maxQueryWords = 16
	// continued begins a word that is the rest of a long one.
	continued = "\x01"
)

// posting is the element of a word, its slot still to be put in. Words lie in the index itself, so that those that occur once take no
// more room than others. The lowest bit of ref tells whether it is not in the name; of the two that in the name comes first.
func posting(word string, inName bool) element {
	if inName {
		return element{key: pack(word, 0)}
	}
	return element{pack(word, 0), 1}
}

// in is a posting in an entry.
func (e element) in(slot uint32) element { return element{e.key, slot<<1 | e.ref} }

// parts are the pieces that a folded word is looked up by. A long one has several.
func parts(w string, yield func(part string)) {
	w = cut(w, maxWord)
	n := min(len(w), keySize)
	yield(w[:n])
	for w = w[n:]; w != ""; w = w[n:] {
		n = min(len(w), keySize-len(continued))
		yield(continued + w[:n])
	}
}

// span is the words that begin like one of a query.
type span struct{ from, to key }

// queryWords are the spans that an entry must have a word in each of.
func queryWords(text []string) (spans []span) {
	add := func(part string) { spans = append(spans, span{pack(part, 0), pack(part, 0xff)}) }
	for _, w := range text {
		if !strings.ContainsFunc(w, unspaced) {
			parts(w, add)
			continue
		}
		for i := 0; w != ""; i++ {
			part := cut(w, keySize)
			if i == 0 || startsUnspaced(part) {
				add(part)
			}
			w = w[len(part):]
		}
	}
	return spans[:min(len(spans), maxQueryWords)]
}
