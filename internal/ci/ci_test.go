package ci

import (
	"fmt"
	"strings"
	"testing"
)

// ended is a test that notes how it ended.
type ended struct {
	testing.TB
	how string
}

func (e *ended) Helper()           {}
func (e *ended) Skip(args ...any)  { e.how = "skipped: " + fmt.Sprint(args...); panic(e) }
func (e *ended) Fatal(args ...any) { e.how = "failed: " + fmt.Sprint(args...); panic(e) }

func TestSkipFailsInCI(t *testing.T) {
	for value, want := range map[string]string{"": "skipped: no tuner", "false": "skipped: no tuner", "true": "failed: no tuner"} {
		t.Setenv("CI", value)
		e := &ended{TB: t}
		func() {
			defer func() { recover() }()
			Skip(e, "no tuner")
		}()
		if !strings.HasPrefix(e.how, want) {
			t.Errorf("with CI=%q: %q, want %q", value, e.how, want)
		}
	}
}
