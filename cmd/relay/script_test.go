package main

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixcast/sixcast/internal/script"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"relay": main, "code": script.Code})
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
		Dir:   "testdata/script",
		Setup: script.Setup("CLIP", clip, "KEY", script.Channel),
	})
}
