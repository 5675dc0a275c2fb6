package channel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

const (
	scheme      = "sixcast:"
	maxURI      = 8192 // bytes
	maxPeers    = 64
	maxTrackers = 32
	maxName     = 128 // bytes of UTF-8
)

// ErrURI is wrapped by every error about a channel URI or CHANNEL argument.
var ErrURI = errors.New("not a channel URI")

// URI is a channel and hints where to find it:
//
//	sixcast:KEY?name=…&peer=[addr]:port&tracker=…#secret
type URI struct {
	ID       ID
	Name     string   // for people; empty if none
	Peers    []string // "[addr]:port", "[addr%zone]:port" or "host:port"
	Trackers []string // URLs
	Secret   string   // the fragment, kept as it came: reserved for private channels
}

// ParseURI reads a URI as String writes it. Upper case and look-alikes in the key are accepted as ParseID accepts them, and
// parameters of unknown name are skipped, since newer versions may add some. Errors wrap ErrURI.
func ParseURI(s string) (URI, error) {
	u, err := parseURI(s)
	if err != nil {
		return URI{}, fmt.Errorf("%w: %w", ErrURI, err)
	}
	return u, nil
}

func parseURI(s string) (u URI, err error) {
	if len(s) > maxURI {
		return u, fmt.Errorf("it has %d bytes, at most %d are taken", len(s), maxURI)
	}
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) {
		return u, fmt.Errorf("it must begin with %s", scheme)
	}
	rest, fragment, _ := strings.Cut(s[len(scheme):], "#")
	u.Secret = fragment
	key, query, _ := strings.Cut(rest, "?")
	// What mail programs and browsers make of it.
	key = strings.TrimSuffix(strings.TrimPrefix(key, "//"), "/")
	if u.ID, err = ParseID(key); err != nil {
		return u, err
	}
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, raw, _ := strings.Cut(pair, "=")
		if k != "name" && k != "peer" && k != "tracker" {
			continue
		}
		v, err := url.QueryUnescape(raw)
		if err != nil {
			if k == "peer" {
				return u, fmt.Errorf("peer=%s: %w: a zone is written %%25, as in [fe80::1%%25eth0]:6466", raw, err)
			}
			return u, fmt.Errorf("%s=%s: %w", k, raw, err)
		}
		switch k {
		case "name":
			if u.Name != "" {
				return u, errors.New("name is given twice")
			}
			err = CheckName(v)
			u.Name = v
		case "peer":
			if len(u.Peers) == maxPeers {
				return u, fmt.Errorf("more than %d peers", maxPeers)
			}
			err = CheckPeer(v)
			u.Peers = append(u.Peers, v)
		case "tracker":
			if len(u.Trackers) == maxTrackers {
				return u, fmt.Errorf("more than %d trackers", maxTrackers)
			}
			err = checkTracker(v)
			u.Trackers = append(u.Trackers, v)
		}
		if err != nil {
			return u, fmt.Errorf("%s=%s: %w", k, raw, err)
		}
	}
	return u, nil
}

// CheckPeer tells what is wrong with the address of a peer: "[2001:db8::1]:6466", "[fe80::1%eth0]:6466" or "host:port".
// Names are not looked up.
func CheckPeer(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if a, aerr := netip.ParseAddr(strings.Trim(s, "[]")); aerr == nil && a.Is6() {
			if i := strings.LastIndexByte(s, ':'); s[0] != '[' && i > 0 {
				if front, err := netip.ParseAddr(s[:i]); err == nil {
					return fmt.Errorf("the brackets are missing: write [%s]:%s, or [%s]:6466", front, s[i+1:], a)
				}
			}
			return fmt.Errorf("the port is missing: write [%s]:6466", a)
		}
		return fmt.Errorf("an address is written [2001:db8::1]:6466")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q is none of 1 to 65535", port)
	}
	a, err := netip.ParseAddr(host)
	switch {
	case err == nil && (a.Is4() || a.Is4In6()):
		return errors.New("peers have IPv6 addresses")
	case err == nil && (a.IsUnspecified() || a.IsMulticast()):
		return fmt.Errorf("%s is no address of a single host", a)
	case err == nil:
		return nil
	case host == "" || strings.ContainsAny(host, ":%[]/ ") || !printable(host):
		return fmt.Errorf("%q is neither an address nor a host name", host)
	}
	return nil
}

// FoldName is what names have in common that count as the same: those that differ only in case and in how accents are encoded (Unicode's
// canonical caseless matching, D145, with NFC at the end).
func FoldName(name string) string { return norm.NFC.String(cases.Fold().String(norm.NFD.String(name))) }

// CheckName tells what is wrong with a channel's name: names are shown in lists and on terminals.
func CheckName(s string) error {
	switch {
	case s == "":
		return errors.New("the name is empty")
	case len(s) > maxName:
		return fmt.Errorf("the name has %d bytes, at most %d are taken", len(s), maxName)
	case !printable(s):
		return errors.New("the name has unprintable characters")
	}
	return nil
}

func checkTracker(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.Unwrap(err)
	case u.Scheme == "" || u.Host == "":
		return errors.New("a tracker is a URL such as udp://tracker.example:6969")
	case !printable(s):
		return errors.New("the tracker has unprintable characters")
	}
	return nil
}

// printable tells whether s is UTF-8 without control, format or private characters, so that it cannot play tricks on a terminal.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// String writes the URI with the key in lower case and everything escaped that needs it.
func (u URI) String() string {
	var b strings.Builder
	b.WriteString(scheme)
	b.WriteString(u.ID.String())
	sep := byte('?')
	add := func(key, value string) {
		b.WriteByte(sep)
		sep = '&'
		b.WriteString(key)
		b.WriteByte('=')
		b.WriteString(escape(value))
	}
	if u.Name != "" {
		add("name", u.Name)
	}
	for _, p := range u.Peers {
		add("peer", p)
	}
	for _, t := range u.Trackers {
		add("tracker", t)
	}
	if u.Secret != "" {
		b.WriteByte('#')
		b.WriteString(u.Secret)
	}
	return b.String()
}

// escape is percent-encoding that leaves alone what RFC 3986 section 3.4 allows in a query, but for our own "&" and "="
// and for "+", which some take for a space.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~:/[]@!$'()*,;", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}

// ParseArg reads a CHANNEL argument: a URI, a bare key, or @FILE for a file that holds a URI (the first line that is
// neither empty nor a # comment), since secrets do not belong in ps. Errors wrap ErrURI, or are those of reading FILE.
func ParseArg(arg string) (URI, error) {
	if path, ok := strings.CutPrefix(arg, "@"); ok {
		return readURIFile(path)
	}
	if len(arg) >= len(scheme) && strings.EqualFold(arg[:len(scheme)], scheme) {
		return ParseURI(arg)
	}
	if id, err := ParseID(arg); err == nil {
		return URI{ID: id}, nil
	}
	if _, err := os.Stat(arg); err == nil {
		return URI{}, fmt.Errorf("%w: %q is a file: write @%s to read the URI in it", ErrURI, arg, arg)
	}
	return URI{}, fmt.Errorf("%w: %q: a channel is given as sixcast:KEY?peer=[addr]:port, or as @FILE that holds this", ErrURI, arg)
}

func readURIFile(path string) (URI, error) {
	f, err := os.Open(path)
	if err != nil {
		return URI{}, fmt.Errorf("channel: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxURI+maxKeyFile))
	if err != nil {
		return URI{}, fmt.Errorf("channel: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
			continue
		case strings.HasPrefix(line, secretPrefix):
			return URI{}, fmt.Errorf("%w: %s is a secret key, for ingest alone: hand on the public URI in its header", ErrURI, path)
		}
		u, err := ParseURI(line)
		if err != nil {
			return URI{}, fmt.Errorf("%s: %w", path, err)
		}
		return u, nil
	}
	return URI{}, fmt.Errorf("%w: there is none in %s", ErrURI, path)
}
