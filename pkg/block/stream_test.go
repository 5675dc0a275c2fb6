package block

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// readAll returns copies of the records in b, and the bytes skipped.
func readAll(t testing.TB, src io.Reader) (records [][]byte, skipped uint64) {
	t.Helper()
	r := NewReader(src)
	for {
		d, err := r.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return records, r.Skipped()
		}
		if len(d) < 1 || len(d) > MaxDatagram {
			t.Fatalf("record of %d bytes", len(d))
		}
		records = append(records, bytes.Clone(d))
	}
}

func wantRecords(t *testing.T, got [][]byte, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("records %q, want %q", got, want)
	}
	for i := range got {
		if string(got[i]) != want[i] {
			t.Fatalf("records %q, want %q", got, want)
		}
	}
}

func record(s string) []byte { return AppendRecord(nil, []byte(s)) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestReaderFindsItsWayBack(t *testing.T) {
	flip := func(b []byte, i int) []byte { b = bytes.Clone(b); b[i] ^= 4; return b }
	for _, tt := range []struct {
		name    string
		stream  []byte
		want    []string
		skipped uint64
	}{
		{"nothing", nil, nil, 0},
		{"in order", join(record("one"), record("two")), []string{"one", "two"}, 0},
		{"garbage in front", join([]byte("garbage\xf6\x36"), record("one")), []string{"one"}, 9},
		{"garbage between", join(record("one"), []byte("\xf6\xf6\x36\x63"), record("two")), []string{"one", "two"}, 4},
		{"magic flipped", join(record("one"), flip(record("two"), 1), record("three")), []string{"one", "three"}, 11},
		{"length flipped", join(record("one"), flip(record("two"), 5), record("three")), []string{"one", "three"}, 11},
		{"complement flipped", join(record("one"), flip(record("two"), 7), record("three")), []string{"one", "three"}, 11},
		{"last cut short", join(record("one"), record("two")[:10]), []string{"one"}, 10},
		{"header cut short", join(record("one"), record("two")[:5]), []string{"one"}, 5},
		{"empty record", join([]byte{0xf6, 0x36, 0x63, 0x42, 0, 0, 0xff, 0xff}, record("one")), []string{"one"}, 8},
		{"a new stream in the middle of a record", join(record("first and long enough")[:14], record("two"), record("three"), record("four")),
			[]string{"first " + string(record("two")) + string(record("three")[:4]), "two", "three", "four"}, 0},
		{"the end in the middle of a record that hides another", join(record("a record long enough")[:12], record("x")), []string{"x"}, 12},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, src := range []io.Reader{bytes.NewReader(tt.stream), iotest.OneByteReader(bytes.NewReader(tt.stream)), iotest.DataErrReader(bytes.NewReader(tt.stream))} {
				got, skipped := readAll(t, src)
				wantRecords(t, got, tt.want...)
				if skipped != tt.skipped {
					t.Errorf("skipped %d, want %d", skipped, tt.skipped)
				}
			}
		})
	}
}

func TestReaderPassesErrorsOn(t *testing.T) {
	broken := errors.New("cable pulled")
	r := NewReader(io.MultiReader(bytes.NewReader(join(record("one"), record("two")[:9])), iotest.ErrReader(broken)))
	if d, err := r.Next(); err != nil || string(d) != "one" {
		t.Fatal(d, err)
	}
	if _, err := r.Next(); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if _, err := NewReader(stuckReader{}).Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Fatal(err)
	}
}

type stuckReader struct{}

func (stuckReader) Read([]byte) (int, error) { return 0, nil }

// A record is returned as soon as it is there, though nothing follows it yet.
func TestReaderDoesNotWaitForMore(t *testing.T) {
	pr, pw := io.Pipe()
	defer pr.Close()
	done := make(chan error, 1)
	go func() {
		_, err := pw.Write(record("one"))
		done <- err
	}()
	d, err := NewReader(pr).Next()
	if err != nil || string(d) != "one" {
		t.Fatal(d, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestReaderOfALongStream(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var stream []byte
	var want []string
	for range 2000 {
		d := make([]byte, 1+rng.IntN(MaxDatagram))
		for i := range d {
			d[i] = byte(rng.Uint32())
		}
		want = append(want, string(d))
		stream = AppendRecord(stream, d)
	}
	got, skipped := readAll(t, iotest.HalfReader(bytes.NewReader(stream)))
	wantRecords(t, got, want...)
	if skipped != 0 {
		t.Fatal(skipped)
	}
}

// Whatever comes, the reader returns every record that stands after the last
// damage, and never more than there is.
func FuzzReader(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add(join(record("one"), record("two")), uint16(3))
	f.Add(join(record("long and longer and longest")[:14], record("two")), uint16(1))
	f.Add(record(string(record("inside"))), uint16(70))
	f.Fuzz(func(t *testing.T, b []byte, tail uint16) {
		want := bytes.Repeat([]byte("t"), 1+int(tail)%MaxDatagram)
		// More than one record can claim: after it the reader is in step again.
		stream := join(b, bytes.Repeat([]byte{0}, RecordHeader+MaxDatagram), AppendRecord(nil, want))
		got, skipped := readAll(t, bytes.NewReader(stream))
		if len(got) == 0 || !bytes.Equal(got[len(got)-1], want) {
			t.Fatalf("the record at the end was not found; %d others were", len(got))
		}
		if skipped > uint64(len(stream)) {
			t.Fatalf("skipped %d of %d bytes", skipped, len(stream))
		}
		one, _ := readAll(t, iotest.OneByteReader(bytes.NewReader(stream)))
		if len(one) != len(got) {
			t.Fatalf("%d records in one piece, %d byte by byte", len(got), len(one))
		}
	})
}
