package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a command of the demo, run as a user would run it. Its words go to the screen, its statistics (JSON lines
// on stderr) to whoever wants them.
type process struct {
	cmd  *exec.Cmd
	name string
	ends sync.WaitGroup
	done chan struct{}
	err  error // after done
	uri  chan string
}

// start runs a command with its files, which it closes here. A line that offers the channel ("watch '…'") is sent to uri.
func start(name string, args []string, in, out *os.File, words func(string), stats func([]byte)) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), name: words0(name), done: make(chan struct{}), uri: make(chan string, 1)}
	p.cmd.SysProcAttr = children()
	for _, f := range []*os.File{in, out} {
		if f != nil {
			defer f.Close()
		}
	}
	if in != nil {
		p.cmd.Stdin = in
	}
	if out != nil {
		p.cmd.Stdout = out
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.ends.Go(func() { p.read(stderr, words, stats) })
	go func() {
		p.ends.Wait()
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// words0 is the command's name without its folder.
func words0(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func (p *process) read(stderr io.Reader, words func(string), stats func([]byte)) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Bytes()
		if bytes.HasPrefix(line, []byte("{")) {
			stats(line)
			continue
		}
		text := string(line)
		if _, rest, ok := strings.Cut(text, p.name+": watch '"); ok {
			select {
			case p.uri <- strings.TrimSuffix(rest, "'"):
			default:
			}
		}
		words(text)
	}
	io.Copy(io.Discard, stderr)
}

// grace is how long a command may take to end when asked to.
const grace = 3 * time.Second

// stop asks a command to end and waits until it has.
func (p *process) stop() {
	if p == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// failure says how a command ended that should not have ended, or not like this.
func (p *process) failure() error {
	if p.err == nil {
		return fmt.Errorf("%s ended too early", p.name)
	}
	return fmt.Errorf("%s failed (%w): it says why above", p.name, p.err)
}

// isClosed tells whether a socket was closed here.
func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
