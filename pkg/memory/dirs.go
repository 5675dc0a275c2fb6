package memory

import (
	"errors"
	"strings"
)

// ErrNoHome is returned by Dirs.
var ErrNoHome = errors.New("there is no home directory")

const dirName = "sixcast"

// Dirs are the directories for Options: by the XDG base directory specification $XDG_CACHE_HOME/sixcast and $XDG_STATE_HOME/sixcast, else
// ~/.cache/sixcast and ~/.local/state/sixcast; on macOS those in ~/Library, and on Windows those in %LocalAppData%. Values that
// are relative are ignored, home among them. Where one is not to be had it is empty, and the error wraps ErrNoHome.
func Dirs(getenv func(string) string, home, goos string) (cache, state string, err error) {
	sep := "/"
	if goos == "windows" {
		sep = `\`
	}
	in := func(base string, below ...string) string {
		if !absolute(base, goos) {
			return ""
		}
		return strings.TrimRight(base, sep) + sep + strings.Join(below, sep)
	}
	first := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	switch goos {
	case "windows":
		local := first(getenv("LocalAppData"), in(home, "AppData", "Local"))
		cache, state = in(local, dirName, "cache"), in(local, dirName, "state")
	case "darwin", "ios":
		cache, state = in(home, "Library", "Caches", dirName), in(home, "Library", "Application Support", dirName)
	default:
		cache = first(in(getenv("XDG_CACHE_HOME"), dirName), in(home, ".cache", dirName))
		state = first(in(getenv("XDG_STATE_HOME"), dirName), in(home, ".local", "state", dirName))
	}
	if cache == "" || state == "" {
		err = ErrNoHome
	}
	return cache, state, err
}

func absolute(path, goos string) bool {
	if goos != "windows" {
		return strings.HasPrefix(path, "/")
	}
	return strings.HasPrefix(path, `\\`) || len(path) >= 3 && path[1] == ':' && (path[2] == '\\' || path[2] == '/')
}
