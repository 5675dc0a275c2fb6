//go:build unix

package main

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/cmd/internal/cli"
)

// goneEvery is how often it is looked whether the reader of stdout is still there.
const goneEvery = time.Second

// watchReader cancels with ErrStdoutClosed once nobody reads the pipe out any
// more. Without it a viewer whose player has ended would stay for as long as
// no block comes to be written.
func watchReader(ctx context.Context, out *os.File, cancel context.CancelCauseFunc) {
	info, err := out.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return
	}
	tick := time.NewTicker(goneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		fds := []unix.PollFd{{Fd: int32(out.Fd())}}
		if n, err := unix.Poll(fds, 0); err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
			cancel(cli.ErrStdoutClosed)
			return
		}
	}
}
