package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUnits(t *testing.T) {
	for _, c := range []struct {
		v        pflag.Value
		in, want string // want "" for a refusal
	}{
		{new(BitRate), "8M", "8M"},
		{new(BitRate), "8m", "8M"},
		{new(BitRate), "1.5G", "1500M"},
		{new(BitRate), "500k", "500k"},
		{new(BitRate), "1000001", "1000001"},
		{new(BitRate), "8Mbit/s", "8M"},
		{new(BitRate), "0", "0"},
		{new(BitRate), "8", ""},
		{new(BitRate), "8 M", ""},
		{new(BitRate), "", ""},
		{new(BitRate), "M", ""},
		{new(BitRate), "-8M", ""},
		{new(BitRate), "1e9", ""},
		{new(BitRate), "9223372036854775807k", ""},
		{new(BitRate), "9223372036854775807", "9223372036854775807"},
		{new(BitRate), "1..5M", ""},
		{new(BitRate), "Inf", ""},
		{new(Size), "1316", "1316"},
		{new(Size), "4M", "4M"},
		{new(Size), "4MiB", "4M"},
		{new(Size), "4MB", "4000000"},
		{new(Size), "1.5k", "1536"},
		{new(Size), "x", ""},
		{new(Duration), "90m", "1h30m"},
		{new(Duration), "+2h", "2h"},
		{new(Duration), "1h30m", "1h30m"},
		{new(Duration), "2d", "48h"},
		{new(Duration), "1d12h", "36h"},
		{new(Duration), "250ms", "250ms"},
		{new(Duration), "0", "0s"},
		{new(Duration), "10s", "10s"},
		{new(Duration), "90", ""},
		{new(Duration), "-1s", ""},
		{new(Duration), "d", ""},
		{new(Duration), "tomorrow", ""},
	} {
		err := c.v.Set(c.in)
		if c.want == "" {
			if err == nil {
				t.Errorf("%T takes %q as %v", c.v, c.in, c.v)
			}
		} else if err != nil || c.v.String() != c.want {
			t.Errorf("%T of %q = %v, %v, want %s", c.v, c.in, c.v, err, c.want)
		}
	}
}

// A limit is one for all that a command does before its first block.
func TestLeft(t *testing.T) {
	begun := time.Now().Add(-10 * time.Second)
	if l := Duration(time.Minute).Left(begun); l > Duration(50*time.Second) || l < Duration(40*time.Second) {
		t.Errorf("of a minute %v are left", l)
	}
	if l := Duration(time.Second).Left(begun); l != 1 {
		t.Errorf("of a second %v are left", l)
	}
	if l := Duration(0).Left(begun); l != 0 {
		t.Errorf("no limit became %v", l)
	}
}

func TestExitCodes(t *testing.T) {
	stopped, stop := context.WithCancel(context.Background())
	stop()
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want int
	}{
		{t.Context(), nil, 0},
		{t.Context(), errors.New("x"), 1},
		{t.Context(), Usagef("x"), 2},
		{t.Context(), fmt.Errorf("a: %w", NoInputf("%w", os.ErrNotExist)), 3},
		{t.Context(), Gapsf("x"), 4},
		{t.Context(), fmt.Errorf("write: %w", ErrStdoutClosed), 0},
		{t.Context(), syscall.EPIPE, 1}, // of a socket, say
		{t.Context(), context.Canceled, 1},
		{stopped, fmt.Errorf("x: %w", context.Canceled), 0},
		{stopped, errors.New("x"), 1},
	} {
		if got := ExitCode(c.ctx, c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	if err := NoInputf("%w", os.ErrNotExist); !errors.Is(err, os.ErrNotExist) || err.Error() != os.ErrNotExist.Error() {
		t.Error(err)
	}
}

// settingsOf runs the settings of a command "relay" on a command line.
func settingsOf(t *testing.T, args ...string) (upload BitRate, trackers []string, err error) {
	t.Helper()
	app := &App{Name: "relay"}
	fs := pflag.NewFlagSet("relay", pflag.ContinueOnError)
	fs.Var(&upload, "upload", "")
	fs.StringArrayVar(&trackers, "tracker", []string{"default"}, "")
	fs.StringVar(&app.config, "config", "", "")
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	err = app.settings(fs)
	return upload, trackers, err
}

func TestFlagsThenEnvironmentThenFile(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	check := func(args []string, wantUpload BitRate, wantTrackers ...string) {
		t.Helper()
		upload, trackers, err := settingsOf(t, args...)
		if err != nil || upload != wantUpload || cmp.Diff(wantTrackers, trackers) != "" {
			t.Errorf("%v: %v %v %v", args, upload, trackers, err)
		}
	}
	check(nil, 0, "default")

	os.Mkdir(filepath.Join(home, "sixcast"), 0o700)
	file := filepath.Join(home, configName)
	os.WriteFile(file, []byte("upload = 1000\ntracker = ['a', 'b']\nlatency = '1s'\n[watch]\nplayer = 'mpv'\n[relay]\nupload = '2k'\n"), 0o600)
	check(nil, 2000, "a", "b")
	t.Setenv("SIXCAST_UPLOAD", "3k")
	t.Setenv("SIXCAST_TRACKER", " c  d ")
	check(nil, 3000, "c", "d")
	check([]string{"--upload=4k", "--tracker=e"}, 4000, "e")

	other := filepath.Join(home, "other.toml")
	os.WriteFile(other, []byte("tracker = 'one'\n"), 0o600)
	os.Unsetenv("SIXCAST_TRACKER")
	check([]string{"--config", other}, 3000, "one")
	t.Setenv("SIXCAST_CONFIG", other)
	check(nil, 3000, "one")
}

func TestSettingsErrorsNameTheirPlace(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	file := filepath.Join(home, "c.toml")
	for _, c := range []struct{ text, env, want string }{
		{"upload = 'fast'", "", file + `: upload = fast: "fast" is no bit rate`},
		{"[relay]\nuplaod = 1", "", "[relay] uplaod: relay has no such setting"},
		{"x = \n", "", file + ":1:"},
		{"", "slow", `SIXCAST_UPLOAD=slow: "slow" is no bit rate`},
	} {
		os.WriteFile(file, []byte(c.text), 0o600)
		if c.env != "" {
			t.Setenv("SIXCAST_UPLOAD", c.env)
		}
		if _, _, err := settingsOf(t, "--config", file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
	}
	if _, _, err := settingsOf(t, "--config", filepath.Join(home, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestLogReadsLikeACommand(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	app := &App{Name: "relay", Stderr: w}
	log := app.logger()
	log.Info("joined", "channel", "ch 1")
	log.Warn("slow parent")
	log.Debug("not shown")
	app.verbose = true
	app.logger().Debug("shown")
	app.quiet = true
	app.logger().Warn("not shown")
	w.Close()
	var got bytes.Buffer
	got.ReadFrom(r)
	want := "relay: joined channel=\"ch 1\"\nrelay: warning: slow parent\nrelay: shown\n"
	if got.String() != want {
		t.Errorf("%q", got.String())
	}
}

func TestStatisticsAreJSONLines(t *testing.T) {
	var b bytes.Buffer
	now := time.Date(2026, 11, 22, 20, 15, 0, 5e6, time.UTC)
	writeStats(&b, "relay", now, struct {
		Packets int `json:"packets"`
	}{0})
	writeStats(&b, "relay", now, struct{}{})
	want := `{"time":"2026-11-22T20:15:00.005Z","tool":"relay","packets":0}` + "\n" + `{"time":"2026-11-22T20:15:00.005Z","tool":"relay"}` + "\n"
	if b.String() != want {
		t.Errorf("%s", &b)
	}
}

func TestStatisticsEndWithALastLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stats")
	var s Stats
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.AddFlags(fs)
	if err := fs.Parse([]string{"--stats=1h", "--stats-file", file}); err != nil {
		t.Fatal(err)
	}
	stop, err := s.Start(&App{Name: "x"}, func() any { return map[string]int{"n": 1} })
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(file)
	var line map[string]any
	if err := json.Unmarshal(b, &line); err != nil || line["n"] != 1.0 {
		t.Errorf("%s, %v", b, err)
	}
	s.file = filepath.Join(file, "not-a-directory")
	if _, err := s.Start(&App{}, nil); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
}
