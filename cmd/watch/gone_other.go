//go:build !unix

package main

import (
	"context"
	"os"
)

// watchReader cannot tell here: the next write does.
func watchReader(context.Context, *os.File, context.CancelCauseFunc) {}
