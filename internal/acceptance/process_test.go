//go:build linux

package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/channel"
)

// patience is how long a test waits for what should come soon.
const patience = 15 * time.Second

// A process is a running command on a host.
type process struct {
	t     testing.TB
	name  string
	cmd   *exec.Cmd
	out   *buffer // stdout, unless it is led elsewhere
	words *buffer // stderr
	born  time.Time
	ended chan struct{}
}

// streams of a process, beside stderr. The zero value: no stdin, stdout kept.
type streams struct {
	stdin  *os.File // given away: closed once the process runs
	stdout *os.File // likewise
	env    []string // more variables
}

// run starts a command on a host. It ends with the test at the latest; if that fails, what it said is logged.
func run(t testing.TB, h *testnet.Host, s streams, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: h.Name() + " " + args[0], out: newBuffer(), words: newBuffer(), ended: make(chan struct{})}
	path := args[0] // a shell
	if path != "sh" {
		path = command(t, args[0])
	}
	p.cmd = h.Command(context.Background(), path, args[1:]...)
	p.cmd.Env = append(append(environment(t), s.env...), "PATH="+filepath.Dir(command(t, "watch"))+":"+os.Getenv("PATH"))
	p.cmd.Stderr = p.words
	if s.stdin != nil {
		p.cmd.Stdin = s.stdin
		defer s.stdin.Close()
	}
	if s.stdout != nil {
		p.cmd.Stdout = s.stdout
		defer s.stdout.Close()
	} else {
		p.cmd.Stdout = p.out
	}
	p.born = time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	go func() {
		p.cmd.Wait()
		p.out.end()
		p.words.end()
		close(p.ended)
	}()
	t.Cleanup(func() {
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.ended
		if t.Failed() {
			t.Logf("%s %s\n%s", p.name, strings.Join(args[1:], " "), tail(p.words.String(), 6000))
		}
	})
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// environment without the caller's settings.
func environment(t testing.TB) []string {
	// Who finds whom is what a test says, unless it is about that.
	env := []string{"XDG_CONFIG_HOME=/nonexistent", "SIXCAST_NO_LAN=true", "SIXCAST_NO_HISTORY=true"}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "SIXCAST_") && !strings.HasPrefix(e, "XDG_CONFIG_HOME=") {
			env = append(env, e)
		}
	}
	return env
}

// wait waits for the end and returns the exit code; -1 if a signal ended it.
func (p *process) wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		p.t.Errorf("%s does not end within %v", p.name, within)
		p.kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// ends fails unless the process ends with the exit code.
func (p *process) ends(code int, within time.Duration) {
	p.t.Helper()
	if got := p.wait(within); got != code {
		p.t.Errorf("%s ended with %d, want %d: %s", p.name, got, code, tail(strings.TrimSpace(p.words.String()), 500))
	}
}

// running tells whether it has not ended.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

// kill kills it, and waits until it is gone.
func (p *process) kill() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// stop ends it as a person does.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGINT)
	p.ends(0, 5*time.Second)
}

// says waits until stderr has a match and returns its first group, or all of it.
func (p *process) says(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var found []string
	ok := p.words.wait(patience, func(b []byte) bool {
		found = re.FindStringSubmatch(string(b))
		return found != nil
	})
	if !ok {
		p.t.Fatalf("%s does not say %q:\n%s", p.name, pattern, tail(p.words.String(), 2000))
	}
	return found[len(found)-1]
}

// prints waits until stdout has what a pattern matches, and returns when that came.
func (p *process) prints(pattern string) time.Time {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var at []int
	if !p.out.wait(patience, func(b []byte) bool { at = re.FindIndex(b); return at != nil }) {
		p.t.Fatalf("%s does not print %q:\n%s\nit said:\n%s", p.name, pattern, tail(p.out.String(), 2000), tail(p.words.String(), 2000))
	}
	for _, s := range p.out.stamps() {
		if s.end >= at[1] {
			return s.at
		}
	}
	return time.Now()
}

// writes waits until stdout has n bytes.
func (p *process) writes(n int, within time.Duration) {
	p.t.Helper()
	if !p.out.wait(within, func(b []byte) bool { return len(b) >= n }) {
		p.t.Fatalf("%s wrote %d bytes in %v, want %d; it said:\n%s", p.name, p.out.len(), within, n, tail(p.words.String(), 1500))
	}
}

// buffer is a writer that can be waited for. The time of every write is kept.
type buffer struct {
	mu    sync.Mutex
	b     []byte
	times []stamp
	over  bool
	more  chan struct{} // closed at every change
}

// stamp says that the bytes up to end were there at a time.
type stamp struct {
	end int
	at  time.Time
}

func newBuffer() *buffer { return &buffer{more: make(chan struct{})} }

func (b *buffer) Write(p []byte) (int, error) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	b.times = append(b.times, stamp{len(b.b), now})
	b.changed()
	return len(p), nil
}

func (b *buffer) changed() {
	close(b.more)
	b.more = make(chan struct{})
}

func (b *buffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	b.changed()
}

// wait returns true as soon as done does, of what is there.
func (b *buffer) wait(within time.Duration, done func([]byte) bool) bool {
	limit := time.After(within)
	for {
		b.mu.Lock()
		ok, over, more := done(b.b), b.over, b.more
		b.mu.Unlock()
		if ok || over {
			return ok
		}
		select {
		case <-more:
		case <-limit:
			return false
		}
	}
}

func (b *buffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b[:len(b.b):len(b.b)]
}

func (b *buffer) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.b)
}

func (b *buffer) String() string { return string(b.bytes()) }

// stamps of all writes so far.
func (b *buffer) stamps() []stamp {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.times[:len(b.times):len(b.times)]
}

// first is when the first byte came.
func (b *buffer) first() time.Time {
	if s := b.stamps(); len(s) > 0 {
		return s[0].at
	}
	return time.Time{}
}

// A station is a channel's key, and what belongs to it.
type station struct {
	t   testing.TB
	key string // file
	id  channel.ID
	uri string // without peers
	dir string
}

// newStation makes a key, as a person does.
func newStation(t testing.TB) *station {
	t.Helper()
	s := &station{t: t, dir: t.TempDir()}
	s.key = filepath.Join(s.dir, "ch1.key")
	cmd := exec.Command(command(t, "ingest"), "keygen", "-o", s.key, "--name", "ch1")
	cmd.Env = environment(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("keygen: %v", err)
	}
	s.uri = strings.TrimSpace(string(out))
	uri, err := channel.ParseURI(s.uri)
	if err != nil {
		t.Fatalf("keygen printed %q: %v", s.uri, err)
	}
	s.id = uri.ID
	return s
}

// listenPort is where every relay listens, on hosts of its own.
const listenPort = 6400

func peer(h *testnet.Host) string { return fmt.Sprintf("[%v]:%d", h.Addr(), listenPort) }

func listen() []string { return []string{"--listen", fmt.Sprintf("[::]:%d", listenPort)} }

// A source is `ingest INPUT | tee | relay` on one host; the tee is the test, which learns the truth.
type source struct {
	station *station
	host    *testnet.Host
	relay   *process
	ingest  *process
	truth   *truth
	feed    *os.File // the relay's stdin, or
	fifo    string   // its --source
}

// source starts the relay; air starts ingest.
func (s *station) source(h *testnet.Host, relayArgs ...string) *source {
	s.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { w.Close() })
	src := &source{station: s, host: h, feed: w}
	src.relay = run(s.t, h, streams{stdin: r}, append(append([]string{"relay"}, listen()...), relayArgs...)...)
	src.relay.says(`listening on`)
	return src
}

// fifo is a source whose relay outlives ingest: air may be called again.
func (s *station) fifo(h *testnet.Host, relayArgs ...string) *source {
	s.t.Helper()
	src := &source{station: s, host: h, fifo: filepath.Join(s.dir, "blocks.fifo")}
	src.relay = run(s.t, h, streams{}, append(append([]string{"relay", "--source", src.fifo}, listen()...), relayArgs...)...)
	src.relay.says(`listening on`)
	eventually(s.t, patience, "the relay makes its FIFO", func() bool {
		info, err := os.Stat(src.fifo)
		return err == nil && info.Mode()&os.ModeNamedPipe != 0
	})
	return src
}

// air starts ingest. At its end the relay's stdin ends.
func (src *source) air(input string, args ...string) *source {
	src.station.t.Helper()
	return src.airFrom(nil, input, args...)
}

func (src *source) airFrom(stdin *os.File, input string, args ...string) *source {
	t := src.station.t
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	feed := src.feed
	if src.fifo != "" {
		if feed, err = os.OpenFile(src.fifo, os.O_WRONLY, 0); err != nil {
			t.Fatal(err)
		}
	}
	src.ingest = run(t, src.host, streams{stdin: stdin, stdout: w}, append([]string{"ingest", input, "--key", src.station.key}, args...)...)
	tr, tw := io.Pipe()
	src.truth = readTruth(src.station.id, tr)
	go func() {
		defer tw.Close()
		defer feed.Close()
		defer r.Close() // as tee does: if the relay is gone, ingest learns it
		buf := make([]byte, 256<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				tw.Write(buf[:n])
				if _, err := feed.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return src
}

// join starts a relay that passes the channel on.
func (s *station) join(h, parent *testnet.Host, args ...string) *process {
	s.t.Helper()
	p := run(s.t, h, streams{}, append(append([]string{"relay", s.uri, "--peer", peer(parent)}, listen()...), args...)...)
	p.says(`listening on`)
	return p
}

// watch starts a viewer that ends with the run, or when nothing comes for long.
func (s *station) watch(h, parent *testnet.Host, args ...string) *viewer {
	s.t.Helper()
	if parent != nil {
		args = append([]string{"--peer", peer(parent)}, args...)
	}
	report := filepath.Join(s.t.TempDir(), "report.json")
	p := run(s.t, h, streams{}, append([]string{"watch", s.uri, "--once", "--timeout", "20s", "--report", report}, args...)...)
	return &viewer{process: p, reportFile: report}
}

// A viewer is a watch.
type viewer struct {
	*process
	reportFile string
}

// report is what watch --report writes.
type report struct {
	Startup     *float64  `json:"startup_ms"`
	Blocks      uint64    `json:"blocks"`
	Backlog     uint64    `json:"backlog_blocks"`
	Runs        uint64    `json:"runs"`
	Gaps        uint64    `json:"gaps"`
	LostBlocks  uint64    `json:"lost_blocks"`
	LostPackets uint64    `json:"lost_packets"`
	LostMS      float64   `json:"lost_ms"`
	Late        uint64    `json:"late_blocks"`
	Rejoined    uint64    `json:"rejoined"`
	Dropped     uint64    `json:"dropped_blocks"`
	Delay       quantiles `json:"delay_ms"`
	ByteDelay   quantiles `json:"byte_delay_ms"`
	Net         struct {
		Requests uint64 `json:"requests"`
		Repaired uint64 `json:"repaired_shards"`
		Rebuilt  uint64 `json:"rebuilt_shards"`
		Forged   uint64 `json:"forged"`
		Links    int    `json:"links"`
		Parent   string `json:"parent"`
	} `json:"net"`
}

type quantiles struct{ Count, Min, P50, P95, P99, Max float64 }

func (v *viewer) report() (r report) {
	v.t.Helper()
	b, err := os.ReadFile(v.reportFile)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		v.t.Errorf("%s: %v", v.name, err)
	}
	return r
}

// lastStats is the newest line of statistics in a file, as a relay's --stats-file writes them.
func lastStats(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if len(lines) == 0 || len(lines[len(lines)-1]) == 0 {
		return errors.New("no statistics yet")
	}
	return json.Unmarshal(lines[len(lines)-1], into)
}

// eventually waits until a condition holds.
func eventually(t testing.TB, within time.Duration, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", within, what)
		}
	}
}
