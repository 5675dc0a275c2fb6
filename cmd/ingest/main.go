// Command ingest turns a transport stream into the signed block stream of a channel, which relay spreads.
package main

import "github.com/sixcast/sixcast/cmd/internal/cli"

func main() { cli.Main("ingest", newCommand) }
