//go:build linux

// Command bench measures what docs/benchmarks.md says, and what people use today beside it in the same run.
//
//	go run ./internal/bench                 everything, in about 40 minutes
//	go run ./internal/bench fanout loss     some sections
//	go run ./internal/bench mesh            the sections whose names begin with mesh
//	go run ./internal/bench -list           what there is
//
// Everything happens in network namespaces of its own. Programs of others that are not installed are left out, and that is
// said. Figures are medians of -runs runs, in brackets the least and the greatest. Processor time is the kernel's own
// account of each process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/internal/testnet"
)

// A section is a table or some that belong together.
type section struct {
	name, about string
	run         func(*bench) error
}

var sections = []section{
	{"ingest", "ingest: error correction, hashes and signatures, per core", (*bench).ingest},
	{"fanout", "relay: one stream to 50 receivers, and bare loops that send the same", (*bench).fanout},
	{"forward", "one stream through one process: relay, multicat, socat, srt-live-transmit", (*bench).forward},
	{"loss", "8 Mbit/s across links that lose and delay: ours, SRT, RIST, plain UDP", (*bench).loss},
	{"join", "from the start of watch to its first byte, and to mpv's first picture", (*bench).join},
	{"delay", "source to viewer over three hops", (*bench).delay},
	{"mesh-steady", "50 viewers, nothing wrong: start-up, in time, delay, source, overhead, cost", (*bench).meshSteady},
	{"mesh-loss", "the same at 5 % random loss", (*bench).meshLoss},
	{"mesh-bursts", "the same at 5 % loss in bursts", (*bench).meshBursts},
	{"mesh-churn", "10 % of the viewers killed each minute", (*bench).meshChurn},
	{"mesh-garbage", "20 % of the viewers send garbage", (*bench).meshGarbage},
	{"mesh-liars", "20 % claim a great uplink and send garbage", (*bench).meshLiars},
	{"mesh-silent", "20 % claim a great uplink and send nothing", (*bench).meshSilent},
	{"mesh-half", "half of all viewers killed in one second", (*bench).meshHalf},
	{"mesh-half2", "the same with --latency 2s", (*bench).meshHalf2},
	{"mesh-household", "a TCP flow beside one peer on one uplink", (*bench).meshHousehold},
	{"tracker", "announces a CPU second beside a bare loop and opentracker, memory, expiry, half load", (*bench).tracker},
	{"guide", "the list page and search over 100,000 channels", (*bench).guide},
	{"packages", "the Go benchmarks of the packages, and iperf3 as the ceiling", (*bench).packages},
}

// bench is one run of the command.
type bench struct {
	ctx  context.Context
	bin  string // where our commands are
	dir  string // for files
	root string // of the checkout
	runs int
	out  *report

	viewers      int     // of the mesh
	seed         uint64  // of the mesh
	meanUplink   float64 // uplink of its viewers and its source, in multiples of the stream
	sourceUplink float64
	span         time.Duration
	each         bool
	told         bool
	logs         string // folder for what the mesh's programs said; empty: thrown away
}

// binEnv names the folder with our commands for the inner run, which has no network to build with.
const binEnv = "SIXCAST_BENCH_BIN"

func main() {
	if len(os.Args) > 1 && os.Args[1] == helperArg {
		os.Exit(helper(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == echoArg {
		os.Exit(echo(os.Args[2:]))
	}
	runs := flag.Int("runs", 3, "how often each thing is measured")
	list := flag.Bool("list", false, "tell what can be measured")
	markdown := flag.Bool("markdown", false, "tables as in docs/benchmarks.md")
	bin := flag.String("bin", "", "`DIR` with the commands (default: they are built)")
	b := &bench{}
	flag.IntVar(&b.viewers, "viewers", 50, "of the mesh sections")
	flag.Uint64Var(&b.seed, "seed", 1, "of the mesh sections")
	flag.Float64Var(&b.meanUplink, "mean", 2, "mean uplink of the mesh's viewers, in multiples of the stream")
	flag.Float64Var(&b.sourceUplink, "source", 2, "uplink of the mesh's source, in multiples of the stream")
	flag.DurationVar(&b.span, "span", time.Minute, "how long the mesh sections measure a steady state")
	flag.BoolVar(&b.told, "told", false, "tell everybody in the mesh sections its uplink (--upload) instead of having it learnt")
	flag.BoolVar(&b.each, "each", false, "tell what each viewer of the mesh sections did")
	flag.StringVar(&b.logs, "logs", "", "`DIR` for what the programs of the mesh sections said")
	flag.Parse()
	if *list {
		for _, s := range sections {
			fmt.Printf("%-16s%s\n", s.name, s.about)
		}
		return
	}
	chosen, err := choose(flag.Args())
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(2)
	}
	done, err := prepare(*bin)
	code := 1
	if err == nil {
		code, err = testnet.Inside(func() int { return b.run(chosen, *runs, *markdown) })
	}
	done()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

func choose(names []string) ([]section, error) {
	if len(names) == 0 {
		return sections, nil
	}
	var chosen []section
	for _, name := range names {
		n := len(chosen)
		for _, s := range sections {
			if s.name == name || strings.HasPrefix(s.name, name+"-") {
				chosen = append(chosen, s)
			}
		}
		if len(chosen) == n {
			return nil, fmt.Errorf("no section is called %q; see bench -list", name)
		}
	}
	return chosen, nil
}

// prepare builds the commands, once: the inner run finds them.
func prepare(bin string) (done func(), err error) {
	done = func() {}
	if os.Getenv(binEnv) != "" {
		return done, nil
	}
	if bin == "" {
		if bin, err = os.MkdirTemp("", "sixcast-bench-"); err != nil {
			return done, err
		}
		done = func() { os.RemoveAll(bin) }
		for _, name := range []string{"ingest", "relay", "watch", "tracker"} {
			cmd := exec.Command("go", "build", "-trimpath", "-o", bin+"/", "github.com/sixcast/sixcast/cmd/"+name)
			cmd.Stderr = os.Stderr
			if err := cmd.Run(); err != nil {
				return done, fmt.Errorf("building %s: %w", name, err)
			}
		}
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return done, err
	}
	// Who finds whom is what a section says.
	return done, errors.Join(os.Setenv(binEnv, bin), os.Setenv("SIXCAST_NO_LAN", "true"), os.Setenv("SIXCAST_NO_HISTORY", "true"))
}

func (b *bench) run(chosen []section, runs int, markdown bool) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "sixcast-bench-")
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return 1
	}
	defer os.RemoveAll(dir)
	root, _ := os.Getwd()
	b.ctx, b.bin, b.dir, b.root, b.runs, b.out = ctx, os.Getenv(binEnv), dir, root, max(1, runs), &report{markdown: markdown, w: os.Stdout}
	b.out.note("%s", machine())
	code := 0
	for _, s := range chosen {
		begun := time.Now()
		err := s.run(b)
		if errors.Is(ctx.Err(), context.Canceled) {
			return 1
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", s.name, err)
			code = 1
		}
		fmt.Fprintf(os.Stderr, "bench: %s took %v; load %s\n", s.name, time.Since(begun).Round(time.Second), load())
	}
	return code
}

// machine says what was measured on.
func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	model := "?"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d × %s, Linux %s, %s; load at the start %s", time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.NumCPU(), model,
		unix.ByteSliceToString(u.Release[:]), runtime.Version(), load())
}

func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], " ")
}
