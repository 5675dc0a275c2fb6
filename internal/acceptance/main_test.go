//go:build linux

package acceptance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/ci"
	"github.com/sixcast/sixcast/internal/testnet"
)

func TestMain(m *testing.M) {
	// Those that measure time do not call Parallel, and run before all others, one by one.
	testnet.Together(8)
	testnet.Main(standstills{m})
}

// standstills says after the tests when the machine stood still for long, since then its clocks are no judge of what failed:
// scripts/test runs that again, by itself.
type standstills struct{ m *testing.M }

func (s standstills) Run() int {
	const every, most = 10 * time.Millisecond, 150 * time.Millisecond
	stop := make(chan struct{})
	worst, times := time.Duration(0), 0
	var watch sync.WaitGroup
	watch.Go(func() {
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-stop:
				return
			case <-time.After(every):
			}
			if late := time.Since(last) - every; late > most {
				worst, times = max(worst, late), times+1
			}
		}
	})
	code := s.m.Run()
	close(stop)
	if watch.Wait(); times > 0 {
		fmt.Printf("acceptance: the machine stood still %d times, for up to %v\n", times, worst.Round(time.Millisecond))
	}
	return code
}

// soak tells whether there is time.
var soak = os.Getenv("SIXCAST_SOAK") != ""

// root of the repository, from this package's directory.
const root = "../.."

// command is the path of a command built from this tree, once for all tests.
func command(t testing.TB, name string) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("SIXCAST_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	// The directory is a tmpfs that goes with the test process.
	dir := filepath.Join(testnet.Dir(), "bin")
	cmd := exec.Command("go", "build", "-o", dir+"/", "./cmd/ingest", "./cmd/relay", "./cmd/tracker", "./cmd/watch", "./cmd/record")
	cmd.Dir = root
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the commands: %w\n%s", err, out)
	}
	return dir, nil
})

// A clip is a transport stream that ffmpeg makes, exactly the same each time.
type clip struct {
	name string
	args string // of ffmpeg, between the inputs and the output
}

// All clips have 25 frames a second, and closed groups of pictures.
var (
	clipH264 = clip{"h264", "-t 7 -c:v libx264 -preset ultrafast -g 25 -b:v 750k -maxrate 750k -bufsize 400k -c:a mp2 -b:a 64k -muxrate 1.2M"}
	clipGOP2 = clip{"gop2", "-t 12 -c:v libx264 -preset veryfast -bf 0 -g 50 -sc_threshold 0 -b:v 1M -maxrate 1M -bufsize 500k -c:a mp2 -b:a 64k -muxrate 1.5M"}
	clipHEVC = clip{"hevc", "-t 6 -c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=25:min-keyint=25:open-gop=0 -b:v 500k -c:a mp2 -b:a 64k -muxrate 1M"}
	clipMPG2 = clip{"mpeg2", "-t 6 -c:v mpeg2video -g 12 -b:v 800k -maxrate 900k -bufsize 400k -c:a mp2 -b:a 64k -muxrate 1.3M"}
	clipMux2 = clip{"two", "-t 6 -map 0:v -map 1:a -map 0:v -map 1:a -c:v libx264 -preset ultrafast -g 25 -b:v 500k -maxrate 500k -bufsize 250k -c:a mp2 -b:a 64k " +
		"-program program_num=1:title=one:st=0:st=1 -program program_num=2:title=two:st=2:st=3 -muxrate 1.6M"}
	clipRadio = clip{"radio", "-t 8 -map 1:a -c:a mp2 -b:a 128k"}
	clip1M    = clip{"1M", "-t 9 -c:v libx264 -preset ultrafast -g 25 -b:v 650k -maxrate 650k -bufsize 325k -c:a mp2 -b:a 64k -muxrate 1M"}
	clip2M    = clip{"2M", "-t 10 -c:v libx264 -preset ultrafast -g 50 -b:v 1500k -maxrate 1500k -bufsize 500k -c:a mp2 -b:a 64k -muxrate 2M"}
	clip8M    = clip{"8M", "-t 7 -c:v mpeg2video -g 25 -b:v 7M -minrate 7M -maxrate 7M -bufsize 2M -c:a mp2 -b:a 64k -muxrate 8M"}
	clip24M   = clip{"24M", "-t 4 -c:v mpeg2video -g 12 -b:v 20M -minrate 20M -maxrate 20M -bufsize 4M -c:a mp2 -b:a 64k -muxrate 24M"}
)

var making sync.Mutex

// path of the clip, which is made if it is missing.
func (c clip) path(t testing.TB) string {
	t.Helper()
	making.Lock()
	defer making.Unlock()
	sum := sha256.Sum256([]byte(c.args))
	dir, err := filepath.Abs(filepath.Join(root, "build", "clips", "acceptance"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, c.name+"-"+hex.EncodeToString(sum[:4])+".ts")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "lock")) // another test process may be at it
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	part := path + ".part"
	args := []string{"-y", "-v", "error", "-nostdin", "-f", "lavfi", "-i", "testsrc2=s=480x270:r=25,noise=alls=12:allf=t", "-f", "lavfi", "-i", "sine=f=440:r=48000"}
	args = append(args, strings.Fields(c.args)...)
	args = append(args, "-fflags", "+bitexact", "-flags", "+bitexact", "-f", "mpegts", part)
	if out, err := exec.Command("ffmpeg", args...).CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			ci.Skip(t, "no ffmpeg here: the clips cannot be made")
		}
		t.Fatalf("ffmpeg: %v\n%s", err, out)
	}
	if err := os.Rename(part, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// packets of the clip, all of them.
func (c clip) packets(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(c.path(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += packet {
		if b[i] != 0x47 {
			t.Fatalf("clip %s: no packet at %d", c.name, i)
		}
	}
	return b
}

const packet = 188

// framed is packets in the other two sizes that are found on disks: 192 with a time of arrival before each (M2TS), 204 with
// room for a Reed-Solomon code after it.
func framed(packets []byte, before, after int) []byte {
	var b bytes.Buffer
	for i := 0; i < len(packets); i += packet {
		b.Write([]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}[:before])
		b.Write(packets[i : i+packet])
		b.Write(make([]byte, after))
	}
	return b.Bytes()
}

func writeFile(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
