//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package memory

// fullDisk is not simulated here.
func fullDisk(string) {}
