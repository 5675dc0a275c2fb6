package deps

import (
	_ "github.com/asticode/go-astits"
	_ "github.com/flynn/noise"
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/klauspost/reedsolomon"
	_ "github.com/lmittmann/tint"
	_ "github.com/pion/rtp"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "github.com/spf13/cobra/doc"
	_ "go.uber.org/goleak"
	_ "golang.org/x/net/ipv6"
	_ "golang.org/x/sys/unix"
	_ "golang.org/x/term"
	_ "github.com/pelletier/go-toml/v2"
)
