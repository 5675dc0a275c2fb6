package guide

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// What a connection may take: a request is small, an answer may be long and the reader slow.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = time.Minute
	idleTimeout    = 30 * time.Second
	maxHeaderBytes = 16 << 10
	// closeWait is what requests under way are given at the end.
	closeWait = 5 * time.Second
)

// Serve answers on l until ctx is done, and closes l; requests under way are given five seconds. It returns nil then, or why it could not go on.
func (g *Guide) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler:           g.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(g.cfg.Logger.Handler(), slog.LevelDebug),
	}
	bounded := &boundedListener{Listener: netutil.LimitListener(l, g.cfg.Connections), per: g.cfg.ConnectionsPer64,
		open: map[netip.Addr]int{}, refused: func() { g.Stats.Connections.Add(1) }}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(bounded) }()
	select {
	case err := <-ended:
		_ = s.Close()
		return fmt.Errorf("guide: %w", err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		_ = s.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("guide: %w", err)
	}
	return nil
}

// A boundedListener closes connections beyond so many from one network at once.
type boundedListener struct {
	net.Listener
	per     int
	refused func()

	mu   sync.Mutex
	open map[netip.Addr]int
}

// Accept is the next connection that its network may have.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var from netip.Addr
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			from = networkOf(a.AddrPort().Addr())
		}
		if l.enter(from) {
			return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		l.refused()
		_ = c.Close()
	}
}

func (l *boundedListener) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from] >= l.per {
		return false
	}
	l.open[from]++
	return true
}

func (l *boundedListener) leave(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

type boundedConn struct {
	net.Conn
	leave func()
}

// Close makes room for another.
func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}
