package play

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrNoPlayer is wrapped where a player is not installed; the message lists those that are.
var ErrNoPlayer = errors.New("player is not installed")

// players are the commands that we know well, and the flags with which each
// starts soonest on a transport stream that begins with PAT, PMT and a random
// access point: the format is told, and half a second of analysis finds every
// elementary stream of broadcast captures where the default waits for five
// seconds or for streams that never carry anything. From the start of watch to
// the first frame, with captures and clips of 0.5 to 8 Mbit/s: mpv 0.13 to
// 0.9 s (by itself, DVB captures 6 s and more), ffplay 0.2 to 1 s (4 s and more).
var players = []struct {
	name string
	args []string
}{
	{"mpv", []string{
		"--demuxer=+lavf", "--demuxer-lavf-format=mpegts", "--demuxer-lavf-analyzeduration=0.5",
		// Read all that comes, and after a gap go on soon.
		"--cache=yes", "--cache-pause-wait=0.3", "--demuxer-max-back-bytes=16MiB",
		"-",
	}},
	{"vlc", []string{"--demux=ts", "--file-caching=300", "--play-and-exit", "-"}},
	{"ffplay", []string{
		"-hide_banner", "-loglevel", "error", "-autoexit",
		"-f", "mpegts", "-analyzeduration", "500000", "-probesize", "1000000",
		"-",
	}},
}

// PlayerCommand finds what to run for a player given by the user: mpv, vlc and
// ffplay alone are run with the flags that suit a live stream, anything else
// is a shell command that reads the stream from its stdin. The error is
// ErrNoPlayer or says what is wrong.
func PlayerCommand(command string) (args []string, err error) {
	words := strings.Fields(command)
	if len(words) == 0 {
		return nil, errors.New("no player is named: try mpv, vlc or ffplay")
	}
	for _, p := range players {
		if command == p.name {
			path, err := exec.LookPath(p.name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w%s", p.name, ErrNoPlayer, installed())
			}
			return append([]string{path}, p.args...), nil
		}
	}
	// Words that the shell reads otherwise are left to it.
	if !strings.ContainsAny(words[0], "'\"\\$`(){}[]*?~=;&|<>!#") {
		if exec.Command("/bin/sh", "-c", `command -v "$1" >/dev/null`, "sh", words[0]).Run() != nil {
			return nil, fmt.Errorf("%s: %w%s", words[0], ErrNoPlayer, installed())
		}
	}
	return []string{"/bin/sh", "-c", command}, nil
}

func installed() string {
	var have, all []string
	for _, p := range players {
		all = append(all, p.name)
		if _, err := exec.LookPath(p.name); err == nil {
			have = append(have, p.name)
		}
	}
	if len(have) == 0 {
		return ", nor is " + strings.Join(all, ", ")
	}
	return "; there is " + strings.Join(have, ", ")
}

// Player is a player that is fed on its stdin.
type Player struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{}
	err   error
	once  sync.Once
}

// playerGrace is how long a player may take to end when asked to.
const playerGrace = 2 * time.Second

// StartPlayer runs args (PlayerCommand) with stdout and stderr as given. When
// ctx is done the player is terminated. Wait must be called.
func StartPlayer(ctx context.Context, args []string, stdout, stderr *os.File) (*Player, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = playerGrace
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the player: %w", err)
	}
	p := &Player{cmd: cmd, stdin: stdin, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Write feeds the player. It fails with EPIPE or a closed file once the player is gone.
func (p *Player) Write(b []byte) (int, error) { return p.stdin.Write(b) }

// Done is closed when the player has ended.
func (p *Player) Done() <-chan struct{} { return p.done }

// CloseInput tells the player that the stream is over; it plays what it has.
func (p *Player) CloseInput() error {
	var err error
	p.once.Do(func() { err = p.stdin.Close() })
	return err
}

// Wait returns when the player has ended, with its *exec.ExitError if it failed.
func (p *Player) Wait() error {
	<-p.done
	return p.err
}
