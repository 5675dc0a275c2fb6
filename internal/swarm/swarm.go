//go:build linux

package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/ts"
)

// Config describes a swarm. The zero value of most fields means what the capability is judged by.
type Config struct {
	Bin     string     // folder with ingest, relay and watch
	Viewers int        // 0: 50
	Spare   int        // hosts for those who come later
	Seed    uint64     // decides uplinks, who knows whom, losses
	Rate    ts.BitRate // of the stream; 0: 2 Mbit/s

	// Uplinks of the viewers in multiples of the stream, at the IP layer; nil: homes with a mean of Mean (0: 2).
	Uplinks []float64
	Mean    float64
	Source  float64 // uplink of the source in multiples of the stream; 0: 2

	RoundTrip time.Duration // between any two hosts; 0: 20 ms
	Queue     time.Duration // how much of a bottleneck's rate waits before it; 0: 200 ms
	// Loss on every link: each datagram meets it once, before its receiver. BurstTime makes it come in bursts.
	Loss      float64
	BurstTime time.Duration

	// Told has everybody told its uplink with --upload, less a twentieth. By default they learn it.
	Told bool

	Latency time.Duration // of watch; 0: its default
	Known   [2]int        // how many live peers a viewer is told of, least and most; 0: 3 to 8
	Relay   []string      // further arguments of the source's relay
	Watch   []string      // and of all viewers
	Longest time.Duration // that the swarm may live; 0: 10 min
}

func (c *Config) defaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.Viewers == 0 {
		c.Viewers = 50
	}
	if c.Rate == 0 {
		c.Rate = 2_000_000
	}
	if c.Mean == 0 {
		c.Mean = 2
	}
	if c.Source == 0 {
		c.Source = 2
	}
	if c.Known == [2]int{} {
		c.Known = [2]int{3, 8}
	}
	def(&c.RoundTrip, 20*time.Millisecond)
	def(&c.Queue, 200*time.Millisecond)
	def(&c.Longest, 10*time.Minute)
	if c.Uplinks == nil {
		c.Uplinks = Uplinks(c.Viewers, c.Mean, c.Seed)
	}
	if c.Spare > 0 && len(c.Uplinks) == c.Viewers {
		c.Uplinks = append(c.Uplinks, Uplinks(c.Spare, c.Mean, c.Seed+1)...)
	}
}

// DefaultLatency is what watch waits for a gap by default.
const DefaultLatency = time.Second

func (c *Config) latency() time.Duration {
	if c.Latency > 0 {
		return c.Latency
	}
	return DefaultLatency
}

// uplink is a bottleneck of a rate.
func (c *Config) uplink(times float64) netem.Params {
	rate := times * float64(c.Rate)
	return netem.Params{Rate: netem.BitRate(rate), Queue: max(int(rate/8*c.Queue.Seconds()), 3000)}
}

// peerPort is where the first program on a host listens; those that come after it take the next.
const peerPort = 7000

// A Swarm is a source and its viewers. Its methods are called by one goroutine.
type Swarm struct {
	Config  Config
	Net     *testnet.Net
	Viewers []*Viewer // all that ever were, in the order of their coming
	Source  *Peer
	URI     string

	dir     string
	tape    *tape
	random  *rand.Rand
	seats   []*seat // one a host, but for the source's
	cancel  context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	err     error // of the camera and the pipe to relay
	ingest  *exec.Cmd
}

// seat is a host for viewers.
type seat struct {
	host   *testnet.Host
	meter  *meter
	uplink float64
	taken  bool
	used   int
}

// A Peer is a program of ours on a host.
type Peer struct {
	Host   *testnet.Host
	Uplink float64 // in multiples of the stream
	Addr   netip.AddrPort

	cmd   *exec.Cmd
	meter *meter
	stats string // files
	words string
	done  chan struct{}
}

// A Viewer is a watch, and the judge of what it writes.
type Viewer struct {
	Peer
	Number    int
	Hostility Hostility
	Born      time.Duration // when it was started, on the clock of all times here
	Gone      time.Duration // when it was killed; 0: it lives
	judge     *judge
	seat      *seat
	hits      atomic.Uint64 // datagrams that its hostility was done to
}

// Hits is how many datagrams of a hostile viewer were damaged or vanished.
func (v *Viewer) Hits() uint64 { return v.hits.Load() }

// Open makes the hosts and puts the source on air. Nobody watches yet.
func Open(c Config) (s *Swarm, err error) {
	c.defaults()
	s = &Swarm{Config: c, random: rand.New(rand.NewPCG(c.Seed, 0x7377726d)), tape: newTape(c.Rate, c.Longest)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.dir, err = os.MkdirTemp(testnet.Dir(), "swarm-"); err != nil {
		return s, err
	}
	down := netem.Params{Delay: c.RoundTrip / 2, Loss: c.Loss, BurstTime: c.BurstTime}
	hosts := []testnet.HostConfig{{Name: "source", Address: address(0), Up: c.uplink(c.Source), Down: down}}
	for i, u := range c.Uplinks {
		hosts = append(hosts, testnet.HostConfig{Name: "v" + strconv.Itoa(i+1), Address: address(i + 1), Up: c.uplink(u), Down: down})
	}
	if s.Net, err = testnet.Open(testnet.Config{Seed: c.Seed, Hosts: hosts, Acquainted: true}); err != nil {
		return s, err
	}
	for i, h := range s.Net.Hosts()[1:] {
		seat := &seat{host: h, meter: &meter{}, uplink: c.Uplinks[i]}
		h.Watch(seat.meter.watch)
		s.seats = append(s.seats, seat)
	}
	return s, s.air()
}

// address of host i: every host is a home of its own, in a /48 of its own.
func address(i int) netip.Prefix {
	a := netip.MustParseAddr("2001:db8::1").As16()
	a[4], a[5] = byte((i+1)>>8), byte(i+1)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// air starts camera, ingest and relay, and waits until there is a channel.
func (s *Swarm) air() error {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	host := s.Net.Host("source")
	m := &meter{}
	host.Watch(m.watch)
	s.Source = &Peer{Host: host, Uplink: s.Config.Source, Addr: netip.AddrPortFrom(host.Addr(), peerPort), meter: m}

	s.ingest = exec.Command(filepath.Join(s.Config.Bin, "ingest"), "--name", "swarm")
	s.ingest.Env = environment()
	camera, err := s.ingest.StdinPipe()
	if err != nil {
		return err
	}
	blocks, err := s.ingest.StdoutPipe()
	if err != nil {
		return err
	}
	toRelay, relayIn, err := os.Pipe()
	if err != nil {
		return err
	}
	args := []string{"--listen", s.Source.Addr.String()}
	args = append(append(args, s.told(s.Config.Source)...), s.Config.Relay...)
	if err := s.start(s.Source, "relay", toRelay, nil, args...); err != nil {
		return err
	}
	toRelay.Close()
	if err := s.ingest.Start(); err != nil {
		return err
	}
	s.running.Go(func() {
		s.failed(s.tape.film(ctx, camera))
		camera.Close()
	})
	s.running.Go(func() {
		s.failed(s.tape.pass(blocks, relayIn))
		relayIn.Close()
		_ = s.ingest.Wait()
	})
	uri := regexp.MustCompile(`(sixcast:[a-z2-7]{52}\S*?)'`)
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if m := uri.FindStringSubmatch(s.Source.Words()); m != nil {
			u, err := channel.ParseURI(m[1])
			if err != nil {
				return err
			}
			s.URI = channel.URI{ID: u.ID, Name: "swarm"}.String()
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("relay does not say where the channel is: %s", s.Source.Words())
		}
	}
}

// failed keeps an error that no caller waits for.
func (s *Swarm) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

// Err tells what went wrong with the source, which makes every figure void.
func (s *Swarm) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.err, s.tape.failed())
}

// Now is the clock of all times of a swarm.
func (s *Swarm) Now() time.Duration { return s.tape.now() }

// environment without the caller's settings.
func environment() []string {
	env := []string{"XDG_CONFIG_HOME=/nonexistent"}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "SIXCAST_") && !strings.HasPrefix(e, "XDG_CONFIG_HOME=") {
			env = append(env, e)
		}
	}
	return env
}

// statsEvery is often enough for what is read of statistics here.
const statsEvery = "1s"

// start runs a command of ours on a peer's host, with files for its words and its statistics.
func (s *Swarm) start(p *Peer, name string, in, out *os.File, args ...string) error {
	base := filepath.Join(s.dir, fmt.Sprintf("%s-%d", p.Host.Name(), p.Addr.Port()))
	p.stats, p.words = base+".json", base+".log"
	words, err := os.Create(p.words)
	if err != nil {
		return err
	}
	defer words.Close()
	args = append(args, "--stats="+statsEvery, "--stats-file", p.stats)
	p.cmd = p.Host.Command(context.Background(), filepath.Join(s.Config.Bin, name), args...)
	p.cmd.Env, p.cmd.Stderr = environment(), words
	if in != nil {
		p.cmd.Stdin = in
	}
	if out != nil {
		p.cmd.Stdout = out
	}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("%s on %s: %w", name, p.Host.Name(), err)
	}
	p.done = make(chan struct{})
	s.running.Go(func() {
		_ = p.cmd.Wait()
		close(p.done)
	})
	return nil
}

// Words are what the program said on its standard error.
func (p *Peer) Words() string {
	b, _ := os.ReadFile(p.words)
	return string(b)
}

// kill ends the program as an accident does.
func (p *Peer) kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
}

// Join starts a viewer on a host that has none, one where none ever was if there is such. Arguments are added to its own.
func (s *Swarm) Join(h Hostility, args ...string) (*Viewer, error) {
	var seat *seat
	for _, c := range s.seats {
		if !c.taken && (seat == nil || c.used < seat.used) {
			seat = c
		}
	}
	if seat == nil {
		return nil, errors.New("all hosts are taken: Config.Spare")
	}
	return s.join(seat, s.known(), h, args...)
}

// JoinAt starts a viewer on host i, which must have none, and tells it of some peers only.
func (s *Swarm) JoinAt(i int, known []netip.AddrPort, h Hostility, args ...string) (*Viewer, error) {
	return s.join(s.seats[i], known, h, args...)
}

// told are arguments for a peer of an uplink.
func (s *Swarm) told(uplink float64) []string {
	if !s.Config.Told {
		return nil
	}
	return []string{"--upload", strconv.Itoa(int(0.95 * uplink * float64(s.Config.Rate)))}
}

// known are some random live peers.
func (s *Swarm) known() (some []netip.AddrPort) {
	all := []netip.AddrPort{s.Source.Addr}
	for _, v := range s.Viewers {
		if v.Gone == 0 {
			all = append(all, v.Addr)
		}
	}
	s.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	least, most := s.Config.Known[0], s.Config.Known[1]
	return all[:min(len(all), least+s.random.IntN(most-least+1))]
}

func (s *Swarm) join(seat *seat, known []netip.AddrPort, h Hostility, args ...string) (*Viewer, error) {
	v := &Viewer{Number: len(s.Viewers) + 1, Hostility: h, judge: newJudge(s.tape), seat: seat,
		Peer: Peer{Host: seat.host, Uplink: seat.uplink, meter: seat.meter, Addr: netip.AddrPortFrom(seat.host.Addr(), uint16(peerPort+seat.used))}}
	seat.host.Rewrite(h.rewrite(func() { v.hits.Add(1) }))
	argv := []string{s.URI, "--output", "-", "--listen", v.Addr.String()}
	if s.Config.Latency > 0 {
		argv = append(argv, "--latency", s.Config.Latency.String())
	}
	for _, a := range known {
		argv = append(argv, "--peer", a.String())
	}
	if h == Honest {
		argv = append(argv, s.told(seat.uplink)...)
	}
	argv = append(append(argv, s.Config.Watch...), args...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	v.Born = s.Now()
	err = s.start(&v.Peer, "watch", nil, w, argv...)
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	seat.taken = true
	seat.used++
	s.running.Go(func() {
		defer r.Close()
		buf := make([]byte, 1<<16)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				v.judge.read(buf[:n], s.tape.now())
			}
			if err != nil {
				return
			}
		}
	})
	s.Viewers = append(s.Viewers, v)
	return v, nil
}

// Kill ends a viewer as an accident does: with SIGKILL, without a word to anybody.
func (s *Swarm) Kill(v *Viewer) {
	v.Gone = s.Now()
	v.kill()
	v.seat.taken = false
}

// Live are the viewers that were not killed.
func (s *Swarm) Live() (live []*Viewer) {
	for _, v := range s.Viewers {
		if v.Gone == 0 {
			live = append(live, v)
		}
	}
	return live
}

// Fill has the first Config.Viewers hosts join, evenly over a time; hostile says what they are, by index (nil: all honest), and
// args what they are told beside the usual.
func (s *Swarm) Fill(ctx context.Context, over time.Duration, hostile map[int]Hostility, args ...string) error {
	begun := time.Now()
	for i := range s.Config.Viewers {
		if err := Sleep(ctx, time.Until(begun.Add(over*time.Duration(i)/time.Duration(s.Config.Viewers)))); err != nil {
			return err
		}
		h := hostile[i]
		var more []string
		if h != Honest {
			more = args
		}
		if _, err := s.join(s.seats[i], s.known(), h, more...); err != nil {
			return err
		}
	}
	return nil
}

// Sleep waits, unless ctx ends.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends everything, and waits.
func (s *Swarm) Close() (err error) {
	if s.cancel != nil {
		s.cancel()
	}
	for _, v := range s.Viewers {
		v.kill()
	}
	if s.Source != nil {
		s.Source.kill()
	}
	if s.ingest != nil && s.ingest.Process != nil {
		_ = s.ingest.Process.Kill()
	}
	s.running.Wait()
	if s.Net != nil {
		err = s.Net.Close()
	}
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}

// SaveLogs copies what all programs said, and their statistics, to a folder, for whoever looks for a reason.
func (s *Swarm) SaveLogs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "*"))
	for _, f := range files {
		err = errors.Join(err, copyFile(f, filepath.Join(dir, filepath.Base(f))))
	}
	return err
}

func copyFile(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
