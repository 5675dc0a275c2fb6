package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/sixcast/sixcast/cmd/internal/cli"
	"github.com/sixcast/sixcast/pkg/tracker"
)

// hookTime is how long a hook may take.
const hookTime = time.Minute

// teller tells scripts what happens: a line of JSON on stdout, and a command for each event.
type teller struct {
	app  *cli.App
	hook string
	mute bool // nobody reads stdout any more
}

// tell runs on one goroutine of the service: a slow hook holds up the next event, and nothing else.
func (t *teller) tell(ctx context.Context, e tracker.Event) {
	line, err := json.Marshal(e)
	if err != nil {
		t.app.Log.Error("event", "err", err)
		return
	}
	line = append(line, '\n')
	if !t.mute {
		if _, err := t.app.Stdout.Write(line); err != nil {
			t.mute = true
			t.app.Log.Warn("no more events on stdout", "err", err)
		}
	}
	if t.hook == "" || ctx.Err() != nil {
		return // at the end events are told, and no more commands begun
	}
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	shell, flag := "/bin/sh", "-c"
	env := []string{"SIXCAST_EVENT=" + e.Event, "SIXCAST_EVENT_ID=" + e.ID, "SIXCAST_EVENT_ADDRESS=" + e.Address}
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/c" // which takes what is in variables for commands
	} else {
		// What strangers wrote is in stdin and in variables, never in the command line.
		env = append(env, "SIXCAST_EVENT_NAME="+e.Name, "SIXCAST_EVENT_MEMBER="+e.Member)
	}
	cmd := exec.CommandContext(ctx, shell, flag, t.hook)
	cmd.Stdin = bytes.NewReader(line)
	cmd.Stderr = t.app.Stderr
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), env...)
	if err := cmd.Run(); err != nil {
		t.app.Log.Warn(fmt.Sprintf("--on-event: %s: %v", e.Event, err))
	}
}
