package ts

import (
	"testing"
	"unicode/utf8"
)

func TestDecodeText(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", ""},
		{"ASCII", "BBC NEWS", "BBC NEWS"},
		{"ISO 6937 diacritics", "T\xc2el\xc2e Z\xc8urich \xcfC\xcfs \xcbc", "Télé Zürich Čš ç"},
		{"ISO 6937 letters and euro", "\xa4 \xfb \xe9 \xaa", "€ ß Ø “"},
		{"a diacritic on a letter that has none", "\xc6q\xc2", "q̆\ufffd"},
		{"UTF-8 without its prefix", "Télé", "Télé"},
		{"UTF-8", "\x15Télé ПЕРВЫЙ", "Télé ПЕРВЫЙ"},
		{"ISO 8859-5 by one byte", "\x01\xbf\xb5\xc0\xb2\xcb\xb9", "ПЕРВЫЙ"},
		{"ISO 8859-9 by one byte", "\x05T\xdcRK\xddYE", "TÜRKİYE"},
		{"ISO 8859-2 by three bytes", "\x10\x00\x02\xb9\xe8", "šč"},
		{"ISO 8859-1 by three bytes", "\x10\x00\x01\xe9", "é"},
		{"ISO 8859-15", "\x0b\xa4", "€"},
		{"UCS-2", "\x11\x00T\x00V\x20\xac", "TV€"},
		{"emphasis and line break", "\x86Arte\x87\x8aHD", "Arte HD"},
		{"a table that is not known", "\x14A\xb0\xa1", "A\ufffd\ufffd"},
		{"prefix alone", "\x10", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := decodeText([]byte(c.in)); got != c.want {
				t.Errorf("decodeText(%x) = %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func TestTextTablesAreWhole(t *testing.T) {
	for part, table := range latin {
		if n := utf8.RuneCountInString(table); n != 96 {
			t.Errorf("ISO 8859-%d has %d characters, want 96", part, n)
		}
	}
	if n := utf8.RuneCountInString(latin6937); n != 96 {
		t.Errorf("ISO 6937 has %d characters, want 96", n)
	}
	for i, d := range diacritics {
		if len(d.letters) != utf8.RuneCountInString(d.composed) {
			t.Errorf("diacritic %#x: %d letters, %d composed", 0xc0+i, len(d.letters), utf8.RuneCountInString(d.composed))
		}
	}
}

func FuzzDecodeText(f *testing.F) {
	f.Add([]byte("\x10\x00\x02\xb9\xe8"))
	f.Add([]byte("T\xc2el\xc2e"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := decodeText(b); !utf8.ValidString(s) {
			t.Errorf("decodeText(%x) is not UTF-8: %q", b, s)
		}
	})
}
