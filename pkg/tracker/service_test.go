package tracker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/testchannel"
	"github.com/sixcast/sixcast/pkg/announce"
	"github.com/sixcast/sixcast/pkg/catalog"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/cluster"
	"github.com/sixcast/sixcast/pkg/guide"
)

func signAt(t testing.TB, n int, at time.Time, v channel.Values) []byte {
	t.Helper()
	return testchannel.Sign(t, n, at.Unix(), v).Item
}

func sign(t testing.TB, n int, name string) []byte {
	t.Helper()
	return signAt(t, n, time.Now(), channel.Values{Name: name})
}

// site is a service with somebody who asks it.
type site struct {
	*Service
	t    testing.TB
	base string
	http *guide.Client

	mu     sync.Mutex // of the socket
	socket *net.UDPConn
	id     uint64
}

func serve(t testing.TB, cfg ServiceConfig) *site {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.HTTP, cfg.UDP.Listen = l, netip.AddrPortFrom(loopback, 0)
	cfg.Guide.Puts = guide.Rate{PerSecond: 1e6, Burst: 1e6}
	s, err := StartService(cfg)
	if err != nil {
		t.Fatal(err)
	}
	x := &site{Service: s, t: t, base: "http://" + l.Addr().String()}
	x.http = &guide.Client{Base: x.base}
	if x.socket, err = net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(s.Addr())); err != nil {
		t.Fatal(err)
	}
	x.id = x.ask(announce.AppendConnect(nil, 7)).Connection
	t.Cleanup(x.end)
	return x
}

// end closes it; a second time does nothing.
func (x *site) end() {
	if x.Service == nil {
		return
	}
	x.http.Close()
	_ = x.socket.Close()
	if err := x.Close(); err != nil {
		x.t.Error(err)
	}
	x.Service = nil
}

// ask waits for the reply to a datagram.
func (x *site) ask(b []byte) (r announce.Reply) {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	var reply [2048]byte
	_ = x.socket.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := x.socket.Write(b); err != nil {
		x.t.Fatal(err)
	}
	n, err := x.socket.Read(reply[:])
	if err == nil {
		err = r.Decode(reply[:n])
	}
	if err != nil {
		x.t.Fatal(err)
	}
	return r
}

// announce reports why it was refused, nothing if it was not.
func (x *site) announce(id channel.ID) (reason string) {
	x.t.Helper()
	a := announce.Announce{Connection: x.id, Transaction: 1, Swarm: id.SwarmID(), Port: 80, Want: -1}
	return x.ask(a.Append(nil)).Reason
}

func (x *site) publishes(item []byte) (reason string) {
	x.t.Helper()
	return x.ask(announce.AppendPublish(nil, x.id, 1, item)).Reason
}

// status of a PUT, whatever stands in it.
func (x *site) status(id channel.ID, body []byte) int {
	x.t.Helper()
	q, err := http.NewRequestWithContext(x.t.Context(), http.MethodPut, x.base+"/v1/channels/"+id.String(), strings.NewReader(string(body)))
	if err != nil {
		x.t.Fatal(err)
	}
	q.Close = true
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		x.t.Fatal(err)
	}
	_ = r.Body.Close()
	return r.StatusCode
}

// listed are the ids in the list.
func (x *site) listed() (ids []channel.ID) {
	x.t.Helper()
	p, err := x.http.List(x.t.Context(), catalog.Query{})
	if err != nil {
		x.t.Fatal(err)
	}
	for _, c := range p.Channels {
		ids = append(ids, c.Descriptor.ID)
	}
	return ids
}

func TestTwoKeysClaimOneName(t *testing.T) {
	var mu sync.Mutex
	var events []Event
	s := serve(t, ServiceConfig{OnEvent: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}})
	if r := s.publishes(sign(t, 1, "Harbour News")); r != "" {
		t.Fatal(r)
	}
	if _, err := s.http.Put(t.Context(), sign(t, 2, "harbour news")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.http.Put(t.Context(), sign(t, 3, "Hаrbour Nеws")); err != nil { // two letters are Cyrillic
		t.Fatal(err)
	}
	// Who asks for the name is told of both who have it, the first first, and each of its doubles.
	named, err := s.http.Named(t.Context(), "Harbour News")
	if err != nil || len(named) != 2 || named[0].Descriptor.ID != testchannel.Key(1).ID() || named[1].Descriptor.ID != testchannel.Key(2).ID() {
		t.Fatalf("%v, %v", named, err)
	}
	p, err := s.http.List(t.Context(), catalog.Query{})
	if err != nil || len(p.Channels) != 3 {
		t.Fatalf("%d channels, %v", len(p.Channels), err)
	}
	for _, c := range p.Channels {
		for n := 1; n <= 3; n++ {
			if self := c.Descriptor.ID == testchannel.Key(n).ID(); slices.Contains(c.LookAlikes, testchannel.Key(n).ID()) == self {
				t.Errorf("%q is like %v", c.Descriptor.Values.Name, c.LookAlikes)
			}
		}
	}
	wait(t, "the event says so", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(events) == 3 && len(events[0].LookAlikes) == 0 && slices.Equal(events[1].LookAlikes, []string{testchannel.Key(1).ID().String()}) && len(events[2].LookAlikes) == 2
	})
}

func TestClocksOfRelays(t *testing.T) {
	s := serve(t, ServiceConfig{})
	now := time.Now()
	for n, x := range []struct {
		wrong time.Duration
		ok    bool
	}{{time.Hour, true}, {-time.Hour, true}, {24 * time.Hour, false}, {24 * 365 * time.Hour, false}} {
		item := signAt(t, n, now.Add(x.wrong), channel.Values{Name: "x"})
		if r := s.publishes(item); r == "" != x.ok {
			t.Errorf("a clock %v wrong, by UDP: %q", x.wrong, r)
		}
		if _, err := s.http.Put(t.Context(), item); err == nil != x.ok || !x.ok && !errors.Is(err, catalog.ErrFuture) {
			t.Errorf("a clock %v wrong, by HTTP: %v", x.wrong, err)
		}
		if r := s.announce(testchannel.Key(n).ID()); r == "" != x.ok {
			t.Errorf("a clock %v wrong: its swarm %q", x.wrong, r)
		}
	}
	// Once the clock is set right, what comes is older, and is taken when the hour is over; the channel is served meanwhile.
	if r := s.publishes(signAt(t, 0, now, channel.Values{Name: "y"})); !strings.Contains(r, "newer") {
		t.Error(r)
	}
	if st := s.Stats(); st.Refused != 3 || st.PutsBad != 2 || st.Channels != 2 {
		t.Errorf("%+v", st)
	}
}

func TestStateSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := serve(t, ServiceConfig{State: path})
	for n := range 20 {
		if r := s.publishes(sign(t, n, fmt.Sprint("channel ", n))); r != "" {
			t.Fatal(r)
		}
	}
	s.end()
	var mu sync.Mutex
	told := 0
	s = serve(t, ServiceConfig{State: path, OnEvent: func(Event) {
		mu.Lock()
		told++
		mu.Unlock()
	}})
	if ids := s.listed(); len(ids) != 20 {
		t.Errorf("%d channels", len(ids))
	}
	if r := s.announce(testchannel.Key(7).ID()); r != "" {
		t.Error(r)
	}
	if r := s.publishes(sign(t, 20, "new")); r != "" {
		t.Error(r)
	}
	s.end() // all events are told
	mu.Lock()
	defer mu.Unlock()
	if told != 1 {
		t.Errorf("%d events, want that of the new channel alone", told)
	}
}

func TestListsTakeEffectAtOnce(t *testing.T) {
	s := serve(t, ServiceConfig{})
	items := make([][]byte, 4)
	for n := range items {
		items[n] = sign(t, n, fmt.Sprint("channel ", n))
		if r := s.publishes(items[n]); r != "" {
			t.Fatal(r)
		}
	}
	check := func(what string, served ...int) {
		t.Helper()
		listed := s.listed()
		for n := range items {
			want := slices.Contains(served, n)
			if r := s.announce(testchannel.Key(n).ID()); r == "" != want {
				t.Errorf("%s: announce to %d: %q", what, n, r)
			}
			if slices.Contains(listed, testchannel.Key(n).ID()) != want {
				t.Errorf("%s: %d in the list: %v", what, n, !want)
			}
			if !want {
				if r := s.publishes(items[n]); r != catalog.ErrRefused.Error() {
					t.Errorf("%s: publishing %d: %q", what, n, r)
				}
				if c := s.status(testchannel.Key(n).ID(), items[n]); c != http.StatusForbidden {
					t.Errorf("%s: putting %d: %d", what, n, c)
				}
			}
		}
	}
	check("no lists", 0, 1, 2, 3)
	s.SetLists(Lists{Deny: NewList(testchannel.Key(0).ID())})
	check("one denied", 1, 2, 3)
	s.SetLists(Lists{Allow: NewList(testchannel.Key(0).ID(), testchannel.Key(1).ID()), Deny: NewList(testchannel.Key(1).ID())})
	if r := s.publishes(items[0]); r != "" {
		t.Error(r)
	}
	check("two allowed, one of them denied", 0)
	s.SetLists(Lists{})
	for n := range items {
		if r := s.publishes(items[n]); r != "" {
			t.Error(r)
		}
	}
	check("no lists again", 0, 1, 2, 3)
}

func TestASlowHookLosesNothing(t *testing.T) {
	const channels = 100
	held, entered := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	defer release()
	var events []Event // of the goroutine that tells, until the end
	s := serve(t, ServiceConfig{OnEvent: func(e Event) {
		if len(events) == 0 {
			close(entered)
			<-held
		}
		events = append(events, e)
	}})
	put := func(n int, at time.Time) {
		if _, err := s.catalog.Put(signAt(t, n, at, channel.Values{Name: fmt.Sprint(n)})); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	put(0, now)
	<-entered // one is in its hands
	for n := 1; n < channels; n++ {
		put(n, now)
	}
	for n := range channels {
		put(n, now.Add(time.Second))
	}
	s.SetLists(Lists{Allow: NewList()})
	member := func(n int) []cluster.Member { return []cluster.Member{{Name: fmt.Sprint(n)}} }
	for n := 0; len(s.events) < maxEvents; n++ {
		s.members(member(n)) // one joined, and the one before left
	}
	if l := s.Stats().EventsLost; l != 0 || len(s.events) != maxEvents {
		t.Errorf("%d are lost, %d wait", l, len(s.events))
	}
	s.members(nil)
	if l := s.Stats().EventsLost; l != 1 {
		t.Errorf("%d are lost of one too many", l)
	}
	release()
	s.end()
	if len(events) != maxEvents+1 {
		t.Fatalf("%d events, want %d", len(events), maxEvents+1)
	}
	for i, e := range events {
		want, about := "channel-added", testchannel.Key(i%channels).ID().String()
		switch k := i - 3*channels; {
		case i >= channels && k < -channels:
			want = "channel-changed"
		case k < 0 && k >= -channels:
			want = "channel-removed"
		case k == 0:
			want, about = "member-joined", "0"
		case k > 0 && k%2 == 1:
			want, about = "member-joined", fmt.Sprint(k/2+1)
		case k > 0:
			want, about = "member-left", fmt.Sprint(k/2-1)
		}
		if e.Event != want || e.ID+e.Member != about || i > 0 && e.Time.Before(events[i-1].Time) {
			t.Fatalf("event %d of %d: %+v, want %s of %s", i, len(events), e, want, about)
		}
	}
}

func TestOpenServesWhatNobodyDescribed(t *testing.T) {
	shut, open := serve(t, ServiceConfig{}), serve(t, ServiceConfig{Open: true})
	if r := shut.announce(testchannel.Key(1).ID()); r == "" {
		t.Error("a swarm that nobody described is served")
	}
	if r := open.announce(testchannel.Key(1).ID()); r != "" {
		t.Error(r)
	}
	if len(open.listed()) != 0 {
		t.Error("it is in the list")
	}
	open.SetLists(Lists{Deny: NewList(testchannel.Key(1).ID())})
	if r := open.announce(testchannel.Key(1).ID()); r == "" {
		t.Error("one that is denied is served")
	}
}

func TestOperatorsPullFromEachOther(t *testing.T) {
	const every = 20 * time.Millisecond
	c := serve(t, ServiceConfig{})
	b := serve(t, ServiceConfig{Pull: []string{c.base}, PullEvery: every})
	a := serve(t, ServiceConfig{Pull: []string{b.base, c.base}, PullEvery: every})
	chain := serve(t, ServiceConfig{Pull: []string{b.base}, PullEvery: every})
	if r := c.publishes(sign(t, 1, "far")); r != "" {
		t.Fatal(r)
	}
	if r := b.publishes(sign(t, 2, "near")); r != "" {
		t.Fatal(r)
	}
	for _, x := range []*site{a, chain} {
		wait(t, "both are known", func() bool { return x.Stats().Channels == 2 })
		for n := 1; n <= 2; n++ {
			if r := x.announce(testchannel.Key(n).ID()); r != "" {
				t.Errorf("channel %d: %s", n, r)
			}
		}
	}
	// A newer one goes the same way.
	newer := signAt(t, 1, time.Now().Add(time.Minute), channel.Values{Name: "further"})
	if r := c.publishes(newer); r != "" {
		t.Fatal(r)
	}
	wait(t, "the newer one is known", func() bool {
		e, _ := chain.catalog.Get(testchannel.Key(1).ID())
		return e.Descriptor.Values.Name == "further"
	})
	if n := c.Stats().Channels; n != 1 {
		t.Errorf("%d channels came back to who does not pull", n)
	}
	// Lists hold for what is pulled, too.
	chain.SetLists(Lists{Deny: NewList(testchannel.Key(1).ID())})
	if r := c.publishes(signAt(t, 1, time.Now().Add(2*time.Minute), channel.Values{Name: "again"})); r != "" {
		t.Fatal(r)
	}
	wait(t, "the newest is with who pulls from both", func() bool {
		e, _ := a.catalog.Get(testchannel.Key(1).ID())
		return e.Descriptor.Values.Name == "again"
	})
	if _, known := chain.catalog.Get(testchannel.Key(1).ID()); known {
		t.Error("it was pulled against the lists")
	}
}

func TestBadItemsAreRefusedAndCounted(t *testing.T) {
	s := serve(t, ServiceConfig{})
	now := time.Now()
	good := sign(t, 1, "good")
	if r := s.publishes(good); r != "" {
		t.Fatal(r)
	}
	forged := slices.Clone(sign(t, 2, "forged"))
	forged[len(forged)-4] ^= 1
	imposter := slices.Clone(signAt(t, 3, now.Add(time.Minute), channel.Values{Name: "good"}))
	id := testchannel.Key(1).ID()
	copy(imposter[len("d1:k32:"):], id[:]) // signed with another's key
	stale := signAt(t, 1, now.Add(-time.Minute), channel.Values{Name: "old"})
	rival := signAt(t, 1, time.Unix(sequence(t, good), 0), channel.Values{Name: "other"})
	for i, x := range []struct {
		what   string
		n      int
		item   []byte
		reason string // "-": it is too long for a request
		status int
	}{
		{"forged", 2, forged, "signature", http.StatusForbidden},
		{"in another's name", 1, imposter, "signature", http.StatusForbidden},
		{"stale", 1, stale, "newer", http.StatusConflict},
		{"of the same time", 1, rival, "newer", http.StatusConflict},
		{"no item", 4, []byte("d1:k32:"), "malformed", http.StatusBadRequest},
		{"garbage behind it", 1, append(slices.Clone(good), 'e'), "", http.StatusConflict},
		{"oversized", 5, append([]byte("d1:k32:"), make([]byte, channel.MaxItem)...), "malformed", http.StatusRequestEntityTooLarge},
		{"beyond a request", 5, make([]byte, announce.MaxItem+1), "-", http.StatusRequestEntityTooLarge},
	} {
		before := s.Stats()
		if r := s.publishes(x.item); r == "" || x.reason != "-" && !strings.Contains(r, x.reason) {
			t.Errorf("%s: %q", x.what, r)
		}
		if c := s.status(testchannel.Key(x.n).ID(), x.item); c != x.status {
			t.Errorf("%s: status %d, want %d", x.what, c, x.status)
		}
		after := s.Stats()
		udp := after.Refused - before.Refused
		if x.reason == "-" {
			udp = after.Malformed - before.Malformed
		}
		if udp != 1 || after.Puts != before.Puts+1 || after.PutsBad != uint64(i+1) || after.Published != 1 {
			t.Errorf("%s: counted as %+v, before %+v", x.what, after, before)
		}
	}
	if e, ok := s.catalog.Get(testchannel.Key(1).ID()); !ok || e.Descriptor.Values.Name != "good" || s.Stats().Channels != 1 {
		t.Errorf("%+v", e.Descriptor.Values)
	}
	// Without a good connection id nothing is looked at.
	if r := s.ask(announce.AppendPublish(nil, s.id^4, 1, good)); r.Reason != "connect again" || s.Stats().Strangers != 1 {
		t.Errorf("%+v", r)
	}
}

func sequence(t *testing.T, item []byte) int64 {
	d, err := channel.ParseDescriptor(item)
	if err != nil {
		t.Fatal(err)
	}
	return d.Seq
}

// A million announces from one /64, of as many addresses and ports, take eight places of a swarm and next to no memory.
func TestOneNetworkLeavesRoom(t *testing.T) {
	const now, hosts, ports = 1_800_000_000, 1000, 1000
	stats := new(announce.Stats)
	store := announce.NewStore(rand.Uint64(), 300, DefaultSwarms)
	s := announce.NewServer(announce.ServerConfig{Key: announce.NewKey(), Store: store}, stats)
	dst := make([]byte, 0, announce.MaxMessage)
	join := func(from netip.Addr, port uint16, id uint64) announce.Reply {
		if id == 0 {
			id = binary.BigEndian.Uint64(s.Handle(now, 0, netip.AddrPortFrom(from, port), announce.AppendConnect(dst[:0], 1), nil)[8:])
		}
		a := announce.Announce{Connection: id, Swarm: announce.SwarmID{1}, Port: port, Want: -1, Left: 1}
		var r announce.Reply
		if err := r.Decode(s.Handle(now, rand.Uint32(), netip.AddrPortFrom(from, port), a.Append(nil), dst[:0])); err != nil {
			t.Fatal(err)
		}
		return r
	}
	others := func(n uint64) netip.Addr {
		a := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}
		binary.BigEndian.PutUint32(a[4:], uint32(n)+1)
		return netip.AddrFrom16(a)
	}
	for n := range uint64(20) {
		join(others(n), 80, 0)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	id := announce.SwarmID{1}
	for host := range uint64(hosts) {
		a := [16]byte{0x20, 0x01, 0x0d, 0xb8, 0xff}
		binary.BigEndian.PutUint64(a[8:], host)
		from := netip.AddrFrom16(a)
		join(from, 1, 0)
		for port := range uint16(ports - 1) { // what the server does, without its cipher
			_, _, ok := store.Announce(now, &id, netip.AddrPortFrom(from, port+2), announce.EventNone, false, 0, 0, dst[:0])
			if !ok {
				t.Fatal("full")
			}
		}
	}
	if after := heap(); after > before+1<<20 {
		t.Errorf("it took %d bytes", after-before)
	}
	if n := stats.Announces.Load(); n != hosts+20 {
		t.Errorf("%d announces were answered", n)
	}
	if _, peers := store.Len(); peers != 20+announce.MaxPer64 {
		t.Errorf("%d are listed, want 20 and %d", peers, announce.MaxPer64)
	}
	// Others find each other, and come in.
	r := join(others(20), 80, 0)
	for n := range uint64(20) {
		if !slices.Contains(r.Peers, netip.AddrPortFrom(others(n), 80)) {
			t.Errorf("peer %d is not named", n)
		}
	}
}
