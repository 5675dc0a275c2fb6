package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixcast/sixcast/internal/onair"
	"github.com/sixcast/sixcast/pkg/ts"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"record": main, "code": code, "limit": limit})
}

// The scripts say what record promises. Beside record and what onair has there are:
//
//	code N cmd…              runs cmd and fails unless it exits with N
//	limit TIME cmd…          runs cmd, sends it SIGINT after TIME, and exits as it does
//	[smalldisk]              is true where a tmpfs can be mounted in a namespace of ours
//	waitfor FILE BLOCKS      waits until FILE holds that many blocks
func TestScripts(t *testing.T) {
	commands := onair.Commands()
	commands["waitfor"] = waitFor
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: commands,
		Condition: func(cond string) (bool, error) {
			if cond != "smalldisk" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt").Run() == nil, nil
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("CHANNEL", onair.URI())
			return nil
		},
	})
}

func code() {
	want, _ := strconv.Atoi(os.Args[1])
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != want {
		fmt.Fprintf(os.Stderr, "exit status %d, want %d\n", got, want)
		os.Exit(1)
	}
}

func limit() {
	after, err := time.ParseDuration(os.Args[1])
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	time.AfterFunc(after, func() { cmd.Process.Signal(os.Interrupt) })
	cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}

func waitFor(t *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	t.Check(err)
	for range 1000 {
		info, err := os.Stat(t.MkAbs(args[0]))
		if err == nil && info.Size() >= int64(n*onair.BlockPackets*ts.PacketSize) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not come to %d blocks", args[0], n)
}
