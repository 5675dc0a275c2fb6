package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sixcast/sixcast/pkg/channel"
)

// A descriptor that is put into one is on all within two seconds.
func TestSpread(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			members, stores := group(t, n, fast())
			all := spreadTimes(t, stores, 5)
			t.Logf("median %v, worst %v", all[len(all)/2], all[len(all)-1])
			if worst := all[len(all)-1]; worst > 2*time.Second {
				t.Errorf("it took %v", worst)
			}
			// The largest item fits into a packet: nobody had to compare.
			large := signed(t, 99, 1, strings.Repeat("x", 970))
			if len(large) < channel.MaxItem-30 {
				t.Fatalf("the largest item has %d bytes", len(large))
			}
			if _, err := stores[0].Put(large); err != nil {
				t.Fatal(err)
			}
			for _, s := range stores {
				eventually(t, 2*time.Second, "the largest is on all", func() bool { _, ok := s.came(large); return ok })
			}
			if s := members[1].Stats(); s.Received == 0 || s.Forged+s.Malformed+s.PacketsRefused != 0 || s.Members != n {
				t.Errorf("%+v", s)
			}
		})
	}
}

// The largest item fits into one packet with everything around it, and that into the least MTU of IPv6.
func TestPacketSize(t *testing.T) {
	const encryption, checksum, compound = 1 + 12 + 16, 5, 2 + 2
	for _, secret := range []int{0, encryption} {
		n := 2 + len(label) + compound + 1 + 1 + channel.MaxItem + secret
		if n > packetSize || packetSize+checksum+8+40 > 1280 {
			t.Errorf("%d bytes of %d", n, packetSize)
		}
	}
}

// split is a network that can be cut in two.
type split struct {
	mu    sync.Mutex
	cut   bool
	group map[netip.AddrPort]int
}

func (s *split) tune(group int) tuning {
	t := fast()
	t.link = func(to netip.AddrPort) (time.Duration, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return 0, s.cut && s.group[to] != group
	}
	return t
}

func (s *split) set(cut bool) {
	s.mu.Lock()
	s.cut = cut
	s.mu.Unlock()
}

func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	net := &split{group: map[netip.AddrPort]int{}}
	var members []*Cluster
	var stores []*store
	for i := range 4 {
		s := newStore()
		c := startMember(t, fmt.Sprint("t", i), s, net.tune(i/2), func(cfg *Config) {
			if i > 0 {
				cfg.Join = []string{members[0].Addr().String()}
			}
		})
		net.mu.Lock()
		net.group[c.Addr()] = i / 2
		net.mu.Unlock()
		members, stores = append(members, c), append(stores, s)
	}
	count := func(n int) func() bool {
		return func() bool {
			for _, c := range members {
				if len(c.Members()) != n {
					return false
				}
			}
			return true
		}
	}
	eventually(t, 5*time.Second, "all are members", count(4))
	put := func(i int, item []byte) {
		t.Helper()
		if _, err := stores[i].Put(item); err != nil {
			t.Fatal(err)
		}
	}
	put(0, signed(t, 1, 10, "before"))
	eventually(t, 5*time.Second, "the first is on all", func() bool { return stores[3].len() == 1 })

	net.set(true)
	eventually(t, 10*time.Second, "the sides have given each other up", count(2))
	for i := range uint64(40) {
		put(int(i%4), signed(t, 100+i, 1, "during"))
	}
	put(0, signed(t, 1, 11, "one side"))
	put(2, signed(t, 1, 12, "the other, newer"))
	put(2, signed(t, 2, 5, "the other"))
	put(1, signed(t, 2, 7, "one side, newer"))
	time.Sleep(300 * time.Millisecond)
	net.set(false)
	begun := time.Now()
	eventually(t, 8*time.Second, "all hold the same", func() bool {
		want := stores[0].seqs()
		for _, s := range stores {
			if got := s.seqs(); len(got) != 42 || !maps.Equal(want, got) {
				return false
			}
		}
		return true
	})
	t.Logf("healed after %v", time.Since(begun))
	for i, s := range stores {
		seqs := s.seqs()
		for n, want := range map[uint64]int64{1: 12, 2: 7} {
			if id, _, _ := channel.PeekItem(signed(t, n, 1, "")); seqs[id] != want {
				t.Errorf("%d ends with seq %d of channel %d, want %d", i, seqs[id], n, want)
			}
		}
	}
	eventually(t, 5*time.Second, "all are members again", count(4))
}

func TestTenThousandJoin(t *testing.T) {
	t.Parallel()
	const n = 10_000
	r := rand.New(rand.NewPCG(1, 2))
	full, empty := newStore(), newStore()
	full.trust, empty.trust = true, true
	for range n {
		if _, err := full.Put(unsigned(r, 5, 450)); err != nil {
			t.Fatal(err)
		}
	}
	a := startMember(t, "full", full, fast(), nil)
	begun := time.Now()
	b := startMember(t, "empty", empty, fast(), func(cfg *Config) { cfg.Join = []string{a.Addr().String()} })
	eventually(t, 8*time.Second, "the joiner has all", func() bool { return empty.len() == n })
	t.Logf("after %v: %+v", time.Since(begun), b.Stats())
	if s := b.Stats(); s.Fetched > n+100 || s.Published > maxQueued {
		t.Errorf("%+v", s)
	}
	if a.Stats().Served > n+100 {
		t.Errorf("%+v", a.Stats())
	}
}

// Who starts first finds the other by itself.
func TestStartsFirst(t *testing.T) {
	t.Parallel()
	at := freePort(t)
	s := newStore()
	first := startMember(t, "", s, fast(), func(cfg *Config) { cfg.Join = []string{"no.such.host.invalid:1", at.String()} })
	if _, err := s.Put(signed(t, 1, 1, "")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	var told atomic.Int32
	late := newStore()
	second := startMember(t, "late", late, fast(), func(cfg *Config) {
		cfg.Bind, cfg.Meta = at, Meta{Tracker: "tracker.example:6969"}
		cfg.OnMembers = func(m []Member) { told.Store(int32(len(m))) }
	})
	eventually(t, 3*time.Second, "the descriptor is on the late one", func() bool { return late.len() == 1 })
	eventually(t, time.Second, "the members are told", func() bool { return told.Load() == 2 })
	m := first.Members()
	if len(first.Name()) != 16 || len(m) != 2 || m[1] != (Member{"late", at, Meta{"tracker.example:6969"}, false}) || !m[0].Self {
		t.Errorf("%+v", m)
	}
	begun := time.Now()
	if err := second.Close(); err != nil || time.Since(begun) > leaveTime+time.Second {
		t.Errorf("closing: %v, %v", err, time.Since(begun))
	}
	eventually(t, 2*time.Second, "who left is no member", func() bool { return len(first.Members()) == 1 })
	second.Close()
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp6", net.TCPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestSecret(t *testing.T) {
	t.Parallel()
	with := func(join string, secret string) (*Cluster, *store) {
		s := newStore()
		return startMember(t, "", s, fast(), func(cfg *Config) {
			cfg.Secret = []byte(secret)
			if join != "" {
				cfg.Join = []string{join}
			}
		}), s
	}
	a, s := with("", "x")
	_, friend := with(a.Addr().String(), "x")
	wrong, stranger := with(a.Addr().String(), strings.Repeat("y", 100))
	none, open := with(a.Addr().String(), "")
	if _, err := s.Put(signed(t, 1, 1, "")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "the friend has it", func() bool { return friend.len() == 1 })
	time.Sleep(300 * time.Millisecond)
	if stranger.len()+open.len() > 0 || len(wrong.Members()) != 1 || len(none.Members()) != 1 || len(a.Members()) != 2 {
		t.Errorf("a stranger is in: %v", a.Members())
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for what, x := range map[string]struct {
		cfg  Config
		want error
	}{
		"name":       {Config{Name: "a b"}, ErrName},
		"long name":  {Config{Name: strings.Repeat("a", maxName+1)}, ErrName},
		"IPv4":       {Config{Bind: netip.MustParseAddrPort("127.0.0.1:0")}, ErrAddress},
		"disguised":  {Config{Bind: netip.MustParseAddrPort("[::ffff:127.0.0.1]:0")}, ErrAddress},
		"link-local": {Config{Bind: netip.MustParseAddrPort("[fe80::1]:0")}, ErrAddress},
		"advertised": {Config{Bind: loopback, Advertise: netip.MustParseAddrPort("192.0.2.1:1")}, ErrAddress},
		"tracker":    {Config{Bind: loopback, Meta: Meta{"x"}}, ErrTracker},
		"join":       {Config{Bind: loopback, Join: []string{"x"}}, ErrJoin},
	} {
		x.cfg.Store = newStore()
		if c, err := Start(x.cfg); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", what, err, x.want)
			if c != nil {
				c.Close()
			}
		}
	}
	// A port that is taken.
	a := startMember(t, "a", newStore(), fast(), nil)
	if _, err := Start(Config{Bind: a.Addr(), Store: newStore()}); err == nil {
		t.Error("two on one port")
	}
}

// intruder is a member that says what it likes; memberlist's own code is what it joins with.
type intruder struct {
	list *memberlist.Memberlist
	tr   *transport
	mu   sync.Mutex
	say  func(request []byte) []byte
	to   *memberlist.Node
}

func (i *intruder) NodeMeta(int) []byte             { return []byte("\x00not an address") }
func (i *intruder) GetBroadcasts(int, int) [][]byte { return nil }
func (i *intruder) LocalState(bool) []byte          { return nil }
func (i *intruder) MergeRemoteState([]byte, bool)   {}
func (i *intruder) NotifyMsg(b []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.say == nil {
		return
	}
	if out := i.say(bytes.Clone(b)); out != nil {
		go func() { _ = i.list.SendReliable(i.to, out) }()
	}
}

func intrude(t *testing.T, victim *Cluster, say func([]byte) []byte) *intruder {
	t.Helper()
	i := &intruder{say: say, to: nodeOf(Member{victim.Name(), victim.Addr(), Meta{}, false})}
	i.tr = &transport{stats: new(counters), member: func(netip.Addr) bool { return true }, now: time.Now}
	if err := i.tr.listen(loopback); err != nil {
		t.Fatal(err)
	}
	i.tr.advertise = i.tr.bound
	i.tr.serve()
	conf := memberlist.DefaultLANConfig()
	conf.Name, conf.Label, conf.Transport, conf.Delegate = "intruder", label, i.tr, i
	conf.BindPort, conf.UDPBufferSize, conf.EnableCompression = int(i.tr.bound.Port()), packetSize, false
	conf.LogOutput = io.Discard
	list, err := memberlist.Create(conf)
	if err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	i.list = list
	i.mu.Unlock()
	t.Cleanup(func() { list.Shutdown() })
	if _, err := list.Join([]string{victim.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	return i
}

// anyDigest differs from everything.
func anyDigest(n nonce) []byte {
	var d digest
	for i := range d {
		d[i] = 7
	}
	return appendDigest(nil, n, &d)
}

func TestAnswersWithGarbage(t *testing.T) {
	t.Parallel()
	good := signed(t, 5, 5, "good")
	forged := signed(t, 6, 5, "forged")
	forged[len(forged)-3] ^= 1
	two := []entry{{item: good}, {item: forged}}
	for i := range two {
		two[i].id, two[i].seq, _ = channel.PeekItem(two[i].item)
	}
	if bytes.Compare(two[0].id[:], two[1].id[:]) > 0 {
		two[0], two[1] = two[1], two[0]
	}
	answer := func(f func(h *have) []byte) func([]byte) []byte {
		return func(b []byte) []byte {
			var h have
			if n, _, err := parseAsk(b); err == nil {
				return anyDigest(n)
			}
			if h.parse(b) != nil {
				return nil
			}
			return f(&h)
		}
	}
	for what, say := range map[string]func([]byte) []byte{
		"a digest that is none": func(b []byte) []byte {
			if n, _, err := parseAsk(b); err == nil {
				return append(append([]byte{kindDigest}, n[:]...), "garbage"...)
			}
			return nil
		},
		"forged": answer(func(h *have) []byte { return (&items{h.nonce, highest, two}).append(nil) }),
		"oversize message": answer(func(h *have) []byte {
			return append((&items{h.nonce, highest, nil}).append(nil), make([]byte, 2*maxMessage)...)
		}),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, s2 := newStore(), newStore()
			c := startMember(t, "c", s, fast(), nil)
			startMember(t, "d", s2, fast(), func(cfg *Config) { cfg.Join = []string{c.Addr().String()} })
			if _, err := s.Put(signed(t, 1, 4, "honest")); err != nil {
				t.Fatal(err)
			}
			intrude(t, c, say)
			if what == "oversize message" { // never arrives
				eventually(t, 5*time.Second, "the stream is refused", func() bool { return c.Stats().StreamsRefused > 0 })
			} else {
				eventually(t, 5*time.Second, "it is shunned", func() bool { return c.Stats().Shunned == 1 })
			}
			// Honest work goes on, and the other is asked no more.
			if _, err := s2.Put(signed(t, 2, 1, "honest")); err != nil {
				t.Fatal(err)
			}
			eventually(t, 3*time.Second, "the honest agree", func() bool { return s.len() >= 2 && maps.Equal(s.seqs(), s2.seqs()) })
			time.Sleep(200 * time.Millisecond)
			if n := s.putCount(); n > 12 || c.Stats().Shunned > 1 {
				t.Errorf("%d puts, %+v", n, c.Stats())
			}
			for _, m := range c.Members() {
				if m.Name == "intruder" && m.Meta != (Meta{}) {
					t.Errorf("%+v", m)
				}
			}
		})
	}
}

// Gossip beyond the allowance is not verified; other messages of any kind do nothing.
func TestGossipOfGarbage(t *testing.T) {
	t.Parallel()
	s := newStore()
	now := time.Now() // stands still
	c := startMember(t, "c", s, fast(), func(cfg *Config) { cfg.Now = func() time.Time { return now } })
	i := intrude(t, c, nil)
	r := rand.New(rand.NewPCG(3, 4))
	stale, news := signed(t, 1, 1, "stale"), signed(t, 1, 2, "news")
	if _, err := s.Put(news); err != nil {
		t.Fatal(err)
	}
	d := delegate{c}
	for range 20_000 {
		d.NotifyMsg(append([]byte{kindItem}, unsigned(r, 1, 100)...))
	}
	for range 1000 {
		d.NotifyMsg(append([]byte{kindItem}, stale...))
		d.NotifyMsg(append([]byte{kindItem}, news...))
		b := make([]byte, r.IntN(300))
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		if len(b) > 0 {
			b[0] = byte(r.UintN(8))
		}
		d.NotifyMsg(b)
		d.NotifyMsg(appendNews(nil, "intruder"))
		d.NotifyMsg(appendAsk(nil, nonce{}, "nobody"))
	}
	_ = i.list.SendBestEffort(i.to, append([]byte{kindItem}, bytes.Repeat([]byte("x"), 1100)...))
	eventually(t, 3*time.Second, "it is through", func() bool { return len(c.inbox) == 0 })
	st := c.Stats()
	if n := s.putCount(); n > 2*putsASecond+1 || st.Dropped < 10_000 || st.Fresh > 0 || s.len() != 1 {
		t.Errorf("%d puts, %+v", n, st)
	}
	if st.Malformed == 0 {
		t.Errorf("%+v", st)
	}
}

// What memberlist would take from anybody does not get to it.
func TestStrangersAtThePort(t *testing.T) {
	t.Parallel()
	c := startMember(t, "c", newStore(), fast(), nil)
	head := append([]byte{mlLabel, byte(len(label))}, label...)
	u, err := net.Dial("udp6", c.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	packets := [][]byte{
		{}, {1}, []byte("GET / HTTP/1.0\r\n\r\n"), head, append(head[:len(head):len(head)], mlCompress, 1, 2),
		append(head[:len(head):len(head)], mlChecksum, 0, 0, 0, 0, mlCompress, 1), append(head[:len(head):len(head)], mlCompound, 1, 0, 2, mlCompress, 0),
		append(head[:len(head):len(head)], mlCompound, 9), append(head[:len(head):len(head)], make([]byte, 1600)...),
	}
	for _, b := range packets {
		if _, err := u.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 2*time.Second, "the packets are refused", func() bool { return c.Stats().PacketsRefused == uint64(len(packets)) })
	streams := [][]byte{
		[]byte("GET / HTTP/1.0\r\n\r\n"), {mlPushPull}, head,
		append(head[:len(head):len(head)], mlCompress, 1), append(head[:len(head):len(head)], mlEncrypt, 0, 0, 0, 1),
		append(head[:len(head):len(head)], "\x06\x83\xa4Join\xc3\xa5Nodes\xd2\x00\x10\x00\x00\xacUserStateLen\x00"...),
		append(head[:len(head):len(head)], "\x06\x83\xa4Join\xc3\xa5Nodes\x01\xacUserStateLen\xd2\x01\x00\x00\x00"...),
		append(head[:len(head):len(head)], "\x08\x81\xaaUserMsgLen\xd2\x01\x00\x00\x00"...),
		append(head[:len(head):len(head)], "\x08\x81\xaaUserMsgLen\xd3\xff\x00\x00\x00\x00\x00\x00\x00"...),
	}
	for _, b := range streams {
		s, err := net.Dial("tcp6", c.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range b { // in the smallest pieces
			if _, err := s.Write([]byte{one}); err != nil {
				break
			}
		}
		_ = s.(*net.TCPConn).CloseWrite()
		_ = s.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := io.Copy(io.Discard, s); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: kept", b)
		}
		s.Close()
	}
	eventually(t, 2*time.Second, "the streams are refused", func() bool { return c.Stats().StreamsRefused == uint64(len(streams)) })
	var conns []net.Conn
	for range 4 * maxStrangersEach {
		if s, err := net.Dial("tcp6", c.Addr().String()); err == nil {
			conns = append(conns, s)
		}
	}
	time.Sleep(50 * time.Millisecond)
	c.transport.mu.Lock()
	n := len(c.transport.conns)
	c.transport.mu.Unlock()
	for _, s := range conns {
		s.Close()
	}
	if n > maxStrangersEach && !c.isMember(netip.IPv6Loopback()) || n > maxStreams {
		t.Errorf("%d connections", n)
	}
}

func TestMembersThatCannotBe(t *testing.T) {
	t.Parallel()
	c := startMember(t, "c", newStore(), fast(), nil)
	a := alive{c}
	node := func(f func(*memberlist.Node)) error {
		n := &memberlist.Node{Name: "x", Addr: net.ParseIP("2001:db8::1"), Port: 1, PMin: 1, PMax: 5, PCur: 2}
		f(n)
		return a.NotifyAlive(n)
	}
	for what, f := range map[string]func(*memberlist.Node){
		"IPv4":      func(n *memberlist.Node) { n.Addr = net.IPv4(192, 0, 2, 1).To4() },
		"disguised": func(n *memberlist.Node) { n.Addr = net.IPv4(192, 0, 2, 1) },
		"multicast": func(n *memberlist.Node) { n.Addr = net.ParseIP("ff02::1") },
		"no addr":   func(n *memberlist.Node) { n.Addr = nil },
		"no port":   func(n *memberlist.Node) { n.Port = 0 },
		"no name":   func(n *memberlist.Node) { n.Name = "" },
		"a slash":   func(n *memberlist.Node) { n.Name = "a/b" },
		"protocol":  func(n *memberlist.Node) { n.PMin = 3 },
		"delegate":  func(n *memberlist.Node) { n.DMin, n.DMax, n.DCur = 1, 1, 1 },
		"much meta": func(n *memberlist.Node) { n.Meta = make([]byte, 500) },
	} {
		if node(f) == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if err := node(func(*memberlist.Node) {}); err != nil {
		t.Error(err)
	}
	// Names are made up faster than they are forgotten.
	e := events{c}
	taken := 0
	for i := range 10 * MaxMembers {
		n := &memberlist.Node{Name: fmt.Sprint("n", i), Addr: net.ParseIP("2001:db8::1"), Port: 1, PMin: 1, PMax: 5, PCur: 2}
		if a.NotifyAlive(n) == nil {
			taken++
			e.NotifyJoin(n)
			if i%2 == 0 {
				e.NotifyLeave(n)
			}
		}
	}
	if taken != MaxMembers-1 {
		t.Errorf("%d taken", taken)
	}
	c.mu.Lock()
	clear(c.left)
	maps.DeleteFunc(c.members, func(_ string, m Member) bool { return !m.Self })
	c.mu.Unlock()
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	w := &logWriter{to: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})), now: func() time.Time { return now }}
	l := w.logger()
	l.Printf("[DEBUG] memberlist: not shown")
	l.Printf("[INFO] memberlist: nor this")
	l.Printf("[WARN] memberlist: a name\x1b[31m of %s", strings.Repeat("x", 500))
	l.Printf("[ERR] memberlist: an error")
	for range 100 {
		l.Printf("[ERR] memberlist: flood")
	}
	now = now.Add(time.Minute)
	l.Printf("no level")
	s := out.String()
	if strings.Contains(s, "not shown") || strings.Contains(s, "nor this") || strings.Contains(s, "\x1b") || strings.Count(s, "flood") != logLines-2 ||
		!strings.Contains(s, "level=WARN msg=\"cluster: an error\"") || !strings.Contains(s, "92 more lines") || !strings.Contains(s, "no level") || len(s) > 3000 {
		t.Error(s)
	}
}

func BenchmarkSpread(b *testing.B) {
	for _, x := range []struct {
		members int
		way     time.Duration
	}{{3, 0}, {7, 0}, {3, 100 * time.Millisecond}, {7, 100 * time.Millisecond}} {
		b.Run(fmt.Sprintf("%d-%v", x.members, 2*x.way), func(b *testing.B) {
			tune := untuned()
			tune.link = func(netip.AddrPort) (time.Duration, bool) { return x.way, false }
			_, stores := group(b, x.members, tune)
			for b.Loop() {
				all := spreadTimes(b, stores, 20)
				b.ReportMetric(float64(all[len(all)/2].Milliseconds()), "ms-median")
				b.ReportMetric(float64(all[len(all)-1].Milliseconds()), "ms-worst")
			}
		})
	}
}

// Many at once are more than gossip carries: they are compared.
func BenchmarkBurst(b *testing.B) {
	_, stores := group(b, 3, untuned())
	n := uint64(10_000)
	for b.Loop() {
		var all [][]byte
		for range 1000 {
			n++
			all = append(all, signed(b, n, 1, strings.Repeat("x", 400)))
		}
		begun := time.Now()
		want := stores[0].len() + len(all)
		for _, item := range all {
			if _, err := stores[0].Put(item); err != nil {
				b.Fatal(err)
			}
		}
		eventually(b, time.Minute, "all are on all", func() bool { return stores[1].len() == want && stores[2].len() == want })
		b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms-1000-items")
	}
}

// BenchmarkJoin is a joiner with nothing of 100,000 descriptors, each verified.
func BenchmarkJoin(b *testing.B) {
	const n = 100_000
	full := newStore()
	full.trust = true
	for i := range uint64(n) {
		if _, err := full.Put(signed(b, i, 1, strings.Repeat("x", 400))); err != nil {
			b.Fatal(err)
		}
	}
	a := startMember(b, "full", full, fast(), nil)
	for b.Loop() {
		s := newStore()
		begun := time.Now()
		startMember(b, "", s, fast(), func(cfg *Config) { cfg.Join = []string{a.Addr().String()} })
		eventually(b, 2*time.Minute, "the joiner has all", func() bool { return s.len() == n })
		b.ReportMetric(time.Since(begun).Seconds(), "s-join")
	}
}
