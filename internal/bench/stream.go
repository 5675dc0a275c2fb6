//go:build linux

package main

import (
	"bufio"
	"os"
	"time"

	"github.com/sixcast/sixcast/internal/testcard"
	"github.com/sixcast/sixcast/pkg/ts"
)

// What most is measured with: 8 Mbit/s, a random access point a second.
const (
	streamRate  ts.BitRate = 8_000_000
	streamEvery            = time.Second
)

// writeStream makes a file of size bytes of the stream.
func writeStream(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	s := testcard.New(streamRate, streamEvery)
	var buf []byte
	const chunk = 5000
	for n := size / ts.PacketSize; n > 0; n -= chunk {
		buf = s.Append(buf[:0], int(min(n, chunk)))
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return w.Flush()
}
