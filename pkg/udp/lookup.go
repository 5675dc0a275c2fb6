package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// LookUp is the IPv6 addresses of a host, none if it has none.
func LookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip6", host)
	if none := (*net.AddrError)(nil); errors.As(err, &none) {
		return nil, nil // addresses, and all of IPv4
	}
	if err != nil {
		return nil, err
	}
	kept := addrs[:0]
	for _, a := range addrs {
		if a.Is6() && !a.Is4In6() {
			kept = append(kept, a)
		}
	}
	return kept, nil
}
