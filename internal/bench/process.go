//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that runs beside the others. Its standard error is kept, to be waited for and to be shown when it fails.
type process struct {
	*exec.Cmd
	name string
	log  *logBuffer
	done chan struct{}
	err  error // of Wait, once done is closed
}

// logBuffer keeps what a program says, up to a bound.
type logBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

const maxLog = 1 << 20

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() < maxLog {
		l.b.Write(b)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return len(b), nil
}

func (l *logBuffer) find(re *regexp.Regexp) (match []string, changed chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return re.FindStringSubmatch(l.b.String()), l.changed
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts cmd, which was made with the bench's context so that it ends with it.
func start(cmd *exec.Cmd) (*process, error) {
	p := &process{Cmd: cmd, name: programOf(cmd), log: &logBuffer{changed: make(chan struct{})}, done: make(chan struct{})}
	cmd.Stderr = p.log
	if cmd.Stdout == nil {
		cmd.Stdout = p.log
	}
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// programOf is the name of what cmd runs, also behind nsenter.
func programOf(cmd *exec.Cmd) string {
	for i, a := range cmd.Args {
		if a == "--" && i+1 < len(cmd.Args) {
			return cmd.Args[i+1]
		}
	}
	return cmd.Args[0]
}

// says waits until the program has said something on its standard error, and returns the match.
func (p *process) says(pattern string, within time.Duration) ([]string, error) {
	re := regexp.MustCompile(pattern)
	timeout := time.After(within)
	for {
		m, changed := p.log.find(re)
		if m != nil {
			return m, nil
		}
		select {
		case <-changed:
		case <-p.done:
			if m, _ := p.log.find(re); m != nil {
				return m, nil
			}
			return nil, fmt.Errorf("%s ended early (%v): %s", p.name, p.err, p.log)
		case <-timeout:
			return nil, fmt.Errorf("%s did not say %q within %v: %s", p.name, pattern, within, p.log)
		}
	}
}

// stop ends the program and waits for it.
func (p *process) stop() {
	select {
	case <-p.done:
		return
	default:
	}
	_ = p.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(2 * time.Second):
		_ = p.Process.Kill()
		<-p.done
	}
}

// cpu is the processor time of a running process, its threads' included, as the scheduler counted it.
func (p *process) cpu() (time.Duration, error) { return cpuOf(p.Process.Pid) }

func cpuOf(pid int) (time.Duration, error) {
	var t unix.Timespec
	const sched = 2 // CPUCLOCK_SCHED: the clock id of a process, see clock_getcpuclockid(3)
	if err := unix.ClockGettime(int32(^pid<<3|sched), &t); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return time.Duration(t.Nano()), nil
}

// peak is the most memory that the process had, in bytes.
func (p *process) peak() int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		return 0
	}
	kb, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return kb << 10
}

// usage is what a finished process took.
func usage(cmd *exec.Cmd) (cpu time.Duration, peak int64) {
	u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), u.Maxrss << 10
}

// sleep waits, unless the command is interrupted.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// our is a command of ours.
func (b *bench) our(name string, args ...string) *exec.Cmd {
	return exec.CommandContext(b.ctx, b.bin+"/"+name, args...)
}

// have tells whether programs are installed, and notes those that are not.
func have(t *table, programs ...string) bool {
	for _, name := range programs {
		if _, err := exec.LookPath(name); errors.Is(err, exec.ErrNotFound) {
			t.notes = append(t.notes, name+" is not installed: left out")
			return false
		}
	}
	return true
}

// cleanup stops processes in the order opposite to their start.
type cleanup []*process

func (c *cleanup) start(cmd *exec.Cmd) (*process, error) {
	p, err := start(cmd)
	if err == nil {
		*c = append(*c, p)
	}
	return p, err
}

// logs is what they said.
func (c *cleanup) logs() string {
	var b strings.Builder
	for _, p := range *c {
		fmt.Fprintf(&b, "\n%s: %s", p.name, p.log)
	}
	return b.String()
}

func (c *cleanup) stop() {
	for i := len(*c) - 1; i >= 0; i-- {
		(*c)[i].stop()
	}
}
