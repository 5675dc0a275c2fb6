// Package ci keeps tests from passing by not running: what a machine lacks skips a test on a desk and fails it in CI.
package ci

import (
	"os"
	"testing"
)

// On reports whether these tests run in CI: the environment has CI=true.
func On() bool { return os.Getenv("CI") == "true" }

// Skip ends a test that cannot run here, for the reason given as to Log: skipped, or failed in CI.
func Skip(t testing.TB, reason ...any) {
	t.Helper()
	if On() {
		t.Fatal(append(reason, "(CI=true, where no test is skipped)")...)
	}
	t.Skip(reason...)
}
