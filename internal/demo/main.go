// Command demo puts the clip in testdata on air, on this machine alone, and says at the end whether it arrived byte for
// byte. It runs the commands as a user would, as processes joined by pipes, and shows what it runs:
//
//	ingest demo.ts | relay ── lossy link ── relay ── lossy link ── watch
//
// The links are in this process (lossyLink), so that [::1] is all the network it needs. scripts/demo runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
)

// Exit codes. An interrupted demo has proved nothing, hence is no success.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	o := options{link: netem.Params{Loss: 0.02, Delay: 10 * time.Millisecond}}
	flag.StringVar(&o.bin, "bin", "bin", "`folder` of ingest, relay and watch")
	flag.StringVar(&o.clip, "clip", "testdata/demo.ts", "the transport stream to play")
	flag.StringVar(&o.player, "player", defaultPlayer(), "what watch plays it with too, \"\" for nothing")
	flag.Uint64Var(&o.seed, "seed", 1, "decides which datagrams are lost")
	flag.Func("link", "what the two links do, as `\"loss=5% delay=25ms\"` (default \"loss=2% delay=10ms\"); clear makes them perfect",
		func(s string) error { return o.link.Set(s) })
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: what is %q? there are only flags, see --help\n", flag.Arg(0))
		os.Exit(exitUsage)
	}
	// The emulated links are the only way, and nothing of this is to be remembered.
	os.Setenv("SIXCAST_NO_LAN", "true")
	os.Setenv("SIXCAST_NO_HISTORY", "true")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills
	err := run(ctx, o)
	stop()
	switch {
	case errors.Is(err, context.Canceled):
		os.Exit(exitInterrupted)
	case err != nil:
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(exitFailure)
	}
}
