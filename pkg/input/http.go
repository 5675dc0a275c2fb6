package input

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

const (
	httpBuffer  = 32 << 10 // bytes of one read
	httpBuffers = 4
	connectWait = 10 * time.Second // for a connection, and then for the header of the answer
	silentWait  = 30 * time.Second // for the next bytes of a stream, before it is asked for again
	backoffMin  = 500 * time.Millisecond
	backoffMax  = 15 * time.Second
	stableAfter = 30 * time.Second // a connection that lasted so long ends the back-off
)

// httpSource reads a URL, and again when the connection breaks. A goroutine reads, since a response body has no deadline; it ends
// in close.
type httpSource struct {
	url    string
	once   bool
	log    *slog.Logger
	client *http.Client

	cancel context.CancelFunc
	full   chan httpChunk // read; closed after the last
	free   chan []byte
	last   []byte // handed out, to be returned to free
	err    error  // why full was closed; read it after

	reconnects atomic.Uint64
}

type httpChunk struct {
	buf  []byte
	n    int
	jump bool
}

func openHTTP(ctx context.Context, url string, o Options) *httpSource {
	ctx, cancel := context.WithCancel(ctx)
	s := &httpSource{
		url: url, once: o.Once, log: o.Log, cancel: cancel,
		full: make(chan httpChunk), free: make(chan []byte, httpBuffers),
		client: &http.Client{Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: connectWait}).DialContext,
			TLSHandshakeTimeout:   connectWait,
			ResponseHeaderTimeout: connectWait,
			DisableCompression:    true,
		}},
	}
	for range httpBuffers {
		s.free <- make([]byte, httpBuffer)
	}
	go func() {
		defer close(s.full)
		defer s.client.CloseIdleConnections()
		s.err = s.run(ctx)
	}()
	return s
}

func (s *httpSource) read(ctx context.Context, deadline time.Time) (chunk, error) {
	if s.last != nil {
		s.free <- s.last
		s.last = nil
	}
	var late <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case c, ok := <-s.full:
		if !ok {
			return chunk{}, s.err
		}
		s.last = c.buf
		return chunk{data: c.buf[:c.n], jump: c.jump}, nil
	case <-late:
		return chunk{}, os.ErrDeadlineExceeded
	case <-ctx.Done():
		return chunk{}, ctx.Err()
	}
}

func (s *httpSource) stats() Stats { return Stats{Reconnects: s.reconnects.Load()} }

func (s *httpSource) close() error {
	s.cancel()
	for range s.full { // ends when the goroutine has
	}
	return nil
}

// permanent is an error that trying again will not cure.
type permanent struct{ error }

func (e permanent) Unwrap() error { return e.error }

// run reads the URL until it is at its end.
func (s *httpSource) run(ctx context.Context) error {
	got := int64(0) // bytes of a resource of known length
	backoff := backoffMin
	for first := true; ; first = false {
		begun := time.Now()
		done, n, err := s.fetch(ctx, &got, !first)
		var p permanent
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case done:
			return io.EOF
		case s.once && err == nil:
			return io.EOF
		case s.once:
			return fmt.Errorf("%s: %w", s.url, err)
		case errors.As(err, &p) && s.reconnects.Load() == 0 && got == 0:
			return fmt.Errorf("%s: %w", s.url, p.error)
		case err == nil:
			err = errors.New("the server ended the stream")
		}
		if n > 0 && time.Since(begun) > stableAfter {
			backoff = backoffMin
		}
		s.log.Warn("HTTP input broke off, trying again", "url", s.url, "reason", reason(err), "in", backoff)
		if sleep(ctx, time.Now().Add(backoff), time.Time{}) != nil {
			return ctx.Err()
		}
		backoff = min(2*backoff, backoffMax)
		s.reconnects.Add(1)
	}
}

// reason is err without the URL that net/http puts in front.
func reason(err error) string {
	var op interface{ Unwrap() error }
	if errors.As(err, &op) && strings.HasPrefix(err.Error(), "Get ") {
		return op.Unwrap().Error()
	}
	return err.Error()
}

// fetch makes one request. done says that the resource is complete; n is how many bytes came. got counts the bytes of a
// resource of known length, of which the rest is asked for.
func (s *httpSource) fetch(ctx context.Context, got *int64, again bool) (done bool, n int64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return false, 0, permanent{fmt.Errorf("%w: %w", ErrUnavailable, err)}
	}
	req.Header.Set("User-Agent", "sixcast")
	req.Header.Set("Accept", "video/mp2t, application/octet-stream, */*;q=0.1")
	if *got > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", *got))
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return false, 0, err
	}
	defer resp.Body.Close()
	resumed := *got > 0 && resp.StatusCode == http.StatusPartialContent
	if !resumed {
		*got = 0
	}
	if err := checkResponse(resp, resumed); err != nil {
		return false, 0, err
	}
	silence := time.AfterFunc(silentWait, cancel)
	defer silence.Stop()
	jump := again && !resumed
	for {
		var buf []byte
		select {
		case buf = <-s.free:
		case <-ctx.Done():
			return false, n, ctx.Err()
		}
		silence.Reset(silentWait)
		m, err := resp.Body.Read(buf)
		silence.Stop() // being held by the reader is no silence
		if m > 0 {
			select {
			case s.full <- httpChunk{buf, m, jump}:
			case <-ctx.Done():
				return false, n, ctx.Err()
			}
			jump = false
			n += int64(m)
			if resp.ContentLength >= 0 {
				*got += int64(m)
			}
		} else {
			s.free <- buf
		}
		switch {
		case errors.Is(err, io.EOF):
			return resp.ContentLength >= 0, n, nil
		case err != nil && ctx.Err() != nil:
			return false, n, fmt.Errorf("nothing came for %v", silentWait)
		case err != nil:
			return false, n, err
		}
	}
}

// checkResponse tells what is wrong with an answer. 4xx is permanent, but for those that ask to come back.
func checkResponse(resp *http.Response, resumed bool) error {
	switch code := resp.StatusCode; {
	case resumed, code == http.StatusOK:
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code >= 500:
		return fmt.Errorf("the server says %s", resp.Status)
	default:
		return permanent{fmt.Errorf("%w: the server says %s", ErrUnavailable, resp.Status)}
	}
	switch kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind {
	case "text/html", "application/xhtml+xml":
		return permanent{fmt.Errorf("%w: it is a web page", ErrNotStream)}
	case "application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl", "application/dash+xml":
		return permanent{fmt.Errorf("%w: it is a playlist: `ffmpeg -i %s -c copy -f mpegts - | ingest`", ErrNotStream, resp.Request.URL)}
	}
	return nil
}
