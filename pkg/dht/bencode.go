package dht

import (
	"bytes"
	"strconv"
)

// Messages are bencoded dictionaries (BEP 3). Unlike descriptors they need not be canonical: implementations differ. What matters
// here is that lengths stay within the datagram, for decoders that come after this one believe them before they look.

// maxDepth is how deep lists and dictionaries may lie in each other; BEP 44 values of others may be nested.
const maxDepth = 32

// skip passes one value of any kind.
func skip(b []byte, depth int) (rest []byte, ok bool) {
	if len(b) == 0 || depth > maxDepth {
		return nil, false
	}
	switch c := b[0]; {
	case c == 'i':
		end := bytes.IndexByte(b, 'e')
		if end < 0 || !decimal(bytes.TrimPrefix(b[1:end], []byte{'-'})) {
			return nil, false
		}
		return b[end+1:], true
	case c == 'l', c == 'd':
		rest, ok = b[1:], true
		for n := 0; len(rest) > 0 && rest[0] != 'e'; n++ {
			if c == 'd' && n%2 == 0 && (rest[0] < '0' || rest[0] > '9') {
				return nil, false
			}
			if rest, ok = skip(rest, depth+1); !ok {
				return nil, false
			}
			if c == 'd' && n%2 == 0 && len(rest) > 0 && rest[0] == 'e' {
				return nil, false // a key without its value
			}
		}
		if len(rest) == 0 {
			return nil, false
		}
		return rest[1:], true
	default:
		_, rest, ok = cutString(b)
		return rest, ok
	}
}

// decimal reports whether s is a number that fits into 63 bits, without leading zeros.
func decimal(s []byte) bool {
	if len(s) == 0 || len(s) > 1 && s[0] == '0' {
		return false
	}
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	_, err := strconv.ParseInt(string(s), 10, 64)
	return err == nil
}

// cutString takes the string that b begins with; it aliases b.
func cutString(b []byte) (s, rest []byte, ok bool) {
	colon := bytes.IndexByte(b[:min(len(b), 6)], ':') // a datagram's length has five digits
	if colon < 0 || !decimal(b[:colon]) {
		return nil, nil, false
	}
	n, _ := strconv.Atoi(string(b[:colon]))
	if n > len(b)-colon-1 {
		return nil, nil, false
	}
	b = b[colon+1:]
	return b[:n:n], b[n:], true
}

// dict hands each key of the dictionary that b begins with to f, with its value still bencoded. It returns what follows.
func dict(b []byte, f func(key, value []byte)) (rest []byte, ok bool) {
	if end, ok := skip(b, 0); !ok || b[0] != 'd' {
		return nil, false
	} else {
		rest = end
	}
	for b = b[1:]; b[0] != 'e'; {
		key, after, _ := cutString(b)
		b, _ = skip(after, 1)
		f(key, after[:len(after)-len(b):len(after)-len(b)])
	}
	return rest, true
}

// str is the string that value is, nil if it is none.
func str(value []byte) []byte {
	s, _, ok := cutString(value)
	if !ok {
		return nil
	}
	return s
}

// integer is the number that value is.
func integer(value []byte) (int64, bool) {
	if len(value) < 3 || value[0] != 'i' {
		return 0, false
	}
	n, err := strconv.ParseInt(string(value[1:len(value)-1]), 10, 64)
	return n, err == nil
}

func appendString(dst []byte, s ...byte) []byte {
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, ':')
	return append(dst, s...)
}

func appendInt(dst []byte, n int64) []byte {
	dst = append(dst, 'i')
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, 'e')
}
