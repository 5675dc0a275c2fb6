package cli

import (
	"errors"
	"fmt"
	"net"
	"testing"
)

func TestOnlyPassingFailuresOfLookUpsAreTriedAgain(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("no port"), false},
		{&net.DNSError{IsNotFound: true, IsTemporary: true}, false},
		{&net.DNSError{}, false},
		{fmt.Errorf("peer: %w", &net.DNSError{IsTemporary: true}), true},
		{fmt.Errorf("peer: %w", &net.DNSError{IsTimeout: true}), true},
	} {
		if got := passing(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}
