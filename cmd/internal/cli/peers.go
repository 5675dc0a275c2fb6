package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spf13/pflag"

	"github.com/sixcast/sixcast/pkg/channel"
	"github.com/sixcast/sixcast/pkg/node"
)

// ParseListen reads the value of --listen or another flag: "[addr]:port", or ":port" for every address. Errors are usage errors.
func ParseListen(flag, s string) (netip.AddrPort, error) {
	if len(s) > 0 && s[0] == ':' {
		s = "[::]" + s
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || !a.Addr().Is6() || a.Addr().Is4In6() {
		return netip.AddrPort{}, Usagef("%s %q: want '[address]:port', IPv6", flag, s)
	}
	return a, nil
}

// ResolvePeers turns the peers of flags and URIs into addresses. What cannot be one is a usage error.
func ResolvePeers(ctx context.Context, peers []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	seen := make(map[netip.AddrPort]bool)
	for _, p := range peers {
		if err := channel.CheckPeer(p); err != nil {
			return nil, Usagef("--peer: %w", err)
		}
		a, err := node.ResolvePeer(ctx, p)
		if name := (*net.AddrError)(nil); errors.As(err, &name) {
			return nil, fmt.Errorf("peer %q: %s has no IPv6 address", p, name.Addr)
		}
		if err != nil {
			return nil, err
		}
		if a.Addr().IsLinkLocalUnicast() && a.Addr().Zone() == "" {
			return nil, Usagef("peer %q: a link-local address needs its interface: '[%s%%eth0]:%d' for --peer, '[%s%%25eth0]:%d' in a URI", p, a.Addr(), a.Port(), a.Addr(), a.Port())
		}
		if !seen[a] {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out, nil
}

// NoWay is the usage error of who is given nothing to find a channel by.
func NoWay() error {
	return Usagef("no way to the channel: give --peer '[addr]:port', --tracker HOST:PORT, a URI with peer= or tracker= (in quotes: the shell ends it at &), or --multicast IFACE, or leave --no-lan out")
}

// NoPEX adds --no-pex.
func NoPEX(f *pflag.FlagSet, value *bool) {
	f.BoolVar(value, "no-pex", false, "keep to the peers given by --peer and the URI, and to those who dial us:\nno addresses are exchanged")
}

// The pauses between look-ups of a peer's name that cannot be looked up yet.
const (
	firstLookup = time.Second
	mostLookup  = 30 * time.Second
)

// Peers is ResolvePeers. Where names cannot be looked up now, as on a machine that is just starting, it tries again until
// limit is over (exit code 3), for ever if that is 0; a name that does not exist is an error at once. Where this host has no
// way to any peer it says so, since nobody will answer then, nor complain.
func (app *App) Peers(ctx context.Context, peers []string, limit Duration) ([]netip.AddrPort, error) {
	begun := time.Now()
	out, err := ResolvePeers(ctx, peers)
	for wait := firstLookup; passing(err); wait = min(2*wait, mostLookup) {
		if limit > 0 && time.Since(begun)+wait > time.Duration(limit) {
			return nil, NoInputf("%w", err)
		}
		if wait == firstLookup {
			app.Log.Warn("cannot look up a peer yet, trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
		out, err = ResolvePeers(ctx, peers)
	}
	var none error
	for _, a := range out {
		// Connecting a UDP socket looks for a route and sends nothing.
		c, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(a))
		if err == nil {
			c.Close()
			return out, nil
		}
		none = err
	}
	if err == nil && none != nil {
		app.Log.Warn("no way from this host to any peer: is the network IPv6? (`ip -6 route` shows it; going on, since that may change)", "err", none)
	}
	return out, err
}

// passing reports whether err is a failed look-up that may go well later.
func passing(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && !dns.IsNotFound && (dns.IsTemporary || dns.IsTimeout)
}

// Multicast holds the flags about a channel's multicast group.
type Multicast struct {
	iface  string
	source string
	scope  string
	group  string
}

// AddFlags adds --multicast and what goes with it; usage describes --multicast itself.
func (m *Multicast) AddFlags(f *pflag.FlagSet, usage string) {
	f.StringVar(&m.iface, "multicast", "", usage)
	f.StringVar(&m.source, "multicast-source", "", "make the group source-specific (RFC 4607): `ADDR` is the address that sends")
	f.StringVar(&m.scope, "multicast-scope", "site", "`SCOPE` of the group: link, site or organisation")
	f.StringVar(&m.group, "multicast-group", "", "use `[GROUP]:PORT` instead of the group that follows from the channel")
}

// Enabled tells whether a group is to be used.
func (m *Multicast) Enabled() bool { return m.iface != "" }

// Config is the node's setting, nil without --multicast. Errors are usage errors.
func (m *Multicast) Config(send bool) (*node.Multicast, error) {
	if m.iface == "" {
		if m.source != "" || m.group != "" {
			return nil, Usagef("--multicast-source and --multicast-group need --multicast IFACE")
		}
		return nil, nil
	}
	c := &node.Multicast{Interface: m.iface, Send: send}
	switch m.scope {
	case "link":
		c.Scope = channel.ScopeLink
	case "site":
		c.Scope = channel.ScopeSite
	case "organisation", "organization":
		c.Scope = channel.ScopeOrganisation
	default:
		return nil, Usagef("--multicast-scope %q: want link, site or organisation", m.scope)
	}
	if m.source != "" {
		a, err := netip.ParseAddr(m.source)
		if err != nil || !a.Is6() || a.Is4In6() || a.IsMulticast() {
			return nil, Usagef("--multicast-source %q is no IPv6 address", m.source)
		}
		c.Source = a
	}
	if m.group != "" {
		g, err := netip.ParseAddrPort(m.group)
		if err != nil || !g.Addr().Is6() || !g.Addr().IsMulticast() {
			return nil, Usagef("--multicast-group %q: want '[ff15::…]:port'", m.group)
		}
		c.Group = g
	}
	return c, nil
}
