#!/usr/bin/env python3
"""Decodes everything in docs/vectors with nothing but docs/protocol.md and the standard library.

It shares no code with the Go implementation, its Reed-Solomon, Ed25519 and Noise (noise.py) included, and is
written for reading, not for speed. Usage: decode.py [DIRECTORY [FILE.json ...]]; exit code 1 if a vector is not what it should be.
"""

import base64
import hashlib
import ipaddress
import json
import os
import struct
import sys
import unicodedata

sys.dont_write_bytecode = True
import noise  # noqa: E402, beside this file

# --- Ed25519, RFC 8032 section 5.1 and its appendix ---

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
EDWARDS_D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def point_add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * EDWARDS_D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def point_multiply(s, p):
    q = (0, 1, 1, 0)
    while s > 0:
        if s & 1:
            q = point_add(q, p)
        p = point_add(p, p)
        s >>= 1
    return q


def point_equal(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def recover_x(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(EDWARDS_D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P != 0:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P != 0:
        return None
    return P - x if (x & 1) != sign else x


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = recover_x(BASE_Y, 0)
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def point_decode(b):
    y = int.from_bytes(b, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def point_encode(p):
    inverse = pow(p[2], P - 2, P)
    x, y = p[0] * inverse % P, p[1] * inverse % P
    return int.to_bytes(y | (x & 1) << 255, 32, "little")


def public_key(seed):
    h = hashlib.sha512(seed).digest()
    a = int.from_bytes(h[:32], "little") & (1 << 254) - 8 | 1 << 254
    return point_encode(point_multiply(a, BASE))


def ed25519_verify(key, message, signature):
    a, r = point_decode(key), point_decode(signature[:32])
    if len(signature) != 64 or a is None or r is None:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= ORDER:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % ORDER
    return point_equal(point_multiply(s, BASE), point_add(r, point_multiply(h, a)))


# --- GF(2^8) with the polynomial 0x11d, FEC matrix 0 (protocol section 2) ---

EXP, LOG = [0] * 512, [0] * 256
value = 1
for power in range(255):
    EXP[power] = EXP[power + 255] = value
    LOG[value] = power
    value = value << 1 ^ (0x11D if value & 0x80 else 0)


def multiply(a, b):
    return EXP[LOG[a] + LOG[b]] if a and b else 0


def inverse(a):
    return EXP[255 - LOG[a]]


def raise_to(a, n):
    result = 1
    for _ in range(n):
        result = multiply(result, a)
    return result


def add_scaled(row, factor, other):
    return [x ^ multiply(factor, y) for x, y in zip(row, other)]


def solve(square, right):
    """X with square * X = right, by Gauss-Jordan elimination."""
    rows = [list(a) + list(b) for a, b in zip(square, right)]
    n = len(rows)
    for c in range(n):
        pivot = next(r for r in range(c, n) if rows[r][c])
        rows[c], rows[pivot] = rows[pivot], rows[c]
        scale = inverse(rows[c][c])
        rows[c] = [multiply(scale, x) for x in rows[c]]
        for r in range(n):
            if r != c and rows[r][c]:
                rows[r] = add_scaled(rows[r], rows[r][c], rows[c])
    return [row[n:] for row in rows]


def matrix_product(a, b):
    result = []
    for row in a:
        total = [0] * len(b[0])
        for factor, other in zip(row, b):
            if factor:
                total = add_scaled(total, factor, other)
        result.append(total)
    return result


matrices = {}


def fec_matrix(d, j):
    """The (16*j) x (D*j) matrix: Vandermonde, times the inverse of its top square."""
    if (d, j) not in matrices:
        n = d * j
        vandermonde = [[raise_to(r, c) for c in range(n)] for r in range(16 * j)]
        identity = [[int(r == c) for c in range(n)] for r in range(n)]
        matrices[d, j] = matrix_product(vandermonde, solve(vandermonde[:n], identity))
    return matrices[d, j]


def code_position(d, j, index):
    """Where shard index stands among the outputs of the code: data in payload order, then parity."""
    row, stripe = divmod(index, 16)
    return row * d + stripe if stripe < d else d * j + row * (16 - d) + stripe - d


# --- Datagrams ---


class Refused(Exception):
    pass


def need(condition, why):
    if not condition:
        raise Refused(why)


class Manifest:
    def __init__(self, b):
        need(len(b) >= 160, "too short")
        need(b[0] == 0x11 and b[1] == 1, "type or version")
        self.datagram = b
        self.kind, self.flags = b[2], b[3]
        self.tag, self.run, self.number, self.since = struct.unpack_from(">IQII", b, 4)
        self.created, self.duration, self.payload = struct.unpack_from(">QII", b, 24)
        self.preamble, self.length, self.d, self.j = struct.unpack_from(">HHBB", b, 40)
        self.encoding, self.matrix, self.epoch = struct.unpack_from(">BBI", b, 46)
        self.previous = b[52:68]
        (self.packets,) = struct.unpack_from(">Q", b, 68)
        need(4 <= self.d <= 15 and self.j <= 4, "D or j out of range")
        need(len(b) == 160 + 256 * self.j, "length")
        need(self.encoding == 0 and self.matrix == 0, "encoding or matrix")
        need(self.run != 0 and self.number <= 0xFFFFFFFD, "run or number")
        need(self.payload % 188 == 0, "payload not whole packets")
        n = self.d * self.j
        need((self.payload == 0) == (self.j == 0), "empty payload has no rows, and only that")
        need(self.length == (-(-self.payload // n) if n else 0), "L is not payload / (D*j) rounded up")
        need(self.length <= 1200, "L too great")
        need(self.preamble <= min(self.payload, 24 * 188) and self.preamble % 188 == 0, "preamble length")
        rap = self.flags & 1
        need(rap or self.preamble == 0, "preamble without RAP")
        need(bool(rap) == (self.since == 0), "RAP flag against blocks since")
        need(self.since == 0xFFFFFFFF or self.since <= self.number, "blocks since against number")
        self.hashes = [b[96 + 16 * i : 112 + 16 * i] for i in range(16 * self.j)]

    def signed_by(self, key):
        body, signature = self.datagram[:-64], self.datagram[-64:]
        return ed25519_verify(key, b"sixcast manifest 1\x00" + body, signature)

    def too_far_ahead(self, now_us):
        return (self.run >> 16) * 1000 - now_us > 24 * 3600 * 10**6


class Shard:
    def __init__(self, b):
        need(len(b) > 20 and b[0] == 0x10 and b[1] < 64, "not a shard")
        self.datagram = b
        self.index, self.kind, self.flags, self.tag, self.run, self.number = struct.unpack_from(">xBBBIQI", b)
        self.payload = b[20:]


class Block:
    """A block put together from whichever D*j shards come."""

    def __init__(self, manifest):
        self.m, self.shards, self.forged = manifest, {}, False

    def add(self, s):
        m = self.m
        need((s.kind, s.run, s.number, s.tag) == (m.kind, m.run, m.number, m.tag), "another block's")
        need(s.index < 16 * m.j and s.index not in self.shards and len(s.payload) == m.length, "index or length")
        need(hashlib.sha256(s.payload).digest()[:16] == m.hashes[s.index], "hash")
        self.shards[s.index] = s.payload

    def reconstruct(self):
        """Makes the missing shards; their indices, or None if there are too few or they contradict the manifest."""
        m = self.m
        n = m.d * m.j
        if len(self.shards) < n:
            return None
        missing = [i for i in range(16 * m.j) if i not in self.shards]
        if not missing:
            return missing
        matrix = fec_matrix(m.d, m.j)
        used = sorted(self.shards)[-n:]
        data = solve(
            [matrix[code_position(m.d, m.j, i)] for i in used],
            [list(self.shards[i]) for i in used],
        )
        made = {}
        for i in missing:
            made[i] = bytes(matrix_product([matrix[code_position(m.d, m.j, i)]], data)[0])
            if hashlib.sha256(made[i]).digest()[:16] != m.hashes[i]:
                self.forged = True
                return None
        self.shards.update(made)
        return missing

    def payload_bytes(self):
        m = self.m
        data = b"".join(self.shards[r * 16 + s] for r in range(m.j) for s in range(m.d))
        return data[: m.payload]


# --- The block stream, section 3 ---


def header_at(b, at):
    if len(b) - at < 8 or b[at : at + 4] != b"\xf6\x36\x63\x42":
        return None
    n, complement = struct.unpack_from(">HH", b, at + 4)
    whole = n ^ complement == 0xFFFF and 1 <= n <= 1232 and at + 8 + n <= len(b)
    return n if whole else None


def read_stream(b):
    """The records, and how many bytes lie in none."""
    records, skipped, at, last, covered = [], 0, 0, None, 0
    while at < len(b):
        n = header_at(b, at)
        if n is not None:
            records.append(b[at + 8 : at + 8 + n])
            last, at = at, at + 8 + n
            covered = at
        elif last is not None:  # the last record may have been cut short
            at, last = last + 1, None
        else:
            skipped += at >= covered
            at += 1
    return records, skipped


# --- Control messages and the beacon, sections 6 and 7 ---

# Byte strings (s) are read as hex: tags, masks, tokens and what has 64 bits.
STATE = ("8sIII", "run newest rap oldest")
HOLDINGS = ("4sB", "live slots")  # then a hop and a lag for each live feed
BLOCK = ("4sB8sI", "channel kind run number")
MESSAGES = {
    0x01: ("PING", "4s", "token"),
    0x02: ("PONG", "4s", "token"),
    0x03: ("BYE", "B", "reason"),  # and text
    0x04: ("CHALLENGE", "8s", "token"),
    0x05: ("ECHO", "8s", "token"),
    0x10: ("JOIN", "32s8sBI", "key tag flags uplink"),
    0x11: ("JOINED", "4sB8s" + STATE[0] + HOLDINGS[0], f"channel status tag {STATE[1]} {HOLDINGS[1]}"),
    0x12: ("LEAVE", "4s", "channel"),
    0x13: ("SUBSCRIBE", "4sH4sBI8sI", "channel serial feeds flags uplink run first"),  # and hops
    0x14: ("SUBSCRIBED", "4sH4sBB", "channel serial feeds reason redirects"),  # and hops, and redirects
    0x15: ("UNSUBSCRIBE", "4sH4s", "channel serial feeds"),
    0x16: ("STATE", "4s" + STATE[0] + HOLDINGS[0], f"channel {STATE[1]} {HOLDINGS[1]}"),
    0x17: ("REQUEST", BLOCK[0] + "B8s", BLOCK[1] + " flags shards"),
    0x18: ("REFUSE", BLOCK[0] + "B", BLOCK[1] + " reason"),
    0x19: ("REPORT", "4sIIIBIHB", "channel datagrams kilobytes number index arrival loss earlier"),  # and earlier shards
    0x1A: ("PEERS", "4sB", "channel peers"),  # and peers
    0x1D: ("AUDIT", "4sB16sH", "channel feed addr port"),
    0x1E: ("VERDICT", "4sBB16sH", "channel feed flags addr port"),
    0x1F: ("TRAIN", "BB", "train index"),  # and padding
    0x20: ("ARRIVED", "BBI", "train index arrival"),
}
FLAGS = {
    "JOIN": ("serves",),
    "SUBSCRIBE": ("half", "backfill_only"),
    "REQUEST": ("manifest",),
    "PEERS": ("free", "good"),  # of each peer
    "VERDICT": ("passes",),
}
FEEDS = 18
MAX_REDIRECTS, MAX_PEERS, MAX_EARLIER = 4, 8, 8


def fields_of(layout, names, b):
    values = struct.unpack_from(">" + layout, b)
    return dict(zip(names.split(), (x.hex() if isinstance(x, bytes) else x for x in values)))


def known_feeds(f, field, known=FEEDS):
    """Clears the unknown bits of a mask; those that were set, lowest first."""
    mask = int(f[field], 16)
    f[field] = f"{mask & (1 << known) - 1:08x}"
    return [i for i in range(32) if mask >> i & 1]


def join_address(f, field):
    address = ipaddress.IPv6Address(bytes.fromhex(f[field]))
    f[field] = f"[{address if address.ipv4_mapped is None else f'::ffff:{address.ipv4_mapped}'}]:{f.pop('port')}"


def set_flags(f, name):
    flags = f.pop("flags")
    f.update((flag, bool(flags >> bit & 1)) for bit, flag in enumerate(FLAGS[name]))


def take(b, n):
    need(len(b) >= n, "body too short")
    return b[:n], b[n:]


def read_body(kind, body):
    name, layout, names = MESSAGES[kind]
    head, rest = take(body, struct.calcsize(">" + layout))
    f = fields_of(layout, names, head)
    if name == "BYE":
        f["text"] = rest[:200].decode("utf-8", "replace")
    if "live" in f:
        live = known_feeds(f, "live", FEEDS - 1)
        pairs, rest = take(rest, 2 * len(live))
        f["hop"] = [pairs[2 * k] for k, i in enumerate(live) if i < FEEDS - 1]
        f["lag"] = [pairs[2 * k + 1] for k, i in enumerate(live) if i < FEEDS - 1]
    if "feeds" in f:
        feeds = known_feeds(f, "feeds")
        if name != "UNSUBSCRIBE":
            hops, rest = take(rest, len(feeds))
            f["hop"] = [hop for hop, i in zip(hops, feeds) if i < FEEDS]
    if name == "SUBSCRIBED":
        n = f["redirects"]
        entries, rest = take(rest, 22 * n)
        f["redirects"] = [fields_of("4s16sH", "feeds addr port", entries[22 * k :]) for k in range(min(n, MAX_REDIRECTS))]
        for r in f["redirects"]:
            known_feeds(r, "feeds")
            join_address(r, "addr")
    if name == "REPORT":
        n = f["earlier"]
        entries, rest = take(rest, 4 * n)
        f["earlier"] = [fields_of("BBH", "back index before", entries[4 * k :]) for k in range(min(n, MAX_EARLIER))]
    if name == "PEERS":
        n = f["peers"]
        entries, rest = take(rest, 19 * n)
        f["peers"] = [fields_of("16sHB", "addr port flags", entries[19 * k :]) for k in range(min(n, MAX_PEERS))]
        for p in f["peers"]:
            join_address(p, "addr")
            set_flags(p, name)
    elif name in FLAGS:
        set_flags(f, name)
    if name in ("AUDIT", "VERDICT"):
        need(f["feed"] < FEEDS, "a feed that is not known")
        join_address(f, "addr")
    return name, f


def read_messages(b):
    """The messages in the plaintext of a sealed datagram that count, as (name, fields)."""
    found = []
    while len(b) >= 3:
        kind, n = struct.unpack_from(">BH", b)
        body, b = b[3 : 3 + n], b[3 + n :]
        if len(body) < n:
            break
        if kind in MESSAGES:
            try:
                found.append(read_body(kind, body))
            except Refused:
                pass
    return found


def read_beacon(b):
    need(len(b) >= 42 and b[:2] == b"\x12\x01", "not a beacon")
    f = fields_of("2s4s8sII16sH", "stripes channel run newest rap repair port", b[2:])
    join_address(f, "repair")
    return f


# --- Trackers, section 10 ---


def read_request(b):
    need(len(b) >= 16, "too short")
    connection, action, transaction = b[:8], *struct.unpack_from(">II", b, 8)
    need(action != 0 or connection.hex() == "0000041727101980", "not a connect")
    return connection, action, transaction, b[16:]


def read_reply(b):
    """The action, the transaction, and what of connection, interval and reason belongs to it."""
    need(len(b) >= 8, "too short")
    action, transaction = struct.unpack_from(">II", b)
    connection, interval, reason = b"", 0, ""
    if action == 0:
        connection, _ = take(b[8:], 8)
    elif action == 0x36630001:
        interval = int.from_bytes(take(b[8:], 4)[0], "big")
    else:
        need(action == 3, "action")
        reason = b[8:].decode("ascii")
    return action, transaction, connection, interval, reason


# --- Announcements on a LAN, section 11 ---


def name_hash(name):
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
    return hashlib.sha256(b"sixcast name" + folded.encode()).digest()[:16]


def announcement_group(scope):
    return b"\xff" + bytes([0x10 | scope]) + hashlib.sha256(b"sixcast announcements v1").digest()[:14]


def key_text(key):
    return base64.b32encode(key).decode().lower().rstrip("=")


def channel_group(key, scope, specific):
    g = hashlib.sha256(b"sixcast group" + key).digest()
    if specific:
        return bytes([0xFF, 0x30 | scope]) + bytes(10) + bytes([g[0] | 0x80]) + g[1:4]
    return bytes([0xFF, 0x10 | scope]) + g[:14]


def read_announce(body):
    head, rest = take(body, 56)
    key, port, flags, scope, group_port, source, n = struct.unpack(">32sHBBH16sH", head)
    need(any(key) and port and n <= 1143, "key, port or item")
    item, _ = take(rest, n)
    f = {"key": key_text(key), "port": port, "feeds": bool(flags & 1), "item": item.hex()}
    address, specific = ipaddress.IPv6Address(source), bool(flags & 4)
    single = not (address.is_unspecified or address.is_multicast or address.is_loopback or address.ipv4_mapped)
    if flags & 2 and scope in (2, 5, 8) and group_port and (single or not specific):
        f["group"] = f"[{ipaddress.IPv6Address(channel_group(key, scope, specific))}]:{group_port}"
        if specific:
            f["group_source"] = str(address)
    return "ANNOUNCE", f


def read_query(body):
    (number, kind), rest = struct.unpack(">IBxxx", take(body, 8)[0]), body[8:]
    f = {"number": number, "kind": kind}
    if kind == 1:
        f["key"] = key_text(take(rest, 32)[0])
    elif kind == 2:
        f["hash"] = take(rest, 16)[0].hex()
    return "QUERY", f


def read_gone(body):
    key, port = struct.unpack(">32sH", take(body, 34)[0])
    return "GONE", {"key": key_text(key), "port": port}


def read_announcements(b):
    """The sender of a datagram, and the messages in it that count."""
    need(12 <= len(b) <= 1232 and b[:2] == b"\x14\x01", "not a datagram of announcements")
    sender, rest, bodies = b[4:12], b[12:], []
    while rest:
        head, rest = take(rest, 4)
        kind, n = struct.unpack(">BxH", head)
        body, rest = take(rest, n)
        bodies.append((kind, body))
    need(len(bodies) <= 8, "too many messages")
    found = []
    for kind, body in bodies:
        read = {1: read_announce, 2: read_query, 3: read_gone}.get(kind)
        if read is None:
            continue
        try:
            found.append(read(body))
        except Refused:
            break
    return sender, found


# --- The vectors ---

checks = 0


def expect(condition, what):
    global checks
    checks += 1
    if not condition:
        print(f"decode.py: {what}", file=sys.stderr)
        sys.exit(1)


def channel_tag(key):
    return hashlib.sha256(b"sixcast channel tag" + key).digest()[:4]


def bencode(x):
    if isinstance(x, int):
        return b"i%de" % x
    if isinstance(x, bytes):
        return b"%d:%s" % (len(x), x)
    if isinstance(x, list):
        return b"l" + b"".join(map(bencode, x)) + b"e"
    return b"d" + b"".join(bencode(k) + bencode(v) for k, v in x.items()) + b"e"


def bdecode(b, at=0):
    if b[at : at + 1] == b"i":
        end = b.index(b"e", at)
        return int(b[at + 1 : end]), end + 1
    if b[at : at + 1] in (b"l", b"d"):
        items, kind = [], b[at : at + 1]
        at += 1
        while b[at : at + 1] != b"e":
            item, at = bdecode(b, at)
            items.append(item)
        if kind == b"d":
            items = dict(zip(items[::2], items[1::2]))
        return items, at + 1
    colon = b.index(b":", at)
    n = int(b[at:colon])
    return b[colon + 1 : colon + 1 + n], colon + 1 + n


def check_descriptor(item, what):
    """Its key and seq."""
    d, end = bdecode(item)
    expect(end == len(item) and bencode(d) == item, f"{what}: bencoding")
    signed = b"3:seqi%de1:v" % d[b"seq"] + bencode(d[b"v"])
    expect(len(bencode(d[b"v"])) <= 1000 and ed25519_verify(d[b"k"], signed, d[b"sig"]), f"{what}: descriptor's signature")
    return d[b"k"], d[b"seq"]


def check_channels(vectors):
    for v in vectors:
        key = public_key(bytes.fromhex(v["seed"]))
        what = "channel " + v["key"]
        expect(key.hex() == v["key"], f"{what}: key")
        expect(base64.b32encode(key).decode().lower().rstrip("=") == v["text"], f"{what}: text")
        expect(channel_tag(key).hex() == v["tag"], f"{what}: tag")
        expect(hashlib.sha1(key).hexdigest() == v["swarm_id"], f"{what}: swarm id")
        g = hashlib.sha256(b"sixcast group" + key).digest()
        for name, address in (
            ("group_site", b"\xff\x15" + g[:14]),
            ("group_link", b"\xff\x12" + g[:14]),
            ("group_ssm_site", b"\xff\x35" + bytes(10) + bytes([g[0] | 0x80]) + g[1:4]),
        ):
            expect(ipaddress.IPv6Address(v[name]).packed == address, f"{what}: {name}")
        datagram = bytes.fromhex(v["descriptor_datagram"])
        kind, version, n = struct.unpack_from(">BBH", datagram)
        item = datagram[4 : 4 + n]
        expect((kind, version, item.hex()) == (0x13, 1, v["descriptor_item"]), f"{what}: descriptor datagram")
        expect(check_descriptor(item, what) == (key, v["descriptor_seq"]), f"{what}: descriptor")


def check_fec(v):
    d, j, what = v["d"], v["j"], f"FEC D = {v['d']}, j = {v['j']}"
    data = [list(bytes.fromhex(x)) for x in v["data"]]
    parity = [bytes.fromhex(x) for x in v["parity"]]
    expect(len(data) == d * j and len(parity) == (16 - d) * j, f"{what}: number of shards")
    got = matrix_product(fec_matrix(d, j), data)
    expect([bytes(x) for x in got[: d * j]] == [bytes(x) for x in data], f"{what}: the code is not systematic")
    expect([bytes(x) for x in got[d * j :]] == parity, f"{what}: parity differs")


def check_manifest(v, key):
    what = f"manifest {v['name']!r}"
    m = Manifest(bytes.fromhex(v["datagram"]))
    for field, got in (
        ("kind", m.kind), ("flags", m.flags), ("tag", m.tag), ("run", m.run), ("number", m.number),
        ("since_rap", m.since), ("created_us", m.created), ("duration_us", m.duration), ("payload", m.payload),
        ("preamble", m.preamble), ("shard_length", m.length), ("d", m.d), ("j", m.j), ("key_epoch", m.epoch),
        ("previous", m.previous.hex()), ("packets_before", m.packets), ("hashes", [h.hex() for h in m.hashes]),
    ):  # fmt: skip
        expect(got == v[field], f"{what}: {field} is {got}, not {v[field]}")
    expect(m.tag.to_bytes(4, "big") == channel_tag(key), f"{what}: tag is not the channel's")
    expect(m.signed_by(key), f"{what}: signature")


def check_shard(v):
    s = Shard(bytes.fromhex(v["datagram"]))
    got = (s.index, s.kind, bool(s.flags & 1), s.tag, s.run, s.number, s.payload.hex())
    want = tuple(v[k] for k in ("index", "kind", "regenerated", "tag", "run", "number", "payload"))
    expect(got == want, f"shard: {got}, not {want}")


def check_reconstruct(v, key):
    what = f"reconstruct {v['name']!r}"
    m = Manifest(bytes.fromhex(v["manifest"]))
    expect(m.signed_by(key), f"{what}: signature")
    block, refused = Block(m), []
    for i, x in enumerate(v["shards"]):
        try:
            block.add(Shard(bytes.fromhex(x)))
        except Refused:
            refused.append(i)
    expect(refused == v["refused"], f"{what}: refused shards {refused}, not {v['refused']}")
    made = block.reconstruct()
    result = "forged" if block.forged else "too few" if made is None else "ok"
    expect(result == v["result"], f"{what}: {result}, not {v['result']}")
    regenerated = []
    for i in made or []:
        header = struct.pack(">BBBBIQI", 0x10, i, m.kind, 1, m.tag, m.run, m.number)
        regenerated.append((header + block.shards[i]).hex())
    expect(regenerated == v["regenerated"], f"{what}: regenerated shards differ")
    if result == "ok":
        expect(block.payload_bytes().hex() == v["payload"], f"{what}: payload differs")


def check_refused(v, key):
    what = f"refused {v['reason']!r}"
    try:
        m = Manifest(bytes.fromhex(v["datagram"]))
    except Refused:
        expect(v["check"] == "fields", f"{what}: refused for its fields already")
        return
    expect(v["check"] != "fields", f"{what}: accepted")
    if v["check"] == "clock":
        expect(m.too_far_ahead(v["now_us"]) and not m.too_far_ahead(v["now_us"] + 1000), f"{what}: accepted")
    elif v["check"] == "tag":
        expect(m.tag.to_bytes(4, "big") != channel_tag(key), f"{what}: accepted")
    else:
        expect(not m.signed_by(key), f"{what}: accepted")


def check_stream(v, key, directory):
    what = v["file"]
    with open(os.path.join(directory, what), "rb") as f:
        records, skipped = read_stream(f.read())
    got = [hashlib.sha256(r).hexdigest()[:32] for r in records]
    expect(got == v["records"], f"{what}: records differ")
    expect(skipped == v["skipped"], f"{what}: skipped {skipped} bytes, not {v['skipped']}")
    blocks, previous = [], None
    for r in records:
        try:
            if r[0] == 0x11:
                m = Manifest(r)
                need(m.signed_by(key), "signature")
                if previous is not None and m.number == previous.number + 1:
                    digest = hashlib.sha256(previous.datagram).digest()[:16]
                    expect(m.previous == digest, f"{what}: block {m.number} does not name the one before")
                previous = m
                blocks.append(Block(m))
            elif r[0] == 0x10 and blocks:
                blocks[-1].add(Shard(r))
        except Refused:
            pass
    packets, preambles = b"", []
    for b in blocks:
        if b.reconstruct() is None:
            continue
        payload = b.payload_bytes()
        packets += payload[b.m.preamble :]
        if b.m.flags & 1:
            preambles.append(payload[: b.m.preamble].hex())
    expect(hashlib.sha256(packets).hexdigest() == v["packets"], f"{what}: the transport stream differs")
    expect(preambles == v["preamble"], f"{what}: preambles differ")


def check_wire(vectors):
    for v in vectors["messages"]:
        got = read_messages(bytes.fromhex(v["hex"]))
        expect(got == [(v["name"], v["fields"])], f"{v['name']}: read as {got}")
    for v in vectors["odd"]:
        got = read_messages(bytes.fromhex(v["hex"]))
        want = [] if v["fields"] is None else [(v["name"], v["fields"])]
        expect(got == want, f"{v['name']}, {v['what']}: read as {got}")
    for v in vectors["beacons"]:
        got = read_beacon(bytes.fromhex(v["hex"]))
        expect(got == v["fields"], f"beacon: read as {got}")
    for v in vectors["plaintext"]:
        got = [name for name, _ in read_messages(bytes.fromhex(v["hex"]))]
        expect(got == v["read"], f"plaintext, {v['what']}: read {got}")
    expect({v["name"] for v in vectors["messages"]} == {m[0] for m in MESSAGES.values()}, "a message has no vector")


def check_handshake(v):
    """Writes every datagram of both sides anew, and reads it as the other side."""

    def field(name):
        return bytes.fromhex(v[name])

    def same(name, datagram):
        expect(datagram == field(name), f"handshake: {name} differs: {datagram.hex()}")

    tags = {side: field(side + "_tag") for side in ("initiator", "responder")}
    expect(all(len(t) == 8 and t[0] & 0x80 for t in tags.values()), "handshake: tags")
    hello = b"\x01\x01" + tags["initiator"]
    sides = {
        side: noise.Handshake(
            side == "initiator", field(side + "_static_private"), field(side + "_ephemeral_private"), b"sixcast 1" + hello
        )
        for side in tags
    }
    initiator, responder = sides.values()
    for side in sides:
        same(side + "_static_public", noise.x25519(field(side + "_static_private"), noise.BASE_POINT))

    message = initiator.write(b"")
    same("hello", hello + bytes(16) + message + bytes(1142))
    cookie = field("cookie")[10:]
    expect(len(cookie) == 16, "handshake: the cookie's length")
    same("cookie", b"\x02\x01" + tags["initiator"] + cookie)
    same("hello_with_cookie", hello + cookie + message + bytes(1142))
    responder.read(field("hello_with_cookie")[26:58])

    address, port = v["initiator_address"].rsplit(":", 1)
    seen = tags["responder"] + ipaddress.IPv6Address(address.strip("[]")).packed + struct.pack(">H", int(port))
    same("answer", b"\x03\x01" + tags["initiator"] + responder.write(seen))
    expect(initiator.read(field("answer")[10:]) == seen, "handshake: payload of ANSWER")
    same("finish", tags["responder"] + b"\x04" + initiator.write(field("finish_messages")))
    expect(responder.read(field("finish")[9:]) == field("finish_messages"), "handshake: payload of FINISH")
    expect(len(field("finish_messages")) <= 1000 and read_messages(field("finish_messages")), "handshake: messages in FINISH")
    same("initiator_static_public", responder.rs)
    same("responder_static_public", initiator.rs)
    expect(initiator.h == responder.h and initiator.split() == responder.split(), "handshake: the sides disagree")

    other = {"initiator": "responder", "responder": "initiator"}
    for side, key in zip(sides, initiator.split()):
        same(side + "_sealing_key", key)
        s = v["sealed_by_" + side]
        head = tags[other[side]] + b"\x20" + struct.pack(">I", s["counter"])
        messages = bytes.fromhex(s["messages"])
        expect(read_messages(messages), f"sealed by the {side}: no messages")
        datagram = head + noise.seal(key, s["counter"], head, messages)
        expect(datagram.hex() == s["datagram"], f"sealed by the {side}: datagram differs: {datagram.hex()}")
        expect(noise.unseal(key, s["counter"], datagram[:13], datagram[13:]) == messages, f"sealed by the {side}: reading")
        damaged = datagram[:20] + bytes([datagram[20] ^ 1]) + datagram[21:]
        try:
            noise.unseal(key, s["counter"], damaged[:13], damaged[13:])
        except noise.Forged:
            continue
        expect(False, f"sealed by the {side}: a changed bit was accepted")


def check_block(block, directory):
    key = bytes.fromhex(block["key"])
    expect(public_key(bytes.fromhex(block["seed"])) == key, "block.json: key is not the seed's")
    for v in block["fec"]:
        check_fec(v)
    for v in block["manifests"]:
        check_manifest(v, key)
    for v in block["shards"]:
        check_shard(v)
    for v in block["reconstruct"]:
        check_reconstruct(v, key)
    for v in block["refused"]:
        check_refused(v, key)
    for v in block["streams"]:
        check_stream(v, key, directory)


def check_publish(vectors):
    for v in vectors:
        what = f"publish, {v['what']}"
        request, reply = bytes.fromhex(v["request"]), bytes.fromhex(v["reply"])
        connection, action, transaction, item = read_request(request)
        answer, of, given, interval, reason = read_reply(reply)
        expect((action, transaction, of) == (v["action"], v["transaction"], v["transaction"]), f"{what}: request")
        expect(item.hex() == v["item"] and len(item) <= 1184, f"{what}: item")
        expect((given or connection).hex() == v["connection"], f"{what}: connection")
        expect((answer, interval, reason) == (v["answer"], v["interval"], v["reason"]), f"{what}: reply")
        expect(len(reply) <= len(request) and answer in (action, 3), f"{what}: the reply's length or action")
        if item:
            check_descriptor(item, what)


def check_lan(v):
    expect(v["port"] == 6467, "lan: port")
    for scope, group in v["groups"].items():
        expect(ipaddress.IPv6Address(group).packed == announcement_group(int(scope)), f"lan: group of scope {scope}")
    for n in v["names"]:
        expect(name_hash(n["name"]).hex() == n["hash"], f"lan: hash of {n['name']!r}")
    for d in v["datagrams"]:
        what = f"lan, {d['what']}"
        sender, read = read_announcements(bytes.fromhex(d["hex"]))
        expect(sender.hex() == d["sender"], f"{what}: sender")
        expect(read == [(m["name"], m["fields"]) for m in d["read"]], f"{what}: read as {read}")
        for _, f in read:
            if f.get("item"):
                expect(key_text(check_descriptor(bytes.fromhex(f["item"]), what)[0]) == f["key"], f"{what}: another's descriptor")
    for d in v["refused"]:
        try:
            read_announcements(bytes.fromhex(d["hex"]))
        except Refused:
            expect(True, "")
            continue
        expect(False, f"lan, {d['what']}: accepted")


def check_rendezvous(vectors):
    for v in vectors:
        swarm = bytes.fromhex(v["swarm_id"])
        order = sorted(v["addresses"], key=lambda a: hashlib.sha256(swarm + ipaddress.IPv6Address(a).packed).digest(), reverse=True)
        expect(order == v["order"] and order[:2] == v["listed_by"], f"rendezvous of {v['swarm_id']}: {order}")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    directory = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "../../docs/vectors")
    files = {
        "channel.json": check_channels,
        "block.json": lambda v: check_block(v, directory),
        "wire.json": check_wire,
        "handshake.json": check_handshake,
        "publish.json": check_publish,
        "lan.json": check_lan,
        "rendezvous.json": check_rendezvous,
    }
    for name in sys.argv[2:] or files:
        with open(os.path.join(directory, name), encoding="utf-8") as f:
            files[name](json.load(f))
    print(f"{checks} checks passed")


main()
