package reach

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// How much the picture shows by itself; the rest is shown together.
const (
	shownAgents     = 4
	shownPrincipals = 6
	shownGrants     = 5
	shownRows       = 12
	shownSets       = 3
)

// The columns of the picture, left and width: who acts, for whom, through which grants, how many objects.
const (
	pictureWidth = 900
	margin       = 20.0
	x1, w1       = 20.0, 140.0
	x2, w2       = 196.0, 178.0
	x3, w3       = 410.0, 240.0
	x4, w4       = 704.0, 176.0
	top          = 122.0
	gap          = 30.0
)

// style are the colours, in light and in dark. No meaning hangs on a colour alone.
const style = `
text{font-family:-apple-system,"Segoe UI",Helvetica,Arial,"DejaVu Sans",sans-serif;fill:#1f2328}
.bold{font-weight:600}.mute{fill:#59636e}.head{fill:#59636e;font-weight:600;letter-spacing:.4px}
.page{fill:#fff}.card{fill:#f6f8fa;stroke:#c4ccd4}.pale{fill:none;stroke:#59636e;stroke-dasharray:4 3}
.no{fill:#b42318;font-weight:600}.rule{stroke:#d1d9e0;fill:none}.edge{stroke:#59636e;stroke-width:1.4;fill:none}
.arrowhead{fill:#59636e}.pill{fill:#1f2328}.pilled{fill:#fff;font-weight:700}
.bar{fill:#0969da}.maybe{fill:url(#hatch);stroke:#0969da}.hatching{stroke:#0969da;stroke-width:1.6}
.flag{fill:#fff8c5;stroke:#9a6700}.flagged{fill:#6b4700;font-weight:600}.mark{fill:#9a6700}.strokes{stroke:#9a6700;stroke-width:2;fill:none}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.mute,.head{fill:#9198a1}.page{fill:#0d1117}.card{fill:#151b23;stroke:#3d444d}.pale{stroke:#9198a1}
.no{fill:#ff7b72}.rule{stroke:#3d444d}.edge{stroke:#9198a1}.arrowhead{fill:#9198a1}.pill{fill:#e6edf3}.pilled{fill:#0d1117}
.bar{fill:#4493f8}.maybe{stroke:#4493f8}.hatching{stroke:#4493f8}
.flag{fill:#2b2408;stroke:#d29922}.flagged{fill:#f2cc60}.mark{fill:#d29922}.strokes{stroke:#d29922}}
`

// WritePicture writes a reach as an SVG of 900 pixels' width: who acts, for whom, through which grants, how many objects. of names whose reach
// it is: "agent:triage-bot". The same sum is always the same bytes. All that the picture says is in its description too, as text.
func WritePicture(out io.Writer, of string, s *Sum) error {
	p := &picture{sum: s}
	bottom := p.draw(of)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%s" viewBox="0 0 %[1]d %[2]s" role="img" aria-labelledby="title desc">`+"\n",
		pictureWidth, px(bottom))
	fmt.Fprintf(&b, "<title id=\"title\">%s</title>\n<desc id=\"desc\">%s</desc>\n<style>%s</style>\n", escape("The reach of "+of), escape(Describe(of, s)), style)
	b.WriteString(`<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">` +
		`<path class="arrowhead" d="M0 0L8 4L0 8Z"/></marker>` +
		`<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
		`<path class="hatching" d="M0 0V6"/></pattern></defs>` + "\n")
	fmt.Fprintf(&b, `<rect class="page" width="%d" height="%s" rx="6"/>`+"\n", pictureWidth, px(bottom))
	b.WriteString(p.b.String())
	b.WriteString("</svg>\n")
	if _, err := io.WriteString(out, b.String()); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// picture is one under way.
type picture struct {
	canvas
	sum *Sum
}

// draw draws everything and returns where it ends.
func (p *picture) draw(of string) float64 {
	p.text("bold", 19, margin, 36, pictureWidth-2*margin, "The reach of "+of)
	p.text("", 13, margin, 60, pictureWidth-2*margin,
		"An object counts only where the agent, the principal and the delegation all have the permission on it, in the tenant.")
	for _, head := range []struct {
		x    float64
		text string
	}{{x1, "WHO ACTS"}, {x2, "FOR WHOM"}, {x3, "THROUGH WHICH GRANTS"}, {x4, "HOW MANY RIGHTS"}} {
		p.text("head", 11, head.x, 96, w3, head.text)
	}
	p.line("rule", margin, 104, pictureWidth-margin, 104)

	if p.sum.Parties == 0 {
		p.text("bold", 14, margin, 136, pictureWidth-2*margin, "Nothing is reached: there is no delegation under which it could act.")
		return p.legend(180)
	}
	// Three lanes, one below the other: agents, principals, delegations. Each ends in the grants that it needs.
	agents, panel := p.agents(), p.grants(top, RoleAgent, "Grants to the agent")
	lane1 := top + 20
	lane2 := panel + gap
	people := p.principals(lane2)
	panel2 := p.grants(lane2, RolePrincipal, "Grants to the principal")
	lane3 := max(people, panel2) + gap
	delegation := p.delegations(lane3)
	panel3 := p.grants(lane3, RoleScope, "Passed on by the delegation")

	p.line("edge arrow", x1+w1, lane1, x3-2, lane1)
	p.middle("mute", 10.5, (x2 + w2/2), lane1-6, w2, "what it may do itself")
	p.line("edge arrow", x1+w1, lane1, x1+w1+18, lane1, x1+w1+18, lane2+24, x2-2, lane2+24)
	p.line("edge arrow", x1+w1+18, lane2+24, x1+w1+18, lane3+24, x2-2, lane3+24)
	p.line("edge arrow", x2+w2, lane2+24, x3-2, lane2+24)
	p.line("edge arrow", x2+w2, lane3+24, x3-2, lane3+24)
	p.and(panel+gap/2, max(panel2, lane2)+(lane3-max(panel2, lane2))/2)

	// The bracket: all three at once.
	bus := x3 + w3 + 20
	for _, y := range []float64{lane1, lane2 + 24, lane3 + 24} {
		p.line("edge", x3+w3, y, bus, y)
	}
	p.line("edge", bus, lane1, bus, lane3+24)
	rows := p.rows()
	y := min(lane2+24, rows-24)
	p.line("edge arrow", bus, y, x4-2, y)
	return p.legend(max(agents, people, panel3, delegation, rows) + 34)
}

// and writes what the lanes have to do with each other.
func (p *picture) and(ys ...float64) {
	for _, y := range ys {
		p.addf(`<rect class="pill" x="%s" y="%s" width="44" height="18" rx="9"/>`, px(x3+w3/2-22), px(y-9))
		p.middle("pilled", 11, x3+w3/2, y+4, 44, "AND")
	}
}

// agents draws the first column and returns where it ends.
func (p *picture) agents() float64 {
	all, more := p.sum.Agents()
	y := top
	for i, a := range all[:min(len(all), shownAgents)] {
		if i > 0 {
			p.line("edge", x1+w1, y+24, x1+w1+18, y+24)
		}
		chain := strings.Split(a.Name, " > ")
		if len(chain) > 4 {
			chain = append([]string{chain[0], "…"}, chain[len(chain)-2:]...)
		}
		h := 30 + 18*float64(len(chain))
		p.box("card", x1, y, w1, h)
		for i, name := range chain {
			if i > 0 {
				name = "↳ " + name
			}
			p.text("bold", 13, x1+10, y+20+18*float64(i), w1-20, name)
		}
		p.text("mute", 11, x1+10, y+h-10, w1-20, rights(a.Rights))
		y += h + 10
	}
	if rest := len(all) - shownAgents + more; rest > 0 {
		p.text("mute", 11.5, x1+10, y+8, w1-20, fmt.Sprintf("and %s", Plural(uint64(rest), "more chain")))
		y += 20
	}
	return y
}

// principals draws whom the agents act for, from y on, and returns where that ends.
func (p *picture) principals(y float64) float64 {
	all, more := p.sum.Principals()
	first := y + 24
	for i, a := range all[:min(len(all), shownPrincipals)] {
		class := "card"
		if a.Refused == a.Parties {
			class = "pale"
		}
		name := twoLines(a.Name, 13*bold, w2-20)
		h := 40 + 16*float64(len(name))
		if i > 0 {
			p.line("edge arrow", x1+w1+18, y+24, x2-2, y+24)
		}
		if i > 0 && class == "card" {
			p.line("edge", x2+w2, y+24, x2+w2+14, y+24, x2+w2+14, first)
		}
		p.box(class, x2, y, w2, h)
		at := y + 3
		for _, line := range name {
			at += 16
			p.text("bold", 13, x2+10, at, w2-20, line)
		}
		p.text("mute", 11, x2+10, at+15, w2-20, "in tenant "+a.Tenant)
		if class == "pale" {
			p.text("no", 11, x2+10, at+30, w2-20, "✕ refused by "+Gate(a.By))
		} else {
			p.text("", 11, x2+10, at+30, w2-20, rights(a.Rights))
		}
		y += h + 8
	}
	if rest := len(all) - shownPrincipals + more; rest > 0 {
		var n uint64
		for _, a := range all[min(len(all), shownPrincipals):] {
			n += a.Rights
		}
		p.box("card", x2, y, w2, 38)
		p.text("", 12, x2+10, y+16, w2-20, "and "+grouped(uint64(rest))+" more")
		p.text("mute", 11, x2+10, y+31, w2-20, rights(n))
		y += 46
	}
	return y - 8
}

// delegations draws by what the agents act, from y on, and returns where that ends.
func (p *picture) delegations(y float64) float64 {
	s := p.sum
	start := y
	var inner picture
	inner.text("bold", 13, x2+10, y+19, w2-20, Plural(uint64(s.delegations()), "delegation")) //nolint:gosec // a count
	when := []string{"by which it acts, until", s.until.Last.UTC().Format(time.RFC3339)}
	switch {
	case s.until.Endless:
		when = []string{"by which it acts", "and which have no end"}
	case s.until.Last.IsZero():
		when = []string{"by which it can act now"}
	}
	y += 20
	for _, line := range when {
		y += 15
		inner.text("mute", 11, x2+10, y, w2-20, line)
	}
	y += 8
	for _, f := range s.party {
		if f == deputy.ReachFlag_REACH_FLAG_STANDING && !s.until.Endless {
			continue // of a session of the past, and told at the grants
		}
		inner.badge(x2+8, y, f)
		y += badgeHeight + 4
	}
	p.box("card", x2, start, w2, y+2-start)
	p.b.WriteString(inner.b.String())
	return y + 2
}

// grants draws the grants to a role, from y on, and returns where that ends.
func (p *picture) grants(y float64, role Role, title string) float64 {
	s := p.sum
	start := y
	var inner picture
	inner.sum = s
	inner.text("bold", 12.5, x3+10, y+20, w3-20, title)
	y += 30
	all, others := s.Grants(role)
	for _, g := range all[:min(len(all), shownGrants)] {
		y = inner.grant(y, g, role)
	}
	for _, g := range all[min(len(all), shownGrants):] {
		others += g.Rights
	}
	if others > 0 {
		inner.text("mute", 11.5, x3+10, y+14, w3-80, "through other grants")
		inner.right(12, x3+w3-10, y+14, w3, grouped(others))
		y += 22
	}
	if role == RoleScope && s.unscoped > 0 {
		text := "everything that is left: no scope"
		if s.scoped > 0 {
			text = "everything that is left, where there is no scope"
		}
		y = inner.paragraph("", 11.5, x3+10, y+14, w3-20, 15, text) - 4
	}
	switch {
	case len(all) > 0 || others > 0 || role == RoleScope && s.scoped == 0:
	case s.Granted && s.Rights() > 0 && role == RoleScope:
		y = inner.paragraph("mute", 11.5, x3+10, y+14, w3-20, 15, "what is in its scope") - 4
	case s.Rights() == 0:
		y = inner.paragraph("mute", 11.5, x3+10, y+14, w3-20, 15, "none that leads to anything") - 4
	default:
		y = inner.paragraph("mute", 11.5, x3+10, y+14, w3-20, 15, "which ones was not asked") - 4
	}
	y = inner.sets(y, role)
	y += 8
	p.box("card", x3, start, w3, y-start)
	p.b.WriteString(inner.b.String())
	return y
}

// grant draws grants of one kind.
func (p *picture) grant(y float64, g *Grants, role Role) float64 {
	var flags []deputy.ReachFlag
	if g.WithoutEnd > 0 && (role == RoleAgent || role == RoleScope && p.sum.until.Endless) {
		flags = append(flags, deputy.ReachFlag_REACH_FLAG_STANDING)
	}
	if g.Everybody {
		flags = append(flags, deputy.ReachFlag_REACH_FLAG_WILDCARD)
	}
	return p.entry(y, g.Relation+" of "+g.Type, g.How, g.Rights, flags...)
}

// entry draws two lines in the third column, with a number, and flags behind the second line, or below it where there is no room.
func (p *picture) entry(y float64, first, second string, rights uint64, flags ...deputy.ReachFlag) float64 {
	number := grouped(rights)
	p.text("", 12, x3+10, y+14, w3-28-width(number, 12*bold), first)
	p.right(12, x3+w3-10, y+14, w3, number)
	p.text("mute", 11, x3+10, y+29, w3-20, second)
	var all float64
	for _, f := range flags {
		all += badgeWidth(f) + 6
	}
	x, at := x3+w3-4-all, y+18
	switch {
	case all == 0:
		return y + 38
	case width(second, 11)+8+all > w3-14:
		x, at = x3+8, y+35
		y += 22
	}
	for _, f := range flags {
		x = p.badge(x, at, f) + 6
	}
	return y + 40
}

// sets draws the memberships without which rights of a role would be gone.
func (p *picture) sets(y float64, role Role) float64 {
	all := slices.DeleteFunc(p.sum.Sets(), func(s *Set) bool { return s.Role != role })
	for i, s := range all[:min(len(all), shownSets)] {
		if i == 0 {
			p.line("rule", x3+10, y+4, x3+w3-10, y+4)
			y += 8
		}
		y = p.entry(y, s.Name, "only while "+s.Holder+" is in it", s.Rights, deputy.ReachFlag_REACH_FLAG_SINGLE_SET)
	}
	if len(all) > shownSets {
		p.text("mute", 11, x3+10, y+12, w3-20, fmt.Sprintf("and %d more such memberships", len(all)-shownSets))
		y += 20
	}
	return y
}

// rows draws the last column and returns where it ends.
func (p *picture) rows() float64 {
	s := p.sum
	all := s.Rows()
	slices.SortStableFunc(all, func(a, b Row) int { return cmp.Compare(b.Has+b.Conditional, a.Has+a.Conditional) })
	var most uint64
	for _, r := range all {
		most = max(most, r.Has+r.Conditional)
	}
	var inner picture
	y := inner.paragraph("mute", 11, x4+10, top+18, w4-20, 14, "only in "+tenants(s.Tenants())) - 4
	for _, r := range all[:min(len(all), shownRows)] {
		y = inner.row(y+10, r, most)
	}
	if len(all) > shownRows {
		var n uint64
		for _, r := range all[shownRows:] {
			n += r.Has + r.Conditional
		}
		inner.text("mute", 11.5, x4+10, y+20, w4-70, fmt.Sprintf("and %d more", len(all)-shownRows))
		inner.right(12, x4+w4-10, y+20, w4, grouped(n))
		y += 26
	}
	if len(all) == 0 {
		inner.text("bold", 14, x4+10, y+22, w4-20, "nothing")
		y += 28
	} else {
		inner.line("rule", x4+10, y+12, x4+w4-10, y+12)
		number := grouped(s.Rights())
		inner.right(13, x4+w4-10, y+31, w4, number)
		inner.text("", 12, x4+10, y+31, w4-28-width(number, 13*bold), "in all")
		y += 36
	}
	y += 8
	p.box("card", x4, top, w4, y-top)
	p.b.WriteString(inner.b.String())
	return y
}

// row draws how much of a type is reached with a permission.
func (p *picture) row(y float64, r Row, most uint64) float64 {
	number := grouped(r.Has + r.Conditional)
	label, beside := r.Type+" "+r.Permission, w4-28-width(number, 13*bold)
	if width(label, 12.5) > beside {
		p.text("", 12.5, x4+10, y+12, w4-20, r.Type)
		label = r.Permission
		y += 16
	}
	p.text("", 12.5, x4+10, y+12, beside, label)
	p.right(13, x4+w4-10, y+12, w4, number)
	full := w4 - 20
	long := func(n uint64) float64 {
		if n == 0 || most == 0 {
			return 0
		}
		return max(2, float64(int(full*float64(n)/float64(most)*10))/10)
	}
	has := long(r.Has)
	if r.Has > 0 {
		p.addf(`<rect class="bar" x="%s" y="%s" width="%s" height="8"/>`, px(x4+10), px(y+19), px(has))
	}
	if r.Conditional > 0 {
		p.addf(`<rect class="maybe" x="%s" y="%s" width="%s" height="8"/>`, px(x4+10+has), px(y+19), px(min(long(r.Conditional), full-has+2)))
	}
	y += 30
	if r.Conditional > 0 {
		p.text("mute", 11, x4+10, y+11, w4-20, grouped(r.Conditional)+" on a condition")
		y += 15
	}
	if r.Failed > 0 {
		p.text("no", 11, x4+10, y+11, w4-20, "? "+grouped(r.Failed)+" more unknown")
		y += 15
	}
	return y
}

// legend says what the flags and the words mean, and returns where the picture ends.
func (p *picture) legend(y float64) float64 {
	p.line("rule", margin, y-16, pictureWidth-margin, y-16)
	for _, f := range p.sum.Flags() {
		p.badge(margin, y-8, f)
		y = p.paragraph("", 12, margin+116, y+4, pictureWidth-2*margin-116, 17, FlagMeaning(f)+".") + 6
	}
	notes := []string{
		"A right is one permission on one object for one principal. A number beside a grant says how many rights come through it; " +
			"of several grants that lead to an object one is shown.",
	}
	if p.sum.Unnamed > 0 {
		notes = append(notes, fmt.Sprintf("%s come through grants that the server does not name here.", rights(p.sum.Unnamed)))
	}
	if p.sum.SetsCut {
		notes = append(notes, "There may be more memberships on which rights hang than were looked at.")
	}
	if p.sum.Refused > 0 {
		notes = append(notes, fmt.Sprintf("Of %d parties (an agent for a principal in a tenant under a delegation) %d can do nothing now, because a gate refuses.",
			p.sum.Parties, p.sum.Refused))
	}
	if p.sum.Frozen {
		notes = append(notes, "A session is frozen: what was granted after its start does not count.")
	}
	notes = append(notes, "This is no answer to act on: it was true at its revision. Before an act, ask.")
	for _, n := range notes {
		y = p.paragraph("mute", 11.5, margin, y+4, pictureWidth-2*margin, 16, n)
	}
	return y + 6
}

func rights(n uint64) string {
	return grouped(n) + strings.TrimPrefix(Plural(n, "right"), fmt.Sprint(n))
}

// tenants names tenants, if they are few.
func tenants(all []string) string {
	switch len(all) {
	case 0:
		return "its tenant"
	case 1:
		return "tenant " + all[0]
	case 2:
		return "tenants " + all[0] + " and " + all[1] + ", each for itself"
	default:
		return fmt.Sprintf("%d tenants, each for itself", len(all))
	}
}
