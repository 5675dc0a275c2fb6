// Command record writes a channel to a file.
package main

import "github.com/sixcast/sixcast/cmd/internal/cli"

func main() {
	cli.OneCore()
	cli.Main("record", newCommand)
}
