package reach

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/notation"
)

// canvas collects the elements of an SVG. Coordinates are pixels at the picture's own size.
type canvas struct{ b strings.Builder }

// escape returns text for XML. What cannot be seen is written as Go does it, so that no id moves or hides what stands beside it.
func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(notation.Visible(text))) // a Builder takes everything
	return b.String()
}

// bold is how much wider bold letters are.
const bold = 1.09

// px writes a coordinate.
func px(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// addf writes one element.
func (c *canvas) addf(format string, args ...any) { fmt.Fprintf(&c.b, format+"\n", args...) }

// box draws a rectangle with round corners.
func (c *canvas) box(class string, x, y, w, h float64) {
	c.addf(`<rect class="%s" x="%s" y="%s" width="%s" height="%s" rx="6"/>`, class, px(x), px(y), px(w), px(h))
}

// line draws a line through points: "x y x y …", with an arrow's head at its end if the class is "edge arrow".
func (c *canvas) line(class string, points ...float64) {
	var path strings.Builder
	for i, of := range slices.Collect(slices.Chunk(points, 2)) {
		command := "L"
		if i == 0 {
			command = "M"
		}
		path.WriteString(command + px(of[0]) + " " + px(of[len(of)-1]))
	}
	head := ""
	if strings.HasSuffix(class, "arrow") {
		head = ` marker-end="url(#head)"`
	}
	c.addf(`<path class="%s" d="%s"%s/>`, class, path.String(), head)
}

// text writes a text that starts at x, and is cut in its middle where it would be wider than room. Then the whole is its title.
func (c *canvas) text(class string, size, x, y, room float64, text string) {
	c.written(class, "start", size, x, y, room, text)
}

// right writes a bold text that ends at x.
func (c *canvas) right(size, x, y, room float64, text string) {
	c.written("bold", "end", size, x, y, room, text)
}

// middle writes a text around x.
func (c *canvas) middle(class string, size, x, y, room float64, text string) {
	c.written(class, "middle", size, x, y, room, text)
}

func (c *canvas) written(class, anchor string, size, x, y, room float64, text string) {
	text = notation.Visible(text)
	if strings.HasPrefix(class, "bold") || class == "no" {
		room /= bold
	}
	shown, title := fit(text, size, room), ""
	if shown != text {
		title = "<title>" + escape(text) + "</title>"
	}
	at := ""
	if anchor != "start" {
		at = ` text-anchor="` + anchor + `"`
	}
	c.addf(`<text class="%s" x="%s" y="%s" font-size="%s"%s>%s%s</text>`, class, px(x), px(y), px(size), at, title, escape(shown))
}

// paragraph writes a text in as many lines as it takes, and returns the y of the line behind the last one.
func (c *canvas) paragraph(class string, size, x, y, room, leading float64, text string) float64 {
	for _, line := range lines(text, size, room) {
		c.text(class, size, x, y, room, line)
		y += leading
	}
	return y
}

// badgeHeight is how high a flag is drawn.
const badgeHeight = 16

// badge draws a flag as a shape with its word, and returns the x behind it. The shape tells flags apart where colours do not.
func (c *canvas) badge(x, y float64, f deputy.ReachFlag) float64 {
	word := FlagWord(f)
	w := badgeWidth(f)
	c.addf(`<rect class="flag" x="%s" y="%s" width="%s" height="%d" rx="8"/>`, px(x), px(y), px(w), badgeHeight)
	mx, my := x+11, y+badgeHeight/2.0
	switch f {
	case deputy.ReachFlag_REACH_FLAG_STANDING: // a triangle
		c.addf(`<path class="mark" d="M%s %sL%s %sL%s %sZ"/>`, px(mx), px(my-4.5), px(mx+5), px(my+4), px(mx-5), px(my+4))
	case deputy.ReachFlag_REACH_FLAG_UNSCOPED: // a diamond
		c.addf(`<path class="mark" d="M%s %sL%s %sL%s %sL%s %sZ"/>`, px(mx), px(my-5), px(mx+5), px(my), px(mx), px(my+5), px(mx-5), px(my))
	case deputy.ReachFlag_REACH_FLAG_WILDCARD: // a star of lines
		c.addf(`<path class="strokes" d="M%s %sV%sM%s %sL%s %sM%s %sL%s %s"/>`, px(mx), px(my-5), px(my+5),
			px(mx-4.5), px(my-2.5), px(mx+4.5), px(my+2.5), px(mx-4.5), px(my+2.5), px(mx+4.5), px(my-2.5))
	case deputy.ReachFlag_REACH_FLAG_SINGLE_SET: // a disc
		c.addf(`<circle class="mark" cx="%s" cy="%s" r="4.5"/>`, px(mx), px(my))
	default: // a square
		c.addf(`<rect class="mark" x="%s" y="%s" width="8" height="8"/>`, px(mx-4), px(my-4))
	}
	c.text("flagged", 10.5, x+20, y+12, w, word)
	return x + w
}

func badgeWidth(f deputy.ReachFlag) float64 { return 28 + width(FlagWord(f), 10.5) }

// fit returns a text that is no wider than room, cut in its middle where it has to be.
func fit(text string, size, room float64) string {
	if width(text, size) <= room {
		return text
	}
	runes := []rune(text)
	for keep := len(runes) - 1; keep > 0; keep-- {
		head := (keep + 1) / 2
		cut := string(runes[:head]) + "…" + string(runes[len(runes)-(keep-head):])
		if width(cut, size) <= room {
			return cut
		}
	}
	return "…"
}

// twoLines cuts a text that is wider than room in two: behind a sign that parts of ids end with if there is one, and in any case where it has to.
func twoLines(text string, size, room float64) []string {
	if width(text, size) <= room {
		return []string{text}
	}
	runes := []rune(text)
	end := 1
	for end < len(runes) && width(string(runes[:end+1]), size) <= room {
		end++
	}
	if at := strings.LastIndexAny(string(runes[:end]), "/@.-:#_ "); at > 0 {
		end = len([]rune(string(runes[:end])[:at+1]))
	}
	return []string{string(runes[:end]), string(runes[end:])}
}

// lines cuts a text at its blanks into lines that are no wider than room. A word that is too wide is a line by itself.
func lines(text string, size, room float64) (all []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		longer := strings.TrimSpace(line + " " + word)
		if line != "" && width(longer, size) > room {
			all = append(all, line)
			longer = word
		}
		line = longer
	}
	return append(all, line)
}

// width estimates how wide a text is, from above: nobody knows in which font it will be drawn, and this is about the widest that is usual for
// text without serifs (DejaVu Sans, Verdana). In a narrower one there is some room left.
func width(text string, size float64) (w float64) {
	for _, r := range text {
		switch {
		case strings.ContainsRune("ijlI'|", r):
			w += 0.32
		case strings.ContainsRune(" ftr.,:;!/\\()[]-`\"", r):
			w += 0.43
		case strings.ContainsRune("mwMW@%…—", r):
			w += 1.02
		case strings.ContainsRune("#+=<>~&OQGDHNU", r):
			w += 0.85
		case r >= 0x80:
			w += 1.05
		case r >= 'A' && r <= 'Z':
			w += 0.72
		default:
			w += 0.645
		}
	}
	return w * size
}

// grouped writes a number with commas: 12,345.
func grouped(n uint64) string {
	text := strconv.FormatUint(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
