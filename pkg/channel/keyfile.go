package channel

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sixcast/sixcast/pkg/durable"
)

// Errors about key files, wrapped by what ReadKeyFile returns.
var (
	// ErrKeyFile is wrapped when a file was read that is no whole key file.
	ErrKeyFile = errors.New("not a channel key file")
	// ErrKeyReadable is a warning, not a failure: others than the owner may read the file.
	ErrKeyReadable = errors.New("key file is readable by other users")
)

const (
	secretPrefix = "SIXCAST-SECRET-KEY-1-"
	secretLen    = 56 // base32 characters: the seed and three bytes of its hash
	publicPrefix = "# public: "
	maxKeyFile   = 16 << 10 // bytes; a key file has about 400
)

var secretEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// KeyFile is what a key file holds.
type KeyFile struct {
	Key Key
	// Public is the URI in the file's header, whose name is the one given to keygen; only the ID where there is none.
	Public URI
	// Warning is ErrKeyReadable with the remedy, or nil.
	Warning error
}

// WriteKeyFile makes the file path with mode 0600, and never overwrites one (fs.ErrExist).
// The format is text in the manner of age: comments with the public URI, then one line with the seed in base32 and
// three bytes of checksum, so that a truncated copy is noticed. name may be empty; created is for the reader only.
func WriteKeyFile(path string, key Key, name string, created time.Time) error {
	public := URI{ID: key.ID(), Name: name}
	text := "# sixcast channel key. Whoever has this file can broadcast as this channel: keep it secret, keep a copy.\n" +
		"# created: " + created.UTC().Format(time.RFC3339) + "\n" +
		publicPrefix + public.String() + "\n" +
		secretLine(key) + "\n"

	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists and is left alone, for a channel cannot be had back without its key: %w", path, fs.ErrExist)
		}
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path) // never leave half a key; ours, as O_EXCL made it
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_ = durable.SyncDir(filepath.Dir(path))
	return nil
}

func secretLine(key Key) string {
	seed := key.private.Seed()
	sum := secretSum(seed)
	return secretPrefix + secretEncoding.EncodeToString(append(seed, sum[:]...))
}

func secretSum(seed []byte) (sum [3]byte) {
	h := sha256.New()
	io.WriteString(h, "sixcast secret key")
	h.Write(seed)
	copy(sum[:], h.Sum(nil))
	return sum
}

// ReadKeyFile reads what WriteKeyFile wrote. Errors say what is wrong and wrap ErrKeyFile, or fs.ErrNotExist and its like.
func ReadKeyFile(path string) (KeyFile, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return KeyFile{}, fmt.Errorf("%w: make one with `ingest keygen -o %s`", err, path)
		}
		return KeyFile{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return KeyFile{}, err
	}
	if info.IsDir() {
		return KeyFile{}, fmt.Errorf("%w: %s is a directory", ErrKeyFile, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return KeyFile{}, fmt.Errorf("reading key: %w", err)
	}
	kf, err := parseKeyFile(text)
	if err != nil {
		return KeyFile{}, fmt.Errorf("%s: %w", path, err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		kf.Warning = fmt.Errorf("%s: %w: `chmod 600 %s`, and make a new channel if somebody may have copied it", path, ErrKeyReadable, path)
	}
	return kf, nil
}

func parseKeyFile(text []byte) (KeyFile, error) {
	switch {
	case len(text) == 0:
		return KeyFile{}, fmt.Errorf("%w: it is empty", ErrKeyFile)
	case len(text) > maxKeyFile:
		return KeyFile{}, fmt.Errorf("%w: it is far too long", ErrKeyFile)
	}
	var kf KeyFile
	found := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, publicPrefix):
			// The header is for people; one that somebody edited must not keep the key from use.
			if u, err := ParseURI(strings.TrimPrefix(line, publicPrefix)); err == nil {
				kf.Public = u
			}
		case line == "" || line[0] == '#':
		case strings.HasPrefix(strings.ToLower(line), scheme):
			return KeyFile{}, fmt.Errorf("%w: it holds a channel's public URI; the secret is in the file that keygen wrote", ErrKeyFile)
		case found:
			return KeyFile{}, fmt.Errorf("%w: something follows the key", ErrKeyFile)
		case !strings.HasPrefix(line, secretPrefix):
			return KeyFile{}, fmt.Errorf("%w: no line begins with %s", ErrKeyFile, secretPrefix)
		default:
			key, err := parseSecret(strings.TrimPrefix(line, secretPrefix))
			if err != nil {
				return KeyFile{}, err
			}
			kf.Key, found = key, true
		}
	}
	if !found {
		return KeyFile{}, fmt.Errorf("%w: the line with the key is missing, is the copy truncated?", ErrKeyFile)
	}
	if kf.Public.ID != kf.Key.ID() {
		if !kf.Public.ID.IsZero() {
			return KeyFile{}, fmt.Errorf("%w: the public URI in its header is another channel's (this key's is %s)", ErrKeyFile, kf.Key.ID())
		}
		kf.Public = URI{ID: kf.Key.ID()}
	}
	return kf, nil
}

func parseSecret(s string) (Key, error) {
	if len(s) < secretLen {
		return Key{}, fmt.Errorf("%w: the key is truncated, %d of %d characters", ErrKeyFile, len(s), secretLen)
	}
	b, err := secretEncoding.DecodeString(s)
	if err != nil || len(s) != secretLen {
		return Key{}, fmt.Errorf("%w: the key is damaged", ErrKeyFile)
	}
	seed := [SeedSize]byte(b)
	if secretSum(seed[:]) != [3]byte(b[SeedSize:]) {
		return Key{}, fmt.Errorf("%w: the key is damaged, its checksum is wrong", ErrKeyFile)
	}
	return KeyFromSeed(seed), nil
}
