// Package deptest holds the rules of docs/architecture.md to the code: who may import whom, and which rooms hold no
// socket and no clock. Test files are free: they may open what they need.
package deptest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sixcast/sixcast/"

// below says which rooms of pkg each room may import: those under it in docs/architecture.md, and of these only what its
// job needs. A new room, or a new arrow, is a decision: add it here and there.
var below = map[string][]string{
	"ts":       {},
	"durable":  {},
	"channel":  {"ts", "durable"},
	"udp":      {},
	"block":    {"channel", "ts"},
	"wire":     {"block", "channel"},
	"link":     {"wire", "channel"},
	"pace":     {"wire", "block"},
	"mesh":     {"link", "pace", "wire", "block", "channel"},
	"node":     {"mesh", "pace", "link", "wire", "udp", "block", "channel"},
	"input":    {"udp", "ts"},
	"source":   {"block", "channel"},
	"play":     {"node", "mesh", "block", "channel", "ts"},
	"announce": {},
	"tracker":  {"announce", "udp", "channel", "catalog", "guide", "cluster"},
	"catalog":  {"channel", "durable"},
	"guide":    {"catalog", "channel", "ts"},
	"cluster":  {"channel"},
	"lan":      {"channel", "udp"},
	"dht":      {"channel"},
	"memory":   {"channel", "durable"},
	"find":     {"announce", "udp", "channel", "catalog", "guide", "lan", "dht", "memory"},
	"record":   {"play", "node", "mesh", "block", "channel", "ts", "durable"},
}

// sansIO rooms take time and datagrams as arguments.
var sansIO = []string{"ts", "block", "wire", "link", "pace", "mesh", "announce"}

// simulator says which rooms the rooms of internal/sim may import beside the standard library. The world knows nothing of
// sockets, and runs the engine that everybody runs: no other implementation of it, and nothing that tells the engine so.
var simulator = map[string][]string{
	"internal/sim":       {"internal/sim/world", "internal/sim/plot"},
	"internal/sim/world": {"pkg/mesh", "pkg/link", "pkg/wire", "pkg/block", "pkg/channel"},
	"internal/sim/plot":  {},
}

// clockCalls of package time read or wait for a real clock.
var clockCalls = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

// file is a Go file that is not a test, with its path from the module's root.
type file struct {
	path   string
	syntax *ast.File
}

// room is the package's folder: pkg/mesh, cmd/internal/cli.
func (f file) room() string { return path.Dir(f.path) }

func (f file) imports() (paths []string) {
	for _, i := range f.syntax.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

var set = token.NewFileSet()

// files are all Go files of the module that are not tests.
func files(t *testing.T) []file {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var all []file
	for _, top := range []string{"cmd", "pkg", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, name)
			if err != nil {
				return err
			}
			rel = filepath.ToSlash(rel)
			syntax, err := parser.ParseFile(set, rel, text, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			all = append(all, file{rel, syntax})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(all) < 10 {
		t.Fatalf("found %d files: is this the module's root: %s?", len(all), root)
	}
	return all
}

// forbidden says why a file must not import a package; empty if it may.
func forbidden(f file, imported string) string {
	room := f.room()
	inPkg, isPkg := strings.CutPrefix(room, "pkg/")
	if isPkg {
		inPkg, _, _ = strings.Cut(inPkg, "/")
	}
	isCmd := strings.HasPrefix(room, "cmd/")
	ours, isOurs := strings.CutPrefix(imported, module)

	switch {
	case !isCmd && (strings.HasPrefix(imported, "github.com/spf13/cobra") || strings.HasPrefix(imported, "github.com/spf13/pflag")):
		return "only cmd knows cobra and flags; take options as fields of a struct"
	case isPkg && imported == "flag":
		return "only cmd knows flags; take options as fields of a struct"
	case isPkg && imported == "log" && f.path != "pkg/cluster/log.go": // memberlist wants one, which leads to ours
		return "pkg does not print; take a *slog.Logger"
	case slices.Contains(sansIO, inPkg) && isPkg && (imported == "net" || imported == "os" || imported == "syscall" ||
		strings.HasPrefix(imported, "net/") && imported != "net/netip" || strings.HasPrefix(imported, "os/") || strings.HasPrefix(imported, "golang.org/x/net") || strings.HasPrefix(imported, "golang.org/x/sys")):
		return "this room is sans-I/O: datagrams and bytes come in as arguments (net/netip is allowed)"
	case simulator[room] != nil && strings.Contains(imported, ".") && (!isOurs || !slices.Contains(simulator[room], ours)):
		return fmt.Sprintf("%s may import %v only: the simulator holds the mesh and no second one (docs/simulator.md)", room, simulator[room])
	case !isOurs:
		return ""
	case isPkg && strings.HasPrefix(ours, "cmd/"):
		return "imports point downward: pkg never imports cmd"
	case isPkg && strings.HasPrefix(ours, "internal/"):
		return "pkg is for everybody to import, internal holds what only our tests and tools need"
	case isPkg && strings.HasPrefix(ours, "pkg/"):
		to, _, _ := strings.Cut(strings.TrimPrefix(ours, "pkg/"), "/")
		allowed, known := below[inPkg]
		switch {
		case to == inPkg:
			return ""
		case !known:
			return "this room is not in the layering: add it to deptest and docs/architecture.md"
		case !slices.Contains(allowed, to):
			return fmt.Sprintf("pkg/%s may import %v only: imports point downward (docs/architecture.md)", inPkg, allowed)
		}
	case isCmd && strings.HasPrefix(ours, "cmd/") && !strings.HasPrefix(ours, "cmd/internal/") && ours != room:
		return "commands never import each other: what two share belongs to cmd/internal or pkg"
	case isCmd && strings.HasPrefix(ours, "internal/"):
		return "commands ship; internal holds what only tests and tools need"
	}
	return ""
}

func TestImports(t *testing.T) {
	for _, f := range files(t) {
		for _, i := range f.imports() {
			if why := forbidden(f, i); why != "" {
				t.Errorf("%s imports %s: %s", f.path, i, why)
			}
		}
	}
}

// selectors calls found for each use of one of the names of an imported package.
func selectors(f file, imported string, names []string, found func(token.Position, string)) {
	local := ""
	for _, i := range f.syntax.Imports {
		if i.Path.Value == strconv.Quote(imported) {
			if local = path.Base(imported); i.Name != nil {
				local = i.Name.Name
			}
		}
	}
	if local == "" {
		return
	}
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == local && slices.Contains(names, s.Sel.Name) {
				found(set.Position(s.Pos()), s.Sel.Name)
			}
		}
		return true
	})
}

func TestSansIORoomsHaveNoClock(t *testing.T) {
	for _, f := range files(t) {
		room, ok := strings.CutPrefix(f.room(), "pkg/")
		if !ok || !slices.Contains(sansIO, room) {
			continue
		}
		selectors(f, "time", clockCalls, func(at token.Position, name string) {
			t.Errorf("%v: time.%s: this room is sans-I/O: the time comes in as an argument", at, name)
		})
	}
}

// A run of the simulator is decided by its options: no clock, and no randomness but from its seed.
func TestSimulatedWorldIsDecidedByItsSeed(t *testing.T) {
	for _, f := range files(t) {
		if f.room() != "internal/sim/world" {
			continue
		}
		selectors(f, "time", clockCalls, func(at token.Position, name string) {
			t.Errorf("%v: time.%s: the simulated world has a time of its own", at, name)
		})
		for _, i := range f.imports() {
			if i == "crypto/rand" || i == "hash/maphash" || i == "os" || i == "net" {
				t.Errorf("%s imports %s: what it gives is not the same twice", f.path, i)
			}
		}
		selectors(f, "math/rand/v2", []string{"Int", "IntN", "Int64", "Int64N", "Uint32", "Uint64", "N", "Float64", "ExpFloat64", "NormFloat64", "Perm", "Shuffle"}, func(at token.Position, name string) {
			t.Errorf("%v: rand.%s: draw from the dice of a node", at, name)
		})
	}
}

func TestPkgDoesNotPrintExitOrReadTheEnvironment(t *testing.T) {
	for _, f := range files(t) {
		if !strings.HasPrefix(f.path, "pkg/") {
			continue
		}
		selectors(f, "os", []string{"Exit", "Getenv", "LookupEnv", "Setenv", "Args"}, func(at token.Position, name string) {
			t.Errorf("%v: os.%s: only cmd exits, reads arguments and the environment", at, name)
		})
		selectors(f, "os", []string{"Stdout", "Stderr"}, func(at token.Position, name string) {
			t.Errorf("%v: os.%s: pkg takes a writer, cmd knows the terminal", at, name)
		})
		selectors(f, "fmt", []string{"Print", "Printf", "Println"}, func(at token.Position, name string) {
			t.Errorf("%v: fmt.%s: pkg does not print", at, name)
		})
	}
}

// The rules themselves: what they must refuse, and what not.
func TestRules(t *testing.T) {
	for _, tt := range []struct {
		path, imports string
		allowed       bool
	}{
		{"pkg/mesh/a.go", module + "pkg/link", true},
		{"pkg/mesh/a.go", "net/netip", true},
		{"pkg/mesh/a.go", "net", false},
		{"pkg/mesh/a.go", "os/exec", false},
		{"pkg/mesh/a.go", module + "pkg/node", false},
		{"pkg/mesh/a.go", module + "internal/netem", false},
		{"pkg/udp/a.go", "net", true},
		{"pkg/udp/a.go", module + "pkg/block", false},
		{"pkg/ts/a.go", module + "pkg/block", false},
		{"pkg/unheard/a.go", module + "pkg/ts", false},
		{"pkg/node/a.go", "github.com/spf13/pflag", false},
		{"pkg/node/a.go", module + "cmd/internal/cli", false},
		{"cmd/relay/a.go", "github.com/spf13/cobra", true},
		{"cmd/relay/a.go", module + "cmd/internal/cli", true},
		{"cmd/relay/a.go", module + "cmd/watch", false},
		{"cmd/relay/a.go", module + "internal/netem", false},
		{"internal/sim/world/a.go", module + "pkg/mesh", true},
		{"internal/sim/world/a.go", "math/rand/v2", true},
		{"internal/sim/world/a.go", module + "pkg/node", false},
		{"internal/sim/world/a.go", module + "internal/netem", false},
		{"internal/sim/plot/a.go", module + "internal/sim/world", false},
		{"internal/testnet/hosts/a.go", module + "internal/testnet", true},
	} {
		why := forbidden(file{path: tt.path}, tt.imports)
		if (why == "") != tt.allowed {
			t.Errorf("%s importing %s: %q", tt.path, tt.imports, why)
		}
	}
}
