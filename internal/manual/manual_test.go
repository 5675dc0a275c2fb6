// Package manual holds the pages of docs to the commands: what they name is there, and what is there they name.
package manual

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sixcast/sixcast/internal/script"
)

const root = "../.."

var commands = []string{"ingest", "relay", "tracker", "watch", "record"}

var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "manual-")
	if err == nil {
		bin = dir
		build := exec.Command("go", "build", "-o", dir, "./cmd/ingest", "./cmd/relay", "./cmd/tracker", "./cmd/watch", "./cmd/record", "./internal/sim")
		build.Dir, build.Stderr = root, os.Stderr
		err = build.Run()
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// output is what a command says, on stdout and stderr.
func output(t *testing.T, name string, args ...string) (stdout, stderr string) {
	t.Helper()
	return outputOf(t, time.Minute, name, args...)
}

// outputOf is the same of one that is interrupted after a while.
func outputOf(t *testing.T, life time.Duration, name string, args ...string) (stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), life)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=")
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil && ctx.Err() == nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return out.String(), words.String()
}

func TestManPagesAreThoseOfTheHelp(t *testing.T) {
	dir := t.TempDir()
	for _, c := range commands {
		output(t, c, "man", dir)
	}
	made, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadDir(filepath.Join(root, "docs/man"))
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != len(kept) {
		t.Errorf("%d pages in docs/man, want %d: run scripts/docs", len(kept), len(made))
	}
	for _, e := range made {
		want, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if read(t, "docs/man/"+e.Name()) != string(want) {
			t.Errorf("docs/man/%s is old: run scripts/docs", e.Name())
		}
	}
}

var (
	flagInHelp = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+)`)
	flagOfSim  = regexp.MustCompile(`(?m)^ +-([a-z-]+)`)
	flagInPage = regexp.MustCompile("--([a-z][a-z-]+)")
	code       = regexp.MustCompile("(?s)`[^`]+`")
)

func TestEveryOptionHasItsPlace(t *testing.T) {
	for _, c := range commands {
		help, _ := output(t, c, "--help")
		page := read(t, "docs/"+c+".md")
		for _, m := range flagInHelp.FindAllStringSubmatch(help, -1) {
			if flag := m[1]; flag != "help" && flag != "version" && !regexp.MustCompile("--"+flag+`\b`).MatchString(page) {
				t.Errorf("docs/%s.md leaves out --%s", c, flag)
			}
		}
	}
}

// Options of other programs that the pages use.
var foreign = []string{"permanent", "reload", "add-port", "check"}

func TestNoPageNamesAnOptionThatIsNone(t *testing.T) {
	known := slices.Clone(foreign)
	for _, c := range commands {
		help, _ := output(t, c, "--help")
		for _, m := range flagInHelp.FindAllStringSubmatch(help, -1) {
			known = append(known, m[1])
		}
	}
	var sim []string
	help, _ := output(t, "sim", "--help")
	for _, m := range flagOfSim.FindAllStringSubmatch(help, -1) {
		sim = append(sim, m[1])
	}
	for _, path := range pages(t) {
		for _, m := range flagInPage.FindAllStringSubmatch(read(t, path), -1) {
			if !slices.Contains(known, m[1]) && m[1] != "help" && !(path == "docs/simulator.md" && slices.Contains(sim, m[1])) {
				t.Errorf("%s: no command has --%s", path, m[1])
			}
		}
	}
}

// pages are those that people read.
func pages(t *testing.T) (paths []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if name := filepath.Base(f); name != "protocol.md" && name != "architecture.md" {
			paths = append(paths, "docs/"+name)
		}
	}
	return append(paths, "README.md", "CHANGELOG.md")
}

// A line of statistics of every command, of a channel that is on air nowhere.
func TestEveryStatisticIsExplained(t *testing.T) {
	const channel = script.Channel + "?peer=[::1]:9"
	clip := filepath.Join(t.TempDir(), "clip.ts")
	b, err := os.ReadFile(filepath.Join(root, "testdata/demo.ts"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(clip, b[:100*188], 0o600); err != nil {
		t.Fatal(err)
	}
	common := read(t, "docs/statistics.md")
	for c, args := range map[string][]string{
		"ingest":  {clip, "-o", os.DevNull},
		"relay":   {channel, "--listen", "[::1]:0", "--timeout", "300ms"},
		"tracker": {"--open", "--listen", "[::1]:0"},
		"watch":   {channel, "--listen", "[::1]:0", "--timeout", "300ms", "-o", os.DevNull},
		"record":  {channel, "--listen", "[::1]:0", "--timeout", "300ms", "--dir", t.TempDir()},
	} {
		_, words := outputOf(t, 2*time.Second, c, append(args, "--stats=100ms")...)
		names := make(map[string]bool)
		for line := range strings.Lines(words) {
			var stats map[string]any
			if json.Unmarshal([]byte(line), &stats) == nil {
				collect(stats, names)
			}
		}
		if len(names) == 0 {
			t.Errorf("%s gave no statistics: %s", c, words)
		}
		var explained []string
		for _, span := range code.FindAllString(read(t, "docs/"+c+".md")+common, -1) {
			explained = append(explained, strings.FieldsFunc(span, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })...)
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if !slices.Contains(explained, name) {
				t.Errorf("neither docs/%s.md nor docs/statistics.md explains %s", c, name)
			}
		}
	}
}

// collect adds the names of all fields.
func collect(v any, names map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			names[name] = true
			collect(inner, names)
		}
	case []any:
		for _, inner := range v {
			collect(inner, names)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
)

func TestLinksLeadSomewhere(t *testing.T) {
	for _, path := range append(pages(t), "docs/protocol.md", "docs/architecture.md") {
		for _, m := range link.FindAllStringSubmatch(read(t, path), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: %s is not there", path, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: %s has no heading for %s", path, target, m[1])
			}
		}
	}
}

// anchors are those that a page's headings get.
func anchors(page string) (names []string) {
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		name := strings.ToLower(strings.TrimSpace(m[1]))
		name = strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
				return r
			}
			return -1
		}, name)
		names = append(names, name)
	}
	return names
}
