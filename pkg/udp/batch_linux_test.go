package udp

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"unsafe"
)

// aligned copies control to where the kernel's structures may lie.
func aligned(control []byte) []byte {
	words := make([]uint64, len(control)/8+1)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(control))
	copy(b, control)
	return b
}

// Ancillary data as 64-bit little-endian kernels lay it out.
var ancillaryTable = []struct {
	name, hex string
	segment   int
	local     string
}{
	{"none", "", 0, ""},
	{"UDP_GRO", "1400000000000000 11000000 68000000 cc04000000000000", 1228, ""},
	{"IPV6_PKTINFO, UDP_GRO", "2400000000000000 29000000 32000000 20010db8000000000000000000000001 02000000 00000000" +
		"1400000000000000 11000000 68000000 cc04000000000000", 1228, "2001:db8::1"},
	{"another kind first", "1400000000000000 01000000 28000000 0700000000000000 1400000000000000 11000000 68000000 0100000000000000", 1, ""},
	{"cut short", "1400000000000000 11000000 68000000 cc04", 0, ""},
	{"a length of nothing", "0000000000000000 11000000 68000000 cc04000000000000", 0, ""},
	{"a length below zero", "ffffffffffffffff 11000000 68000000 cc04000000000000", 0, ""},
	{"no int in it", "1000000000000000 11000000 68000000", 0, ""},
}

func TestAncillaryData(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("the table is for 64 bits")
	}
	for _, test := range ancillaryTable {
		segment, local := ancillary(aligned(unhex(test.hex)))
		got := ""
		if local != nil {
			got = netip.AddrFrom16(*local).String()
		}
		if segment != test.segment || got != test.local {
			t.Errorf("%s: %d, %q; want %d, %q", test.name, segment, got, test.segment, test.local)
		}
	}
}

func FuzzAncillaryData(f *testing.F) {
	for _, test := range ancillaryTable {
		f.Add(unhex(test.hex))
	}
	f.Fuzz(func(t *testing.T, control []byte) {
		if len(control) > receiveControl {
			return
		}
		ancillary(aligned(control))
	})
}

func unhex(s string) []byte {
	var digits []byte
	for _, c := range []byte(s) {
		if c != ' ' {
			digits = append(digits, c)
		}
	}
	b, err := hex.DecodeString(string(digits))
	if err != nil {
		panic(err)
	}
	return b
}
