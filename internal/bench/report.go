//go:build linux

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// A report prints tables, as text or as Markdown.
type report struct {
	w        io.Writer
	markdown bool
}

func (r *report) note(format string, args ...any) {
	fmt.Fprintf(r.w, format+"\n", args...)
	if r.markdown {
		fmt.Fprintln(r.w)
	}
}

// A table is what one question gives: a row for each thing compared.
type table struct {
	title   string
	command string // that made it, or part of it
	columns []string
	rows    [][]string
	notes   []string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (r *report) table(t *table) {
	if r.markdown {
		fmt.Fprintf(r.w, "\n### %s\n\n", t.title)
		line := func(cells []string) { fmt.Fprintf(r.w, "| %s |\n", strings.Join(cells, " | ")) }
		line(t.columns)
		line(slices.Repeat([]string{"---"}, len(t.columns)))
		for _, row := range t.rows {
			line(row)
		}
		fmt.Fprintln(r.w)
		for _, n := range t.notes {
			fmt.Fprintf(r.w, "%s\n\n", n)
		}
		if t.command != "" {
			fmt.Fprintf(r.w, "    %s\n\n", t.command)
		}
		return
	}
	fmt.Fprintf(r.w, "\n%s\n", t.title)
	if t.command != "" {
		fmt.Fprintf(r.w, "  $ %s\n", t.command)
	}
	widths := make([]int, len(t.columns))
	for _, row := range append([][]string{t.columns}, t.rows...) {
		for i, c := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range append([][]string{t.columns}, t.rows...) {
		var line strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i == 0 {
				line.WriteString("  " + c + pad)
			} else {
				line.WriteString("  " + pad + c)
			}
		}
		fmt.Fprintln(r.w, strings.TrimRight(line.String(), " "))
	}
	for _, n := range t.notes {
		fmt.Fprintf(r.w, "  %s\n", n)
	}
}

// median is the middle value, of an even number the lower one of the two.
func median[T cmp.Ordered](v []T) T {
	var zero T
	if len(v) == 0 {
		return zero
	}
	s := slices.Sorted(slices.Values(v))
	return s[(len(s)-1)/2]
}

// each is f of each.
func each[T any](all []T, f func(T) float64) (v []float64) {
	for _, x := range all {
		v = append(v, f(x))
	}
	return v
}

// quantile q of values, 0 to 1, by rank.
func quantile[T cmp.Ordered](v []T, q float64) T {
	var zero T
	if len(v) == 0 {
		return zero
	}
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// spread is the median and, in brackets where they differ, the least and the greatest.
func spread(format string, v []float64) string {
	if len(v) == 0 {
		return "-"
	}
	mid, least, most := fmt.Sprintf(format, median(v)), fmt.Sprintf(format, slices.Min(v)), fmt.Sprintf(format, slices.Max(v))
	if least == most {
		return mid
	}
	return fmt.Sprintf("%s [%s %s]", mid, least, most)
}
