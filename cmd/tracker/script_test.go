package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixcast/sixcast/internal/script"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tracker": main, "code": script.Code})
}

// The scripts say what tracker tells those who call it wrongly. They have:
//
//	code N cmd…  runs cmd and fails unless it exits with N
//	$KEY         a channel that is on air nowhere
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: script.Setup("KEY", script.Channel),
	})
}
