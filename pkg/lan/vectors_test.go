package lan

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"

	"github.com/sixcast/sixcast/internal/vectors"
	"github.com/sixcast/sixcast/pkg/channel"
)

// vectorFile is docs/vectors/lan.json.
type vectorFile struct {
	Port      int               `json:"port"`
	Groups    map[string]string `json:"groups"`
	Names     []nameVector      `json:"names"`
	Datagrams []datagramVector  `json:"datagrams"`
	Refused   []refusedVector   `json:"refused"`
}

type nameVector struct {
	Name string `json:"name"`
	Hash string `json:"hash"`
}

type datagramVector struct {
	What   string          `json:"what"`
	Hex    vectors.Bytes   `json:"hex"`
	Sender string          `json:"sender"`
	Read   []messageVector `json:"read"`
}

type messageVector struct {
	Name   string         `json:"name"`
	Fields map[string]any `json:"fields"`
}

type refusedVector struct {
	What string        `json:"what"`
	Hex  vectors.Bytes `json:"hex"`
}

// vectorsOf are the messages of a datagram that count. Like the engine it stops at a message that is malformed.
func vectorsOf(m messages) []messageVector {
	out := []messageVector{}
	for len(m) > 0 {
		var kind uint8
		var body []byte
		kind, body, m = m.next()
		switch kind {
		case typeAnnounce:
			var a announcement
			if a.decode(body) != nil {
				return out
			}
			f := map[string]any{"key": a.id.String(), "port": a.port, "feeds": a.source, "item": hex.EncodeToString(a.item)}
			if a.group.Scope != 0 {
				f["group"] = a.group.Of(a.id).String()
			}
			if a.group.Source.IsValid() {
				f["group_source"] = a.group.Source.String()
			}
			out = append(out, messageVector{"ANNOUNCE", f})
		case typeQuery:
			var q query
			if q.decode(body) != nil {
				return out
			}
			f := map[string]any{"number": q.number, "kind": q.kind}
			switch q.kind {
			case askChannel:
				f["key"] = q.id.String()
			case askName:
				f["hash"] = hex.EncodeToString(q.name[:])
			}
			out = append(out, messageVector{"QUERY", f})
		case typeGone:
			var g gone
			if g.decode(body) != nil {
				return out
			}
			out = append(out, messageVector{"GONE", map[string]any{"key": g.id.String(), "port": g.port}})
		}
	}
	return out
}

func TestVectorsInFile(t *testing.T) {
	id := key(1).ID()
	item := describe(t, 1, 1_795_000_000, "Rete 4").Item
	const sender = 0x0102030405060708
	head := func() []byte { return appendHead(nil, sender) }
	asks := query{number: 7, kind: askChannel, id: id}
	viewer := announcement{id: id, port: 6470}
	longer := func(m []byte) []byte { // a later version's field behind those that are known
		m = append(m, 0xde, 0xad)
		m[headSize+3] += 2
		return m
	}

	file := vectorFile{Port: Port, Groups: map[string]string{}}
	for _, s := range []channel.Scope{channel.ScopeLink, channel.ScopeSite} {
		file.Groups[fmt.Sprint(uint8(s))] = groupOf(s).String()
	}
	for _, name := range []string{"Rete 4", "rete 4", "Straße", "Te\u0301le\u0301 1", "TÉLÉ 1", "Первый", "ΣΟΦΟΣ", "İz TV", "ｃｈ１", "ﬁlm"} {
		h := hashName(name)
		file.Names = append(file.Names, nameVector{name, hex.EncodeToString(h[:])})
	}
	for _, v := range []struct {
		what string
		b    []byte
	}{
		{"a viewer that starts: it asks and is announced", viewer.append(asks.append(head()))},
		{"a source, its descriptor and its group", (&announcement{id: id, port: 6466, source: true, group: Group{Scope: channel.ScopeSite, Port: 6466}, item: item}).append(head())},
		{"a source-specific group", (&announcement{id: id, port: 6466, source: true,
			group: Group{Scope: channel.ScopeOrganisation, Port: 7000, Source: netip.MustParseAddr("2001:db8::1")}}).append(head())},
		{"a group of a scope that is not joined: the rest counts", (&announcement{id: id, port: 6466, group: Group{Scope: 14, Port: 6466}}).append(head())},
		{"which channels are there?", (&query{number: 0xfffffffe, kind: askAll}).append(head())},
		{"which channel has this name?", (&query{number: 8, kind: askName, name: hashName("Rete 4")}).append(head())},
		{"gone", (&gone{id, 6470}).append(head())},
		{"a message of a later version, and one with a longer body", append(longer((&gone{id, 6470}).append(head())), 0x7f, 0, 0, 3, 1, 2, 3)},
		{"what follows a malformed message is not read", viewer.append((&announcement{id: id}).append(asks.append(head())))},
		{"nothing", head()},
	} {
		from, m, err := parse(v.b)
		if err != nil {
			t.Fatalf("%s: %v", v.what, err)
		}
		file.Datagrams = append(file.Datagrams, datagramVector{v.what, v.b, fmt.Sprintf("%016x", from), vectorsOf(m)})
	}
	good := viewer.append(head())
	for _, v := range []refusedVector{
		{"another type", append([]byte{0x13}, good[1:]...)},
		{"another version", append([]byte{datagramType, 2}, good[2:]...)},
		{"a message that is cut short", good[:len(good)-1]},
		{"half a message behind the last", append(bytes.Clone(good), 1, 0)},
		{"nine messages", append(head(), bytes.Repeat([]byte{9, 0, 0, 0}, maxMessages+1)...)},
		{"half a head", head()[:headSize-1]},
	} {
		if _, _, err := parse(v.Hex); err == nil {
			t.Errorf("%s: no error", v.What)
		}
		file.Refused = append(file.Refused, v)
	}
	vectors.CheckJSON(t, "lan.json", file)
}
