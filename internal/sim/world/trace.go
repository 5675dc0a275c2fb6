package world

import (
	"fmt"
	"io"
	"time"

	"github.com/sixcast/sixcast/pkg/mesh"
	"github.com/sixcast/sixcast/pkg/wire"
)

// Engine is what a debugger may look at, at the end of a window.
type Engine struct {
	Node    *mesh.Node
	Channel *mesh.Channel
	Uplink  float64 // bit/s
	Nature  Nature
}

func (w *World) dump(now Time, f func(time.Duration, int, Engine)) {
	if f == nil {
		return
	}
	for i := range w.nodes {
		if n := &w.nodes[i]; n.engine != nil {
			f(now, i, Engine{n.engine, n.ch, n.peer.uplink, n.nature})
		}
	}
}

// tracer writes what happens to one node.
type tracer struct{ out io.Writer }

var messageNames = map[uint8]string{
	wire.MsgPing: "PING", wire.MsgPong: "PONG", wire.MsgBye: "BYE", wire.MsgChallenge: "CHALLENGE", wire.MsgEcho: "ECHO",
	wire.MsgJoin: "JOIN", wire.MsgJoined: "JOINED", wire.MsgLeave: "LEAVE", wire.MsgSubscribe: "SUBSCRIBE",
	wire.MsgSubscribed: "SUBSCRIBED", wire.MsgUnsubscribe: "UNSUBSCRIBE", wire.MsgState: "STATE", wire.MsgRequest: "REQUEST",
	wire.MsgRefuse: "REFUSE", wire.MsgReport: "REPORT", wire.MsgPeers: "PEERS",
}

func (t *tracer) line(now Time, format string, a ...any) {
	fmt.Fprintf(t.out, "%12.6f ", now.Seconds())
	fmt.Fprintf(t.out, format, a...)
	fmt.Fprintln(t.out)
}

// datagram tells of a datagram to or from another node.
func (t *tracer) datagram(n *node, now Time, way string, other uint32, b []byte) {
	switch {
	case b[0]&0x80 == 0:
		t.line(now, "%s %d: %s", way, other, map[byte]string{wire.TypeHello: "HELLO", wire.TypeCookie: "COOKIE", wire.TypeAnswer: "ANSWER"}[b[0]])
	case b[wire.TagSize] == wire.TypeShard:
		t.line(now, "%s %d: shard %d.%d", way, other, be32(b[wire.TagSize+16:]), b[wire.TagSize+1])
	case b[wire.TagSize] == wire.TypeManifest:
		t.line(now, "%s %d: manifest %d", way, other, be32(b[wire.TagSize+16:]))
	default:
		from, to := messagesOf(b)
		for rest := b[from:to]; ; {
			typ, body, next, ok := wire.Next(rest)
			if !ok {
				break
			}
			rest = next
			name := messageNames[typ]
			if name == "" {
				name = fmt.Sprintf("0x%02x", typ)
			}
			t.line(now, "%s %d: %s %s", way, other, name, describe(typ, body))
		}
	}
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// describe says what is in a message, in the words of package wire.
func describe(typ uint8, body []byte) string {
	show := func(m interface{ Decode([]byte) error }) string {
		if err := m.Decode(body); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%+v", m)
	}
	switch typ {
	case wire.MsgJoined:
		return show(new(wire.Joined))
	case wire.MsgSubscribe:
		return show(new(wire.Subscribe))
	case wire.MsgSubscribed:
		return show(new(wire.Subscribed))
	case wire.MsgUnsubscribe:
		return show(new(wire.Unsubscribe))
	case wire.MsgState:
		return show(new(wire.State))
	case wire.MsgRequest:
		return show(new(wire.Request))
	case wire.MsgRefuse:
		return show(new(wire.Refuse))
	case wire.MsgReport:
		return show(new(wire.Report))
	case wire.MsgBye:
		return show(new(wire.Bye))
	}
	return fmt.Sprintf("%d bytes", len(body))
}

// event tells of an event of the engine.
func (t *tracer) event(now Time, e mesh.Event) {
	t.line(now, "event %v %v %s", e.Kind, e.Peer, e.Text)
}
