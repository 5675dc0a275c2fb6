//go:build !unix

package input

import (
	"os"
	"time"
)

// waitReadable cannot wait here: the read itself blocks, and deadlines are late.
func waitReadable(*os.File, time.Duration) (ready bool, err error) { return true, nil }
