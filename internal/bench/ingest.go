//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// ingestBytes is how much transport stream ingest is given: a quarter of an hour.
const ingestBytes = 1_000_000_000 / 188 * 188

// ingest measures the whole command: reading a file, the walk over the packets, cutting, Reed-Solomon, hashes, signatures, writing.
func (b *bench) ingest() error {
	file := filepath.Join(b.dir, "stream.ts")
	if err := writeStream(file, ingestBytes); err != nil {
		return err
	}
	defer os.Remove(file)
	t := &table{
		title:   "ingest: 1 GB of transport stream (8 Mbit/s, H.264), one core",
		command: "GOMAXPROCS=1 ingest --pace=off stream.ts > /dev/null",
		columns: []string{"output", "stream, Gbit/s a core", "CPU s / GB", "peak memory, MB", "target"},
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, data := range []string{"12", "8"} {
		var rate, cost, memory []float64
		for range max(5, b.runs) {
			cmd := b.our("ingest", "--pace=off", "-q", "--fec", data, file)
			cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
			cmd.Stdout = null
			p, err := start(cmd)
			if err != nil {
				return err
			}
			if <-p.done; p.err != nil {
				return fmt.Errorf("ingest: %w: %s", p.err, p.log)
			}
			cpu, peak := usage(cmd)
			rate = append(rate, ingestBytes*8/cpu.Seconds()/1e9)
			cost = append(cost, cpu.Seconds()/(ingestBytes/1e9))
			memory = append(memory, float64(peak)/1e6)
		}
		target := "≥ 3"
		name := "any 12 of 16 stripes (default)"
		if data != "12" {
			target, name = "", "any 8 of 16 stripes (--fec 8)"
		}
		t.add(name, spread("%.2f", rate), spread("%.2f", cost), spread("%.0f", memory), target)
	}
	b.out.table(t)
	return nil
}
