// Command watch plays a channel: the transport stream on stdout, in a file or
// in a player.
package main

import (
	"time"

	"github.com/sixcast/sixcast/cmd/internal/cli"
)

// began is when the process started, to some milliseconds.
var began = time.Now()

func main() {
	cli.OneCore()
	cli.Main("watch", newCommand)
}
