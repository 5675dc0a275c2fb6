package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// Whatever the values, what comes out is XML whose numbers are numbers.
func TestSVGIsWellFormed(t *testing.T) {
	nan := math.NaN()
	for _, c := range []Chart{
		{Title: `nothing & "nobody" <here>`},
		{Title: "one point", Series: []Series{{Name: "a", X: []float64{1}, Y: []float64{5}}}},
		{Title: "gaps", LogX: true, Y: "%", Least: 99, Most: 100, Target: 99.9, TargetName: "target", Series: []Series{
			{Name: "a", X: []float64{10, 100, 1000, 10000}, Y: []float64{99.5, nan, 100, 98}},
			{Name: "b", X: []float64{10, 100}, Y: []float64{99.2, 99.9}, Low: []float64{99, 99.5}, High: []float64{100, 100}, Dashed: true},
		}},
		{Title: "all the same", LogY: true, Series: []Series{{X: []float64{1, 2}, Y: []float64{0, 0}}}},
	} {
		svg := string(c.SVG())
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v\n%s", c.Title, err, svg)
			}
		}
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
			t.Errorf("%s: a number that is none:\n%s", c.Title, svg)
		}
	}
}

func TestTicksAreRound(t *testing.T) {
	for _, tt := range []struct {
		axis axis
		want []float64
	}{
		{axis{from: 0, to: 1}, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}},
		{axis{from: 99, to: 100}, []float64{99, 99.2, 99.4, 99.6, 99.8, 100}},
		{axis{from: 10, to: 10000, log: true}, []float64{10, 100, 1000, 10000}},
		{axis{from: 0, to: 730}, []float64{0, 200, 400, 600}},
	} {
		got := tt.axis.ticks()
		if len(got) != len(tt.want) {
			t.Errorf("%+v: %v", tt.axis, got)
			continue
		}
		for i := range got {
			if math.Abs(got[i]-tt.want[i]) > 1e-9 {
				t.Errorf("%+v: %v", tt.axis, got)
			}
		}
	}
}
