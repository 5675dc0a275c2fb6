// Command relay spreads a channel: it pushes the block stream of ingest to
// peers and into multicast groups, or joins a channel and passes it on.
package main

import "github.com/sixcast/sixcast/cmd/internal/cli"

func main() { cli.Main("relay", newCommand) }
