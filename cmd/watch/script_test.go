package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixcast/sixcast/internal/onair"
	"github.com/sixcast/sixcast/pkg/ts"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"watch": main, "code": code, "limit": limit})
}

// The scripts say what watch promises. Beside watch and what onair has there are:
//
//	report FILE KEY=VALUE…   fails unless the report has these values
//	waitfor FILE BLOCKS      waits until FILE holds that many blocks
//	code N cmd…              runs cmd and fails unless it exits with N
//	limit TIME cmd…          runs cmd, sends it SIGINT after TIME, and exits as it does
func TestScripts(t *testing.T) {
	commands := onair.Commands()
	commands["report"] = report
	commands["waitfor"] = waitFor
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: commands,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("WATCH", onair.URI())
			return nil
		},
	})
}

func report(t *testscript.TestScript, _ bool, args []string) {
	var got map[string]any
	t.Check(json.Unmarshal([]byte(t.ReadFile(args[0])), &got))
	for _, a := range args[1:] {
		key, want, _ := strings.Cut(a, "=")
		if have := fmt.Sprint(got[key]); have != want {
			t.Fatalf("%s is %s, want %s", key, have, want)
		}
	}
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
