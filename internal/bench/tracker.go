//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	trackerChannels = 100_000
	trackerWindow   = 700 * time.Millisecond
	halfWindow      = 700 * time.Millisecond
	trackerPort     = 6969
	echoPort        = 6970
	metricsPort     = 6971
	// Of the expiry: peers are forgotten after 25 s, all within the next 2.5.
	expiryInterval = 10 * time.Second
	expiryWindow   = 5 * time.Second
	expiryProbes   = 1000 // a second
	// longReply is what expiry must not make anybody wait for.
	longReply = 5 * time.Millisecond

	guideRequests = 300 // of a kind, a run
	guidePer64    = 150 // that a network makes before it would be asked to wait
)

var (
	trackerHost = netip.MustParseAddr("2001:db8:ffff:ffff::1")
	trackerKey  = announce.Key{6, 12}
)

// world makes this namespace one in which all of 2001:db8::/32 is at home, and the tracker at one address of it.
func (b *bench) world() error {
	for _, args := range [][]string{{"-6", "route", "replace", "local", "2001:db8::/32", "dev", "lo"}, {"-6", "address", "replace", trackerHost.String() + "/128", "dev", "lo", "nodad"}} {
		if out, err := exec.CommandContext(b.ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return os.WriteFile(b.keyFile(), []byte(hex.EncodeToString(trackerKey[:])+"\n"), 0o600)
}

func (b *bench) keyFile() string { return filepath.Join(b.dir, "key") }

// state is a file with that many channels, and their swarms.
func (b *bench) state(channels int) (path string, swarms []announce.SwarmID, err error) {
	path = filepath.Join(b.dir, fmt.Sprintf("state-%d", channels))
	ids := make([]announce.SwarmID, channels)
	var items [][]byte
	_, missing := os.Stat(path)
	if missing != nil {
		items = make([][]byte, channels)
	}
	towns := []string{"Esbjerg", "Porto", "Gdańsk", "Tromsø", "Κέρκυρα", "Brest", "Odesa", "Galway", "Trieste", "Visby"}
	kinds := []string{"News", "Sport", "Music", "Science", "Local", "Culture", "Kids"}
	languages := []string{"da", "pt", "pl", "no", "el"}
	kept := catalog.New(catalog.Config{Max: trackerChannels})
	cores := runtime.GOMAXPROCS(0)
	failed := make([]error, cores)
	var work sync.WaitGroup
	for w := range cores {
		work.Go(func() {
			for i := w; i < channels && failed[w] == nil; i += cores {
				key := testchannel.Key(i)
				ids[i] = key.ID().SwarmID()
				if items == nil {
					continue
				}
				town, kind := towns[i%len(towns)], kinds[i%len(kinds)]
				d, err := channel.SignDescriptor(key, time.Now().Unix(), channel.Values{
					Name: fmt.Sprintf("%s %s %05d", town, kind, i), Category: kind, Language: languages[i%len(languages)], Country: "DK", BitRate: 4_000_000,
					Description: "What happens in " + town + " and around it, every day and every night, seen by those who live there.",
					Now:         fmt.Sprintf("Programme %d", i%500), Next: "Weather", Trackers: []string{"udp://tracker.example:6969"},
				})
				if err == nil {
					_, err = kept.Put(d.Item)
				}
				failed[w] = err
			}
		})
	}
	work.Wait()
	for _, err := range failed {
		if err != nil {
			return "", nil, err
		}
	}
	if items != nil {
		err = kept.SaveFile(path)
	}
	return path, ids, err
}

// tracking is a tracker under measurement.
type tracking struct {
	*process
	to  netip.AddrPort
	who *crowd
}

// startTracker starts one of ours that knows so many channels.
func (b *bench) startTracker(c *cleanup, channels int, args ...string) (*tracking, []announce.SwarmID, error) {
	state, swarms, err := b.state(channels)
	if err != nil {
		return nil, nil, err
	}
	cmd := b.our("tracker", append([]string{"--listen", fmt.Sprintf("[::]:%d", trackerPort), "--key", b.keyFile(), "--state", state,
		"--metrics", fmt.Sprintf("[::]:%d", metricsPort)}, args...)...)
	cmd.Stdout = io.Discard
	p, err := c.start(cmd)
	if err != nil {
		return nil, nil, err
	}
	_, err = p.says("metrics on", time.Minute)
	return &tracking{process: p, to: netip.AddrPortFrom(trackerHost, trackerPort)}, swarms, err
}

// metric reads one of the tracker's.
func metric(name string) (float64, error) {
	r, err := http.Get(fmt.Sprintf("http://[::1]:%d/metrics", metricsPort))
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	all, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(all)
	if m == nil {
		return 0, fmt.Errorf("no metric %s", name)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// resident is the memory that a process has now, bytes.
func (p *process) resident() int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		return 0
	}
	kb, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return kb << 10
}

// answers is what a window of a caller brought.
type answers struct {
	perCPU, perSecond, size float64
}

func (b *bench) announces(t *tracking) (a answers, err error) {
	c, err := newCaller(t.to)
	if err != nil {
		return a, err
	}
	defer c.close()
	begun := time.Now()
	before, err := t.cpu()
	if err != nil {
		return a, err
	}
	n, err := c.call(t.who, 0, trackerWindow)
	if err != nil {
		return a, err
	}
	after, err := t.cpu()
	if err != nil {
		return a, err
	}
	if n == 0 || c.errors > 0 {
		return a, fmt.Errorf("%s: %d answers, %d of them refusals: %s", t.name, n, c.errors, t.log)
	}
	return answers{float64(n) / (after - before).Seconds(), float64(n) / time.Since(begun).Seconds(), float64(c.bytes) / float64(n)}, nil
}

// fillUp has a whole crowd announced, again where replies were lost.
func (t *tracking) fillUp() (perSecond float64, err error) {
	c, err := newCaller(t.to)
	if err != nil {
		return 0, err
	}
	defer c.close()
	begun := time.Now()
	n, err := c.call(t.who, t.who.peers, 0)
	if err == nil && c.errors > 0 {
		err = fmt.Errorf("%s refuses: %q", t.name, bytes.Trim(c.replies[0][8:64], "\x00"))
	}
	return float64(n) / time.Since(begun).Seconds(), err
}

// startEcho starts the bare loop with replies of a size, 0 of that of the requests.
func (b *bench) startEcho(c *cleanup, size, port int, who *crowd) (*tracking, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := c.start(exec.CommandContext(b.ctx, self, echoArg, "-listen", fmt.Sprintf("[::]:%d", port), "-size", strconv.Itoa(size)))
	if err != nil {
		return nil, err
	}
	_, err = p.says("listening", 5*time.Second)
	return &tracking{process: p, to: netip.AddrPortFrom(trackerHost, uint16(port)), who: who}, err
}

// startOpen starts opentracker.
func (b *bench) startOpen(c *cleanup, swarms []announce.SwarmID) (*tracking, error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("opentracker-%d", len(swarms)))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var list bytes.Buffer
	for i := range swarms {
		fmt.Fprintf(&list, "%x\n", swarms[i])
	}
	if err := os.WriteFile(filepath.Join(dir, "list"), list.Bytes(), 0o644); err != nil {
		return nil, err
	}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), trackerPort)
	cmd := exec.CommandContext(b.ctx, "opentracker", "-i", "127.0.0.1", "-P", strconv.Itoa(trackerPort), "-p", strconv.Itoa(trackerPort), "-u", "nobody", "-d", dir, "-w", "list")
	cmd.Dir = dir
	p, err := c.start(cmd)
	if err != nil {
		return nil, err
	}
	if err := sleep(b.ctx, time.Second); err != nil {
		return nil, err
	}
	t := &tracking{process: p, to: to}
	if t.who, err = crowd4(to, swarms); err != nil {
		return nil, fmt.Errorf("%w: %s", err, p.log)
	}
	return t, nil
}

// trackerRow is what one number of swarms gave.
type trackerRow struct {
	ours, same, pure, open []answers
	sent, lost             int
	peers, resident        float64 // how many are listed; bytes a peer
}

// tracker measures announces, memory and expiry.
func (b *bench) tracker() error {
	if err := b.world(); err != nil {
		return err
	}
	t := &table{
		title: fmt.Sprintf("announces that a tracker answers in a second of its processor time, %d peers from as many /64s, which get 50 others each where there are", crowdPeers),
		command: "scripts/bench tracker     (tracker --state FILE; 98 bytes over UDP, a known channel for each swarm, every peer in turn; " +
			fmt.Sprintf("%d requests under way)", callFlight),
		columns: []string{"swarms", "a reply, bytes", "tracker", "echo, replies of that size", "ratio", "echo, 98 bytes", "ratio", "opentracker, IPv4", "a second of the clock", "lost at half of it"},
	}
	open := have(t, "opentracker")
	for _, swarms := range []int{1, 1000, trackerChannels} {
		r, err := b.trackerAt(swarms, open)
		if err != nil {
			return err
		}
		perCPU := func(a answers) float64 { return a.perCPU / 1000 }
		wall := func(a answers) float64 { return a.perSecond / 1000 }
		ours := median(each(r.ours, perCPU))
		other := "-"
		if len(r.open) > 0 {
			other = spread("%.0f k", each(r.open, perCPU))
		}
		t.add(strconv.Itoa(swarms), fmt.Sprintf("%.0f", r.ours[0].size), spread("%.0f k", each(r.ours, perCPU)),
			spread("%.0f k", each(r.same, perCPU)), fmt.Sprintf("%.2f", ours/median(each(r.same, perCPU))),
			spread("%.0f k", each(r.pure, perCPU)), fmt.Sprintf("%.2f", ours/median(each(r.pure, perCPU))),
			other, spread("%.0f k", each(r.ours, wall)), fmt.Sprintf("%d of %d", r.lost, r.sent))
		if swarms == trackerChannels {
			store := storeBytes(swarms)
			t.notes = append(t.notes, fmt.Sprintf("Memory at %d swarms: the store has %.1f bytes a peer (target ≤ 64); the whole process grew by %.1f a peer, garbage included.", swarms, store, r.resident))
		}
	}
	t.notes = append(t.notes, "The target of the ratios is ≥ 0.8. The echo is a Go loop on the same sockets (pkg/udp, one a core, recvmmsg and sendmmsg) that does nothing else.")
	if len(t.rows) > 0 && open {
		t.notes = append(t.notes, "opentracker (Debian's build) speaks IPv4 only and wants a list of the swarms: its peers have 16 addresses and other ports, its replies 6 bytes a peer.")
	}
	b.out.table(t)
	return b.expiry()
}

func (b *bench) trackerAt(swarms int, open bool) (r trackerRow, err error) {
	var c cleanup
	defer c.stop()
	ours, ids, err := b.startTracker(&c, swarms)
	if err != nil {
		return r, err
	}
	ours.who = crowd6(trackerKey, ids)
	before := ours.resident()
	if _, err := ours.fillUp(); err != nil {
		return r, err
	}
	if r.peers, err = metric("sixcast_tracker_peers"); err != nil || r.peers < 0.99*crowdPeers {
		return r, fmt.Errorf("%.0f of %d peers are listed (%w): %s", r.peers, crowdPeers, err, ours.log)
	}
	r.resident = float64(ours.resident()-before) / r.peers
	first, err := b.announces(ours) // to warm it, and to learn how long replies are
	if err != nil {
		return r, err
	}
	var other *tracking
	if open {
		if other, err = b.startOpen(&c, ids); err == nil {
			_, err = other.fillUp()
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: without opentracker: %v\n", err)
			other = nil
		}
	}
	same, err := b.startEcho(&c, int(first.size+0.5), echoPort, ours.who)
	if err != nil {
		return r, err
	}
	pure, err := b.startEcho(&c, 0, echoPort+100, ours.who)
	if err != nil {
		return r, err
	}
	for range b.runs {
		for _, x := range []struct {
			t    *tracking
			into *[]answers
		}{{ours, &r.ours}, {same, &r.same}, {pure, &r.pure}, {other, &r.open}} {
			if x.t == nil {
				continue
			}
			a, err := b.announces(x.t)
			if err != nil {
				return r, err
			}
			*x.into = append(*x.into, a)
		}
		caller, err := newCaller(ours.to)
		if err != nil {
			return r, err
		}
		sent, lost, err := caller.pace(ours.who, r.ours[len(r.ours)-1].perSecond/2, halfWindow)
		caller.close()
		if err != nil {
			return r, err
		}
		r.sent, r.lost = r.sent+sent, r.lost+lost
	}
	return r, nil
}

// crowdStore is one with all peers.
func crowdStore(swarms int) *announce.Store {
	who := &crowd{}
	s := announce.NewStore(1, 1000, 2*swarms)
	for i := range crowdPeers {
		var id announce.SwarmID
		binary.LittleEndian.PutUint64(id[:], uint64(i%swarms)*0x9e3779b97f4a7c15)
		s.Announce(1, &id, netip.AddrPortFrom(who.source(i), 80), announce.EventNone, false, 0, 0, nil)
	}
	return s
}

// storeBytes is what a peer takes in the store itself, once there is no garbage.
func storeBytes(swarms int) float64 {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s := crowdStore(swarms)
	bytes := float64(heap()-before) / crowdPeers
	runtime.KeepAlive(s)
	return bytes
}

// expiry measures how long replies take while a million peers stay, and while they are forgotten.
func (b *bench) expiry() error {
	t := &table{
		title:   fmt.Sprintf("how long a reply takes while %d peers in %d swarms expire, %d requests a second", crowdPeers, trackerChannels, expiryProbes),
		command: fmt.Sprintf("scripts/bench tracker     (tracker --interval %v; the echo is asked at the same moments)", expiryInterval),
		columns: []string{"", "requests", "median, µs", "99 %, µs", "99.9 %, µs", "longest, ms", fmt.Sprintf("above %v", longReply), "without a reply"},
	}
	var c cleanup
	defer c.stop()
	ours, ids, err := b.startTracker(&c, trackerChannels, "--interval", expiryInterval.String())
	if err != nil {
		return err
	}
	ours.who = crowd6(trackerKey, ids)
	same, err := b.startEcho(&c, 182, echoPort, nil)
	if err != nil {
		return err
	}
	if err := sleep(b.ctx, time.Second); err != nil {
		return err
	}
	begun := time.Now()
	if _, err := ours.fillUp(); err != nil {
		return err
	}
	filled := time.Now()
	listed, err := metric("sixcast_tracker_peers")
	if err != nil {
		return err
	}
	life := expiryInterval * 5 / 2
	b.phase(t, "all stay", ours, same, time.Until(begun.Add(life))-time.Second)
	if err := sleep(b.ctx, time.Until(filled.Add(life))); err != nil {
		return err
	}
	from, err := metric("sixcast_tracker_peers")
	if err != nil {
		return err
	}
	b.phase(t, "they expire", ours, same, expiryWindow)
	to, err := metric("sixcast_tracker_peers")
	if err != nil {
		return err
	}
	longest, calls := longestSweep(trackerChannels)
	t.notes = append(t.notes, fmt.Sprintf("One call that forgets some of them takes at most %.2f ms of processor time, of %d (target ≤ 5).", float64(longest)/1e6, calls))
	t.notes = append(t.notes, fmt.Sprintf("%.0f peers were listed; from %.0f it went to %.0f. Times are from before the request's system call to when the kernel had the reply. Both sides share the machine's %d cores.",
		listed, from, to, runtime.NumCPU()))
	b.out.table(t)
	return b.ctx.Err()
}

// longestSweep is the most processor time that one call of Sweep took of those that forgot a million peers, as a tracker calls it. The
// clock is that of the thread: what else the machine does is not in it.
func longestSweep(swarms int) (longest time.Duration, calls int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := crowdStore(swarms)
	clock := func() time.Duration {
		var t unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
		return time.Duration(t.Nano())
	}
	for {
		if _, peers := s.Len(); peers == 0 {
			return longest, calls
		}
		begun := clock()
		s.Sweep(1e6, 600) // as many as a tracker makes
		longest = max(longest, clock()-begun)
		calls++
	}
}

// phase probes both for a time.
func (b *bench) phase(t *table, name string, ours, same *tracking, long time.Duration) {
	var work sync.WaitGroup
	rows := make([][]string, 2)
	for i, x := range []*tracking{ours, same} {
		work.Go(func() {
			took, lost := b.probe(x.to, ours.who, long)
			micros := func(q float64) string { return fmt.Sprintf("%.0f", float64(quantile(took, q))/1000) }
			above := 0
			for _, d := range took {
				if d > longReply {
					above++
				}
			}
			rows[i] = []string{name + ": " + []string{"tracker", "echo"}[i], strconv.Itoa(len(took) + lost), micros(0.5), micros(0.99), micros(0.999),
				fmt.Sprintf("%.2f", float64(quantile(took, 1))/1e6), strconv.Itoa(above), strconv.Itoa(lost)}
		})
	}
	work.Wait()
	t.rows = append(t.rows, rows...)
}

// probe asks at even intervals, and takes the time at which the kernel had the replies: how soon we are woken is not the tracker's matter.
func (b *bench) probe(to netip.AddrPort, who *crowd, long time.Duration) (took []time.Duration, lost int) {
	conn, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil, 0
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, 0
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) })
	// One peer, from an address that is really ours.
	self := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	s := announce.NewServer(announce.ServerConfig{Key: trackerKey}, new(announce.Stats))
	n := int(long.Seconds() * expiryProbes)
	sent, came := make([]int64, max(n, 0)), make([]int64, max(n, 0))
	var reading sync.WaitGroup
	reading.Go(func() {
		var body [2048]byte
		var control [128]byte
		for {
			k, m, _, _, err := conn.ReadMsgUDPAddrPort(body[:], control[:])
			if err != nil {
				return
			}
			now := time.Now().UnixNano()
			if all, err := unix.ParseSocketControlMessage(control[:m]); err == nil {
				for _, x := range all {
					if x.Header.Type == unix.SCM_TIMESTAMPNS && len(x.Data) >= 16 {
						now = int64(binary.NativeEndian.Uint64(x.Data))*1e9 + int64(binary.NativeEndian.Uint64(x.Data[8:]))
					}
				}
			}
			// The tag is in another place of a reply than of a request, which the echo gives back.
			for _, at := range []int{4, 12} {
				if i := int(binary.BigEndian.Uint32(body[at:])) - 1<<24; k >= 16 && i >= 0 && i < n && came[i] == 0 {
					came[i] = now
					break
				}
			}
		}
	})
	begun := time.Now()
	request := make([]byte, 0, callSize)
	var connection uint64
	for i := range n {
		if i%10_000 == 0 {
			if b.ctx.Err() != nil {
				break
			}
			r := s.Handle(time.Now().Unix(), 0, self, announce.AppendConnect(nil, 0), nil)
			connection = binary.BigEndian.Uint64(r[8:])
		}
		a := announce.Announce{Connection: connection, Transaction: uint32(i + 1<<24), Swarm: who.swarms[i%len(who.swarms)], Want: -1, Left: 1, Port: 80}
		request = a.Append(request[:0])
		time.Sleep(time.Until(begun.Add(time.Duration(i) * time.Second / expiryProbes)))
		sent[i] = time.Now().UnixNano()
		_, _ = conn.Write(request)
	}
	_ = conn.SetReadDeadline(time.Now().Add(callPatience))
	reading.Wait()
	for i := range sent {
		switch {
		case sent[i] == 0:
		case came[i] == 0:
			lost++
		default:
			took = append(took, time.Duration(came[i]-sent[i]))
		}
	}
	return took, lost
}

// guide measures the list of a tracker that knows 100,000 channels.
func (b *bench) guide() error {
	if err := b.world(); err != nil {
		return err
	}
	t := &table{
		title:   fmt.Sprintf("the list of a tracker with %d channels by HTTP, one request after the other", trackerChannels),
		command: fmt.Sprintf("scripts/bench guide     (tracker --state FILE; %d requests of each kind a run, gzip)", guideRequests),
		columns: []string{"request", "median, ms", "99 %, ms", "longest, ms", "bytes", "target"},
	}
	var c cleanup
	defer c.stop()
	if _, _, err := b.state(trackerChannels); err != nil { // made once
		return err
	}
	made := time.Now()
	ours, _, err := b.startTracker(&c, trackerChannels)
	if err != nil {
		return err
	}
	loaded := time.Since(made)
	start := ours.peak()
	kinds := []struct{ name, path string }{
		{"the page", "/"},
		{"the page, a search: galway", "/?q=galway"},
		{"the list, 100 channels", "/v1/channels"},
		{"the list, 100 from the middle", "/v1/channels?offset=%d"},
		{"search, one of them: porto 00421", "/v1/channels?q=porto+%05d"},
		{"search, all of them: every day", "/v1/channels?q=every+day"},
		{"search, what begins so: new", "/v1/channels?q=new"},
		{"filter: Polish music", "/v1/channels?language=pl&category=music"},
		{"a name", "/v1/channels?name=Porto+News+00021"},
	}
	type figures struct{ median, p99, longest []float64 }
	got := make([]figures, len(kinds))
	sizes := make([]int, len(kinds))
	asker := newAsker()
	defer asker.close()
	worst := 0.0
	for run := range b.runs {
		for k, kind := range kinds {
			var took []time.Duration
			for i := range guideRequests {
				path := kind.path
				if bytes.Contains([]byte(path), []byte{'%'}) {
					path = fmt.Sprintf(path, 1+10*((run*guideRequests+i)*7919%(trackerChannels/10)))
				}
				d, n, err := asker.ask(b.ctx, path)
				if err != nil {
					return fmt.Errorf("%s: %w: %s", path, err, ours.log)
				}
				took, sizes[k] = append(took, d), n
			}
			ms := func(q float64) float64 { return float64(quantile(took, q)) / 1e6 }
			f := &got[k]
			f.median, f.p99, f.longest = append(f.median, ms(0.5)), append(f.p99, ms(0.99)), append(f.longest, ms(1))
		}
	}
	for k, kind := range kinds {
		worst = max(worst, median(got[k].p99))
		t.add(kind.name, spread("%.2f", got[k].median), spread("%.2f", got[k].p99), spread("%.1f", got[k].longest), strconv.Itoa(sizes[k]), "99 % ≤ 10 ms")
	}
	t.notes = append(t.notes,
		fmt.Sprintf("The worst of the 99 %% is %.2f ms. Memory of the process: at most %.0f MiB (%.0f after loading), now %.0f (target ≤ 512).", worst,
			float64(ours.peak())/(1<<20), float64(start)/(1<<20), float64(ours.resident())/(1<<20)),
		fmt.Sprintf("The state file was read and verified in %v.", loaded.Round(100*time.Millisecond)))
	b.out.table(t)
	return nil
}

// An asker makes requests, from another network now and then: one has only so many.
type asker struct {
	client  http.Client
	network uint32
	asked   int
}

func newAsker() *asker {
	a := new(asker)
	transport := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		from := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 2}
		binary.BigEndian.PutUint32(from[4:], a.network)
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom16(from), 0)), Control: func(_, _ string, raw syscall.RawConn) (err error) {
			_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1) })
			return err
		}}
		return d.DialContext(ctx, "tcp6", address)
	}}
	a.client = http.Client{Transport: transport, Timeout: 10 * time.Second}
	return a
}

func (a *asker) close() { a.client.CloseIdleConnections() }

// ask takes the time from request to last byte, on a connection that there is already but for a network's first.
func (a *asker) ask(ctx context.Context, path string) (took time.Duration, size int, err error) {
	if a.asked++; a.asked%guidePer64 == 0 {
		a.network++
		a.close()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s%s", netip.AddrPortFrom(trackerHost, trackerPort), path), nil)
	if err != nil {
		return 0, 0, err
	}
	r.Header.Set("Accept-Encoding", "gzip")
	begun := time.Now()
	answer, err := a.client.Do(r)
	if err != nil {
		return 0, 0, err
	}
	body, err := io.ReadAll(answer.Body)
	took = time.Since(begun)
	_ = answer.Body.Close()
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %s", answer.Status, body)
	}
	return took, len(body), err
}
