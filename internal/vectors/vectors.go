// Package vectors holds the files in docs/vectors to our code, which writes them, and to decode.py, an implementation of
// docs/protocol.md that shares no code with ours.
package vectors

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// dir is docs/vectors as every package two levels below the root sees it.
const dir = "../../docs/vectors"

var update = flag.Bool("update", false, "rewrite the files in docs/vectors")

// Check fails unless the named file in docs/vectors holds these bytes. With -update it writes them.
func Check(t *testing.T, name string, want []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s and the code disagree (-file +code): -update rewrites it, and then docs/protocol.md is to be mended\n%s", name, cmp.Diff(lines(got), lines(want)))
	}
}

// CheckJSON does the same with what v is in JSON.
func CheckJSON(t *testing.T, name string, v any) {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	Check(t, name, b.Bytes())
}

// lines of a text, or of the dump of what is none.
func lines(b []byte) (s []string) {
	if len(b) > 0 && b[0] != '{' && b[0] != '[' {
		b = []byte(hex.Dump(b))
	}
	for l := range bytes.Lines(b) {
		s = append(s, string(l))
	}
	return s
}

// Bytes are hex in a vector file.
type Bytes []byte

// MarshalText implements encoding.TextMarshaler.
func (h Bytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
