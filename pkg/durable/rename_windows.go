package durable

import (
	"os"
	"time"
)

// rename tries again for a moment: nothing can take the place of a file that somebody reads.
func rename(from, to string) (err error) {
	for range 10 {
		if err = os.Rename(from, to); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
