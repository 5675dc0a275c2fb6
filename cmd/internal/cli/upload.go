package cli

import (
	"log/slog"

	"github.com/spf13/pflag"
)

// Upload is --upload: the hard cap over everything that is sent. What the
// uplink takes below it is found out.
type Upload struct {
	// BitRate is the cap, the default until the flag, the environment or the
	// configuration file says something else.
	BitRate
	// First is what the uplink is believed to take before anything is known.
	First BitRate
}

// trusted is how far a cap that somebody gave is taken for what his uplink
// takes before it is known.
const trusted BitRate = 50e6

// ViewerUpload and RelayUpload are the defaults: who watches gives a share of
// a good home uplink, who relays came to give.
func ViewerUpload() Upload { return Upload{50e6, 1e6} }

// RelayUpload is ViewerUpload for relays.
func RelayUpload() Upload { return Upload{1e9, 4e6} }

// Set parses s (pflag.Value).
func (u *Upload) Set(s string) error {
	if err := u.BitRate.Set(s); err != nil {
		return err
	}
	u.First = min(u.BitRate, trusted)
	return nil
}

// AddFlags adds --upload.
func (u *Upload) AddFlags(f *pflag.FlagSet) {
	f.Var(u, "upload", "send at most `RATE` in all, headers included (8M), and less where the uplink\ntakes less or others need it; 0 serves nobody")
}

// Say tells what is in force.
func (u *Upload) Say(log *slog.Logger) {
	if u.BitRate == 0 {
		log.Info("passes nothing on (--upload 0)")
		return
	}
	log.Info("uploads at most " + u.String() + "bit/s (--upload), and no more than the uplink takes beside other traffic")
}
