package record

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/play"
	"github.com/sixcast/sixcast/pkg/ts"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ls(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func create(t *testing.T, path string) *File {
	t.Helper()
	f, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTheFinalNameIsWhole(t *testing.T) {
	dir := t.TempDir()
	f := create(t, filepath.Join(dir, "film.ts"))
	f.Write([]byte("stream"))
	if got := ls(t, dir); !slices.Equal(got, []string{"film.ts.part"}) {
		t.Error(got)
	}
	name, err := f.Finish()
	if err != nil || name != filepath.Join(dir, "film.ts") {
		t.Fatal(name, err)
	}
	if b, _ := os.ReadFile(name); string(b) != "stream" || len(ls(t, dir)) != 1 {
		t.Errorf("%q %v", b, ls(t, dir))
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "film.ts")
	os.WriteFile(path, []byte("old"), 0o644)
	os.WriteFile(filepath.Join(dir, "film-1.ts.part"), []byte("left over"), 0o644)
	os.WriteFile(filepath.Join(dir, "film-2.ts.json"), []byte("{}"), 0o644)
	f := create(t, path)
	if f.Part() != filepath.Join(dir, "film-3.ts.part") {
		t.Error(f.Part())
	}
	f.Write([]byte("new"))
	// Somebody takes the name meanwhile.
	os.WriteFile(filepath.Join(dir, "film-3.ts"), []byte("theirs"), 0o644)
	name, err := f.Finish()
	if err != nil || name != filepath.Join(dir, "film-3-1.ts") {
		t.Fatal(name, err)
	}
	for n, want := range map[string]string{"film.ts": "old", "film-1.ts.part": "left over", "film-3.ts": "theirs", "film-3-1.ts": "new"} {
		if b, _ := os.ReadFile(filepath.Join(dir, n)); string(b) != want {
			t.Errorf("%s: %q", n, b)
		}
	}
}

func TestEmptyRecordingLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f := create(t, filepath.Join(dir, "film.ts"))
	if _, err := f.Finish(); !errors.Is(err, ErrEmpty) {
		t.Error(err)
	}
	if got := ls(t, dir); len(got) != 0 {
		t.Error(got)
	}
}

func TestCreateSaysWhatIsWrong(t *testing.T) {
	_, err := Create(filepath.Join(t.TempDir(), "no", "film.ts"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestLeftoversAreNamed(t *testing.T) {
	dir := t.TempDir()
	film := filepath.Join(dir, "film.ts")
	running := create(t, film)
	defer running.Finish()
	for _, n := range []string{"film-7.ts.part", "film2x.ts.part", "film-1.ts", "ch1_2026-11-22_20-00-00.ts.part", "ch12_2026-11-22_20-00-00.ts.part"} {
		os.WriteFile(filepath.Join(dir, n), nil, 0o644)
	}
	if got := Leftovers(film); !slices.Equal(got, []string{filepath.Join(dir, "film-7.ts.part")}) {
		t.Error(got)
	}
	pattern := filepath.Join(dir, DefaultName("ch1", time.Time{}))
	if got := Leftovers(pattern); !slices.Contains(got, filepath.Join(dir, "ch1_2026-11-22_20-00-00.ts.part")) {
		t.Error(got)
	}
	if got := Leftovers(filepath.Join(dir, "nowhere", "film.ts")); got != nil {
		t.Error(got)
	}
}

func TestDefaultName(t *testing.T) {
	at := time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"ch1":              "ch1_2026-11-22_20-00-00.ts",
		"Канал 1/HD":       "Канал_1_HD_2026-11-22_20-00-00.ts",
		"../../etc/passwd": "_.._etc_passwd_2026-11-22_20-00-00.ts",
		"-rf\n":            "rf_2026-11-22_20-00-00.ts",
		"\xff":             "__2026-11-22_20-00-00.ts",
		" ":                "recording_2026-11-22_20-00-00.ts",
		"a\x00b":           "a_b_2026-11-22_20-00-00.ts",
	} {
		if got := DefaultName(in, at); strings.Trim(got, "/") != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if n := len(DefaultName(strings.Repeat("ü", 500), at) + sidecarSuffix + partSuffix); n > 255 {
		t.Errorf("%d bytes are no name", n)
	}
}

// fullDisk takes room bytes.
type fullDisk struct {
	bytes.Buffer
	room   int
	synced bool
}

func (d *fullDisk) Write(b []byte) (int, error) {
	n := min(len(b), d.room-d.Len())
	d.Buffer.Write(b[:n])
	if n < len(b) {
		return n, syscall.ENOSPC
	}
	return n, nil
}
func (d *fullDisk) Truncate(n int64) error { d.Buffer.Truncate(int(n)); return nil }
func (d *fullDisk) Sync() error            { d.synced = true; return nil }
func (d *fullDisk) Close() error           { return nil }

var begin = time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)

// unit is block n of a run: 1 s with 4 packets.
func unit(run block.Run, n block.Number, from time.Time) *play.Block {
	return &play.Block{
		Run: run, Number: n, SinceRAP: 0, Created: from.Add(time.Duration(n+1) * time.Second), Duration: time.Second,
		FirstPacket: uint64(n) * 4, Preamble: make([]byte, ts.PacketSize), Packets: make([]byte, 4*ts.PacketSize),
	}
}

// feed records blocks as they would come out of a stream that then ends.
func feed(t *testing.T, r *Recorder, blocks ...*play.Block) error {
	t.Helper()
	s := play.NewStream(play.Config{Latency: time.Hour}, nil)
	reader := s.NewReader(play.Limits{Age: -1})
	for _, b := range blocks {
		s.Put(b.Created, b)
	}
	s.Close()
	return r.Run(context.Background(), reader)
}

func TestFullDiskKeepsWholePacketsInThePart(t *testing.T) {
	disk := &fullDisk{room: 3000}
	r := NewRecorder(&File{f: disk, want: "film.ts", part: "film.ts.part"}, "key", "ch1")
	err := feed(t, r, unit(1, 0, begin), unit(1, 1, begin), unit(1, 2, begin), unit(1, 3, begin))
	if !errors.Is(err, play.ErrWrite) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if disk.Len() != 13*ts.PacketSize {
		t.Errorf("%d bytes on the disk", disk.Len())
	}
	report, err := r.Finish()
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "film.ts.part") || !disk.synced {
		t.Error(err)
	}
	if report.Blocks != 3 || report.Packets != 12 {
		t.Errorf("%+v", report)
	}
}

func TestRecordingWithoutAGapHasNoSidecar(t *testing.T) {
	dir := t.TempDir()
	r := NewRecorder(create(t, filepath.Join(dir, "film.ts")), "key", "ch1")
	if err := feed(t, r, unit(1, 0, begin), unit(1, 2, begin), unit(1, 1, begin)); err != nil {
		t.Fatal(err)
	}
	// Our clock is an hour ahead of the source's; the edges are within bounds.
	r.Covers(begin.Add(time.Hour-4*time.Second), begin.Add(time.Hour+7*time.Second), time.Hour)
	report, err := r.Finish()
	if err != nil || !report.Complete || report.Runs != 1 || report.Bytes != 13*ts.PacketSize {
		t.Fatalf("%+v %v", report, err)
	}
	if got := ls(t, dir); !slices.Equal(got, []string{"film.ts"}) {
		t.Error(got)
	}
	if !report.From.Equal(begin) || !report.To.Equal(begin.Add(3*time.Second)) {
		t.Error(report.From, report.To)
	}
}

func TestSidecarSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	r := NewRecorder(create(t, filepath.Join(dir, "film.ts")), "key", "ch1")
	end := unit(2, 1, begin.Add(time.Minute))
	end.End = true
	err := feed(t, r,
		unit(1, 0, begin), unit(1, 3, begin), // 1 and 2 are lost
		unit(2, 0, begin.Add(time.Minute)), end, // a new run: the old one did not end
		unit(3, 0, begin.Add(2*time.Minute))) // and one after an orderly end
	if err != nil {
		t.Fatal(err)
	}
	r.Covers(begin.Add(-10*time.Second), begin.Add(10*time.Minute), 0)
	report, err := r.Finish()
	if err != nil || report.Complete {
		t.Fatalf("%+v %v", report, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "film.ts.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	var why []string
	for _, m := range got.Missing {
		why = append(why, m.Why)
	}
	if !slices.Equal(why, []string{Lost, Restart, LateOn, EarlyOff}) {
		t.Fatal(why)
	}
	lost := got.Missing[0]
	if lost.Blocks != 2 || lost.Packets != 8 || lost.MS != 2000 || lost.Offset != 5*ts.PacketSize || !lost.From.Equal(begin.Add(time.Second)) {
		t.Errorf("%+v", lost)
	}
	if got.Missing[1].MS != 56000 || got.MissingBlocks != 2 || got.MissingPackets != 8 || got.Runs != 3 || got.File != "film.ts" {
		t.Errorf("%+v", got)
	}
}

func TestListOfMissingPiecesIsBounded(t *testing.T) {
	r := NewRecorder(&File{f: &fullDisk{room: 1 << 30}}, "key", "")
	for n := range block.Number(maxMissing + 5) {
		r.written(play.Unit{Block: unit(1, 2*n, begin)}, 4*ts.PacketSize)
	}
	if p := r.Report(); len(p.Missing) != maxMissing || p.MissingPieces != maxMissing+4 || p.MissingBlocks != maxMissing+4 {
		t.Error(len(p.Missing), p.MissingPieces, p.MissingBlocks)
	}
}
