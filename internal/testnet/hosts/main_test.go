//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/ci"
	"github.com/sixcast/sixcast/internal/netem"
	"github.com/sixcast/sixcast/internal/testnet"
)

const mainEnv = "SIXCAST_HOSTS_TEST_MAIN"

func TestMain(m *testing.M) {
	if tool := filepath.Base(os.Args[0]); os.Getenv(mainEnv) != "" || tool == "shape" || tool == "traffic" {
		main()
		return
	}
	os.Exit(m.Run())
}

// hosts runs the command and returns its stdout, its stderr and its exit code.
func hosts(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	if strings.Contains(errs.String(), testnet.ErrUnavailable.Error()) {
		ci.Skip(t, errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestScriptInHosts(t *testing.T) {
	const script = `
set -e
on h1 grep -c eth0 /proc/net/if_inet6
echo $HOSTS $ADDR_h2
shape h1 up rate=1M loss=2%
shape all delay=5ms
shape h2 cut-for=1s
traffic h2
on h2 sleep 1000 &
exit 7`
	start := time.Now()
	stdout, stderr, code := hosts(t, "--seed", "3", "--loss", "5%", "--link", "h2 up rate=4M", "--", "sh", "-c", script)
	if code != 7 || stderr != "" {
		t.Fatalf("exit code %d, want the script's 7; stderr: %s", code, stderr)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the script took %v: what it left behind was waited for", took)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 3 || lines[0] != "2" || lines[1] != "h1 h2 fd00:6:0:1::2" {
		t.Fatalf("stdout:\n%s", stdout)
	}
	var line struct {
		Host string
		netem.Traffic
	}
	if err := json.Unmarshal([]byte(lines[2]), &line); err != nil || line.Host != "h2" {
		t.Errorf("traffic said %q: %v", lines[2], err)
	}
}

func TestToolsSayWhatIsWrong(t *testing.T) {
	wants := map[string]string{
		"on h9 true":        "no host is named h9",
		"on h1":             "on HOST COMMAND",
		"shape h9 loss=1%":  `no host is named "h9"`,
		"shape h1 loss=bad": "loss=bad",
		"shape h1":          "shape HOST|all",
		"traffic nobody":    `no host is named "nobody"`,
	}
	script := ""
	for line := range wants {
		script += line + " && echo '" + line + "' succeeded\n"
	}
	stdout, stderr, _ := hosts(t, "--", "sh", "-c", script)
	if stdout != "" {
		t.Error(stdout)
	}
	for line, want := range wants {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q: want %q, stderr:\n%s", line, want, stderr)
		}
	}
}

func TestFlags(t *testing.T) {
	o, err := parse([]string{"--hosts", "source,town", "--delay", "25ms", "--burst", "8", "--loss", "0.05", "--up", "rate=8M",
		"--link", "town down delay=5ms", "--address", "town=2001:db8:1::1/64", "--firewall", "town", "--", "true"})
	if err != nil {
		t.Fatal(err)
	}
	source, town := o.config.Hosts[0], o.config.Hosts[1]
	if source.Down.Delay != 25*time.Millisecond || source.Down.Burst != 8 || source.Up.Rate != 8e6 || town.Down.Delay != 5*time.Millisecond || town.Down.Loss != 0.05 {
		t.Errorf("source %+v\ntown %+v", source, town)
	}
	if town.Address != netip.MustParsePrefix("2001:db8:1::1/64") || len(o.firewall) != 1 {
		t.Errorf("town %+v, firewall %v", town, o.firewall)
	}
	for _, bad := range []string{"", "--hosts 0 -- true", "--link h7=x -- true", "--link x -- true", "--address h1=1 -- true", "--firewall h3 -- true", "--loss 7 -- true"} {
		if _, err := parse(strings.Fields(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
