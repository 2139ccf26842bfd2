package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// bar is one row of the plot: zero for a figure that there is not.
type bar struct {
	name, fsync         string
	ours                bool
	endToEnd, enqueued  float64 // a second
	noEndToEnd, noQueue bool
}

func bars(rows []*row) []bar {
	var all []bar
	for _, r := range rows {
		b := bar{name: r.kind.name, fsync: r.kind.fsync, ours: r.kind.ours}
		b.endToEnd, b.noEndToEnd = median(r.endToEnd), len(r.endToEnd) == 0
		b.enqueued, b.noQueue = medianOf(r.enqueue16, func(e enqueued) float64 { return e.rate }), len(r.enqueue16) == 0
		all = append(all, b)
	}
	return all
}

// Sizes of the plot, in its own units.
const (
	plotWidth  = 1000
	plotLeft   = 340 // where bars begin
	plotRight  = 910 // where the axis ends: a label has room behind it
	plotTop    = 64
	plotStep   = 46 // from row to row
	plotBar    = 13 // height of a bar
	plotBottom = 34
)

// plot draws two bars a row on a logarithmic axis. Colours are told once for light and once for
// dark, by the reader's setting, so that the same file serves both.
func plot(w io.Writer, all []bar) error {
	var out strings.Builder
	lowest, highest := 2, 3 // powers of ten
	for _, b := range all {
		for _, v := range []float64{b.endToEnd, b.enqueued} {
			if v > 0 {
				lowest, highest = min(lowest, int(math.Floor(math.Log10(v)))), max(highest, int(math.Ceil(math.Log10(v))))
			}
		}
	}
	x := func(v float64) float64 {
		at := (math.Log10(max(v, 1e-9)) - float64(lowest)) / float64(highest-lowest)
		return plotLeft + max(at, 0)*(plotRight-plotLeft)
	}
	height := plotTop + plotStep*len(all) + plotBottom
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="Deliveries and accepted events per second">
<style>
text { fill: #24292f } .dim { fill: #57606a } .grid { stroke: #d0d7de } .end { fill: #0969da } .queue { fill: #8250df } .theirs { opacity: .55 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .dim { fill: #9198a1 } .grid { stroke: #3d444d } .end { fill: #4493f8 } .queue { fill: #ab7df8 } }
</style>
`, plotWidth, height)
	fmt.Fprintf(&out, `<rect class="end" x="%d" y="14" width="12" height="12"/><text x="%d" y="25">delivered per second, end to end</text>
<rect class="queue" x="%d" y="14" width="12" height="12"/><text x="%d" y="25">accepted per second, 16 producers</text>
`, plotLeft, plotLeft+18, plotLeft+260, plotLeft+278)
	for power := lowest; power <= highest; power++ {
		at := x(math.Pow(10, float64(power)))
		fmt.Fprintf(&out, `<line class="grid" x1="%.1f" y1="%d" x2="%.1f" y2="%d"/><text class="dim" x="%.1f" y="%d" text-anchor="middle">%s</text>
`, at, plotTop-10, at, height-plotBottom, at, plotTop-16, thousands(math.Pow(10, float64(power))))
	}
	for i, b := range all {
		y := plotTop + i*plotStep
		weight, class := "bold", ""
		if !b.ours {
			weight, class = "normal", " theirs"
		}
		fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="end" font-weight="%s">%s</text><text class="dim" x="%d" y="%d" text-anchor="end" font-size="11">fsync: %s</text>
`, plotLeft-10, y+12, weight, escape(b.name), plotLeft-10, y+27, escape(b.fsync))
		for j, v := range []struct {
			class string
			value float64
			none  bool
		}{{"end", b.endToEnd, b.noEndToEnd}, {"queue", b.enqueued, b.noQueue}} {
			top := y + j*(plotBar+2)
			if v.none {
				fmt.Fprintf(&out, `<text class="dim" x="%d" y="%d" font-size="11">not measured</text>
`, plotLeft+4, top+11)
				continue
			}
			fmt.Fprintf(&out, `<rect class="%s%s" x="%d" y="%d" width="%.1f" height="%d"/><text x="%.1f" y="%d" font-size="11">%s</text>
`, v.class, class, plotLeft, top, max(x(v.value)-plotLeft, 1), plotBar, max(x(v.value), plotLeft+1)+5, top+11, thousands(v.value))
		}
	}
	fmt.Fprintf(&out, `<text class="dim" x="20" y="%d" font-size="11">Logarithmic scale: each line is ten times the one before. Signed JSON bodies of 2 KB, 16 workers, loopback, timeout %s.</text>
</svg>
`, height-10, timeout)
	_, err := io.WriteString(w, out.String())
	return err
}

func escape(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text)) // a Builder takes everything
	return out.String()
}
