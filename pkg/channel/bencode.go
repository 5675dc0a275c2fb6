package channel

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// Bencode as BEP 3 has it and BEP 44 signs it: only the canonical form is taken (no leading zeros, no minus zero, keys
// sorted and unique), for two spellings of one value would have one meaning and two signatures.

// ErrBencode is wrapped by every error about bencoded bytes.
var ErrBencode = errors.New("malformed bencode")

const maxDepth = 8 // lists and dictionaries in each other

// A bencoder reads one value after the other from b.
type bencoder struct {
	b   []byte
	off int
}

func (d *bencoder) fail(what string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrBencode, what, d.off)
}

func (d *bencoder) peek() byte {
	if d.off >= len(d.b) {
		return 0
	}
	return d.b[d.off]
}

func (d *bencoder) expect(c byte) error {
	if d.peek() != c {
		return d.fail("expected " + strconv.QuoteRune(rune(c)))
	}
	d.off++
	return nil
}

// number reads decimal digits up to the byte end, which it takes too.
func (d *bencoder) number(end byte) ([]byte, error) {
	start := d.off
	for c := d.peek(); c >= '0' && c <= '9'; c = d.peek() {
		d.off++
	}
	digits := d.b[start:d.off]
	if len(digits) == 0 || len(digits) > 19 || len(digits) > 1 && digits[0] == '0' {
		return nil, d.fail("bad number")
	}
	return digits, d.expect(end)
}

func (d *bencoder) str() ([]byte, error) {
	digits, err := d.number(':')
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(string(digits), 10, 32)
	if err != nil || n > uint64(len(d.b)-d.off) {
		return nil, d.fail("string too long")
	}
	s := d.b[d.off : d.off+int(n) : d.off+int(n)]
	d.off += int(n)
	return s, nil
}

func (d *bencoder) integer() (int64, error) {
	if err := d.expect('i'); err != nil {
		return 0, err
	}
	negative := d.peek() == '-'
	if negative {
		d.off++
	}
	digits, err := d.number('e')
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil || negative && n == 0 {
		return 0, d.fail("bad integer")
	}
	if negative {
		n = -n
	}
	return n, nil
}

// skip passes one value of any kind and returns its bytes.
func (d *bencoder) skip(depth int) ([]byte, error) {
	start := d.off
	var err error
	switch c := d.peek(); {
	case c == 'i':
		_, err = d.integer()
	case c >= '0' && c <= '9':
		_, err = d.str()
	case depth == maxDepth:
		err = d.fail("nested too deep")
	case c == 'l':
		for d.off++; err == nil && d.peek() != 'e'; {
			_, err = d.skip(depth + 1)
		}
		d.off++
	case c == 'd':
		err = d.dict(depth, func(_, _ []byte) error { return nil })
	default:
		err = d.fail("no value")
	}
	if err != nil {
		return nil, err
	}
	return d.b[start:d.off], nil
}

// dict reads a dictionary and hands every key with its bencoded value to f.
func (d *bencoder) dict(depth int, f func(key, value []byte) error) error {
	if err := d.expect('d'); err != nil {
		return err
	}
	var last []byte
	for d.peek() != 'e' {
		key, err := d.str()
		if err != nil {
			return err
		}
		if last != nil && bytes.Compare(last, key) >= 0 {
			return d.fail("keys out of order")
		}
		last = key
		value, err := d.skip(depth + 1)
		if err != nil {
			return err
		}
		if err := f(key, value); err != nil {
			return err
		}
	}
	d.off++
	return nil
}

// strings reads a list of strings.
func (d *bencoder) strings() ([]string, error) {
	if err := d.expect('l'); err != nil {
		return nil, err
	}
	var out []string
	for d.peek() != 'e' {
		s, err := d.str()
		if err != nil {
			return nil, err
		}
		out = append(out, string(s))
	}
	d.off++
	return out, nil
}

// canonical tells what is wrong with b as exactly one value.
func canonical(b []byte) error {
	d := bencoder{b: b}
	if _, err := d.skip(0); err != nil {
		return err
	}
	if d.off != len(b) {
		return d.fail("something follows the value")
	}
	return nil
}

func appendString(dst []byte, s string) []byte {
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, ':')
	return append(dst, s...)
}

func appendInt(dst []byte, n int64) []byte {
	dst = append(dst, 'i')
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, 'e')
}
