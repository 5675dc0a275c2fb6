package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/pkg/channel"
)

type options struct {
	bin    string
	clip   string
	player string
	seed   uint64
	link   netem.Params
}

const (
	// startLimit is how long a command may take until it says where it listens.
	startLimit = 10 * time.Second
	// runLimit is how long the whole may take: the clip lasts 20 s.
	runLimit = 60 * time.Second
	// playerLimit is how long the player may play on after the end.
	playerLimit = 5 * time.Second
)

// defaultPlayer is mpv where there is one and a display to play on.
func defaultPlayer() string {
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
		return ""
	}
	if _, err := exec.LookPath("mpv"); err != nil {
		return ""
	}
	return "mpv"
}

// report is what the demo reads of watch --report.
type report struct {
	Startup *float64 `json:"startup_ms"`
	Delay   struct {
		P50 float64 `json:"p50"`
	} `json:"byte_delay_ms"`
	Net netStats `json:"net"`
}

// demo is one run.
type demo struct {
	options
	screen *screen
	dir    string // the key, the report, and what arrived

	ingest, source, relay, watch, player *process
	links                                []*lossyLink
}

func run(ctx context.Context, o options) error {
	sent, err := os.ReadFile(o.clip)
	if err != nil {
		return fmt.Errorf("the clip: %w (run it from the top of the source tree, or give --clip)", err)
	}
	if err := checkIPv6(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sixcast-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeoutCause(ctx, runLimit, fmt.Errorf("the clip has not ended after %v: is this machine very busy?", runLimit))
	defer cancel()

	d := &demo{options: o, screen: newScreen(), dir: dir}
	defer d.stop()
	err = d.onAir(ctx)
	if err == nil {
		err = d.wait(ctx)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	d.stop()
	return errors.Join(d.conclude(sent, err == nil), err)
}

// checkIPv6 fails where [::1] cannot be used.
func checkIPv6() error {
	c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		return fmt.Errorf("this machine has no IPv6, not even the loopback ::1 (%w): try `sysctl net.ipv6.conf.all.disable_ipv6=0`", err)
	}
	return c.Close()
}

// onAir starts everything, one after the other.
func (d *demo) onAir(ctx context.Context) error {
	say := d.screen.words
	none := func([]byte) {}
	key := filepath.Join(d.dir, "demo.key")

	d.screen.command("ingest keygen -o demo.key --name Demo")
	out, err := exec.CommandContext(ctx, d.path("ingest"), "keygen", "-q", "-o", key, "--name", "Demo").CombinedOutput()
	if err != nil {
		return fmt.Errorf("ingest keygen: %w: %s", err, out)
	}
	say(strings.TrimSpace(string(out)))

	d.screen.command("ingest --key demo.key " + d.clip + " | relay --listen '[::1]:0'")
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	if d.source, err = start(d.path("relay"), []string{"--listen", "[::1]:0"}, r, nil, say, none); err != nil {
		w.Close()
		return err
	}
	if d.ingest, err = start(d.path("ingest"), []string{"--key", key, d.clip}, nil, w, say, none); err != nil {
		return err
	}
	uri, err := d.behindLink(ctx, "first", d.source)
	if err != nil {
		return err
	}

	d.screen.say("The next two reach each other through links that do this: " + strings.TrimPrefix(d.link.String(), "clear "))
	d.screen.command("relay '" + uri + "' --listen '[::1]:0'")
	if d.relay, err = start(d.path("relay"), []string{uri, "--listen", "[::1]:0", "--stats=200ms"}, nil, nil, say, d.screen.relayed); err != nil {
		return err
	}
	if uri, err = d.behindLink(ctx, "second", d.relay); err != nil {
		return err
	}

	d.screen.command("watch '" + uri + "' --once -o arrived.ts")
	args := []string{uri, "--once", "-o", d.file("arrived.ts"), "--report", d.file("report.json"), "--stats=200ms"}
	if d.watch, err = start(d.path("watch"), args, nil, nil, say, d.screen.viewer); err != nil {
		return err
	}
	if d.options.player != "" {
		d.screen.command("watch '" + uri + "' --once --player " + d.options.player)
		args := []string{uri, "--once", "--player", d.options.player}
		quiet := func(text string) { // the player has a window, and talks a lot
			if strings.Contains(text, "watch: warning:") {
				say(text)
			}
		}
		if d.player, err = start(d.path("watch"), args, nil, nil, quiet, none); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) path(name string) string { return filepath.Join(d.bin, name) }
func (d *demo) file(name string) string { return filepath.Join(d.dir, name) }

// behindLink waits until a relay offers its channel, and returns the URI with a lossy link for a peer.
func (d *demo) behindLink(ctx context.Context, name string, relay *process) (string, error) {
	var text string
	select {
	case text = <-relay.uri:
	case <-relay.done:
		return "", relay.failure()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-time.After(startLimit):
		return "", fmt.Errorf("relay has not said within %v where it listens", startLimit)
	}
	uri, err := channel.ParseURI(text)
	if err != nil {
		return "", err
	}
	if len(uri.Peers) == 0 {
		return "", errors.New("relay offers no address")
	}
	upstream, err := netip.ParseAddrPort(uri.Peers[0])
	if err != nil {
		return "", err
	}
	link, err := newLossyLink(name, upstream, d.seed, d.link)
	if err != nil {
		return "", err
	}
	d.links = append(d.links, link)
	uri.Peers = []string{link.Addr().String()}
	return uri.String(), nil
}

// wait waits for the end of the clip at the viewer.
func (d *demo) wait(ctx context.Context) error {
	select {
	case <-d.watch.done:
	case <-d.source.done:
		select { // it serves on for a while after the clip
		case <-d.watch.done:
		case <-time.After(startLimit):
			return d.source.failure()
		}
	case <-d.relay.done:
		return d.relay.failure()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if d.watch.err != nil {
		return d.watch.failure()
	}
	if d.player != nil {
		select {
		case <-d.player.done:
		case <-time.After(playerLimit):
		case <-ctx.Done():
		}
	}
	return nil
}

// stop ends what still runs, from the viewers up. It may be called twice.
func (d *demo) stop() {
	for _, p := range []*process{d.player, d.watch, d.relay, d.source, d.ingest} {
		p.stop()
	}
	for _, l := range d.links {
		l.Close()
	}
}

// conclude says in one sentence what arrived. whole is false where the demo was interrupted.
func (d *demo) conclude(sent []byte, whole bool) error {
	got, err := os.ReadFile(d.file("arrived.ts"))
	if err != nil {
		return errors.New("nothing has arrived yet")
	}
	begin, length, err := compare(sent, got)
	if err != nil {
		return err
	}
	if whole && begin+length != len(sent) {
		return fmt.Errorf("%w: the last %s bytes are missing", errDifferent, thousands(len(sent)-begin-length))
	}
	var r report
	text, err := os.ReadFile(d.file("report.json"))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return fmt.Errorf("watch --report: %w", err)
	}
	var total, lost uint64
	for _, l := range d.links {
		t, n := l.Counts()
		total, lost = total+t, lost+n
	}
	asked, rebuilt := r.Net.Repaired+d.screen.relay.Repaired, r.Net.Rebuilt+d.screen.relay.Rebuilt
	startup := 0.0
	if r.Startup != nil {
		startup = *r.Startup / 1000
	}
	what := "all"
	if begin > 0 {
		what = "all from the first picture on"
	}
	if !whole {
		what = "until you stopped it"
	}
	d.screen.say("")
	d.screen.say(fmt.Sprintf("%s bytes (%s) arrived identical to what was sent, compared one by one: the links lost %s of %s datagrams and %s shards were repaired (%s asked for again, %s made from parity); "+
		"the picture began after %.2f s and was %.2f s behind the source.",
		thousands(length), what, thousands(lost), thousands(total), thousands(asked+rebuilt), thousands(asked), thousands(rebuilt), startup, r.Delay.P50/1000))
	return nil
}
