package channel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sixcast/sixcast/pkg/ts"
)

// Descriptor datagram: 0x13, version 1, u16 length of the item, the item (docs/protocol.md section 1.1 and 3).
const (
	DescriptorType    = 0x13
	descriptorVersion = 1
	descriptorHeader  = 4

	// MaxValues is the limit in bytes of bencode(v): BEP 44's.
	MaxValues = 1000
	// MaxItem is the largest item in bytes: the values, and 39 for k, at most 27 for seq, 72 for sig, 5 around them.
	MaxItem = MaxValues + 143
)

// Errors about descriptors.
var (
	ErrDescriptor      = errors.New("malformed descriptor")
	ErrSignature       = errors.New("signature does not match")
	ErrDescriptorLarge = fmt.Errorf("descriptor is larger than %d bytes: shorten the description", MaxValues)
)

// Values are what a descriptor says of its channel. Empty fields are left out.
type Values struct {
	Name        string
	Description string
	Language    string // BCP 47
	Country     string // ISO 3166
	Category    string
	BitRate     ts.BitRate
	Now, Next   string // titles
	Trackers    []string
	Unknown     []Entry // keys that this version does not know, or whose value is of another type than it knows; sorted
}

// Entry is a key with its value still bencoded.
type Entry struct {
	Key   string
	Value []byte
}

// Descriptor is a signed description of a channel: a BEP 44 mutable item. Of two the greater Seq is newer.
type Descriptor struct {
	ID     ID
	Seq    int64
	Values Values
	Item   []byte // the signed bytes, to be passed on unchanged
}

// SignDescriptor makes the item of key's channel. seq is Unix seconds by convention and not negative. Errors are
// ErrDescriptorLarge and ErrDescriptor with what is wrong.
func SignDescriptor(key Key, seq int64, v Values) (Descriptor, error) {
	encoded, err := v.append(nil)
	if err != nil {
		return Descriptor{}, err
	}
	if seq < 0 {
		return Descriptor{}, fmt.Errorf("%w: negative seq", ErrDescriptor)
	}
	id := key.ID()
	item := make([]byte, 0, MaxItem)
	item = append(item, 'd')
	item = appendString(item, "k")
	item = appendString(item, string(id[:]))
	item = appendString(item, "seq")
	item = appendInt(item, seq)
	item = appendString(item, "sig")
	item = appendString(item, string(key.Sign(signedPrefix(seq), encoded)))
	item = appendString(item, "v")
	item = append(item, encoded...)
	item = append(item, 'e')
	return Descriptor{ID: id, Seq: seq, Values: v, Item: item}, nil
}

// signedPrefix is what BEP 44 puts before the encoded value (no salt).
func signedPrefix(seq int64) string { return "3:seqi" + strconv.FormatInt(seq, 10) + "e1:v" }

func (v *Values) append(dst []byte) ([]byte, error) {
	var all []Entry
	str := func(key, s string) {
		if s != "" {
			all = append(all, Entry{key, appendString(nil, s)})
		}
	}
	str("n", v.Name)
	str("d", v.Description)
	str("l", v.Language)
	str("co", v.Country)
	str("ca", v.Category)
	str("now", v.Now)
	str("next", v.Next)
	if v.BitRate != 0 {
		all = append(all, Entry{"b", appendInt(nil, int64(v.BitRate))})
	}
	if len(v.Trackers) > 0 {
		list := []byte{'l'}
		for _, t := range v.Trackers {
			list = appendString(list, t)
		}
		all = append(all, Entry{"tr", append(list, 'e')})
	}
	for _, e := range v.Unknown {
		if err := canonical(e.Value); err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrDescriptor, e.Key, err)
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	start := len(dst)
	dst = append(dst, 'd')
	for i, e := range all {
		if i > 0 && all[i-1].Key == e.Key {
			return nil, fmt.Errorf("%w: key %q twice", ErrDescriptor, e.Key)
		}
		dst = append(appendString(dst, e.Key), e.Value...)
	}
	dst = append(dst, 'e')
	if len(dst)-start > MaxValues {
		return nil, ErrDescriptorLarge
	}
	return dst, nil
}

// ParseDescriptor reads an item and verifies its signature. Item aliases the argument, and so do the values of unknown
// keys. Errors wrap ErrDescriptor or ErrSignature. Strings may hold anything: print them through CheckName or %q.
func ParseDescriptor(item []byte) (Descriptor, error) {
	id, seq, sig, values, err := splitItem(item)
	if err != nil {
		return Descriptor{}, fmt.Errorf("%w: %w", ErrDescriptor, err)
	}
	if !id.Verify(signedPrefix(seq), values, sig) {
		return Descriptor{}, fmt.Errorf("descriptor of %s: %w", id, ErrSignature)
	}
	d := Descriptor{ID: id, Seq: seq, Item: item}
	if err := d.Values.parse(values); err != nil {
		return Descriptor{}, fmt.Errorf("%w: %w", ErrDescriptor, err)
	}
	return d, nil
}

// PeekItem reads whose an item is and its seq, where both stand in every well-formed one, and looks at nothing else: it may read them of
// others too, and proves nothing.
func PeekItem(item []byte) (id ID, seq int64, ok bool) {
	rest, ok := bytes.CutPrefix(item, []byte("d1:k32:"))
	if !ok || len(item) > MaxItem || len(rest) < IDSize {
		return id, 0, false
	}
	id = ID(rest)
	rest, ok = bytes.CutPrefix(rest[IDSize:], []byte("3:seq"))
	if !ok {
		return id, 0, false
	}
	d := bencoder{b: rest}
	seq, err := d.integer()
	return id, seq, err == nil && seq >= 0
}

// splitItem reads d1:k…3:seq…3:sig…1:v…e with those keys and no others.
func splitItem(item []byte) (id ID, seq int64, sig, values []byte, err error) {
	fail := func(what string) (ID, int64, []byte, []byte, error) {
		return ID{}, 0, nil, nil, errors.New(what)
	}
	if len(item) > MaxItem {
		return fail("too long")
	}
	rest, ok := bytes.CutPrefix(item, []byte("d1:k32:"))
	if !ok || len(rest) < IDSize {
		return fail("no key")
	}
	id = ID(rest)
	rest, ok = bytes.CutPrefix(rest[IDSize:], []byte("3:seq"))
	if !ok {
		return fail("no seq")
	}
	d := bencoder{b: rest}
	if seq, err = d.integer(); err != nil {
		return fail(err.Error())
	}
	if seq < 0 {
		return fail("negative seq")
	}
	rest, ok = bytes.CutPrefix(rest[d.off:], []byte("3:sig64:"))
	if !ok || len(rest) < SignatureSize {
		return fail("no signature")
	}
	sig = rest[:SignatureSize]
	rest, ok = bytes.CutPrefix(rest[SignatureSize:], []byte("1:v"))
	if !ok || len(rest) < 3 || rest[len(rest)-1] != 'e' {
		return fail("no value")
	}
	values = rest[:len(rest)-1]
	switch {
	case len(values) > MaxValues:
		return fail("value too long")
	case values[0] != 'd':
		return fail("the value is no dictionary")
	}
	if err := canonical(values); err != nil {
		return ID{}, 0, nil, nil, err
	}
	return id, seq, sig, values, nil
}

func (v *Values) parse(b []byte) error {
	d := bencoder{b: b}
	return d.dict(0, func(key, value []byte) error {
		known := false
		in := bencoder{b: value}
		str := func(s *string) {
			if text, err := in.str(); err == nil {
				*s, known = string(text), true
			}
		}
		switch string(key) {
		case "n":
			str(&v.Name)
		case "d":
			str(&v.Description)
		case "l":
			str(&v.Language)
		case "co":
			str(&v.Country)
		case "ca":
			str(&v.Category)
		case "now":
			str(&v.Now)
		case "next":
			str(&v.Next)
		case "b":
			if n, err := in.integer(); err == nil && n >= 0 {
				v.BitRate, known = ts.BitRate(n), true
			}
		case "tr":
			if list, err := in.strings(); err == nil {
				v.Trackers, known = list, true
			}
		}
		if !known {
			v.Unknown = append(v.Unknown, Entry{string(key), value})
		}
		return nil
	})
}

// AppendDatagram appends the descriptor datagram of an item, which is at most MaxItem bytes.
func AppendDatagram(dst, item []byte) []byte {
	dst = append(dst, DescriptorType, descriptorVersion)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(item)))
	return append(dst, item...)
}

// ParseDatagram is the item in a descriptor datagram, neither parsed nor verified; it aliases b. Errors wrap ErrDescriptor.
func ParseDatagram(b []byte) (item []byte, err error) {
	switch {
	case len(b) < descriptorHeader || b[0] != DescriptorType:
		return nil, fmt.Errorf("%w: no descriptor datagram", ErrDescriptor)
	case b[1] != descriptorVersion:
		return nil, fmt.Errorf("%w: version %d", ErrDescriptor, b[1])
	}
	item = b[descriptorHeader:]
	if n := int(binary.BigEndian.Uint16(b[2:])); n != len(item) || n > MaxItem {
		return nil, fmt.Errorf("%w: the length disagrees", ErrDescriptor)
	}
	return item, nil
}
