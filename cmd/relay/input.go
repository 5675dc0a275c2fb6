package main

import (
	"errors"
	"os"
)

// errTransportStream is what a transport stream on stdin is: ingest was forgotten.
var errTransportStream = errors.New("stdin is a transport stream, not a block stream: put ingest in between (… | ingest | relay)")

// stdin is the block stream, but for a transport stream, which it refuses.
type stdin struct {
	*os.File
	head []byte // the first bytes, until they are enough
	seen bool
}

const (
	packetSize = 188
	syncByte   = 0x47
)

func (s *stdin) Read(b []byte) (int, error) {
	n, err := s.File.Read(b)
	if s.seen {
		return n, err
	}
	s.head = append(s.head, b[:n]...)
	if len(s.head) > packetSize {
		s.seen = true
		if s.head[0] == syncByte && s.head[packetSize] == syncByte {
			return 0, errTransportStream
		}
		s.head = nil
	}
	return n, err
}
