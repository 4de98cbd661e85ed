package differential

import (
	"fmt"
	"strings"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
)

// world is what one seed draws: a schema, what it holds at several revisions, and what is asked.
type world struct {
	seed     uint64
	artist   artist
	schema   *schema
	rows     []tuple.Relationship
	deep     bool
	subjects int
}

// drawWorld draws the world of a seed.
func drawWorld(seed uint64, now time.Time) *world {
	w := &world{seed: seed, artist: newArtist(seed), subjects: 14}
	a := w.artist
	if a.chance(8) {
		w.deep = true
		w.schema, w.rows = a.deep(now)
		return w
	}
	if a.chance(12) {
		w.schema, w.rows = a.pools(now)
		return w
	}
	w.schema = a.schema()
	w.rows = a.rows(w.schema, 6+a.IntN(80), now)
	if a.chance(15) {
		w.rows = append(w.rows, a.wide(w.schema, now)...)
	}
	if a.chance(10) {
		w.rows = append(w.rows, a.stray(w.schema, now)...)
	}
	return w
}

// deep draws chains about as long as a check may be.
func (a artist) deep(now time.Time) (*schema, []tuple.Relationship) {
	operand := func(text string) *expr { return &expr{text: text} }
	s := &schema{types: []*definition{
		{name: "user"},
		{
			name: "group",
			relations: []*relation{
				{name: "mem", allowed: []allowed{{subject: "user"}, {subject: "user", caveat: "lit"}, {subject: "group#mem"}, {subject: "group#per0"}, {subject: "group#per1"}}},
				{name: "sup", allowed: []allowed{{subject: "group"}, {subject: "group", caveat: "over"}}},
			},
			permissions: []*permission{
				{name: "per0", expr: operand("mem")},
				{name: "per1", expr: operand("mem + nil")},
				{name: "per2", expr: operand(oneOf(a, []string{"sup->per2 + mem", "mem + sup->per2", "sup->per2 + self", "mem + sup.any(per2) + sup->gone"}))},
				{name: "per3", expr: operand(oneOf(a, []string{"sup.all(per3) + mem", "mem & sup->per2", "mem - sup->per3", "sup->per2 - sup->mem", "per2 & (per1 + per0)"}))},
			},
		},
		{
			name:        "folder",
			relations:   []*relation{{name: "own", allowed: []allowed{{subject: "group"}, {subject: "group#mem"}}}},
			permissions: []*permission{{name: "per0", expr: operand("own")}, {name: "per1", expr: operand("own->per2 - own->per3")}, {name: "per2", expr: operand("own.all(per0)")}},
		},
	}}
	length := 44 + a.IntN(10)
	names := func(i int) string { return fmt.Sprintf("n%02d", i) }
	var rows []tuple.Relationship
	add := func(resource, subject tuple.ObjectAndRelation, caveat string) {
		rel := a.row(resource, allowed{subject: "user", caveat: caveat}, now)
		rel.Subject = subject
		rows = append(rows, rel)
	}
	kinds := [][]string{{"mem"}, {"mem", "mem", "mem", "per0", "per1"}, {"per0"}, {"sup"}, {"sup", "mem"}}[a.IntN(5)]
	for i := range length {
		switch kind := oneOf(a, kinds); kind {
		case "sup":
			caveat := ""
			if a.chance(5) {
				caveat = "over"
			}
			add(tuple.ONR("group", names(i), "sup"), tuple.ONR("group", names(i+1), tuple.Ellipsis), caveat)
		default:
			add(tuple.ONR("group", names(i), "mem"), tuple.ONR("group", names(i+1), kind), "")
		}
	}
	for i := range 6 {
		add(tuple.ONR("folder", oneOf(a, ids), "own"), tuple.ONR("group", names(a.IntN(8)), oneOf(a, []string{"mem", tuple.Ellipsis})), "")
		at := length
		if i > 1 {
			at = a.IntN(length + 1)
		}
		add(tuple.ONR("group", names(at), "mem"), tuple.ONR("user", people[i%2], tuple.Ellipsis), oneOf(a, []string{"", "", "lit"}))
	}
	if a.chance(25) {
		add(tuple.ONR("group", names(length), "mem"), tuple.ONR("group", names(a.IntN(length)), "mem"), "")
	}
	return s, rows
}

// pools draws a small hierarchy whose objects share their parents, under different caveats: what SpiceDB
// evaluates for several of them at once must not be mixed.
func (a artist) pools(now time.Time) (*schema, []tuple.Relationship) {
	operand := func(texts ...string) *expr { return &expr{text: oneOf(a, texts)} }
	s := &schema{types: []*definition{
		{name: "user"},
		{
			name:        "group",
			relations:   []*relation{{name: "mem", allowed: []allowed{{subject: "user"}, {subject: "user", caveat: "lit"}, {subject: "group#mem"}, {subject: "group#mem", caveat: "word"}}}},
			permissions: []*permission{{name: "per0", expr: operand("mem", "mem + self", "mem - nil")}},
		},
		{
			name: "folder",
			relations: []*relation{
				{name: "sup", allowed: []allowed{{subject: "group"}, {subject: "group", caveat: "over"}, {subject: "group", caveat: "half"}, {subject: "folder"}}},
				{name: "read", allowed: []allowed{{subject: "group#mem"}, {subject: "group#mem", caveat: "over"}, {subject: "folder#per0"}}},
			},
			permissions: []*permission{
				{name: "per0", expr: operand("sup.all(mem)", "sup.all(per0)", "sup.all(mem) + read", "read & sup.all(mem)")},
				{name: "per1", expr: operand("read - sup.all(mem)", "sup->mem - sup.all(per0)", "sup.all(mem) - read", "sup.all(per1) + read")},
				{name: "per2", expr: operand("sup.all(mem) & sup.any(per0)", "per0 + per1", "read")},
			},
		},
		{
			name: "team",
			relations: []*relation{
				{name: "own", allowed: []allowed{{subject: "folder"}, {subject: "folder", caveat: "lit"}}},
				{name: "read", allowed: []allowed{{subject: "folder#per0"}, {subject: "folder#per0", caveat: "word"}, {subject: "folder#per1"}}},
			},
			permissions: []*permission{
				{name: "per0", expr: operand("own->per0", "own.all(per0)", "own->per0 + read")},
				{name: "per1", expr: operand("own->per1", "own.all(per1)", "own->per0 - own->per1", "read - own->per1")},
				{name: "per2", expr: operand("own->per2", "own->per0 & own->per1", "own.all(per2) + read")},
			},
		},
	}}
	var rows []tuple.Relationship
	// sprinkle draws rows from every object of a type to every one of another.
	sprinkle := func(objectType, relation, subject string, percent int, caveats ...string) {
		to, name, found := strings.Cut(subject, "#")
		if !found {
			name = tuple.Ellipsis
		}
		for _, from := range ids {
			for i := range 3 {
				id := ids[i]
				if to == "user" {
					id = people[i]
				}
				if a.chance(percent) {
					rel := a.row(tuple.ONR(objectType, from, relation), allowed{subject: "user", caveat: oneOf(a, caveats)}, now)
					rel.Subject = tuple.ONR(to, id, name)
					rows = append(rows, rel)
				}
			}
		}
	}
	sprinkle("group", "mem", "user", 70, "", "", "", "lit")
	sprinkle("folder", "sup", "group", 50, "", "over", "half")
	sprinkle("folder", "read", "group#mem", 25, "", "over")
	sprinkle("team", "own", "folder", 50, "", "", "lit")
	sprinkle("team", "read", "folder#per0", 25, "", "word")
	sprinkle("team", "read", "folder#per1", 15, "")
	if a.chance(20) {
		rows = append(rows, a.rows(s, a.IntN(10), now)...)
	}
	return s, rows
}

// editions publishes a world and changes it: at each revision that is returned something else holds.
func (w *world) editions(d *desk, now time.Time) ([]*edition, error) {
	a := w.artist
	first, err := d.publish(w.schema.String(), w.rows)
	if err != nil {
		return nil, err
	}
	first.schema = w.schema.clone()
	all := []*edition{first}
	if w.deep || a.chance(40) {
		return all, nil
	}
	var gone, touched []tuple.Relationship
	for _, rel := range first.rows {
		switch roll := a.IntN(100); {
		case roll < 20:
			gone = append(gone, rel)
		case roll < 35:
			rel.OptionalExpiration = a.expiration(now)
			touched = append(touched, rel)
		case roll < 45:
			rel.OptionalCaveat, rel.OptionalExpiration = nil, nil
			touched = append(touched, rel)
		}
	}
	there := map[string]bool{}
	for _, rel := range first.rows {
		there[rel.String()] = true
	}
	for _, rel := range a.rows(w.schema, a.IntN(10), now) {
		if key := rel.String(); !there[key] {
			there[key] = true
			touched = append(touched, rel)
		}
	}
	second, err := d.change(first, gone, touched)
	if err != nil {
		return nil, err
	}
	second.schema = first.schema
	all = append(all, second)
	if !a.chance(50) {
		return all, nil
	}
	for _, t := range w.schema.types[1:] {
		a.permit(t)
	}
	third, err := d.restate(w.schema.String())
	if err != nil {
		// A schema that SpiceDB refuses changes nothing.
		return all, nil //nolint:nilerr // see above
	}
	third.schema = w.schema.clone()
	return append(all, third), nil
}

// questions draws what is asked at a revision. Few subjects and all resources: dense where it counts.
func (w *world) questions(e *edition, most int) []question {
	a := w.artist
	var resources, usersets []tuple.ObjectAndRelation
	if w.deep {
		for i := range 14 {
			for _, name := range []string{"mem", "per0", "per1", "per2", "per3"} {
				resources = append(resources, tuple.ONR("group", fmt.Sprintf("n%02d", i), name))
				usersets = append(usersets, tuple.ONR("group", fmt.Sprintf("n%02d", 40+i), name))
			}
		}
	}
	for _, d := range w.schema.types {
		all := ids
		if d.name == "user" {
			all = people
		}
		if w.deep && d.name == "group" {
			continue
		}
		for _, id := range all {
			for _, name := range d.names() {
				resources = append(resources, tuple.ONR(d.name, id, name))
			}
			for _, name := range append(d.names(), tuple.Ellipsis) {
				usersets = append(usersets, tuple.ONR(d.name, id, name))
			}
		}
		for _, name := range d.names() {
			resources = append(resources, tuple.ONR(d.name, "nobody", name))
		}
	}
	subjects := []tuple.ObjectAndRelation{tuple.ONR("user", "ann", tuple.Ellipsis), tuple.ONR("user", "bob", tuple.Ellipsis)}
	if a.chance(30) {
		subjects = append(subjects, oneOf(a, []tuple.ObjectAndRelation{
			tuple.ONR("user", "cat", tuple.Ellipsis), tuple.ONR("user", "nobody", tuple.Ellipsis), tuple.ONR("group", "nobody", "mem"),
			tuple.ONR("ghost", "x", tuple.Ellipsis), tuple.ONR("user", "ann", "gone"), tuple.ONR("user", tuple.PublicWildcard, tuple.Ellipsis),
		}))
	}
	for range w.subjects {
		// Mostly such as some relationship names.
		if rel := oneOf(a, append([]tuple.Relationship{{}}, e.rows...)); rel.Subject.ObjectID != "" && rel.Subject.ObjectID != tuple.PublicWildcard && a.chance(70) {
			subjects = append(subjects, rel.Subject)
		} else {
			subjects = append(subjects, oneOf(a, usersets))
		}
	}
	contexts := []map[string]any{nil, a.context(fieldNames, 80, 0), a.context(fieldNames, 90, 0), a.context(fieldNames, 50, 8)}
	var all []question
	for _, s := range subjects {
		for _, r := range resources {
			for _, c := range contexts {
				all = append(all, question{r, s, c})
			}
		}
	}
	a.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(most, len(all))]
}
