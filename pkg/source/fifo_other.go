//go:build !unix

package source

import "fmt"

func makeFIFO(path string) error {
	return fmt.Errorf("%s does not exist, and this system has no FIFOs: use unix:%s", path, path)
}
