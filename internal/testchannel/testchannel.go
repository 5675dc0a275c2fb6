// Package testchannel has numbered channels for tests and benchmarks: the same number is always the same key.
package testchannel

import (
	"encoding/binary"
	"testing"

	"github.com/sixcast/sixcast/pkg/channel"
)

// Key is that of channel n ≥ 0.
func Key(n int) channel.Key {
	var seed [channel.SeedSize]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n)+1)
	return channel.KeyFromSeed(seed)
}

// Sign makes a descriptor of channel n.
func Sign(t testing.TB, n int, seq int64, v channel.Values) channel.Descriptor {
	t.Helper()
	d, err := channel.SignDescriptor(Key(n), seq, v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
