// Package script has what the scripts of every command may run beside it, each a main of testscript.Main.
package script

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Code is the command code N cmd…: it runs cmd and fails unless that exits with N.
func Code() {
	cmd := command(os.Args[2:])
	cmd.Run()
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != os.Args[1] {
		fmt.Fprintf(os.Stderr, "%v exited with %s, not %s\n", cmd.Args, got, os.Args[1])
		os.Exit(1)
	}
}

// Limit is the command limit TIME cmd…: it runs cmd, sends it SIGINT after TIME, and exits as it does.
func Limit() {
	after, err := time.ParseDuration(os.Args[1])
	if err != nil {
		panic(err)
	}
	cmd := command(os.Args[2:])
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	time.AfterFunc(after, func() { cmd.Process.Signal(os.Interrupt) })
	cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}

// Channel is one that is on air nowhere.
const Channel = "sixcast:r5jnwaushwuwbbqzyodhjcbpseaskgbeyemlomikupbedsrmho6a"

// Setup is a Setup of testscript.Params that makes the script's directory its home, keeps commands from asking the network that the machine is
// in, and sets variables, name and value by turns.
func Setup(variables ...string) func(*testscript.Env) error {
	return func(e *testscript.Env) error {
		e.Setenv("HOME", e.WorkDir)
		e.Setenv("SIXCAST_NO_LAN", "true")
		for i := 0; i < len(variables); i += 2 {
			e.Setenv(variables[i], variables[i+1])
		}
		return nil
	}
}

// command is a command with our own streams.
func command(args []string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}
