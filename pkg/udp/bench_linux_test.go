package udp

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The benchmarks send shards as they are pushed: a tag of 8 bytes and 1220 bytes that every receiver gets, to 50 sockets
// on this host. One operation is one datagram. Nobody reads, so that the kernel's receiving side costs little.
const (
	benchReceivers = 50
	benchTag       = 8
	benchShard     = 1220
	benchDatagram  = benchTag + benchShard
)

// cpu reports the processor time a datagram, user and system, of the whole process.
func cpu(b *testing.B) (stop func()) {
	now := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.ReportAllocs()
	b.SetBytes(benchDatagram)
	begin := now()
	b.ResetTimer()
	return func() { b.ReportMetric(float64(now()-begin)/float64(b.N), "cpu-ns/op") }
}

func benchSink(b *testing.B) (to []netip.AddrPort) {
	for range benchReceivers {
		to = append(to, listen(b, Config{ReceiveBuffer: 1}).LocalAddr())
	}
	return to
}

var benchSegments = []int{1, 4, 16, 52}

func BenchmarkSend(b *testing.B) {
	for _, segments := range benchSegments {
		b.Run(fmt.Sprintf("segments=%d/queue", segments), func(b *testing.B) {
			to, c := benchSink(b), listen(b, Config{})
			benchQueue(b, c, to, segments)
		})
		b.Run(fmt.Sprintf("segments=%d/bare", segments), func(b *testing.B) {
			to, c := benchSink(b), listen(b, Config{})
			benchBare(b, c, to, segments, false)
		})
		b.Run(fmt.Sprintf("segments=%d/bare-gathered", segments), func(b *testing.B) {
			to, c := benchSink(b), listen(b, Config{})
			benchBare(b, c, to, segments, true)
		})
	}
	b.Run("segments=4/queue-from-remembered-source", func(b *testing.B) {
		to, c := benchSink(b), listen(b, Config{Listen: netip.MustParseAddrPort("[::]:0")})
		for _, peer := range to {
			*c.sources.slot(peer) = source{peer, netip.IPv6Loopback().As16(), time.Hour}
		}
		benchQueue(b, c, to, 4)
	})
	b.Run("segments=16/queue-without-offload", func(b *testing.B) {
		to, c := benchSink(b), listen(b, Config{NoOffload: true})
		benchQueue(b, c, to, 16)
	})
	b.Run("sendto", func(b *testing.B) {
		to, c := benchSink(b), listen(b, Config{})
		body := make([]byte, benchDatagram)
		defer cpu(b)()
		for i := range b.N {
			if _, err := c.pc.WriteToUDPAddrPort(body, to[i/16%len(to)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchQueue(b *testing.B, c *Conn, to []netip.AddrPort, segments int) {
	shards := make([][]byte, segments)
	for i := range shards {
		shards[i] = make([]byte, benchShard)
	}
	tags := make([][benchTag]byte, len(to))
	for i := range tags {
		tags[i][0] = 0x80 | byte(i)
	}
	var q SendQueue
	defer cpu(b)()
	for n := 0; n < b.N; n += len(to) * segments {
		for i := range to {
			for _, s := range shards {
				q.Add(to[i], tags[i][:], s)
			}
		}
		if _, err := c.Flush(&q); err != nil {
			b.Fatal(err)
		}
	}
}

// benchBare is a loop of sendmmsg calls on headers made once, the least that such a sender can do.
func benchBare(b *testing.B, c *Conn, to []netip.AddrPort, segments int, gathered bool) {
	headers := make([]mmsghdr, len(to))
	names := make([]unix.RawSockaddrInet6, len(to))
	controls := make([][segmentControl]byte, len(to))
	shards := make([]byte, segments*benchDatagram)
	for i := range headers {
		names[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to[i].Addr().As16()}
		*(*[2]byte)(unsafe.Pointer(&names[i].Port)) = [2]byte{byte(to[i].Port() >> 8), byte(to[i].Port())}
		vectors := []iovec{vector(shards)}
		if gathered {
			vectors = vectors[:0]
			tag := make([]byte, benchTag)
			for s := range segments {
				vectors = append(vectors, vector(tag), vector(shards[s*benchDatagram:][:benchShard]))
			}
		}
		h := &headers[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&names[i])), unix.SizeofSockaddrInet6
		h.Iov = &vectors[0]
		h.SetIovlen(len(vectors))
		if segments > 1 {
			cm := (*unix.Cmsghdr)(unsafe.Pointer(&controls[i]))
			cm.Level, cm.Type = unix.SOL_UDP, unix.UDP_SEGMENT
			cm.SetLen(unix.CmsgLen(2))
			*(*uint16)(unsafe.Pointer(&controls[i][unix.CmsgLen(0)])) = benchDatagram
			h.Control = &controls[i][0]
			h.SetControllen(unix.CmsgSpace(2))
		}
	}
	err := c.raw.Control(func(fd uintptr) {
		defer cpu(b)()
		for n := 0; n < b.N; n += len(to) * segments {
			if n, errno := mmsg(unix.SYS_SENDMMSG, fd, headers); errno != 0 || n != len(headers) {
				b.Fatal(n, errno)
			}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSendReceive also reads what it sent, in turns.
func BenchmarkSendReceive(b *testing.B) {
	for _, v := range []struct {
		name      string
		noOffload bool
	}{{"offload", false}, {"batches", true}} {
		b.Run(v.name, func(b *testing.B) {
			from, to := listen(b, Config{NoOffload: v.noOffload}), listen(b, Config{NoOffload: v.noOffload})
			shard, tag := make([]byte, benchShard), make([]byte, benchTag)
			var q SendQueue
			var batch Batch
			const round = 208
			defer cpu(b)()
			for n := 0; n < b.N; n += round {
				for range round {
					q.Add(to.LocalAddr(), tag, shard)
				}
				if _, err := from.Flush(&q); err != nil {
					b.Fatal(err)
				}
				benchReceive(b, to, &batch, round)
			}
		})
	}
	b.Run("one by one", func(b *testing.B) {
		from, to := listen(b, Config{NoOffload: true}), listen(b, Config{NoOffload: true})
		body, buf := make([]byte, benchDatagram), make([]byte, 2048)
		const round = 208
		defer cpu(b)()
		for n := 0; n < b.N; n += round {
			for range round {
				if _, err := from.pc.WriteToUDPAddrPort(body, to.LocalAddr()); err != nil {
					b.Fatal(err)
				}
			}
			for range round {
				if _, _, err := to.pc.ReadFromUDPAddrPort(buf); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

func benchReceive(b *testing.B, c *Conn, batch *Batch, want int) {
	for want > 0 {
		n, err := c.ReadBatch(batch)
		if err != nil {
			b.Fatal(err)
		}
		want -= n
	}
}

// BenchmarkReceive reads only: filling the socket is not in the time.
func BenchmarkReceive(b *testing.B) {
	for _, v := range []struct {
		name      string
		noOffload bool
	}{{"offload", false}, {"batches", true}, {"bare recvmmsg", false}, {"recvfrom", true}} {
		b.Run(v.name, func(b *testing.B) {
			from, to := listen(b, Config{NoOffload: v.noOffload}), listen(b, Config{NoOffload: v.noOffload})
			shard, tag := make([]byte, benchShard), make([]byte, benchTag)
			buf := make([]byte, 2048)
			var q SendQueue
			var batch Batch
			const round = 832
			b.ReportAllocs()
			b.SetBytes(benchDatagram)
			b.ResetTimer()
			for n := 0; n < b.N; n += round {
				b.StopTimer()
				for range round {
					q.Add(to.LocalAddr(), tag, shard)
				}
				if _, err := from.Flush(&q); err != nil {
					b.Fatal(err)
				}
				if n == 0 && v.name == "bare recvmmsg" {
					batch.rx.init(to, &batch)
				}
				b.StartTimer()
				switch v.name {
				case "bare recvmmsg":
					err := to.raw.Control(func(fd uintptr) {
						for left := round; left > 0; {
							for i := range batch.rx.headers {
								batch.rx.headers[i].hdr.SetControllen(receiveControl)
							}
							k, errno := mmsg(unix.SYS_RECVMMSG, fd, batch.rx.headers)
							if errno != 0 {
								b.Fatal(errno)
							}
							for _, m := range batch.rx.headers[:k] {
								left -= (int(m.len) + benchDatagram - 1) / benchDatagram
							}
						}
					})
					if err != nil {
						b.Fatal(err)
					}
				case "recvfrom":
					for range round {
						if _, _, err := to.pc.ReadFromUDPAddrPort(buf); err != nil {
							b.Fatal(err)
						}
					}
				default:
					benchReceive(b, to, &batch, round)
				}
			}
		})
	}
}
