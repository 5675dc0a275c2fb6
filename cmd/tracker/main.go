// Command tracker tells the peers of a channel of each other.
package main

import "github.com/sixcast/sixcast/cmd/internal/cli"

func main() { cli.Main("tracker", newCommand) }
