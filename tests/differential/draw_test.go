package differential

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/types/known/structpb"
)

// The names that worlds are made of. Few, so that the same name means something on several types.
var (
	people    = []string{"ann", "bob", "cat"}
	ids       = []string{"x", "y", "z"}
	typeNames = []string{"folder", "group", "team"}
	// arrowable relations never have wildcards, which SpiceDB refuses left of an arrow.
	arrowable = []string{"own", "sup"}
	free      = []string{"read", "mem"}
	computed  = []string{"per0", "per1", "per2", "per3"}
)

// caveatTexts are the caveats of every world. Some share a parameter, some of them with another type.
var caveatTexts = map[string]string{
	"over":  "caveat over(level int, least int) { level >= least }",
	"named": "caveat named(name string, names list<string>) { name in names }",
	"lit":   "caveat lit(lamp bool, level int) { lamp || level > 3 }",
	"half":  "caveat half(num int, den int) { num / den > 1 }",
	"pick":  "caveat pick(list list<int>, least int) { list[least] == 1 }",
	"kind":  "caveat kind(attr map<any>) { attr.kind == 'x' }",
	"from":  "caveat from(ip ipaddress) { ip.in_cidr('10.0.0.0/8') }",
	"word":  "caveat word(level string) { level == 'high' }",
}

var caveatNames = slices.Sorted(maps.Keys(caveatTexts))

// caveatFields are the parameters of each caveat.
var caveatFields = map[string][]string{
	"over": {"level", "least"}, "named": {"name", "names"}, "lit": {"lamp", "level"}, "half": {"num", "den"},
	"pick": {"list", "least"}, "kind": {"attr"}, "from": {"ip"}, "word": {"level"},
}

// fieldValues are what is given for a parameter, in JSON. The last one is of the wrong type.
var fieldValues = map[string][]any{
	"level": {1.0, 2.0, 4.0, "high"},
	"least": {0.0, 1.0, 2.0, 5.0, "low"},
	"name":  {"ann", "bob", 7.0},
	"names": {[]any{"ann"}, []any{"bob", "cat"}, []any{}, "ann"},
	"lamp":  {true, false, "on"},
	"num":   {1.0, 4.0, "one"},
	"den":   {1.0, 2.0, 0.0, true},
	"list":  {[]any{1.0, 0.0}, []any{0.0, 1.0, 1.0}, []any{}, "list"},
	"attr":  {map[string]any{"kind": "x"}, map[string]any{"kind": "y"}, map[string]any{"other": 1.0}, 3.0},
	"ip":    {"10.1.2.3", "192.168.0.1", "nowhere"},
}

var fieldNames = slices.Sorted(maps.Keys(fieldValues))

// schema is a schema that can be taken apart.
type schema struct{ types []*definition }

type definition struct {
	name        string
	relations   []*relation
	permissions []*permission
}

type relation struct {
	name    string
	allowed []allowed
}

// allowed is one kind of subject of a relation.
type allowed struct {
	subject  string // type, type#relation or type:*
	caveat   string
	expiring bool
}

func (a allowed) String() string {
	switch {
	case a.caveat != "" && a.expiring:
		return a.subject + " with " + a.caveat + " and expiration"
	case a.caveat != "":
		return a.subject + " with " + a.caveat
	case a.expiring:
		return a.subject + " with expiration"
	default:
		return a.subject
	}
}

type permission struct {
	name string
	expr *expr
}

// expr is an operand, or an operator over some.
type expr struct {
	text  string // of an operand
	op    string // of an operator
	parts []*expr
}

func (e *expr) String() string {
	if e.op == "" {
		return e.text
	}
	texts := make([]string, 0, len(e.parts))
	for _, part := range e.parts {
		texts = append(texts, part.String())
	}
	return "(" + strings.Join(texts, " "+e.op+" ") + ")"
}

// String writes the schema as SpiceDB reads it.
func (s *schema) String() string {
	var b strings.Builder
	var body strings.Builder
	for _, d := range s.types {
		fmt.Fprintf(&body, "definition %s {\n", d.name)
		for _, r := range d.relations {
			texts := make([]string, 0, len(r.allowed))
			for _, a := range r.allowed {
				texts = append(texts, a.String())
			}
			fmt.Fprintf(&body, "\trelation %s: %s\n", r.name, strings.Join(texts, " | "))
		}
		for _, p := range d.permissions {
			fmt.Fprintf(&body, "\tpermission %s = %s\n", p.name, p.expr)
		}
		body.WriteString("}\n")
	}
	b.WriteString("use expiration\nuse self\n")
	for _, name := range caveatNames {
		if strings.Contains(body.String(), " with "+name) {
			b.WriteString(caveatTexts[name] + "\n")
		}
	}
	return b.String() + body.String()
}

// names are the relations and permissions of a type.
func (d *definition) names() []string {
	var names []string
	for _, r := range d.relations {
		names = append(names, r.name)
	}
	for _, p := range d.permissions {
		names = append(names, p.name)
	}
	return names
}

// artist draws worlds. The same seed draws the same world.
type artist struct{ *rand.Rand }

func newArtist(seed uint64) artist { return artist{rand.New(rand.NewPCG(seed, 20261125))} }

func (a artist) chance(percent int) bool { return a.IntN(100) < percent }

func oneOf[T any](a artist, all []T) T { return all[a.IntN(len(all))] }

// schema draws a schema.
func (a artist) schema() *schema {
	s := &schema{types: []*definition{{name: "user"}}}
	if a.chance(40) {
		s.types[0].relations = []*relation{{name: "friend", allowed: []allowed{{subject: "user"}, {subject: "user#friend"}}}}
		if a.chance(30) {
			s.types[0].permissions = []*permission{{name: "per0", expr: oneOf(a, []*expr{
				{text: "friend"}, {text: "self"}, {op: "+", parts: []*expr{{text: "self"}, {text: "friend"}}},
			})}}
		}
	}
	for _, name := range typeNames[:1+a.IntN(len(typeNames))] {
		d := &definition{name: name}
		for _, r := range append(slices.Clone(arrowable), free...) {
			if a.chance(75) {
				d.relations = append(d.relations, &relation{name: r})
			}
		}
		if len(d.relations) == 0 {
			d.relations = []*relation{{name: "own"}}
		}
		for _, p := range computed[:1+a.IntN(len(computed))] {
			d.permissions = append(d.permissions, &permission{name: p})
		}
		s.types = append(s.types, d)
	}
	for _, d := range s.types[1:] {
		for _, r := range d.relations {
			a.allow(s, r)
		}
		a.permit(d)
	}
	return s
}

// allow draws the subjects of a relation.
func (a artist) allow(s *schema, r *relation) {
	seen := map[string]bool{}
	isArrowable := slices.Contains(arrowable, r.name)
	for range 1 + a.IntN(4) {
		d := oneOf(a, s.types)
		if a.chance(40) {
			d = s.types[0]
		}
		var choices []string
		choices = append(choices, d.name)
		if !isArrowable {
			choices = append(choices, d.name+":*")
		}
		for _, name := range d.names() {
			if !isArrowable || slices.Contains(arrowable, name) || name == "friend" {
				choices = append(choices, d.name+"#"+name)
			}
		}
		n := allowed{subject: choices[0]}
		if a.chance(60) {
			n.subject = oneOf(a, choices)
		}
		// Often the same subject twice: SpiceDB has its own trouble with those.
		for range 1 + a.IntN(2) {
			if a.chance(40) {
				n.caveat = oneOf(a, caveatNames)
			}
			n.expiring = a.chance(12)
			if !seen[n.String()] {
				seen[n.String()] = true
				r.allowed = append(r.allowed, n)
			}
		}
	}
}

// permit draws the permissions of a type.
func (a artist) permit(d *definition) {
	for i, p := range d.permissions {
		p.expr = a.expr(d, i, 1+a.IntN(3))
		if a.chance(20) {
			p.expr = &expr{text: a.name(d, i)}
		}
	}
}

// name draws a relation or a permission of a type, rarely one that leads to a cycle of permissions.
func (a artist) name(d *definition, i int) string {
	if i > 0 && a.chance(35) {
		return d.permissions[a.IntN(i)].name
	}
	if a.chance(3) {
		return oneOf(a, d.permissions).name
	}
	return oneOf(a, d.relations).name
}

func (a artist) expr(d *definition, i, depth int) *expr {
	if depth > 0 && a.chance(75) {
		e := &expr{op: oneOf(a, []string{"+", "+", "+", "&", "-"})}
		for range 2 + a.IntN(2) {
			e.parts = append(e.parts, a.expr(d, i, depth-1))
		}
		return e
	}
	var over []string
	for _, r := range d.relations {
		if slices.Contains(arrowable, r.name) {
			over = append(over, r.name)
		}
	}
	switch roll := a.IntN(100); {
	case roll < 8:
		return &expr{text: "self"}
	case roll < 12:
		return &expr{text: "nil"}
	case roll < 60 && len(over) > 0:
		to := oneOf(a, append(slices.Clone(computed), append(free, append(arrowable, "friend")...)...))
		return &expr{text: fmt.Sprintf(oneOf(a, []string{"%s->%s", "%s->%s", "%s.any(%s)", "%s.all(%s)", "%s.all(%s)"}), oneOf(a, over), to)}
	default:
		return &expr{text: a.name(d, i)}
	}
}

// context draws a caveat context for some fields. Values of a wrong type are rare.
func (a artist) context(fields []string, present, wrong int) map[string]any {
	context := map[string]any{}
	for _, f := range fields {
		if !a.chance(present) {
			continue
		}
		values := fieldValues[f]
		if a.chance(wrong) {
			context[f] = values[len(values)-1]
		} else {
			context[f] = values[a.IntN(len(values)-1)]
		}
	}
	return context
}

// rows draws relationships.
func (a artist) rows(s *schema, count int, now time.Time) []tuple.Relationship {
	var rows []tuple.Relationship
	for range count {
		d := oneOf(a, s.types)
		if len(d.relations) == 0 {
			continue
		}
		r := oneOf(a, d.relations)
		n := oneOf(a, r.allowed)
		rows = append(rows, a.row(tuple.ONR(d.name, a.id(d.name), r.name), n, now))
	}
	return rows
}

func (a artist) id(objectType string) string {
	if objectType == "user" {
		return oneOf(a, people)
	}
	if a.chance(80) {
		return ids[a.IntN(2)] // dense: few objects have most rows
	}
	return oneOf(a, ids)
}

func (a artist) row(resource tuple.ObjectAndRelation, n allowed, now time.Time) tuple.Relationship {
	rel := tuple.Relationship{RelationshipReference: tuple.RelationshipReference{Resource: resource, Subject: a.subject(n.subject)}}
	if n.caveat != "" {
		fields, err := structpb.NewStruct(a.context(caveatFields[n.caveat], 45, 2))
		if err != nil {
			panic(err)
		}
		rel.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: n.caveat, Context: fields}
	}
	if n.expiring {
		rel.OptionalExpiration = a.expiration(now)
	}
	return rel
}

// expiration draws a time that has long been, or will be long after the test.
func (a artist) expiration(now time.Time) *time.Time {
	at := now.Add(time.Hour)
	if a.chance(40) {
		at = now.Add(-time.Hour)
	}
	return &at
}

// subject draws a subject of a kind.
func (a artist) subject(kind string) tuple.ObjectAndRelation {
	if objectType, found := strings.CutSuffix(kind, ":*"); found {
		return tuple.ONR(objectType, tuple.PublicWildcard, tuple.Ellipsis)
	}
	objectType, name, found := strings.Cut(kind, "#")
	if !found {
		name = tuple.Ellipsis
	}
	return tuple.ONR(objectType, a.id(objectType), name)
}

// wide draws so many rows for one or two relations of an object that nobody reads them all at once: SpiceDB
// evaluates them in several chunks, and the native evaluator looks rows up one by one, or in pages.
func (a artist) wide(s *schema, now time.Time) []tuple.Relationship {
	var rows []tuple.Relationship
	for range 1 + a.IntN(2) {
		d := oneOf(a, s.types[1:])
		r := oneOf(a, d.relations)
		resource := tuple.ONR(d.name, a.id(d.name), r.name)
		count := oneOf(a, []int{33, 40, 65, 70, 101, 150, 220})
		if a.chance(15) {
			count = 1030
		}
		for i := range count {
			rel := a.row(resource, oneOf(a, r.allowed), now)
			if rel.Subject.ObjectID != tuple.PublicWildcard && !a.chance(3) {
				rel.Subject.ObjectID = fmt.Sprintf("w%04d", i)
			}
			rows = append(rows, rel)
		}
	}
	return rows
}

// stray draws rows that the schema does not allow, or that name what it does not have.
func (a artist) stray(s *schema, now time.Time) []tuple.Relationship {
	var rows []tuple.Relationship
	for range 1 + a.IntN(4) {
		d := oneOf(a, s.types[1:])
		kinds := []string{"ghost", "ghost#mem", "user", "user#friend", "user:*"}
		for _, other := range s.types {
			kinds = append(kinds, other.name, other.name+"#gone", other.name+":*")
			for _, name := range other.names() {
				kinds = append(kinds, other.name+"#"+name)
			}
		}
		n := allowed{subject: oneOf(a, kinds), expiring: a.chance(10)}
		if a.chance(20) {
			n.caveat = oneOf(a, append(caveatNames, "unknown"))
		}
		rows = append(rows, a.row(tuple.ONR(d.name, a.id(d.name), oneOf(a, d.relations).name), n, now))
	}
	return rows
}

// written writes a relationship as a test case reads it.
func written(rel tuple.Relationship) string {
	text, err := tuple.String(rel)
	if err != nil {
		return err.Error()
	}
	return text
}
