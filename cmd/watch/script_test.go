package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixcast/sixcast/internal/onair"
	"github.com/sixcast/sixcast/internal/script"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"watch": main, "code": script.Code, "limit": script.Limit})
}

// The scripts say what watch promises. Beside watch and what onair has there are:
//
//	report FILE KEY=VALUE…   fails unless the report has these values
//	code N cmd…              runs cmd and fails unless it exits with N
//	limit TIME cmd…          runs cmd, sends it SIGINT after TIME, and exits as it does
func TestScripts(t *testing.T) {
	commands := onair.Commands()
	commands["report"] = report
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Cmds:  commands,
		Setup: script.Setup("WATCH", onair.URI()),
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
