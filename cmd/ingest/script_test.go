package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sixcast/sixcast/internal/script"
	"github.com/sixcast/sixcast/pkg/block"
	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/ts"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ingest":  main,
		"unblock": unblock,
		"signal":  signalled,
		"code":    script.Code,
	})
}

// The scripts say what ingest promises. Beside ingest they have:
//
//	clip FILE SECONDS [null|nopsi|nopcr]  makes a transport stream of 1 Mbit/s
//	serve FILE TYPE                       serves FILE by HTTP at $URL
//	send FILE                             sends FILE to the UDP port $PORT, in datagrams of 7 packets, until the script ends
//	unblock FILE < blocks                 writes the transport stream in a block stream to FILE, and fails on whatever is wrong with it
//	unblock -flags < blocks               the flags and ids of the blocks
//	same FILE FILE                        fails if they differ, without printing them
//	code N cmd…                           runs cmd and fails unless it exits with N
//	signal SIG FILE SIZE cmd…             runs cmd, sends it SIG twice once FILE has SIZE bytes, and exits as it does
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
			if err != nil {
				return err
			}
			defer c.Close()
			e.Setenv("PORT", strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"clip":  clip,
			"serve": serve,
			"send":  send,
			"same":  same,
		},
	})
}

func clip(t *testscript.TestScript, _ bool, args []string) {
	seconds, err := strconv.ParseFloat(args[1], 64)
	t.Check(err)
	t.Check(os.WriteFile(t.MkAbs(args[0]), makeClip(seconds, append(args, "")[2]), 0o600))
}

const clipRate ts.BitRate = 1_000_000

// makeClip is a stream of MPEG audio at 1 Mbit/s with a PCR every 20 ms.
func makeClip(seconds float64, kind string) []byte {
	const pid, pmt = 0x100, 0x1000
	rng := rand.New(rand.NewPCG(1, 2))
	var out []byte
	var cc [3]byte
	count := int(seconds * float64(clipRate) / 8 / ts.PacketSize)
	for i := range count {
		p := bytes.Repeat([]byte{0xff}, ts.PacketSize)
		switch {
		case kind == "null":
			copy(p, []byte{0x47, 0x1f, 0xff, 0x10})
		case i%100 == 0 && kind != "nopsi":
			section(p, 0, cc[0], 0, 0xb0, 0, 0, 1, 0xc1, 0, 0, 0, 1, 0xe0|pmt>>8, pmt&0xff)
			cc[0]++
		case i%100 == 1 && kind != "nopsi":
			section(p, pmt, cc[1], 2, 0xb0, 0, 0, 1, 0xc1, 0, 0, 0xe0|pid>>8, pid&0xff, 0xf0, 0, 3, 0xe0|pid>>8, pid&0xff, 0xf0, 0)
			cc[1]++
		default:
			p[0], p[1], p[2], p[3] = 0x47, pid>>8, pid&0xff, 0x10|cc[2]&15
			cc[2]++
			body := p[4:]
			if i%13 == 2 {
				p[1] |= 0x40
				if kind != "nopcr" {
					ticks := uint64(clipRate.Duration(int64(i)*ts.PacketSize)) * 27 / 1000
					p[3] |= 0x20
					p[4], p[5] = 7, 0x10
					binary.BigEndian.PutUint32(p[6:], uint32(ticks/300>>1))
					p[10], p[11] = byte(ticks/300<<7)|0x7e, byte(ticks%300)
					body = p[12:]
				}
				body = body[copy(body, []byte{0, 0, 1, 0xc0, 0, 0, 0x80, 0, 0}):]
			}
			for j := range body {
				body[j] = byte(rng.Uint32()) | 0x10
			}
		}
		out = append(out, p...)
	}
	return out
}

// section puts a table into a packet.
func section(p []byte, pid uint16, cc byte, s ...byte) {
	s[2] = byte(len(s) - 3 + 4)
	p[0], p[1], p[2], p[3], p[4] = 0x47, 0x40|byte(pid>>8), byte(pid), 0x10|cc&15, 0
	n := copy(p[5:], s)
	crc := ^uint32(0)
	for _, x := range s {
		crc ^= uint32(x) << 24
		for range 8 {
			if crc>>31 == 1 {
				crc = crc<<1 ^ 0x04c11db7
			} else {
				crc <<= 1
			}
		}
	}
	binary.BigEndian.PutUint32(p[5+n:], crc)
}

func serve(t *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(t.MkAbs(args[0]))
	t.Check(err)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/", http.StatusFound)
			return
		}
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", args[1])
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		w.Write(b)
	}))
	t.Defer(s.Close)
	t.Setenv("URL", s.URL)
}

func send(t *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(t.MkAbs(args[0]))
	t.Check(err)
	c, err := net.Dial("udp6", "[::1]:"+t.Getenv("PORT"))
	t.Check(err)
	end, ended := make(chan struct{}), make(chan struct{})
	t.Defer(func() { close(end); <-ended; c.Close() })
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for off := 0; ; off = (off + 1316) % (len(b) - 1316) {
			c.Write(b[off : off+1316]) // refused until somebody listens
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	}()
}

// unblock is the other side of ingest.
func unblock() {
	var packets bytes.Buffer
	err := decode(os.Stdin, &packets, os.Args[1] == "-flags")
	switch {
	case err != nil:
	case os.Args[1] == "-flags":
		_, err = packets.WriteTo(os.Stdout)
	default:
		err = os.WriteFile(os.Args[1], packets.Bytes(), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "unblock:", err)
		os.Exit(1)
	}
}

func same(t *testscript.TestScript, _ bool, args []string) {
	a, err := os.ReadFile(t.MkAbs(args[0]))
	t.Check(err)
	b, err := os.ReadFile(t.MkAbs(args[1]))
	t.Check(err)
	if !bytes.Equal(a, b) {
		t.Fatalf("%s (%d bytes) and %s (%d bytes) differ", args[0], len(a), args[1], len(b))
	}
}

func decode(in io.Reader, out io.Writer, flags bool) error {
	r := block.NewReader(in)
	continuity := ts.NewContinuity()
	var d channel.Descriptor
	var b block.Block
	var next block.Number
	var prev block.Digest
	var last block.Flags
	for {
		dg, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch dg[0] {
		case block.TypeDescriptor:
			item, err := channel.ParseDatagram(dg)
			if err != nil {
				return err
			}
			if d, err = channel.ParseDescriptor(bytes.Clone(item)); err != nil {
				return err
			}
		case block.TypeManifest:
			m, err := block.DecodeManifest(dg)
			switch {
			case err != nil:
				return err
			case !m.Verify(d.ID):
				return errors.New("the signature is not the channel's")
			case m.Number != next || m.Prev != prev:
				return fmt.Errorf("block %d does not follow block %d", m.Number, next)
			case m.Duration > 600*time.Millisecond:
				return fmt.Errorf("block %d lasts %v", m.Number, m.Duration)
			}
			next, prev, last = m.Number+1, m.Digest(), m.Flags
			if flags {
				fmt.Fprintf(out, "%d flags %03b D %d channel %s name %q tag %08x run %v\n", m.Number, m.Flags, m.Data, d.ID, d.Values.Name, m.Tag, m.Run)
			}
			if err := b.Reset(dg); err != nil {
				return err
			}
		case block.TypeShard:
			s, err := block.DecodeShard(dg)
			if err != nil {
				return err
			}
			if err := b.Add(s.Index, 0, s.Payload); err != nil {
				return err
			}
			if b.Have() == b.Manifest().AllMask() && !flags {
				packets := b.AppendPackets(nil)
				continuity.Observe(packets)
				if _, err := out.Write(packets); err != nil {
					return err
				}
			}
		}
	}
	if r.Skipped() > 0 {
		return fmt.Errorf("%d bytes in no record", r.Skipped())
	}
	if n := continuity.Total().Errors; n > 0 {
		return fmt.Errorf("%d continuity errors", n)
	}
	if last&block.End == 0 {
		return errors.New("the last block does not end the run")
	}
	return nil
}

// signalled runs a command and sends it a signal.
func signalled() {
	size, _ := strconv.ParseInt(os.Args[3], 10, 64)
	cmd := exec.Command(os.Args[4], os.Args[5:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	for range 1000 {
		if info, err := os.Stat(filepath.Clean(os.Args[2])); err == nil && info.Size() >= size {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	sig := map[string]os.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM}[os.Args[1]]
	cmd.Process.Signal(sig)
	cmd.Process.Signal(sig) // as timeout(1) does
	cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}
