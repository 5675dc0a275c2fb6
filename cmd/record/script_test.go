package main

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixcast/sixcast/internal/ci"
	"github.com/sixcast/sixcast/internal/onair"
	"github.com/sixcast/sixcast/internal/script"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"record": main, "code": script.Code, "limit": script.Limit})
}

// The scripts say what record promises. Beside record and what onair has there are:
//
//	code N cmd…              runs cmd and fails unless it exits with N
//	limit TIME cmd…          runs cmd, sends it SIGINT after TIME, and exits as it does
//	[smalldisk]              is true where a tmpfs can be mounted in a namespace of ours
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: onair.Commands(),
		Condition: func(cond string) (bool, error) {
			if cond != "smalldisk" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			out, err := exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt").CombinedOutput()
			if err != nil && ci.On() {
				return false, fmt.Errorf("no small disk here, and with CI=true nothing is skipped: %w: %s", err, out)
			}
			return err == nil, nil
		},
		Setup: script.Setup("CHANNEL", onair.URI()),
	})
}
