package cli

import (
	"context"
	"errors"
	"fmt"
)

// Exit codes of all commands; ExitStatus documents them.
const (
	ExitOK      = 0 // finished, a limit was reached, or stopped by SIGINT or SIGTERM
	ExitFailure = 1
	ExitUsage   = 2
	ExitNoInput = 3 // the input is empty, is no such thing, or nothing came within --timeout
	ExitGaps    = 4 // the recording is complete but for gaps
)

// ExitStatus is the section about exit codes at the end of every long help. extra holds further lines.
func ExitStatus(extra ...string) string {
	s := `
EXIT STATUS
===========
Exit status is 0 if the command finished, reached a limit or was stopped by SIGINT or SIGTERM.
Exit status is 1 if there was any other error.
Exit status is 2 if it was called wrongly.
Exit status is 3 if there was no input: empty, not of the right kind, or nothing within --timeout.
`
	for _, line := range extra {
		s += line + "\n"
	}
	return s[:len(s)-1]
}

// Errors that choose the exit code, for errors.Is. Commands return them through Usagef, NoInputf and Gapsf, or wrapped with %w.
var (
	ErrUsage   = errors.New("wrong usage")
	ErrNoInput = errors.New("no input")
	ErrGaps    = errors.New("recorded with gaps")

	// ErrStdoutClosed is what App.Stdout returns once its reader is gone: the quiet end of a pipe, exit code 0.
	ErrStdoutClosed = errors.New("standard output was closed")
)

// kindError has the words of err and the exit code of kind.
type kindError struct{ kind, err error }

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// Usagef is an error with exit code 2. %w works.
func Usagef(format string, args ...any) error {
	return &kindError{ErrUsage, fmt.Errorf(format, args...)}
}

// NoInputf is an error with exit code 3. %w works.
func NoInputf(format string, args ...any) error {
	return &kindError{ErrNoInput, fmt.Errorf(format, args...)}
}

// Gapsf is an error with exit code 4. %w works.
func Gapsf(format string, args ...any) error {
	return &kindError{ErrGaps, fmt.Errorf(format, args...)}
}

// ExitCode is the exit code for what a command returned; ctx is done if a signal came.
func ExitCode(ctx context.Context, err error) int {
	switch {
	case err == nil, errors.Is(err, ErrStdoutClosed):
		return ExitOK
	case errors.Is(err, ErrUsage):
		return ExitUsage
	case errors.Is(err, ErrNoInput):
		return ExitNoInput
	case errors.Is(err, ErrGaps):
		return ExitGaps
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return ExitOK
	}
	return ExitFailure
}
