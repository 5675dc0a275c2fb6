package cli

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// BitRate is a flag in bit/s: 8M, 1.5G, 500k, 1000000, 8Mbit/s. Factors are powers of 1000.
type BitRate int64

// minRate is the least bit rate that is no slip, in bit/s.
const minRate = 1000

// Set parses s (pflag.Value).
func (r *BitRate) Set(s string) error {
	text := s
	for _, suffix := range []string{"bit/s", "bps", "b/s"} {
		if t, ok := strings.CutSuffix(text, suffix); ok {
			text = t
			break
		}
	}
	n, err := number(strings.TrimSpace(text), decimal)
	if err != nil {
		return fmt.Errorf("%q is no bit rate: %w (8M, 1.5G, 500k)", s, err)
	}
	if 0 < n && n < minRate {
		return fmt.Errorf("%q is in bit/s, less than any stream has: %sM or %sk?", s, text, text)
	}
	*r = BitRate(n)
	return nil
}

// String is in the largest unit that leaves it whole.
func (r BitRate) String() string { return shortest(int64(r), decimal) }

// Type names the argument in help (pflag.Value).
func (r *BitRate) Type() string { return "RATE" }

// Size is a flag in bytes: 1316, 64k, 4M, 1.5G (powers of 1024, as with dd), or 4MB (powers of 1000) and 4MiB.
type Size int64

// Set parses s (pflag.Value).
func (z *Size) Set(s string) error {
	factors, text := binary, s
	if t, ok := strings.CutSuffix(text, "iB"); ok {
		text = t
	} else if t, ok := strings.CutSuffix(text, "B"); ok {
		factors, text = decimal, t
	}
	n, err := number(strings.TrimSpace(text), factors)
	if err != nil {
		return fmt.Errorf("%q is no size: %w (1316, 64k, 4M, 1.5G)", s, err)
	}
	*z = Size(n)
	return nil
}

// String is in the largest unit that leaves it whole.
func (z Size) String() string { return shortest(int64(z), binary) }

// Type names the argument in help (pflag.Value).
func (z *Size) Type() string { return "SIZE" }

// Duration is a flag in time: 90m, +2h, 1h30m, 45s, 250ms, 2d.
type Duration time.Duration

// Set parses s (pflag.Value). Negative durations are refused.
func (d *Duration) Set(s string) error {
	text := strings.TrimPrefix(s, "+")
	var days time.Duration
	if n, rest, ok := strings.Cut(text, "d"); ok {
		v, err := strconv.ParseUint(n, 10, 15)
		if err != nil {
			return fmt.Errorf("%q is no duration (90m, 1h30m, 45s, 2d)", s)
		}
		days, text = time.Duration(v)*24*time.Hour, rest
		if text == "" {
			text = "0s"
		}
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil && text != "0" {
		return fmt.Errorf("%q has no unit: %ss, %sm or %sh?", s, text, text, text)
	}
	v, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return fmt.Errorf("%q is no duration (90m, 1h30m, 45s, 2d)", s)
	case v < 0:
		return fmt.Errorf("%q is negative", s)
	}
	*d = Duration(days + v)
	return nil
}

// Left is what is left of it since begun, at least a nanosecond. 0, which is no limit, stays.
func (d Duration) Left(begun time.Time) Duration {
	if d == 0 {
		return 0
	}
	return max(1, d-Duration(time.Since(begun)))
}

// String is as Go writes it, without zero units at the end.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Type names the argument in help (pflag.Value).
func (d *Duration) Type() string { return "TIME" }

type factor struct {
	letter string
	value  int64
}

var (
	decimal = []factor{{"T", 1e12}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3}}
	binary  = []factor{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"k", 1 << 10}}
)

// number reads a decimal number with at most one unit letter of either case.
func number(s string, factors []factor) (int64, error) {
	unit := int64(1)
	if s != "" {
		for _, f := range factors {
			if strings.EqualFold(s[len(s)-1:], f.letter) {
				unit, s = f.value, s[:len(s)-1]
				break
			}
		}
	}
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, errors.New("not a number")
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n <= math.MaxInt64/unit {
		return n * unit, nil
	}
	v, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil:
		return 0, errors.New("not a number")
	case v*float64(unit) >= math.MaxInt64:
		return 0, errors.New("too large")
	}
	return int64(math.Round(v * float64(unit))), nil
}

func shortest(n int64, factors []factor) string {
	for _, f := range factors {
		if n >= f.value && n%f.value == 0 {
			return strconv.FormatInt(n/f.value, 10) + f.letter
		}
	}
	return strconv.FormatInt(n, 10)
}
