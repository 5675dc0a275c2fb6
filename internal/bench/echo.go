//go:build linux

package main

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"github.com/sixcast/sixcast/pkg/udp"
)

// echoArg makes this program the bare loop that a tracker is compared with.
const echoArg = "echo"

// echoHead is how much of a request stands in its reply, in bytes, so that it can be known again.
const echoHead = 16

// echo answers every datagram with one of a size, on the same sockets as a tracker and in the same batches, with nothing else to do. It
// runs for ever.
func echo(args []string) int {
	f := flag.NewFlagSet(echoArg, flag.ExitOnError)
	listen := f.String("listen", "", "")
	size := f.Int("size", 0, "of a reply, bytes; 0: as what came")
	_ = f.Parse(args)
	body := make([]byte, *size)
	if *size > 0 && *size < echoHead {
		return 2
	}
	var work sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		c, err := udp.Listen(udp.Config{Listen: netip.MustParseAddrPort(*listen), ReceiveBuffer: 8 << 20, SendBuffer: 8 << 20, NoOffload: true, Shared: true})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		work.Go(func() {
			var queue udp.SendQueue
			c.Serve(func(datagrams []udp.Datagram) {
				for _, d := range datagrams {
					if len(body) == 0 || len(d.Data) < echoHead {
						queue.Add(d.Addr, nil, d.Data)
						continue
					}
					queue.Add(d.Addr, d.Data[:echoHead], body[echoHead:])
				}
				_, _ = c.Flush(&queue)
			}, func(error) {})
		})
	}
	fmt.Fprintln(os.Stderr, "listening")
	work.Wait()
	return 0
}
