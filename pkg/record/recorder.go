package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sixcast/sixcast/pkg/play"
	"github.com/sixcast/sixcast/pkg/ts"
)

// Why something is missing.
const (
	Lost     = "lost"                  // blocks that did not come in time
	Restart  = "source restarted"      // between the last block of a run that did not end and the first of the next
	TooSlow  = "disk too slow"         // blocks that came and could not be written in time
	LateOn   = "nothing came at first" // before the first block
	EarlyOff = "nothing came at last"  // after the last block
)

const (
	// maxMissing bounds the list in the sidecar; the totals go on.
	maxMissing = 10000
	// edge is the time without a block at the begin or the end that counts as missing.
	edge = 5 * time.Second
)

// Missing is one piece that is not in the recording.
type Missing struct {
	From    time.Time `json:"from"`   // by the source's clock
	Offset  int64     `json:"offset"` // bytes in the file: the piece would be here
	MS      float64   `json:"ms"`
	Blocks  uint64    `json:"blocks,omitempty"`
	Packets uint64    `json:"packets,omitempty"` // of the transport stream; 0 if unknown
	Why     string    `json:"why"`
}

// Report says what is in a recording and what is not.
type Report struct {
	File     string    `json:"file"`
	Channel  string    `json:"channel"`
	Name     string    `json:"name,omitempty"`
	From     time.Time `json:"from"` // first and last moment of the stream in it, by the source's clock
	To       time.Time `json:"to"`
	Bytes    int64     `json:"bytes"`
	Blocks   uint64    `json:"blocks"`
	Packets  uint64    `json:"packets"`
	Runs     int       `json:"runs"`
	Complete bool      `json:"complete"`

	Missing        []Missing `json:"missing"` // at most 10,000 of them
	MissingPieces  int       `json:"missing_pieces"`
	MissingMS      float64   `json:"missing_ms"`
	MissingBlocks  uint64    `json:"missing_blocks"`
	MissingPackets uint64    `json:"missing_packets"`
}

// Recorder writes what a reader gives into a File and keeps account of it.
type Recorder struct {
	// Written, if set, is called after each block that was written.
	Written func(play.Unit)

	file   *File
	report Report
	last   *play.Block
}

// NewRecorder of a channel, given by its key and name, into f.
func NewRecorder(f *File, channel, name string) *Recorder {
	return &Recorder{file: f, report: Report{Channel: channel, Name: name, Missing: []Missing{}}}
}

// Run writes until r ends (nil), ctx is done or the disk refuses (play.ErrWrite and the cause).
func (r *Recorder) Run(ctx context.Context, reader *play.Reader) error {
	return play.Write(ctx, r.file, reader, r.written)
}

func (r *Recorder) written(u play.Unit, n int) {
	b := u.Block
	if n < len(b.Packets) {
		return // the disk refused it
	}
	offset := r.file.Size() - int64(n)
	from := b.Created.Add(-b.Duration)
	switch l := r.last; {
	case l == nil:
		r.report.From = from
		r.report.Runs = 1
	case l.Run == b.Run:
		if g := play.GapBetween(l, b); g.Blocks > 0 {
			why := Lost
			if u.Entry == play.Rejoins {
				why = TooSlow
			}
			r.miss(Missing{From: l.Created, Offset: offset, MS: milliseconds(g.Duration), Blocks: g.Blocks, Packets: g.Packets, Why: why})
		}
	default:
		r.report.Runs++
		if d := from.Sub(l.Created); !l.End && d > 0 {
			r.miss(Missing{From: l.Created, Offset: offset, MS: milliseconds(d), Why: Restart})
		}
	}
	r.last = b
	r.report.To = b.Created
	r.report.Blocks++
	r.report.Packets += uint64(len(b.Packets) / ts.PacketSize)
	if r.Written != nil {
		r.Written(u)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *Recorder) miss(m Missing) {
	r.report.MissingPieces++
	r.report.MissingMS += m.MS
	r.report.MissingBlocks += m.Blocks
	r.report.MissingPackets += m.Packets
	if len(r.report.Missing) < maxMissing {
		r.report.Missing = append(r.report.Missing, m)
	}
}

// Covers counts what is missing at the edges of the time that was asked for,
// begin to end by our clock. delay is the least time from a block's creation
// to its arrival, of the two clocks (play.Counters); it cancels the difference
// of them. Call it once, after Run.
func (r *Recorder) Covers(begin, end time.Time, delay time.Duration) {
	if r.last == nil {
		return
	}
	begin, end = begin.Add(-delay), end.Add(-delay) // by the source's clock
	if d := r.report.From.Sub(begin); d > edge {
		r.miss(Missing{From: begin.UTC(), MS: milliseconds(d), Why: LateOn})
	}
	if d := end.Sub(r.report.To); d > edge {
		r.miss(Missing{From: r.report.To, Offset: r.file.Size(), MS: milliseconds(d), Why: EarlyOff})
	}
}

// Finish ends the file and, if something is missing, writes the sidecar. The
// error is ErrEmpty if nothing was recorded; with any other error the message
// says where what was recorded lies.
func (r *Recorder) Finish() (Report, error) {
	r.report.Bytes = r.file.Size()
	name, err := r.file.Finish()
	switch {
	case errors.Is(err, ErrEmpty):
		return r.report, err
	case err != nil:
		return r.report, fmt.Errorf("%w; what was recorded until then (%.1f MB) is kept in %s", err, float64(r.report.Bytes)/1e6, r.file.Part())
	}
	r.report.File = filepath.Base(name)
	r.report.Complete = r.report.MissingPieces == 0
	if !r.report.Complete {
		if err := r.sidecar(name + sidecarSuffix); err != nil {
			return r.report, fmt.Errorf("the recording %s is whole, but not the list of what it lacks: %w", name, err)
		}
	}
	r.report.File = name
	return r.report, nil
}

func (r *Recorder) sidecar(name string) error {
	b, err := json.MarshalIndent(r.report, "", "  ")
	if err != nil {
		return err
	}
	part := name + partSuffix
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		_, err = publish(part, name)
	}
	if err != nil {
		os.Remove(part)
	}
	return err
}

// Report as it stands.
func (r *Recorder) Report() Report { return r.report }
