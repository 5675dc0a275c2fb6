package channel

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/sixcast/sixcast/internal/vectors"
)

// vector is one channel in docs/vectors/channel.json. Byte strings are hex.
type vector struct {
	Seed         string `json:"seed"`
	Key          string `json:"key"`
	Text         string `json:"text"`
	Tag          string `json:"tag"`
	SwarmID      string `json:"swarm_id"`
	GroupSite    string `json:"group_site"`
	GroupLink    string `json:"group_link"`
	GroupSSMSite string `json:"group_ssm_site"`
	URI          string `json:"uri"`
	Seq          int64  `json:"descriptor_seq"`
	Item         string `json:"descriptor_item"`
	Datagram     string `json:"descriptor_datagram"`
	KeyFileLine  string `json:"key_file_line"`
}

func makeVectors(t *testing.T) []vector {
	var out []vector
	for i := range 4 {
		var seed [SeedSize]byte
		for j := range seed {
			seed[j] = byte(i * (j + 1))
		}
		k := KeyFromSeed(seed)
		id := k.ID()
		u := URI{ID: id}
		v := Values{Name: fmt.Sprintf("ch%d", i)}
		if i > 0 {
			u = URI{ID: id, Name: "Rete 4 +1 é", Peers: []string{"[2001:db8::1]:6466", "[fe80::1%eth0]:6467"},
				Trackers: []string{"udp://tracker.example:6969"}, Secret: "reserved"}
			v = Values{Name: u.Name, Description: "A station", Language: "it", Country: "IT", Category: "general", BitRate: 5_000_000,
				Now: "Film", Next: "News", Trackers: u.Trackers, Unknown: []Entry{{"x-new", []byte("li1e1:ae")}}}
		}
		seq := int64(i) * 1_795_000_000
		d, err := SignDescriptor(k, seq, v)
		if err != nil {
			t.Fatal(err)
		}
		swarm := id.SwarmID()
		out = append(out, vector{
			Seed: hex.EncodeToString(seed[:]), Key: hex.EncodeToString(id[:]), Text: id.String(), Tag: fmt.Sprintf("%08x", id.Tag()),
			SwarmID: hex.EncodeToString(swarm[:]), GroupSite: id.Group(ScopeSite).String(), GroupLink: id.Group(ScopeLink).String(),
			GroupSSMSite: id.GroupSSM(ScopeSite).String(), URI: u.String(), Seq: seq, Item: hex.EncodeToString(d.Item),
			Datagram: hex.EncodeToString(AppendDatagram(nil, d.Item)), KeyFileLine: secretLine(k),
		})
	}
	return out
}

func TestVectors(t *testing.T) {
	vs := makeVectors(t)
	vectors.CheckJSON(t, "channel.json", vs)
	for _, v := range vs {
		item, _ := hex.DecodeString(v.Item)
		d, err := ParseDescriptor(item)
		if err != nil {
			t.Fatal(err)
		}
		if d.ID.String() != v.Text || d.Seq != v.Seq || !bytes.Equal(d.Item, item) {
			t.Errorf("descriptor of %s reads as %v %d", v.Text, d.ID, d.Seq)
		}
		if _, err := ParseURI(v.URI); err != nil {
			t.Errorf("%s: %v", v.URI, err)
		}
	}
}

// The test vector of BEP 44 itself, mutable item without salt.
func TestSignedBytesAreBEP44s(t *testing.T) {
	raw := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	id := ID(raw("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548"))
	sig := raw("305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01")
	if !id.Verify(signedPrefix(1), []byte("12:Hello World!"), sig) {
		t.Error("the signature in BEP 44 fails")
	}
	if got := fmt.Sprintf("%x", id.SwarmID()); got != "4a533d47ec9c7d95b1ad75f576cffc641853b750" {
		t.Errorf("target %s", got)
	}
}
