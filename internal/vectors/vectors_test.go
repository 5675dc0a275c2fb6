package vectors

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sixcast/sixcast/internal/ci"
)

// decode runs decode.py over the vectors in dir, all or those of the named
// files.
func decode(t *testing.T, dir string, files ...string) (output string, err error) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		ci.Skip(t, "python3 is needed to decode the vectors:", err)
	}
	out, err := exec.CommandContext(t.Context(), python, append([]string{"decode.py", dir}, files...)...).CombinedOutput()
	return string(out), err
}

func TestAnotherImplementationDecodesTheVectors(t *testing.T) {
	out, err := decode(t, dir)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
}

// The decoder looks at what it is given: a changed bit anywhere shows.
func TestAnotherImplementationRefusesDamage(t *testing.T) {
	for _, tt := range []struct{ file, old, new string }{
		{"block.json", `"parity": [
    "`, `"parity": [
    "0`},
		{"channel.json", `"tag": "`, `"tag": "0`},
		{"wire.json", `"hex": "13`, `"hex": "14`},
		{"wire.json", `"half": true`, `"half": false`},
		{"wire.json", `"hex": "16003fcafebabe`, `"hex": "16003ecafebabe`},
		{"wire.json", `"fields": null`, `"fields": {}`},
		{"wire.json", `"hex": "12013fff`, `"hex": "12013ffe`},
		{"wire.json", `"read": [`, `"read": ["ECHO", `},
		{"handshake.json", `"cookie": "0201a0`, `"cookie": "0201a1`},
		{"handshake.json", `"hello_with_cookie": "0101a0a1a2a3a4a5a6a7e0`, `"hello_with_cookie": "0101a0a1a2a3a4a5a6a7e1`},
		{"handshake.json", `"answer": "0301a0a1a2a3a4a5a6a7`, `"answer": "0301a0a1a2a3a4a5a6a8`},
		{"handshake.json", `"finish": "b0b1b2b3b4b5b6b704`, `"finish": "b0b1b2b3b4b5b6b705`},
		{"handshake.json", `"responder_sealing_key": "`, `"responder_sealing_key": "00`},
		{"handshake.json", `"datagram": "a0a1a2a3a4a5a6a72000000001`, `"datagram": "a0a1a2a3a4a5a6a72000000002`},
		{"publish.json", `"reply": "36630001`, `"reply": "36630002`},
		{"publish.json", `"reason": "connect again"`, `"reason": "connect"`},
		{"publish.json", `31373935303030303030`, `31373935303030303031`},
		{"lan.json", `"hash": "b`, `"hash": "c`},
		{"lan.json", `"5": "ff15:8253`, `"5": "ff15:8254`},
		{"lan.json", `"hex": "14010000010203040506070802`, `"hex": "14010000010203040506070803`},
		{"lan.json", `"hex": "1301`, `"hex": "1401`},
		{"lan.json", `"feeds": true`, `"feeds": false`},
		{"rendezvous.json", `"swarm_id": "8`, `"swarm_id": "9`},
		{"stream.bin", "\xf6\x36\x63\x42", "\xf6\x36\x63\x43"},
	} {
		damaged := t.TempDir()
		if err := os.CopyFS(damaged, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(damaged, tt.file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(tt.old)) {
			t.Fatalf("%s has no %q", tt.file, tt.old)
		}
		if err := os.WriteFile(path, bytes.Replace(b, []byte(tt.old), []byte(tt.new), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		read := tt.file
		if filepath.Ext(read) == ".bin" {
			read = "block.json" // which names it
		}
		if out, err := decode(t, damaged, read); err == nil {
			t.Errorf("%s: %q instead of %q was accepted: %s", tt.file, tt.new, tt.old, out)
		}
	}
}
