package main

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/sixcast/sixcast/pkg/tracker"
)

// activated takes the sockets that systemd has bound for us (sd_listen_fds(3)): those for datagrams serve peers, a listening one the list.
func activated(cfg *tracker.ServiceConfig) error {
	for _, f := range activation.Files(true) {
		pc, err := net.FilePacketConn(f)
		if err == nil {
			f.Close()
			u, ok := pc.(*net.UDPConn)
			if !ok {
				return fmt.Errorf("socket %s from systemd: want UDP over IPv6", f.Name())
			}
			cfg.UDP.Bound = append(cfg.UDP.Bound, u)
			continue
		}
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("socket %s from systemd: %w", f.Name(), err)
		}
		if cfg.HTTP != nil {
			return fmt.Errorf("socket %s from systemd: a second one for the list", f.Name())
		}
		cfg.HTTP = l
	}
	if cfg.HTTP != nil && len(cfg.UDP.Bound) == 0 {
		return fmt.Errorf("systemd gives a socket for the list and none for datagrams: the unit wants ListenDatagram= too")
	}
	return nil
}
