//go:build linux

package swarm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/internal/netem"
)

// clock is what was used up at one moment.
type clock struct {
	at         time.Time
	idle, all  time.Duration // of all cores, from the kernel
	emulator   time.Duration
	harness    time.Duration // this process without the emulator
	late       netem.Lateness
	processors map[*Peer]time.Duration
}

// Load tells how busy the machine was: where it has nothing left, no figure is worth anything.
type Load struct {
	Idle     float64 // share of all cores' time
	Emulator float64 // cores
	Harness  float64 // cores
	Peers    float64 // cores, of all viewers and the source
	Others   float64 // cores, of whatever else ran, the kernel's own work among it
	Late     netem.Lateness
	// Wake is how late a thread that sleeps is woken, p99: what each program here has to live with.
	Wake time.Duration
}

func (l Load) String() string {
	late := 0.0
	if l.Late.Frames > 0 {
		late = float64(l.Late.Above) / float64(l.Late.Frames)
	}
	return fmt.Sprintf("machine idle %.0f %%; cores: peers %.2f, emulator %.2f, harness %.2f, others %.2f; emulator late by > %v: %.3f %% of frames; threads woken late by p99 %.1f ms",
		100*l.Idle, l.Peers, l.Emulator, l.Harness, l.Others, netem.LateAbove, 100*late, 1e3*l.Wake.Seconds())
}

func cpuOf(pid int) time.Duration {
	var t unix.Timespec
	const sched = 2 // the clock id of a process, see clock_getcpuclockid(3)
	if unix.ClockGettime(int32(^pid<<3|sched), &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// cpu is the processor time of a running program.
func (p *Peer) cpu() time.Duration {
	select {
	case <-p.done:
		return 0
	default:
		return cpuOf(p.cmd.Process.Pid)
	}
}

// peak is the most memory that a running program had, in bytes.
func (p *Peer) peak() int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		return 0
	}
	kb, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return kb << 10
}

// clocks reads all clocks.
func (s *Swarm) clocks() clock {
	c := clock{at: time.Now(), processors: map[*Peer]time.Duration{s.Source: s.Source.cpu()}}
	for _, v := range s.Live() {
		c.processors[&v.Peer] = v.cpu()
	}
	c.emulator, c.late = s.Net.Load()
	c.harness = cpuOf(os.Getpid()) - c.emulator
	stat, _ := os.ReadFile("/proc/stat")
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	for i, f := range strings.Fields(string(line))[1:] {
		n, _ := strconv.ParseInt(f, 10, 64)
		d := time.Duration(n) * (time.Second / 100) // USER_HZ
		if i < 8 {                                  // what follows is part of these
			c.all += d
		}
		if i == 3 || i == 4 { // idle, iowait
			c.idle += d
		}
	}
	return c
}

// between says what happened from one look to another.
func between(a, b clock) (l Load) {
	wall := b.at.Sub(a.at).Seconds()
	if all := b.all - a.all; all > 0 {
		l.Idle = float64(b.idle-a.idle) / float64(all)
	}
	l.Emulator = (b.emulator - a.emulator).Seconds() / wall
	l.Harness = (b.harness - a.harness).Seconds() / wall
	for p, t := range b.processors {
		l.Peers += max(0, t-a.processors[p]).Seconds() / wall
	}
	l.Others = (b.all-a.all-(b.idle-a.idle)).Seconds()/wall - l.Emulator - l.Harness - l.Peers
	l.Late = b.late.Minus(a.late)
	return l
}

// A waker sleeps and looks how late it is woken.
type waker struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	late   []time.Duration
}

func startWaker() *waker {
	const nap = 20 * time.Millisecond
	w := &waker{}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(context.Background())
	w.done.Go(func() {
		for ctx.Err() == nil {
			due := time.Now().Add(nap)
			time.Sleep(nap)
			w.late = append(w.late, time.Since(due))
		}
	})
	return w
}

// stop ends it and returns the 99th percentile.
func (w *waker) stop() time.Duration {
	w.cancel()
	w.done.Wait()
	slices.Sort(w.late)
	if len(w.late) == 0 {
		return 0
	}
	return w.late[len(w.late)*99/100]
}
