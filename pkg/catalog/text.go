package catalog

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mtibben/confusables"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/sixcast/sixcast/pkg/channel"
)

// maxName is how many bytes of a name count when names are compared; channel.CheckName wants no more. Some characters become eighteen
// when they are normalised: what is kept of that is bounded, too.
const (
	maxName   = 128
	maxFolded = 256
)

// cut is s without what follows its first n bytes, and without a character that is cut in two.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// foldWords are the words of a text as they are searched for: letters and digits, compatible forms made the same, without case and
// diacritics.
func foldWords(s string) []string {
	if isASCII(s) {
		s = strings.ToLower(s)
	} else {
		s = norm.NFKD.String(cases.Fold().String(norm.NFKD.String(s)))
	}
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		switch {
		case r < utf8.RuneSelf:
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				b.WriteByte(byte(r))
			} else {
				b.WriteByte(' ')
			}
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case plainLetter(r) != "":
			b.WriteString(plainLetter(r))
		case unicode.In(r, unicode.L, unicode.N, unicode.Mc):
			b.WriteRune(r)
		default:
			b.WriteByte(' ')
		}
	}
	return strings.Fields(b.String())
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// plainLetter is what people type for letters that have no decomposition in Unicode; empty for others.
func plainLetter(r rune) string {
	switch r {
	case 'ł':
		return "l"
	case 'ø':
		return "o"
	case 'đ', 'ð':
		return "d"
	case 'ħ':
		return "h"
	case 'ı':
		return "i"
	case 'æ':
		return "ae"
	case 'œ':
		return "oe"
	case 'þ':
		return "th"
	}
	return ""
}

// unspaced tells whether r is of a script that is written without spaces between words. Such words are found from any character on.
func unspaced(r rune) bool {
	return r >= 0x0e00 && unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar)
}

func startsUnspaced(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return unspaced(r)
}

// entryWords are the postings of a channel, sorted, each word once.
func entryWords(v *channel.Values) []element {
	out := make([]element, 0, maxWords)
	for i, text := range [...]string{v.Name, v.Category, v.Now, v.Next, v.Description} {
		add := func(part string) {
			if len(out) < maxWords {
				out = append(out, posting(part, i == 0))
			}
		}
		for _, w := range foldWords(text) {
			if len(out) == maxWords {
				break
			}
			parts(w, add)
			for j, r := range w {
				if j > 0 && unspaced(r) {
					add(cut(w[j:], keySize))
				}
			}
		}
	}
	slices.SortFunc(out, element.compare)
	return slices.CompactFunc(out, func(a, b element) bool { return a.key == b.key })
}

// unnamed orders channels without a name after all others.
const unnamed = "\xff"

// orderName is a name as lists are ordered by it.
func orderName(name string) string {
	folded := strings.Join(foldWords(cut(name, maxName)), " ")
	if folded == "" {
		return unnamed
	}
	return strings.Clone(cut(folded, maxFolded))
}

// exactName is a name as it is compared where it is to be the same.
func exactName(name string) string {
	return strings.Clone(cut(channel.FoldName(cut(name, maxName)), maxFolded))
}

// skeletons of a name: those of names that look the same (Unicode TR 39), whatever their case, spaces, punctuation and invisible
// characters, have one in common. There are two, as Cyrillic capitals look like Latin ones that their small letters do not look like, and
// the other way round; the second is empty if it is the first.
func skeletons(name string) (out [2]string) {
	name = norm.NFKC.String(strings.Map(func(r rune) rune {
		if invisible(r) || unicode.Is(unicode.C, r) {
			return -1
		}
		return r
	}, cut(name, maxName)))
	for i, s := range [...]string{cases.Fold().String(name), name} {
		s = strings.Map(func(r rune) rune {
			switch {
			case r == 'i':
				return 'l' // a capital i looks like l, and its case is gone
			case unicode.In(r, unicode.L, unicode.N, unicode.M, unicode.S): // Canal+ is not Canal
				return r
			}
			return -1
		}, cases.Fold().String(confusables.Skeleton(s)))
		out[i] = strings.Clone(cut(s, maxFolded))
	}
	if out[1] == out[0] {
		out[1] = ""
	}
	return out
}

// invisible tells whether nothing shows of r, though unicode.IsPrint says it is printable.
func invisible(r rune) bool {
	return unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) ||
		r == 0x2800 || // the braille pattern without dots
		r >= 0xfff0 && r <= 0xfff8 || r >= 0xe0000 && r <= 0xe0fff
}

// maxMarks is how many marks in a row may lie on a letter. More are drawn over the lines above and below.
const maxMarks = 4

// Plain makes a text that somebody else wrote fit for a terminal or a log: what controls it, turns its direction round or cannot be seen
// is written as an escape (\n, \x1b, \u202e), every kind of space is a space. Letters of all scripts stay as they are. In HTML it must be
// escaped as any text.
func Plain(s string) string {
	var b []byte // nil while nothing had to be changed
	marks := 0
	var last rune // the one before, if it was left as it is
	for i, r := range s {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError {
			_, size = utf8.DecodeRuneInString(s[i:])
		}
		if unicode.In(r, unicode.Mn, unicode.Me) {
			marks++
		} else {
			marks = 0
		}
		ok := unicode.IsPrint(r) && !invisible(r) && marks <= maxMarks && (r != utf8.RuneError || size == 3)
		if r == zwnj || r == zwj { // they have a meaning within words of some scripts
			next, _ := utf8.DecodeRuneInString(s[i+size:])
			ok = joining(last) && joining(next)
		}
		if r == 0xfe0e || r == 0xfe0f { // whether the symbol before is a picture
			ok = unicode.Is(unicode.So, last)
		}
		last = 0
		if ok {
			last = r
			if b != nil {
				b = append(b, s[i:i+size]...)
			}
			continue
		}
		if b == nil {
			b = append(make([]byte, 0, len(s)+16), s[:i]...)
		}
		switch {
		case r == utf8.RuneError:
			b = append(b, `\x`...)
			b = strconv.AppendUint(b, uint64(s[i]), 16)
		case unicode.Is(unicode.Zs, r):
			b = append(b, ' ')
		case r < utf8.RuneSelf:
			quoted := strconv.QuoteRuneToASCII(r)
			b = append(b, quoted[1:len(quoted)-1]...)
		case r <= 0xffff:
			b = append(b, `\u`...)
			b = appendHex(b, uint32(r), 4)
		default:
			b = append(b, `\U`...)
			b = appendHex(b, uint32(r), 8)
		}
	}
	if b == nil {
		return s
	}
	return string(b)
}

func appendHex(b []byte, n uint32, digits int) []byte {
	for i := digits - 1; i >= 0; i-- {
		b = append(b, "0123456789abcdef"[n>>(4*i)&15])
	}
	return b
}

const (
	zwnj = 0x200c
	zwj  = 0x200d
)

// joining tells whether r is of a script whose letters change where they join.
func joining(r rune) bool {
	return unicode.In(r, unicode.Arabic, unicode.Syriac, unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi, unicode.Gujarati, unicode.Oriya,
		unicode.Tamil, unicode.Telugu, unicode.Kannada, unicode.Malayalam, unicode.Sinhala)
}
