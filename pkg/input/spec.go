package input

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// ErrAddress is wrapped by every error about an INPUT that cannot be understood.
var ErrAddress = errors.New("bad input address")

// Kind is what sort of input an address names.
type Kind uint8

// The kinds of input.
const (
	Stdin Kind = iota
	File       // a path: a regular file, a FIFO, a device
	UDP        // datagrams, raw or RTP
	HTTP
)

// Spec is a parsed INPUT.
type Spec struct {
	Kind Kind
	Path string // of a File
	URL  string // of HTTP

	// Of UDP. Host is where to listen: a multicast group is joined, on Interface if given, else where the route leads;
	// invalid means every address, IPv4 too.
	Host      netip.Addr
	Port      uint16
	Interface string     // name, or an address of the interface (ffmpeg's localaddr)
	Source    netip.Addr // the only sender that is listened to: a source-specific join for a group
	Buffer    int        // receive buffer in bytes, 0 for the default
}

// ignored are parameters of ffmpeg's and VLC's UDP addresses that mean nothing here, so that addresses can be copied over.
var ignored = []string{"ttl", "pkt_size", "reuse", "reuse_socket", "fifo_size", "overrun_nonfatal", "timeout", "localport", "dscp", "bitrate",
	"broadcast", "connect", "burst_bits", "rtcpport", "localrtpport", "localrtcpport", "write_to_source"}

// ParseSpec reads an INPUT: "-", a path, "udp://[group%iface]:port?iface=&source=&rcvbuf=", "rtp://" likewise (RTP is recognised on both),
// the short form "[source]@[group%iface]:port", or "http://" and "https://". ffmpeg's sources= and localaddr= are understood.
// Nothing is opened or looked up: hosts are literals. Errors wrap ErrAddress.
func ParseSpec(s string) (Spec, error) {
	spec, err := parseSpec(s)
	if err != nil {
		return Spec{}, fmt.Errorf("%w %q: %w", ErrAddress, s, err)
	}
	return spec, nil
}

func parseSpec(s string) (Spec, error) {
	switch {
	case s == "":
		return Spec{}, errors.New("it is empty: - is standard input")
	case s == "-":
		return Spec{Kind: Stdin}, nil
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok && !strings.Contains(scheme, "/") {
		switch strings.ToLower(scheme) {
		case "udp", "rtp":
			return parseUDP(rest)
		case "http", "https":
			u, err := url.Parse(s)
			if err != nil {
				return Spec{}, errors.Unwrap(err)
			}
			if u.Host == "" {
				return Spec{}, errors.New("the host is missing")
			}
			return Spec{Kind: HTTP, URL: s}, nil
		case "file":
			path, err := url.PathUnescape(rest)
			return Spec{Kind: File, Path: path}, err
		case "srt":
			return Spec{}, fmt.Errorf("for SRT: `srt-live-transmit %s file://con | ingest`", s)
		case "rtsp", "rtmp", "rist":
			return Spec{}, fmt.Errorf("%s is not spoken here: `ffmpeg -i %s -c copy -f mpegts - | ingest`", scheme, s)
		}
		return Spec{}, fmt.Errorf("%s:// is not known; there are udp, rtp, http, https", scheme)
	}
	// The short form, unless a file is called so.
	if at := strings.LastIndexByte(s, '@'); at >= 0 && !strings.Contains(s, "/") {
		if _, err := os.Stat(s); err != nil {
			return parseUDP(s)
		}
	}
	return Spec{Kind: File, Path: s}, nil
}

// parseUDP reads [source@]host:port[/][?query].
func parseUDP(s string) (Spec, error) {
	spec := Spec{Kind: UDP}
	authority, query, _ := strings.Cut(s, "?")
	authority = strings.TrimSuffix(authority, "/")
	source, hostport, found := strings.Cut(authority, "@")
	if !found {
		source, hostport = "", authority
	}
	if err := spec.setSource(source); err != nil {
		return spec, err
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return spec, errors.New("an address is written [ff15::1]:5004, or [ff15::1%eth0]:5004")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return spec, fmt.Errorf("port %q is none of 1 to 65535", port)
	}
	spec.Port = uint16(n)
	if host != "" {
		if spec.Host, err = parseAddr(host); err != nil {
			return spec, err
		}
		if zone := spec.Host.Zone(); zone != "" && spec.Host.IsMulticast() {
			spec.Interface, spec.Host = zone, spec.Host.WithZone("")
		}
	}
	if err := spec.setQuery(query); err != nil {
		return spec, err
	}
	return spec, spec.check()
}

// parseAddr reads a literal with its zone written %eth0 or, as in URLs, %25eth0.
func parseAddr(s string) (netip.Addr, error) {
	s = strings.Replace(strings.Trim(s, "[]"), "%25", "%", 1)
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%q is no address (names are not looked up)", s)
	}
	return a.Unmap(), nil
}

func (spec *Spec) setSource(s string) error {
	if s == "" {
		return nil
	}
	if strings.Contains(s, ",") {
		return errors.New("one source is taken; several need one ingest each")
	}
	a, err := parseAddr(s)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if spec.Source.IsValid() && spec.Source != a {
		return fmt.Errorf("two sources, %s and %s: one is taken", spec.Source, a)
	}
	spec.Source = a
	return nil
}

func (spec *Spec) setQuery(query string) error {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, raw, _ := strings.Cut(pair, "=")
		v, err := url.QueryUnescape(raw)
		if err != nil {
			v = raw
		}
		switch k {
		case "":
		case "iface", "interface", "miface", "localaddr":
			if spec.Interface != "" && spec.Interface != v {
				return fmt.Errorf("two interfaces, %s and %s", spec.Interface, v)
			}
			spec.Interface = v
		case "source", "sources":
			if err := spec.setSource(v); err != nil {
				return err
			}
		case "rcvbuf", "buffer_size":
			if spec.Buffer, err = parseSize(v); err != nil {
				return fmt.Errorf("%s=%s: %w", k, v, err)
			}
		default:
			known := false
			for _, name := range ignored {
				known = known || k == name
			}
			if !known {
				return fmt.Errorf("parameter %s is not known; there are iface, source, rcvbuf", k)
			}
		}
	}
	return nil
}

func (spec *Spec) check() error {
	switch {
	case spec.Source.IsMulticast() || spec.Source.IsValid() && spec.Source.IsUnspecified():
		return fmt.Errorf("the source %s is no address of a single host", spec.Source)
	case spec.Source.IsValid() && spec.Host.IsValid() && spec.Source.Is4() != spec.Host.Is4():
		return errors.New("source and group are of two address families")
	case spec.Host.IsValid() && isSSM(spec.Host) && !spec.Source.IsValid():
		return fmt.Errorf("%s is a source-specific group: name its source, as in 2001:db8::1@[%s]:%d", spec.Host, spec.Host, spec.Port)
	}
	return nil
}

// isSSM tells whether group can only be joined with a source (RFC 4607).
func isSSM(group netip.Addr) bool {
	if group.Is4() {
		return group.As4()[0] == 232
	}
	b := group.As16()
	return b[0] == 0xff && b[1]&0xf0 == 0x30 && b[2] == 0 && b[3] == 0
}

// parseSize reads bytes: 65536, 64k, 4M.
func parseSize(s string) (int, error) {
	shift := 0
	switch {
	case strings.HasSuffix(s, "k") || strings.HasSuffix(s, "K"):
		shift = 10
	case strings.HasSuffix(s, "M"):
		shift = 20
	}
	if shift > 0 {
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseUint(s, 10, 31-shift)
	if err != nil {
		return 0, errors.New("no size (65536, 64k, 4M)")
	}
	return int(n) << shift, nil
}

// String is the address as a person reads it in messages.
func (spec Spec) String() string {
	switch spec.Kind {
	case Stdin:
		return "standard input"
	case File:
		return spec.Path
	case HTTP:
		return spec.URL
	}
	host := spec.Host.String()
	if !spec.Host.IsValid() {
		host = "::"
	}
	s := "udp://" + net.JoinHostPort(host, strconv.Itoa(int(spec.Port)))
	if spec.Source.IsValid() {
		s += " from " + spec.Source.String()
	}
	return s
}
