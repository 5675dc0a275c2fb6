package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/sixcast/sixcast/pkg/channel"
)

// What members say to each other inside memberlist's user messages; numbers are big-endian, a name is a byte of length and the name:
//
//	item    1, the BEP 44 item                                              gossiped
//	news    2, name                                                         one packet: ask me, much has changed
//	ask     3, nonce 16, name                                               for a digest
//	digest  4, nonce 16, 1,024 sums of 8 bytes                              answers ask
//	have    5, nonce 16, name, flags, buckets 128, from 32, to 32, entries  entry: id 32, seq 8; ascending
//	items   6, nonce 16, through 32, items                                  answers have; item: u16 length, the item; ascending
//
// A request names who asks; the answer goes to where that member is, and counts only under the nonce of a request that waits for it.
const (
	kindItem byte = 1 + iota
	kindNews
	kindAsk
	kindDigest
	kindHave
	kindItems
)

const (
	nonceSize = 16
	// maxName is the longest name of a member in bytes.
	maxName = 64
	// maxMessage is the largest message in bytes. A digest is 8 KiB.
	maxMessage = 1 << 20
	// entrySize is what an entry of have takes, maxEntries how many are in one.
	entrySize  = channel.IDSize + 8
	maxEntries = 16384
	itemsHead  = 1 + nonceSize + channel.IDSize
	// flagKnown asks for newer versions of what is listed only: there is no room for more.
	flagKnown = 1
)

var errMessage = errors.New("malformed message")

type nonce [nonceSize]byte

// digest has a sum for every bucket: 0 where it is empty.
type digest [buckets]uint64

// bucketSet is a bit for every bucket.
type bucketSet [buckets / 8]byte

func (s *bucketSet) has(b int) bool { return s[b/8]>>(b%8)&1 != 0 }
func (s *bucketSet) add(b int)      { s[b/8] |= 1 << (b % 8) }

// have lists, ascending, all that its sender has of some buckets, of the ids from…to. What is newer or not listed is asked for.
type have struct {
	nonce    nonce
	name     string
	known    bool // only what is listed
	buckets  bucketSet
	from, to channel.ID
	entries  []entry // their items are nil
}

// items are what have asked for, ascending, of its ids up to and with through.
type items struct {
	nonce   nonce
	through channel.ID
	items   []entry
}

func appendName(dst []byte, name string) []byte { return append(append(dst, byte(len(name))), name...) }

func cutName(b []byte) (name string, rest []byte, ok bool) {
	if len(b) < 1 || b[0] == 0 || int(b[0]) > maxName || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	return string(b[1 : 1+b[0]]), b[1+b[0]:], true
}

func appendAsk(dst []byte, n nonce, name string) []byte {
	return appendName(append(append(dst, kindAsk), n[:]...), name)
}

func parseAsk(b []byte) (n nonce, name string, err error) {
	if len(b) < 1+nonceSize || b[0] != kindAsk {
		return n, "", errMessage
	}
	n = nonce(b[1:])
	name, rest, ok := cutName(b[1+nonceSize:])
	if !ok || len(rest) > 0 {
		return n, "", errMessage
	}
	return n, name, nil
}

func appendNews(dst []byte, name string) []byte { return appendName(append(dst, kindNews), name) }

func parseNews(b []byte) (name string, err error) {
	if len(b) < 1 || b[0] != kindNews {
		return "", errMessage
	}
	name, rest, ok := cutName(b[1:])
	if !ok || len(rest) > 0 {
		return "", errMessage
	}
	return name, nil
}

func appendDigest(dst []byte, n nonce, d *digest) []byte {
	dst = append(append(dst, kindDigest), n[:]...)
	for _, sum := range d {
		dst = binary.BigEndian.AppendUint64(dst, sum)
	}
	return dst
}

func parseDigest(b []byte, d *digest) error {
	if len(b) != 1+nonceSize+8*buckets || b[0] != kindDigest {
		return errMessage
	}
	for i := range d {
		d[i] = binary.BigEndian.Uint64(b[1+nonceSize+8*i:])
	}
	return nil
}

func (h *have) append(dst []byte) []byte {
	dst = appendName(append(append(dst, kindHave), h.nonce[:]...), h.name)
	flags := byte(0)
	if h.known {
		flags = flagKnown
	}
	dst = append(append(dst, flags), h.buckets[:]...)
	dst = append(append(dst, h.from[:]...), h.to[:]...)
	for i := range h.entries {
		dst = append(dst, h.entries[i].id[:]...)
		dst = binary.BigEndian.AppendUint64(dst, uint64(h.entries[i].seq))
	}
	return dst
}

func (h *have) parse(b []byte) error {
	if len(b) < 1+nonceSize || len(b) > maxMessage || b[0] != kindHave {
		return errMessage
	}
	h.nonce = nonce(b[1:])
	name, b, ok := cutName(b[1+nonceSize:])
	if !ok || len(b) < 1+len(h.buckets)+2*channel.IDSize {
		return errMessage
	}
	h.name, h.known = name, b[0]&flagKnown != 0
	b = b[1:]
	h.buckets = bucketSet(b)
	b = b[len(h.buckets):]
	h.from, h.to = channel.ID(b), channel.ID(b[channel.IDSize:])
	b = b[2*channel.IDSize:]
	if len(b)%entrySize != 0 || len(b)/entrySize > maxEntries || bytes.Compare(h.from[:], h.to[:]) > 0 {
		return errMessage
	}
	h.entries = make([]entry, len(b)/entrySize)
	for i := range h.entries {
		e := &h.entries[i]
		e.id, e.seq = channel.ID(b), int64(binary.BigEndian.Uint64(b[channel.IDSize:]))
		if e.seq < 0 || i > 0 && bytes.Compare(h.entries[i-1].id[:], e.id[:]) >= 0 {
			return errMessage
		}
		b = b[entrySize:]
	}
	return nil
}

func (m *items) append(dst []byte) []byte {
	dst = append(append(append(dst, kindItems), m.nonce[:]...), m.through[:]...)
	for _, e := range m.items {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(e.item)))
		dst = append(dst, e.item...)
	}
	return dst
}

// parse leaves the items unverified; they alias b.
func (m *items) parse(b []byte) error {
	if len(b) < itemsHead || len(b) > maxMessage || b[0] != kindItems {
		return errMessage
	}
	m.nonce, m.through, m.items = nonce(b[1:]), channel.ID(b[1+nonceSize:]), nil
	for b = b[itemsHead:]; len(b) > 0; {
		if len(b) < 2 {
			return errMessage
		}
		n := int(binary.BigEndian.Uint16(b))
		b = b[2:]
		if n > len(b) {
			return errMessage
		}
		id, seq, ok := channel.PeekItem(b[:n])
		if k := len(m.items); !ok || k > 0 && bytes.Compare(m.items[k-1].id[:], id[:]) >= 0 {
			return errMessage
		}
		m.items = append(m.items, entry{id, seq, b[:n:n]})
		b = b[n:]
	}
	return nil
}

// fingerprint tells items apart byte by byte.
type fingerprint [16]byte

func fingerprintOf(item []byte) fingerprint {
	h := sha256.Sum256(item)
	return fingerprint(h[:])
}
