package catalog

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/durable"
)

// A state file is a header and a record for each channel, integers big-endian:
//
//	0  16  "sixcast catalog\n"
//	16  1  version 1
//	17  4  how many records follow
//	21  4  CRC-32C of the header up to here
//
//	0   4  "\xc5ch\n"
//	4   2  length n of the item
//	6   8  first heard of, Unix seconds
//	14  8  last published, Unix seconds
//	22  n  the item
//	22+n 4 CRC-32C of the record up to here
//
// A record that is damaged is passed over up to the mark of the next.
const (
	stateMagic   = "sixcast catalog\n"
	stateVersion = 1
	headerSize   = len(stateMagic) + 1 + 4 + 4

	recordMark = "\xc5ch\n"
	recordHead = len(recordMark) + 2 + 8 + 8
	recordMax  = recordHead + channel.MaxItem + 4
)

// Errors about state files.
var (
	// ErrState says that it is none, or of another version: nothing was read.
	ErrState = errors.New("not a catalog's state file")
	// ErrDamaged says that some of it could not be read.
	ErrDamaged = errors.New("the catalog's state file is damaged")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is an entry in a state file.
type record struct {
	first, seen int64
	item        []byte
}

func (r *record) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, recordMark...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.item)))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.first))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.seen))
	dst = append(dst, r.item...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// parseRecord reads the record that b begins with, and its size; the item aliases b. It fails where there is none, or a damaged one.
func parseRecord(b []byte) (r record, size int, ok bool) {
	if len(b) < recordHead || string(b[:len(recordMark)]) != recordMark {
		return r, 0, false
	}
	n := int(binary.BigEndian.Uint16(b[len(recordMark):]))
	size = recordHead + n + 4
	if n > channel.MaxItem || len(b) < size || binary.BigEndian.Uint32(b[size-4:]) != crc32.Checksum(b[:size-4], castagnoli) {
		return r, 0, false
	}
	times := b[len(recordMark)+2:]
	r = record{int64(binary.BigEndian.Uint64(times)), int64(binary.BigEndian.Uint64(times[8:])), b[recordHead : recordHead+n]}
	return r, size, r.first >= 0 && r.seen >= 0
}

// Save writes the catalog as Load reads it. Nobody is held up while it writes.
func (c *Catalog) Save(w io.Writer) error {
	c.mu.RLock()
	records := make([]record, 0, len(c.byID))
	for _, e := range c.slots {
		if e != nil {
			records = append(records, record{e.first, e.seen, e.d.Item})
		}
	}
	c.mu.RUnlock()

	buf := append(append(make([]byte, 0, recordMax), stateMagic...), stateVersion)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(records)))
	buf = binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli))
	out := bufio.NewWriterSize(w, 1<<16)
	if _, err := out.Write(buf); err != nil {
		return err
	}
	for i := range records {
		buf = records[i].append(buf[:0])
		if _, err := out.Write(buf); err != nil {
			return err
		}
	}
	return out.Flush()
}

// Load takes in what Save wrote, verifies every item, on all cores, and returns how many it took in. What is known already, has not been
// published for Config.Keep, is not accepted or finds no room is left out without a word. Load before anything else is put, so that
// channels are as old as they were.
//
// ErrState: nothing was read. ErrDamaged: what is damaged was lost, n were read nevertheless. Other errors are the reader's.
func (c *Catalog) Load(r io.Reader) (n int, err error) {
	in := bufio.NewReaderSize(io.LimitReader(r, int64(headerSize)+MaxMax*int64(recordMax)), 1<<16)
	header, err := in.Peek(headerSize)
	switch {
	case errors.Is(err, io.EOF):
		return 0, fmt.Errorf("%w: it has %d bytes", ErrState, len(header))
	case err != nil:
		return 0, err
	}
	// A header that is damaged is passed over like a record.
	sound := binary.BigEndian.Uint32(header[headerSize-4:]) == crc32.Checksum(header[:headerSize-4], castagnoli)
	wanted := int64(binary.BigEndian.Uint32(header[len(stateMagic)+1:]))
	if sound {
		version := header[len(stateMagic)]
		if string(header[:len(stateMagic)]) != stateMagic || version != stateVersion {
			return 0, fmt.Errorf("%w of version %d: it has version %d", ErrState, stateVersion, version)
		}
		_, _ = in.Discard(headerSize)
	}

	const batch = 64
	var (
		work    sync.WaitGroup
		mu      sync.Mutex
		forged  int
		batches = make(chan []record, 4)
	)
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			for records := range batches {
				fresh, bad := 0, 0
				for i := range records {
					ok, err := c.put(records[i].item, loaded, records[i].first, records[i].seen)
					if ok {
						fresh++
					}
					if errors.Is(err, channel.ErrDescriptor) || errors.Is(err, channel.ErrSignature) {
						bad++
					}
				}
				mu.Lock()
				n += fresh
				forged += bad
				mu.Unlock()
			}
		})
	}
	var found, lost int64 // records, bytes
	var records []record
	for err == nil {
		var b []byte
		b, err = in.Peek(recordMax)
		if len(b) == 0 {
			break
		}
		if errors.Is(err, io.EOF) {
			err = nil // there is less
		}
		rec, size, ok := parseRecord(b)
		if !ok {
			size = nextMark(b)
			lost += int64(size)
			_, _ = in.Discard(size)
			continue
		}
		found++
		rec.item = bytes.Clone(rec.item)
		if records = append(records, rec); len(records) == batch {
			batches <- records
			records = nil
		}
		_, _ = in.Discard(size)
	}
	batches <- records
	close(batches)
	work.Wait()
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return n, err
	case !sound && found == 0:
		return 0, ErrState
	case !sound || lost > 0:
		return n, fmt.Errorf("%w: %d bytes were passed over, %d channels were read", ErrDamaged, lost, found-int64(forged))
	case found != wanted || forged > 0:
		return n, fmt.Errorf("%w: %d of %d channels were read", ErrDamaged, found-int64(forged), wanted)
	}
	return n, nil
}

// nextMark is how many bytes of b to pass over to a place where a record may begin; it is at least 1.
func nextMark(b []byte) int {
	if i := bytes.Index(b[1:], []byte(recordMark)); i >= 0 {
		return 1 + i
	}
	return max(1, len(b)-len(recordMark)+1) // it may begin with the last bytes
}

// SaveFile writes the catalog to a file, which is replaced when all is on the disk: if it fails, as on a full disk, the file stays as it
// was. It uses path with ".new" in the meantime.
func (c *Catalog) SaveFile(path string) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	return writeFile(path, c.Save)
}

func writeFile(path string, write func(io.Writer) error) error {
	part := path + ".new"
	_ = os.Remove(part) // what a crash left
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := durable.Replace(path, f, write); err != nil {
		return fmt.Errorf("saving the catalog: %w", err)
	}
	return nil
}

// LoadFile loads what SaveFile wrote: see Load. That there is none yet is fs.ErrNotExist.
func (c *Catalog) LoadFile(path string) (n int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if n, err = c.Load(f); err != nil {
		return n, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}
