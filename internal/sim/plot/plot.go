// Package plot draws line charts as SVG: small files that are readable in a
// browser, in a page of Markdown, and in print, light or dark.
package plot

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Chart is one picture.
type Chart struct {
	Title string
	// X and Y name the axes, units included.
	X, Y string
	// LogX and LogY make an axis logarithmic; values there are above 0.
	LogX, LogY bool
	// Least and Most bound the y-axis; both 0 leaves that to the values.
	Least, Most float64
	// Target, if not NaN and not 0, is a line across with its meaning.
	Target     float64
	TargetName string
	Series     []Series
}

// Series is one line, or with Points marks of their own.
type Series struct {
	Name   string
	X, Y   []float64 // a NaN in Y is a gap
	Low    []float64 // if not nil, with High: the range that the line is the middle of
	High   []float64
	Dashed bool
}

const (
	width, height            = 720, 400
	left, right, top, bottom = 72, 24, 52, 84
)

// colours are told apart by people who see few colours (Okabe and Ito).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9"}

// axis turns values into places.
type axis struct {
	from, to float64
	log      bool
	a, b     float64 // pixels
}

func (x *axis) at(v float64) float64 {
	from, to := x.from, x.to
	if x.log {
		from, to, v = math.Log10(from), math.Log10(to), math.Log10(v)
	}
	return x.a + (v-from)/(to-from)*(x.b-x.a)
}

// ticks are round values within the axis.
func (x *axis) ticks() (t []float64) {
	if x.log {
		for e := math.Floor(math.Log10(x.from)); e <= math.Ceil(math.Log10(x.to)); e++ {
			if v := math.Pow(10, e); v >= x.from*0.999 && v <= x.to*1.001 {
				t = append(t, v)
			}
		}
		if len(t) >= 2 {
			return t
		}
		t = t[:0]
	}
	step := math.Pow(10, math.Floor(math.Log10((x.to-x.from)/4)))
	for _, f := range []float64{1, 2, 2.5, 5, 10} {
		if (x.to-x.from)/(step*f) <= 6.01 {
			step *= f
			break
		}
	}
	for v := math.Ceil(x.from/step-1e-9) * step; v <= x.to+step*1e-6; v += step {
		t = append(t, math.Round(v/step)*step+0) // +0: no −0
	}
	return t
}

func label(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) >= 1000 {
		s := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		if v < 0 {
			s = "−" + s
		}
		return s
	}
	return strings.Replace(strconv.FormatFloat(v, 'g', 6, 64), "-", "−", 1)
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}

// SVG is the picture as a file.
func (c *Chart) SVG() []byte {
	x, y := c.axes()
	entries, rows := c.entries()
	whole := height + max(0, rows-1)*legendRow
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="%s">`+"\n",
		width, whole, width, whole, escape(c.Title))
	b.WriteString(`<style>.bg{fill:#fff}text{fill:#333}.grid{stroke:#ddd}.axis{stroke:#666}.target{stroke:#888;stroke-dasharray:2 4}
@media (prefers-color-scheme:dark){.bg{fill:#16181c}text{fill:#ddd}.grid{stroke:#333}.axis{stroke:#999}}</style>` + "\n")
	fmt.Fprintf(&b, `<rect class="bg" width="%d" height="%d"/>`+"\n", width, whole)
	fmt.Fprintf(&b, `<text x="%d" y="28" font-size="16" font-weight="600">%s</text>`+"\n", left, escape(c.Title))
	for _, t := range y.ticks() {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, width-right, y.at(t), y.at(t), left-8, y.at(t)+4.5, label(t))
	}
	for _, t := range x.ticks() {
		fmt.Fprintf(&b, `<line class="axis" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x.at(t), x.at(t), height-bottom, height-bottom+5, x.at(t), height-bottom+20, label(t))
	}
	fmt.Fprintf(&b, `<line class="axis" x1="%d" x2="%d" y1="%d" y2="%d"/>`+"\n", left, width-right, height-bottom, height-bottom)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+width-right)/2, height-bottom+40, escape(c.X))
	fmt.Fprintf(&b, `<text x="18" y="%d" text-anchor="middle" transform="rotate(-90 18 %d)">%s</text>`+"\n", (top+height-bottom)/2, (top+height-bottom)/2, escape(c.Y))
	if c.Target != 0 && c.Target >= y.from && c.Target <= y.to {
		fmt.Fprintf(&b, `<line class="target" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text x="%d" y="%.1f" text-anchor="end" font-size="11">%s</text>`+"\n",
			left, width-right, y.at(c.Target), y.at(c.Target), width-right, y.at(c.Target)-4, escape(c.TargetName))
	}
	for i := range c.Series {
		c.line(&b, &c.Series[i], c.colour(i), x, y)
	}
	for _, e := range entries {
		e.draw(&b)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// axes are wide enough for all values.
func (c *Chart) axes() (x, y *axis) {
	x = &axis{from: math.Inf(1), to: math.Inf(-1), log: c.LogX, a: left, b: width - right}
	y = &axis{from: math.Inf(1), to: math.Inf(-1), log: c.LogY, a: height - bottom, b: top}
	take := func(a *axis, v float64) {
		if !math.IsNaN(v) && !math.IsInf(v, 0) && (!a.log || v > 0) {
			a.from, a.to = min(a.from, v), max(a.to, v)
		}
	}
	for _, s := range c.Series {
		for i, v := range s.Y {
			take(x, s.X[i])
			take(y, v)
			if s.Low != nil {
				take(y, s.Low[i])
				take(y, s.High[i])
			}
		}
	}
	if c.Least != 0 || c.Most != 0 {
		y.from, y.to = c.Least, c.Most
	} else if !y.log {
		y.from = min(y.from, 0)
		y.to += (y.to - y.from) * 0.05
	}
	for _, a := range []*axis{x, y} {
		if a.from > a.to { // nothing at all
			a.from, a.to = 1, 2
		}
		if a.from == a.to {
			a.to = a.from + max(1, math.Abs(a.from)/10)
		}
	}
	return x, y
}

// line draws a series, its gaps left out.
func (c *Chart) line(b *bytes.Buffer, s *Series, colour string, x, y *axis) {
	inside := func(v float64) float64 { return min(max(y.at(v), top-4), height-bottom) }
	shown := func(i int) bool {
		return !math.IsNaN(s.Y[i]) && (!y.log || s.Y[i] > 0) && (!x.log || s.X[i] > 0)
	}
	if s.Low != nil {
		var path strings.Builder
		for i := range s.X {
			fmt.Fprintf(&path, "%.1f,%.1f ", x.at(s.X[i]), inside(s.High[i]))
		}
		for i := len(s.X) - 1; i >= 0; i-- {
			fmt.Fprintf(&path, "%.1f,%.1f ", x.at(s.X[i]), inside(s.Low[i]))
		}
		fmt.Fprintf(b, `<polygon points="%s" fill="%s" opacity="0.15"/>`+"\n", strings.TrimSpace(path.String()), colour)
	}
	dash := s.dash()
	for i := 0; i < len(s.X); {
		var path strings.Builder
		n := 0
		for ; i < len(s.X) && shown(i); i++ {
			fmt.Fprintf(&path, "%.1f,%.1f ", x.at(s.X[i]), inside(s.Y[i]))
			n++
		}
		if n > 1 {
			fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.TrimSpace(path.String()), colour, dash)
		}
		for i < len(s.X) && !shown(i) {
			i++
		}
	}
	if len(s.X) <= 20 {
		for i := range s.X {
			if shown(i) {
				fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`, x.at(s.X[i]), inside(s.Y[i]), colour)
			}
		}
		b.WriteByte('\n')
	}
}

// dash is the attribute of a dashed line.
func (s *Series) dash() string {
	if s.Dashed {
		return ` stroke-dasharray="6 4"`
	}
	return ""
}

// colour is that of a series: the dashed ones have the same again.
func (c *Chart) colour(i int) string {
	k := 0
	for _, s := range c.Series[:i] {
		if s.Dashed == c.Series[i].Dashed {
			k++
		}
	}
	return colours[k%len(colours)]
}

// legendRow is how high a row of the legend is.
const legendRow = 20

// entry is a series in the legend.
type entry struct {
	x      float64
	y      int
	dash   string
	colour string
	name   string
}

// entries names the series below the chart, where there is more than one, in
// as many rows as it takes.
func (c *Chart) entries() (all []entry, rows int) {
	if len(c.Series) < 2 {
		return nil, 0
	}
	at := float64(left)
	for i, s := range c.Series {
		wide := 28 + 7.2*float64(len([]rune(s.Name)))
		if rows == 0 || at+wide > width-right {
			at = float64(left)
			rows++
		}
		all = append(all, entry{at, height - 16 + (rows-1)*legendRow, s.dash(), c.colour(i), s.Name})
		at += wide + 22
	}
	return all, rows
}

func (e *entry) draw(b *bytes.Buffer) {
	fmt.Fprintf(b, `<line x1="%.0f" x2="%.0f" y1="%d" y2="%d" stroke="%s" stroke-width="3"%s/><text x="%.0f" y="%d">%s</text>`+"\n",
		e.x, e.x+22, e.y, e.y, e.colour, e.dash, e.x+28, e.y+5, escape(e.name))
}
