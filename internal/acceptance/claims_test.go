//go:build linux

package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

// Two sources claim one name with keys of their own. Who met the one before keeps it, and is told of the other; who met neither is asked
// which one is meant; the list marks both.
func TestTwoClaimOneName(t *testing.T) {
	t.Parallel()
	s, other := newStation(t), newStation(t)
	h := testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: testnet.Hosts(4, netem.Params{}, netem.Params{Delay: time.Millisecond})}).Hosts()
	at := fmt.Sprintf("[%v]:6969", h[3].Addr())
	tr := run(t, h[3], streams{}, "tracker")
	tr.says("listening on")
	src := s.source(h[0], "--tracker", at)
	src.air(clipH264.path(t), "--loop")
	tr.prints("channel-added")
	me := home(t)
	first := s.named(h[2], me, "--tracker", at, "--no-history=false", "ch1")
	first.writes(500*packet, patience)
	first.stop()
	second := other.source(h[1], "--tracker", at)
	second.air(clip1M.path(t), "--loop")
	tr.prints(`(?s)channel-added.*channel-added.*look_alikes`)

	same := s.named(h[2], me, "--tracker", at, "--no-history=false", "ch1")
	same.says("refused, from tracker .*its key has changed")
	same.writes(500*packet, patience)
	same.stop()
	stranger := s.named(h[2], home(t), "--tracker", at, "--no-history=false", "ch1")
	stranger.ends(1, patience)
	if words := stranger.words.String(); !strings.Contains(words, "several channels are called ch1") || !strings.Contains(words, s.id.String()) || !strings.Contains(words, other.id.String()) {
		t.Errorf("a stranger is told %q", words)
	}
	list := run(t, h[2], streams{}, "watch", "--list", "--tracker", at)
	list.ends(0, patience)
	if n := strings.Count(list.out.String(), "ch1 (!)"); n != 2 {
		t.Errorf("%d of 2 are marked:\n%s", n, list.out.String())
	}

	// The pin is a line that can be read, and removed.
	file := filepath.Join(strings.TrimPrefix(me[1], "XDG_STATE_HOME="), "sixcast", "known_channels")
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "ch1 "+s.id.String()) {
		t.Errorf("%v: %q", err, text)
	}
}
