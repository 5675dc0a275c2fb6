"""Noise_XX_25519_ChaChaPoly_SHA256 (noiseprotocol.org, revision 34) from its specification and RFCs 7748, 8439 and 2104.

For reading and for checking vectors: not constant in time, and slow.
"""

import hashlib
import hmac
import struct

P = 2**255 - 19


class Forged(Exception):
    """An authentication tag is wrong."""


# --- X25519, RFC 7748 section 5 ---

BASE_POINT = (9).to_bytes(32, "little")


def x25519(scalar, point):
    k = int.from_bytes(scalar, "little") & (1 << 254) - 8 | 1 << 254
    x1 = int.from_bytes(point, "little") & (1 << 255) - 1
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


# --- ChaCha20-Poly1305, RFC 8439 ---


def rotate(x, n):
    return (x << n | x >> 32 - n) & 0xFFFFFFFF


def quarter_round(s, a, b, c, d):
    for n, m in ((16, 12), (8, 7)):
        s[a] = s[a] + s[b] & 0xFFFFFFFF
        s[d] = rotate(s[d] ^ s[a], n)
        s[c] = s[c] + s[d] & 0xFFFFFFFF
        s[b] = rotate(s[b] ^ s[c], m)


def chacha20_block(key, counter, nonce):
    initial = struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce)
    s = list(initial)
    for _ in range(10):
        for i in range(4):
            quarter_round(s, i, i + 4, i + 8, i + 12)
        for i in range(4):
            quarter_round(s, i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12)
    return struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(s, initial)))


def chacha20(key, nonce, text):
    stream = b"".join(chacha20_block(key, 1 + i, nonce) for i in range(-(-len(text) // 64)))
    return bytes(x ^ y for x, y in zip(text, stream))


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for i in range(0, len(message), 16):
        total = (total + int.from_bytes(message[i : i + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return (total + int.from_bytes(key[16:], "little") & (1 << 128) - 1).to_bytes(16, "little")


def authenticator(key, nonce, ad, ciphertext):
    padded = b"".join(x + bytes(-len(x) % 16) for x in (ad, ciphertext))
    return poly1305(chacha20_block(key, 0, nonce)[:32], padded + struct.pack("<QQ", len(ad), len(ciphertext)))


def noise_nonce(n):
    """Noise section 12.3: 32 zero bits, then n as 64 bits, least significant byte first."""
    return bytes(4) + struct.pack("<Q", n)


def seal(key, n, ad, plaintext):
    ciphertext = chacha20(key, noise_nonce(n), plaintext)
    return ciphertext + authenticator(key, noise_nonce(n), ad, ciphertext)


def unseal(key, n, ad, sealed):
    ciphertext, tag = sealed[:-16], sealed[-16:]
    if len(sealed) < 16 or tag != authenticator(key, noise_nonce(n), ad, ciphertext):
        raise Forged
    return chacha20(key, noise_nonce(n), ciphertext)


# --- Noise, sections 4 and 5, and the pattern XX of section 7.5 ---

XX = (("e",), ("e", "ee", "s", "es"), ("s", "se"))


class Handshake:
    """One side of XX. Keys are private keys of 32 bytes; messages are written and read in turn."""

    def __init__(self, initiator, static, ephemeral, prologue):
        self.initiator, self.s, self.e = initiator, static, ephemeral
        self.rs = self.re = None
        self.h = self.ck = b"Noise_XX_25519_ChaChaPoly_SHA256"  # 32 bytes: its own hash
        self.k, self.n, self.turn = None, 0, 0
        self.mix_hash(prologue)

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def hkdf(self, material):
        def mac(key, data):
            return hmac.new(key, data, hashlib.sha256).digest()

        secret = mac(self.ck, material)
        first = mac(secret, b"\x01")
        return first, mac(secret, first + b"\x02")

    def diffie_hellman(self, token):
        """ee, es or se: the first letter names the initiator's key, the second the responder's."""
        mine, theirs = token if self.initiator else token[::-1]
        private, public = {"e": self.e, "s": self.s}[mine], {"e": self.re, "s": self.rs}[theirs]
        self.ck, self.k = self.hkdf(x25519(private, public))
        self.n = 0

    def encrypt(self, plaintext):
        out = plaintext
        if self.k is not None:
            out = seal(self.k, self.n, self.h, plaintext)
            self.n += 1
        self.mix_hash(out)
        return out

    def decrypt(self, text):
        out = text
        if self.k is not None:
            out = unseal(self.k, self.n, self.h, text)
            self.n += 1
        self.mix_hash(text)
        return out

    def write(self, payload):
        out = b""
        for token in XX[self.turn]:
            if token == "e":
                public = x25519(self.e, BASE_POINT)
                self.mix_hash(public)
                out += public
            elif token == "s":
                out += self.encrypt(x25519(self.s, BASE_POINT))
            else:
                self.diffie_hellman(token)
        self.turn += 1
        return out + self.encrypt(payload)

    def read(self, message):
        for token in XX[self.turn]:
            if token == "e":
                self.re, message = message[:32], message[32:]
                self.mix_hash(self.re)
            elif token == "s":
                size = 32 if self.k is None else 48
                self.rs, message = self.decrypt(message[:size]), message[size:]
            else:
                self.diffie_hellman(token)
        self.turn += 1
        return self.decrypt(message)

    def split(self):
        """The keys of the initiator and of the responder."""
        return self.hkdf(b"")
