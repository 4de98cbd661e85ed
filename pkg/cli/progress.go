package cli

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress is a bar on a terminal, and nothing elsewhere: a log of a CI is not filled with it. It is not
// safe for concurrent use.
type progress struct{ bar *progressbar.ProgressBar }

// newProgress draws a bar on w if that is a terminal. total is the greatest count, or -1 where it is
// not known; unit is what is counted.
func newProgress(w io.Writer, description, unit string, total int64) *progress {
	if !isTerminal(w) {
		return &progress{}
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(description),
		progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionFullWidth(),
	}
	if unit == "B" {
		options = append(options, progressbar.OptionShowBytes(true))
	} else {
		options = append(options, progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString(unit))
	}
	return &progress{bar: progressbar.NewOptions64(total, options...)}
}

// add counts n more.
func (p *progress) add(n int64) {
	if p.bar != nil {
		_ = p.bar.Add64(n) // a bar that cannot be drawn stops nothing
	}
}

// Write counts bytes, so that a bar can stand beside a reader.
func (p *progress) Write(b []byte) (int, error) {
	p.add(int64(len(b)))
	return len(b), nil
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Exit()
		_ = p.bar.Clear()
	}
}

// bars are bars one after the other, each for something else. It is not safe for concurrent use.
type bars struct {
	w    io.Writer
	what string
	bar  *progress
}

// show says how many are done of how many.
func (b *bars) show(what string, done, of int) {
	if what != b.what {
		b.clear()
		b.what, b.bar = what, newProgress(b.w, what, "", int64(of))
		b.bar.add(int64(done - 1))
	}
	b.bar.add(1)
}

// clear takes the last bar away.
func (b *bars) clear() {
	if b.bar != nil {
		b.bar.clear()
	}
}

// isTerminal reports whether somebody may be looking at w.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// rate says how many there were and how fast: "1200 relationships in 0.3 s (4000/s)".
func rate(count uint64, took time.Duration) string {
	seconds := max(took.Seconds(), 0.001)
	return fmt.Sprintf("%s in %.1f s (%.0f/s)", plural(count, "relationship"), seconds, float64(count)/seconds)
}
