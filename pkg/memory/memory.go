// Package memory is what a viewer, recorder or relay knows from earlier runs: channels with their signed descriptors, peers that
// fed it, and names pinned to keys at first use, as ssh pins hosts.
//
// Two files, each in a directory of its own. The cache may be lost at any time: Cache/channels. The pins may not, and people edit
// them: State/known_channels. They are state and no configuration (XDG base directories 0.8): the program writes them, and
// what lies among the configuration gets published with it, or comes from a read-only place.
//
// Several processes share the files. Each writes only what it has learnt itself: under a lock (FILE.lock) it reads the file,
// adds, and puts a new one in the place of the old. Reading needs no lock. One goroutine does all writing, so that nothing that is
// remembered ever waits for a disk.
//
// The cache is a sequence of records, each
//
//	magic     4  f6 53 36, version 01
//	length    2  of the body
//	checksum  4  CRC-32C of the body
//	body:
//	  channel 32
//	  used    4  Unix seconds
//	  name    8  hash of the folded name, 0 for none: whoever looks for a name need not verify everything
//	  item    2  length, 0 for none; then the BEP 44 item
//	  peers   1  how many; then of each: address 16, port 2, seen 4, fed us 4 (0: never)
//
// with integers in network order. Damage costs the records that it is in: reading goes on at the next magic. No signature is verified
// before its descriptor is asked for.
package memory

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/sixcast/sixcast/pkg/channel"
)

const (
	cacheFile = "channels"
	pinsFile  = "known_channels"

	// writeEvery is how long what the cache is to learn is gathered before it is written.
	writeEvery = 10 * time.Second
	// lockWait is how long a write waits for other processes, and closeWait how long Close waits for a write: a disk may hang.
	lockWait  = 2 * time.Second
	closeWait = 5 * time.Second
)

// ErrClosed comes from a Memory that has been closed.
var ErrClosed = errors.New("memory is closed")

// Options of a Memory.
type Options struct {
	// Cache and State are directories of ours alone, as Dirs names them; they are made when something is written. What would lie
	// in one that is empty lasts as long as the Memory: with both empty nothing is ever read or written.
	Cache, State string
	// Loopback says that peers on the loopback interface are remembered too, as the node itself listens there.
	Loopback bool
	Logger   *slog.Logger     // nil: silent
	Now      func() time.Time // nil: time.Now
}

// Memory remembers until it is closed. It is safe for concurrent use, and nothing but Open, Unpin, Forget and Close waits for a disk.
type Memory struct {
	opts    Options
	cache   file
	known   file // known_channels
	learnt  chan struct{}
	pinned  chan struct{}
	asked   chan func()
	closing chan struct{}
	done    chan struct{}
	once    sync.Once

	mu       sync.Mutex
	channels book
	fresh    book // of channels, what the file lacks
	pins     pins
	changes  []change // of pins, what the file lacks
}

// Open reads what is remembered. There always is a Memory that works, to be closed; an error says what it has not read and will not
// write, is meant as a warning, and has no newline. Trouble with writing comes later, as one warning a file to the logger.
func Open(opts Options) (*Memory, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	m := &Memory{
		opts: opts, learnt: make(chan struct{}, 1), pinned: make(chan struct{}, 1), asked: make(chan func()),
		closing: make(chan struct{}), done: make(chan struct{}), channels: book{}, fresh: book{}, pins: pins{},
	}
	if opts.Cache != "" {
		m.cache = file{path: filepath.Join(opts.Cache, cacheFile), max: maxCache}
		m.cache.off = m.openCache()
	}
	if opts.State != "" {
		m.known = file{path: filepath.Join(opts.State, pinsFile), max: maxPins}
		m.known.off = m.openPins()
	}
	go m.run()
	switch a, b := m.cache.off, m.known.off; {
	case a != nil && b != nil:
		return m, fmt.Errorf("nothing is remembered: %w; %w", a, b)
	case a != nil:
		return m, fmt.Errorf("channels and peers are not remembered: %w", a)
	case b != nil:
		return m, fmt.Errorf("the keys of names are not remembered: %w", b)
	}
	return m, nil
}

func (m *Memory) openCache() error {
	b, err := m.cache.read()
	if err != nil {
		return err
	}
	now := m.now()
	channels, damaged := decode(b, now, m.opts.Loopback)
	if damaged > 0 {
		m.opts.Logger.Info(fmt.Sprintf("%s: %d bytes of %d are damaged and left out", m.cache.path, damaged, len(b)))
	}
	channels.trim(now)
	m.channels = channels
	return nil
}

func (m *Memory) openPins() error {
	const most = 5 // lines that are complained of
	text, err := m.known.read()
	if err != nil {
		return err
	}
	if len(text) > maxPins {
		return fmt.Errorf("%s is larger than %d bytes: remove lines from it", m.known.path, maxPins)
	}
	all, broken := parsePins(text)
	for i, b := range broken {
		if i == most {
			m.opts.Logger.Warn(fmt.Sprintf("%s: %d more lines are skipped", m.known.path, len(broken)-most))
			break
		}
		m.opts.Logger.Warn(fmt.Sprintf("%s:%d is skipped: %v", m.known.path, b.line, b.err))
	}
	m.pins = all
	return nil
}

func (m *Memory) now() stamp { return stampOf(m.opts.Now()) }

// run writes what is due, and does what it is asked.
func (m *Memory) run() {
	defer close(m.done)
	var due <-chan time.Time
	for {
		select {
		case <-m.learnt:
			if due == nil {
				due = time.After(writeEvery)
			}
		case <-due:
			due = nil
			m.complain(&m.cache, m.writeCache(time.Now().Add(lockWait)))
		case <-m.pinned:
			m.complain(&m.known, m.writePins(time.Now().Add(lockWait)))
		case f := <-m.asked:
			f()
		case <-m.closing:
			deadline := time.Now().Add(lockWait)
			m.complain(&m.known, m.writePins(deadline))
			m.complain(&m.cache, m.writeCache(deadline))
			return
		}
	}
}

// complain says once that a file could not be written. What it lacks is kept, and tried again with what comes next.
func (m *Memory) complain(f *file, err error) {
	switch {
	case err == nil:
	case f.failed:
		m.opts.Logger.Debug("writing " + f.path + ": " + err.Error())
	default:
		f.failed = true
		what := "channels and peers are"
		if f == &m.known {
			what = "the keys of names are"
		}
		m.opts.Logger.Warn(what + " not remembered for now: " + err.Error())
	}
}

// ask has the goroutine that writes call f, and waits for it.
func (m *Memory) ask(f func() error) error {
	result := make(chan error, 1)
	select {
	case <-m.closing:
		return ErrClosed
	case m.asked <- func() { result <- f() }:
		return <-result
	case <-m.done:
		return ErrClosed
	}
}

// Forget removes everything from memory and disk: the cache, the pins with what people wrote beside them, and what a process that was
// killed left behind. Processes that run now write what they learn from now on. Blocks of the disk are not overwritten.
func (m *Memory) Forget() error {
	return m.ask(func() error {
		m.mu.Lock()
		m.channels, m.fresh, m.pins, m.changes = book{}, book{}, pins{}, nil
		m.mu.Unlock()
		deadline := time.Now().Add(lockWait)
		return errors.Join(m.cache.remove(deadline), m.known.remove(deadline))
	})
}

// Close writes what is left to write, and ends. It takes a few seconds at most, should the files be locked or the disk hang.
func (m *Memory) Close() {
	m.once.Do(func() { close(m.closing) })
	select {
	case <-m.done:
	case <-time.After(closeWait):
		m.opts.Logger.Warn("memory: the disk does not answer, it is not waited for")
	}
}

// poke sends on c, which holds one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// remember adds what was learnt of a channel.
func (m *Memory) remember(id channel.ID, e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.channels.add(id, e)
	if m.cache.on() {
		m.fresh.add(id, e)
		poke(m.learnt)
	}
}

// writeCache adds to the file what it lacks, and takes from it what others learnt.
func (m *Memory) writeCache(deadline time.Time) error {
	now := m.now()
	m.mu.Lock()
	fresh := m.fresh
	if len(fresh) == 0 || !m.cache.on() || now < born { // with a clock that is not set yet everything would look old tomorrow
		m.mu.Unlock()
		return nil
	}
	m.fresh = book{}
	m.mu.Unlock()

	var all book
	err := m.cache.update(deadline, func(old []byte) ([]byte, error) {
		all, _ = decode(old, now, m.opts.Loopback)
		for id, e := range fresh {
			all.add(id, e)
		}
		all.trim(now)
		return all.encode(), nil
	})

	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		for id, e := range m.fresh {
			fresh.add(id, e)
		}
		m.fresh = fresh
		return err
	}
	for id, e := range all {
		if old := m.channels[id]; old != nil {
			e.adopt(old)
		}
	}
	for id, e := range m.fresh {
		all.add(id, e)
	}
	m.channels = all
	return nil
}
