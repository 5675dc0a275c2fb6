package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"relay": main, "code": code})
}

// The scripts say what relay tells those who call it wrongly. They have:
//
//	code N cmd…  runs cmd and fails unless it exits with N
//	$CLIP        a transport stream
//	$KEY         a channel that is on air nowhere
func TestScripts(t *testing.T) {
	clip, err := filepath.Abs("../../testdata/demo.ts")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("CLIP", clip)
			e.Setenv("KEY", "sixcast:r5jnwaushwuwbbqzyodhjcbpseaskgbeyemlomikupbedsrmho6a")
			return nil
		},
	})
}

func code() {
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Run()
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != os.Args[1] {
		fmt.Fprintf(os.Stderr, "%v exited with %s, not %s\n", cmd.Args, got, os.Args[1])
		os.Exit(1)
	}
}
