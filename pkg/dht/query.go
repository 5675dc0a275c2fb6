package dht

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Methods of BEP 5 and BEP 44.
const (
	methodPing     = "ping"
	methodFindNode = "find_node"
	methodGetPeers = "get_peers"
	methodAnnounce = "announce_peer"
	methodGet      = "get"
	methodPut      = "put"
)

const (
	// maxReply is what fits into a packet of the least MTU of IPv6: no reply is ever fragmented but one of a large foreign item.
	maxReply = 1280 - 40 - 8
	// maxTransaction is the longest transaction id that is echoed; others use 2 to 8 bytes.
	maxTransaction = 20
	k              = 8 // nodes a bucket, nodes an answer, nodes that keep something: BEP 5
)

// query is somebody's question. All slices alias the datagram.
type query struct {
	transaction []byte
	method      string
	id          [20]byte // the asker's
	target      [20]byte // info_hash for peers
	aimed       bool     // target was there
	token       []byte
	port        int64
	implied     bool // the asker's own port is meant
	nodes       bool // IPv6 nodes are wanted: BEP 32
	readOnly    bool // the asker answers nothing himself: BEP 43
	seq, cas    *int64
	item        item
}

// kind is the type of the message that b is: 'q', 'r', 'e', or 0 if it is no message.
func kind(b []byte) (kind byte) {
	_, ok := dict(b, func(key, value []byte) {
		if string(key) == "y" {
			if y := str(value); len(y) == 1 {
				kind = y[0]
			}
		}
	})
	if !ok {
		return 0
	}
	return kind
}

// parse reads a query.
func (q *query) parse(b []byte) (ok bool) {
	*q = query{nodes: true}
	found := false
	_, ok = dict(b, func(key, value []byte) {
		switch string(key) {
		case "t":
			q.transaction = str(value)
		case "q":
			q.method = string(str(value))
		case "ro":
			n, _ := integer(value)
			q.readOnly = n != 0
		case "a":
			_, found = dict(value, q.argument)
		}
	})
	return ok && found && len(q.transaction) > 0 && len(q.transaction) <= maxTransaction && q.id != [20]byte{}
}

func (q *query) argument(key, value []byte) {
	number := func() *int64 {
		if n, ok := integer(value); ok {
			return &n
		}
		return nil
	}
	hash := func(h *[20]byte) bool {
		s := str(value)
		if len(s) == len(h) {
			*h = [20]byte(s)
		}
		return len(s) == len(h)
	}
	switch string(key) {
	case "id":
		hash(&q.id)
	case "target", "info_hash":
		q.aimed = hash(&q.target)
	case "token":
		q.token = str(value)
	case "port":
		q.port, _ = integer(value)
	case "implied_port":
		n, _ := integer(value)
		q.implied = n != 0
	case "want":
		q.nodes = wants6(value)
	case "seq":
		if q.seq = number(); q.seq != nil {
			q.item.seq = *q.seq
		}
	case "cas":
		q.cas = number()
	case "k":
		q.item.key = str(value)
	case "salt":
		q.item.salt = str(value)
	case "sig":
		q.item.sig = str(value)
	case "v":
		q.item.value = value
	}
}

// wants6 reports whether a list of strings has n6. Without a list an asker who comes by IPv6 wants that.
func wants6(list []byte) bool {
	if len(list) < 2 || list[0] != 'l' {
		return true
	}
	for list = list[1:]; list[0] != 'e'; {
		s, rest, ok := cutString(list)
		if !ok {
			return false
		}
		if string(s) == "n6" {
			return true
		}
		list = rest
	}
	return false
}

// node is who can be asked, and where.
type node struct {
	id   [20]byte
	addr netip.AddrPort
}

// responder answers queries. Safe for concurrent use.
type responder struct {
	id     [20]byte
	peers  *peerStore
	items  *itemStore
	tokens tokens
	nodes  func() []node // that are known to answer
}

// answer appends the reply to q, which came from an address; it appends nothing if there is none to be had.
func (r *responder) answer(dst []byte, now time.Time, from netip.AddrPort, q *query) []byte {
	var a reply
	switch q.method {
	case methodPing:
	case methodFindNode, methodGetPeers, methodGet:
		if !q.aimed {
			return q.refuse(dst, errProtocol)
		}
		room := k
		switch q.method {
		case methodGetPeers:
			a.token = r.tokens.make(now, from.Addr())
			a.peers = r.peers.some(now, q.target, from, 30)
		case methodGet:
			a.token = r.tokens.make(now, from.Addr())
			if i, ok := r.items.get(now, q.target); ok {
				a.seq = i.key != nil
				if !a.seq || q.seq == nil || i.seq > *q.seq {
					a.item = &i
				}
				a.item0 = i.seq
				room = min(k, max(0, maxReply-len(i.value)-270)/nodeSize)
			}
		}
		if q.nodes {
			a.nodes = closest(r.nodes(), q.target, from, room)
		}
	case methodAnnounce:
		port := q.port
		if q.implied {
			port = int64(from.Port())
		}
		switch {
		case !q.aimed || port < 1 || port > 65535:
			return q.refuse(dst, errProtocol)
		case !r.tokens.valid(now, from.Addr(), q.token):
			return q.refuse(dst, errToken)
		case !r.peers.add(now, q.target, netip.AddrPortFrom(from.Addr(), uint16(port))):
			return q.refuse(dst, errServer)
		}
	case methodPut:
		if !r.tokens.valid(now, from.Addr(), q.token) {
			return q.refuse(dst, errToken)
		}
		if q.item.key != nil && q.seq == nil {
			return q.refuse(dst, errProtocol)
		}
		if why := q.item.check(); why != nil {
			return q.refuse(dst, why)
		}
		i := q.item
		i.key, i.salt, i.sig, i.value = slices.Clone(i.key), slices.Clone(i.salt), slices.Clone(i.sig), slices.Clone(i.value)
		if why := r.items.put(now, i, q.cas, from.Addr()); why != nil {
			return q.refuse(dst, why)
		}
	default:
		return q.refuse(dst, errMethod)
	}
	return a.append(dst, r.id, from, q.transaction)
}

// reply is what an answer says beside who gives it.
type reply struct {
	item  *item
	seq   bool  // say item0
	item0 int64 // the item's seq, also where the item is left out
	nodes []node
	token []byte
	peers []netip.AddrPort
}

func (a *reply) append(dst []byte, id [20]byte, to netip.AddrPort, transaction []byte) []byte {
	dst = appendString(append(dst, "d2:ip"...), appendAddress(nil, to)...) // BEP 42
	dst = appendString(append(dst, "1:rd2:id"...), id[:]...)
	if a.item != nil && a.item.key != nil {
		dst = appendString(append(dst, "1:k"...), a.item.key...)
	}
	if len(a.nodes) > 0 {
		all := make([]byte, 0, k*nodeSize)
		for _, n := range a.nodes {
			all = appendAddress(append(all, n.id[:]...), n.addr)
		}
		dst = appendString(append(dst, "6:nodes6"...), all...)
	}
	if a.seq {
		dst = appendInt(append(dst, "3:seq"...), a.item0)
	}
	if a.item != nil && a.item.key != nil {
		dst = appendString(append(dst, "3:sig"...), a.item.sig...)
	}
	if a.token != nil {
		dst = appendString(append(dst, "5:token"...), a.token...)
	}
	if a.item != nil {
		dst = append(append(dst, "1:v"...), a.item.value...)
	}
	if len(a.peers) > 0 {
		dst = append(dst, "6:valuesl"...)
		for _, p := range a.peers {
			dst = appendString(dst, appendAddress(nil, p)...)
		}
		dst = append(dst, 'e')
	}
	dst = appendString(append(dst, "e1:t"...), transaction...)
	return append(dst, "1:y1:re"...)
}

// refuse appends an error.
func (q *query) refuse(dst []byte, why *refusal) []byte {
	dst = appendInt(append(dst, "d1:el"...), why.code)
	dst = appendString(dst, []byte(why.text)...)
	dst = appendString(append(dst, "e1:t"...), q.transaction...)
	return append(dst, "1:y1:ee"...)
}

// closest picks the n nodes nearest to target that may be named to from.
func closest(nodes []node, target [20]byte, from netip.AddrPort, n int) []node {
	nodes = slices.DeleteFunc(nodes, func(n node) bool { return !tellable(from, n.addr) || n.addr == from })
	slices.SortFunc(nodes, func(a, b node) int { return nearer(a.id, b.id, target) })
	return nodes[:min(n, len(nodes))]
}

// nearer orders ids by their distance from target (BEP 5: exclusive or).
func nearer(a, b, target [20]byte) int {
	for i := range target {
		if x, y := a[i]^target[i], b[i]^target[i]; x != y {
			return int(x) - int(y)
		}
	}
	return 0
}

// tokens prove that who writes can be reached at his address. They are good for 5 to 10 minutes: BEP 5.
type tokens struct {
	mu        sync.Mutex
	made      time.Time
	now, last [32]byte
}

const (
	tokenLife = 5 * time.Minute
	tokenSize = 8
)

// turn changes the secret when it is time.
func (t *tokens) turn(now time.Time) (current, last [32]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if age := now.Sub(t.made); age >= tokenLife {
		t.last = t.now
		_, _ = rand.Read(t.now[:])
		if age >= 2*tokenLife {
			_, _ = rand.Read(t.last[:])
		}
		t.made = now
	}
	return t.now, t.last
}

func token(secret [32]byte, ip netip.Addr) []byte {
	h := hmac.New(sha256.New, secret[:])
	a := ip.As16()
	h.Write(a[:])
	return h.Sum(nil)[:tokenSize]
}

func (t *tokens) make(now time.Time, ip netip.Addr) []byte {
	current, _ := t.turn(now)
	return token(current, ip)
}

func (t *tokens) valid(now time.Time, ip netip.Addr, b []byte) bool {
	current, last := t.turn(now)
	return hmac.Equal(b, token(current, ip)) || hmac.Equal(b, token(last, ip))
}
