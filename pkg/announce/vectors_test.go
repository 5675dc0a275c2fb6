package announce

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/sixcast/sixcast/internal/vectors"
	"github.com/sixcast/sixcast/pkg/channel"
)

// exchange is one in docs/vectors/publish.json: a request and what this tracker answers. The connection id is its own affair.
type exchange struct {
	What        string        `json:"what"`
	Request     vectors.Bytes `json:"request"`
	Reply       vectors.Bytes `json:"reply"`
	Connection  vectors.Bytes `json:"connection"` // of the request, or the reply of a connect
	Action      uint32        `json:"action"`
	Transaction uint32        `json:"transaction"`
	Item        vectors.Bytes `json:"item"`     // of the request
	Answer      uint32        `json:"answer"`   // the reply's action
	Interval    uint32        `json:"interval"` // of the reply: s
	Reason      string        `json:"reason"`   // likewise
}

func TestVectors(t *testing.T) {
	k := channel.KeyFromSeed([channel.SeedSize]byte{1})
	d, err := channel.SignDescriptor(k, 1_795_000_000, channel.Values{Name: "Rete 4", BitRate: 5_000_000})
	if err != nil {
		t.Fatal(err)
	}
	old, err := channel.SignDescriptor(k, 1_794_000_000, channel.Values{Name: "Rete 4"})
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(ServerConfig{
		Key: Key{1, 2, 3}, Store: NewStore(1, 100, 1), Refresh: 3600,
		Publish: func(_ netip.Addr, item []byte) error {
			if string(item) != string(d.Item) {
				return errors.New("a newer descriptor of the channel is known")
			}
			return nil
		},
	}, new(Stats))
	const now = 1_795_000_060
	from := netip.MustParseAddrPort("[2001:db8::1]:50000")
	var r Reply
	if err := r.Decode(s.Handle(now, 0, from, AppendConnect(nil, 1), nil)); err != nil {
		t.Fatal(err)
	}
	id := r.Connection
	var all []exchange
	for _, x := range []struct {
		what    string
		request []byte
		item    []byte
		action  uint32
		answer  uint32
	}{
		{"connect", AppendConnect(nil, 1), nil, ActionConnect, ActionConnect},
		{"published", AppendPublish(nil, id, 2, d.Item), d.Item, ActionPublish, ActionPublish},
		{"older than what is known", AppendPublish(nil, id, 3, old.Item), old.Item, ActionPublish, ActionError},
		{"another's connection id", AppendPublish(nil, id^4, 4, d.Item), d.Item, ActionPublish, ActionError},
		{"no item", AppendPublish(nil, id, 5, nil), nil, ActionPublish, ActionError},
	} {
		reply := s.Handle(now, 0, from, x.request, nil)
		if err := r.Decode(reply); err != nil || r.Action != x.answer {
			t.Fatalf("%s: %+v, %v", x.what, r, err)
		}
		e := exchange{
			What: x.what, Request: x.request, Reply: reply, Connection: x.request[:8], Action: x.action, Transaction: r.Transaction,
			Item: x.item, Answer: r.Action, Interval: r.Interval, Reason: r.Reason,
		}
		if x.action == ActionConnect {
			e.Connection = reply[8:]
		}
		all = append(all, e)
	}
	vectors.CheckJSON(t, "publish.json", all)
}
