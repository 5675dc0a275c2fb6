//go:build linux

package interop

import (
	"bytes"
	"context"
	"crypto/sha1"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

func TestMain(m *testing.M) {
	testnet.Together(8)
	testnet.Main(m)
}

// patience is how long a test waits for what should come soon. Transmission chokes everybody for its first ten seconds.
const patience = 20 * time.Second

// hosts makes n of them with addresses that look like the Internet's: some clients ask no tracker over IPv6 from another.
func hosts(t *testing.T, n int) []*testnet.Host {
	t.Helper()
	all := testnet.Hosts(n, netem.Params{}, netem.Params{Delay: time.Millisecond})
	for i := range all {
		all[i].Address = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 5: 6, 15: byte(i + 1)}), 64)
	}
	return testnet.New(t, testnet.Config{Seed: 1, Acquainted: true, Hosts: all}).Hosts()
}

// trackerPort is where all trackers listen, on hosts of their own.
const trackerPort = 6969

func at(h *testnet.Host) netip.AddrPort { return netip.AddrPortFrom(h.Addr(), trackerPort) }

// startTracker starts ours, which names peers of any swarm.
func startTracker(t *testing.T, h *testnet.Host) {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	start(t, h, filepath.Join(dir, "tracker"), "--open", "--listen", at(h).String()).says(`listening on`)
}

var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("SIXCAST_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	dir := filepath.Join(testnet.Dir(), "bin") // a tmpfs that goes with the test process
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-o", dir+"/", "../../cmd/tracker").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

// installed is where a program is; without it the test is skipped.
func installed(t *testing.T, program, how string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("no %s here: %s", program, how)
	}
	return path
}

// python is one that has libtorrent.
func python(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(p, "-c", "import libtorrent").Run() == nil {
			return p
		}
	}
	t.Skip("no python3 with libtorrent here: apt-get install python3-libtorrent")
	return ""
}

// A process is a program that runs on a host.
type process struct {
	t    *testing.T
	name string
	mu   sync.Mutex
	said bytes.Buffer
	more chan struct{}
	over bool
}

// start starts a program, which ends with the test.
func start(t *testing.T, h *testnet.Host, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: h.Name() + " " + filepath.Base(args[0]), more: make(chan struct{})}
	cmd := h.Command(context.Background(), args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = p, p
	cmd.Env = []string{"XDG_CONFIG_HOME=/nonexistent"}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "SIXCAST_") && !strings.HasPrefix(e, "XDG_CONFIG_HOME=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.over = true
		p.changed()
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", p.name, p.text())
		}
	})
	return p
}

func (p *process) changed() {
	close(p.more)
	p.more = make(chan struct{})
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed()
	return p.said.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// says waits until what the process said has a match, and returns its last group, or all of it.
func (p *process) says(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for limit := time.After(patience); ; {
		p.mu.Lock()
		found, over, more := re.FindStringSubmatch(p.said.String()), p.over, p.more
		p.mu.Unlock()
		if found != nil {
			return found[len(found)-1]
		}
		if over {
			p.t.Fatalf("%s ended and did not say %q", p.name, pattern)
		}
		select {
		case <-more:
		case <-limit:
			p.t.Fatalf("%s does not say %q", p.name, pattern)
		}
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// torrent writes a torrent of one file that has a tracker, and returns its path and the id of its swarm.
func torrent(t *testing.T, tracker string, content []byte) (path string, swarm [20]byte) {
	t.Helper()
	const piece = 32 << 10
	var pieces []byte
	for rest := content; len(rest) > 0; {
		n := min(piece, len(rest))
		sum := sha1.Sum(rest[:n])
		pieces, rest = append(pieces, sum[:]...), rest[n:]
	}
	info := fmt.Sprintf("d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:%se", len(content), len(contentName), contentName, piece, len(pieces), pieces)
	path = filepath.Join(t.TempDir(), "test.torrent")
	if err := os.WriteFile(path, fmt.Appendf(nil, "d8:announce%d:%s4:info%se", len(tracker), tracker, info), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, sha1.Sum([]byte(info))
}

// contentName is the file of every torrent.
const contentName = "clip.ts"

// folder is a new one, which holds the torrent's file unless content is nil.
func folder(t *testing.T, content []byte) string {
	t.Helper()
	dir := t.TempDir()
	if content != nil {
		if err := os.WriteFile(filepath.Join(dir, contentName), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// arrived fails unless a folder holds the torrent's file.
func arrived(t *testing.T, dir string, content []byte) {
	t.Helper()
	eventually(t, "the file is on the disk", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, contentName))
		return err == nil && bytes.Equal(b, content)
	})
}
