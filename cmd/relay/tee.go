package main

import (
	"io"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/block"
)

// tee writes the block stream to a pipe. A reader that stops loses blocks,
// counted; it never stalls the relay.
type tee struct {
	w       io.Writer
	queue   chan []byte
	done    chan struct{}
	fail    func(error)
	mu      sync.Mutex
	lost    uint64
	closing sync.Once

	// Under the node's lock.
	descriptor []byte // record
	described  time.Time
}

// teeQueue is how many blocks wait for the reader of stdout: some seconds of
// any stream, 20 MB at the most.
const teeQueue = 256

func newTee(w io.Writer, fail func(error)) *tee {
	t := &tee{w: w, queue: make(chan []byte, teeQueue), done: make(chan struct{}), fail: fail}
	go func() {
		defer close(t.done)
		for b := range t.queue {
			if _, err := t.w.Write(b); err != nil {
				t.fail(err)
				for range t.queue {
				}
				return
			}
		}
	}()
	return t
}

// block queues a block, parity and all. It is called under the node's lock.
func (t *tee) block(b *block.Block) {
	if _, err := b.Reconstruct(); err != nil {
		return
	}
	var out []byte
	m := b.Manifest()
	if len(t.descriptor) > 0 && (t.described.IsZero() || m.SinceRAP == 0 && m.Created.Sub(t.described) >= time.Second) {
		t.described = m.Created
		out = append(out, t.descriptor...)
	}
	t.put(b.AppendRecords(out))
}

// describe keeps the channel's descriptor, a datagram, for the blocks to come.
// It is called under the node's lock.
func (t *tee) describe(datagram []byte) {
	t.descriptor = block.AppendRecord(nil, datagram)
	t.described = time.Time{}
}

func (t *tee) put(b []byte) {
	select {
	case t.queue <- b:
	default:
		t.mu.Lock()
		t.lost++
		t.mu.Unlock()
	}
}

func (t *tee) dropped() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost
}

func (t *tee) close() {
	t.closing.Do(func() { close(t.queue) })
	select {
	case <-t.done:
	case <-time.After(time.Second): // a reader that stopped does not keep us
	}
}
