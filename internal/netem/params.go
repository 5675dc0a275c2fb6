package netem

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Set changes parameters from words such as "loss=5%", "delay=25ms", "rate=8M" or "cut"; commas separate words too.
//
//	loss=5% (or 0.05)   burst=8 (frames) or burst=40ms   delay=25ms   jitter=5ms   cut, cut=off
//	reorder=1%          reorder-by=10ms                  duplicate=1% rate=8M      queue=64000 (bytes)
//
// rate takes the suffixes k, M and G (powers of 1000, bit/s) and 0 for no limit. "clear" makes the link perfect.
// Words that are not understood leave p as it was.
func (p *Params) Set(words ...string) error {
	q := *p
	for _, word := range strings.FieldsFunc(strings.Join(words, " "), func(r rune) bool { return r == ' ' || r == ',' }) {
		key, value, _ := strings.Cut(word, "=")
		if err := q.set(key, value); err != nil {
			return fmt.Errorf("link parameter %q: %w", word, err)
		}
	}
	if err := q.Validate(); err != nil {
		return err
	}
	*p = q
	return nil
}

func (p *Params) set(key, value string) (err error) {
	switch key {
	case "clear":
		*p = Params{}
	case "cut":
		switch value {
		case "", "on":
			p.Cut = true
		case "off":
			p.Cut = false
		default:
			return fmt.Errorf("want cut, cut=on or cut=off")
		}
	case "loss":
		p.Loss, err = parseShare(value)
	case "burst":
		if p.BurstTime, err = time.ParseDuration(value); err == nil && value != "0" {
			p.Burst = 0
			return nil
		}
		p.BurstTime = 0
		p.Burst, err = strconv.ParseFloat(value, 64)
	case "delay":
		p.Delay, err = time.ParseDuration(value)
	case "jitter":
		p.Jitter, err = time.ParseDuration(value)
	case "reorder":
		p.Reorder, err = parseShare(value)
	case "reorder-by":
		p.ReorderBy, err = time.ParseDuration(value)
	case "duplicate":
		p.Duplicate, err = parseShare(value)
	case "rate":
		p.Rate, err = parseRate(value)
	case "queue":
		p.Queue, err = strconv.Atoi(value)
	default:
		return fmt.Errorf("unknown: want loss, burst, delay, jitter, reorder, reorder-by, duplicate, rate, queue, cut or clear")
	}
	return err
}

// String gives the words that Set takes.
func (p Params) String() string {
	words := []string{"clear"}
	add := func(when bool, format string, value any) {
		if when {
			words = append(words, fmt.Sprintf(format, value))
		}
	}
	add(p.Loss != 0, "loss=%v", p.Loss)
	add(p.Burst != 0, "burst=%v", p.Burst)
	add(p.BurstTime != 0, "burst=%v", p.BurstTime)
	add(p.Delay != 0, "delay=%v", p.Delay)
	add(p.Jitter != 0, "jitter=%v", p.Jitter)
	add(p.Reorder != 0, "reorder=%v", p.Reorder)
	add(p.ReorderBy != 0, "reorder-by=%v", p.ReorderBy)
	add(p.Duplicate != 0, "duplicate=%v", p.Duplicate)
	add(p.Rate != 0, "rate=%d", int64(p.Rate))
	add(p.Queue != 0, "queue=%d", p.Queue)
	add(p.Cut, "cut=%s", "on")
	return strings.Join(words, " ")
}

func parseShare(s string) (float64, error) {
	percent := strings.HasSuffix(s, "%")
	f, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if percent {
		f /= 100
	}
	return f, err
}

func parseRate(s string) (BitRate, error) {
	scale := 1.0
	switch {
	case strings.HasSuffix(s, "k"):
		scale = 1e3
	case strings.HasSuffix(s, "M"):
		scale = 1e6
	case strings.HasSuffix(s, "G"):
		scale = 1e9
	}
	f, err := strconv.ParseFloat(strings.TrimRight(s, "kMG"), 64)
	if err != nil || !(f >= 0 && f*scale < 1e15) {
		return 0, fmt.Errorf("want a rate such as 800k, 8M or 1G")
	}
	return BitRate(f * scale), nil
}
