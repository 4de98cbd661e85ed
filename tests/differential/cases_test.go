package differential

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
)

// sample is a small world with questions whose answers were written by hand.
type sample struct {
	name   string
	schema string
	// rows are relationships as SpiceDB writes them; [later] and [expired] stand for an expiration. They may
	// be what the schema does not allow.
	rows []string
	asks []ask
}

// ask is a question and its answer, as Answer prints it.
type ask struct {
	question string
	context  map[string]any
	want     string
	// spicedb is what SpiceDB answers, where that is a tolerated class and always the same.
	spicedb string
}

// has, lacks and the others make questions: fails is for what is too deep or missing, refuses for what is
// wrong with the question or in a caveat.
func has(q string) ask     { return ask{question: q, want: "yes"} }
func lacks(q string) ask   { return ask{question: q, want: "no"} }
func fails(q string) ask   { return ask{question: q, want: "error FailedPrecondition"} }
func refuses(q string) ask { return ask{question: q, want: "error InvalidArgument"} }
func depends(q, fields string) ask {
	return ask{question: q, want: "conditional on " + fields}
}

// given adds a context: names and values in turn.
func (a ask) given(pairs ...any) ask {
	a.context = map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		a.context[pairs[i].(string)] = pairs[i+1]
	}
	return a
}

// where sets what SpiceDB says instead.
func (a ask) where(spicedb string) ask {
	a.spicedb = spicedb
	return a
}

// row reads a relationship.
func row(t testing.TB, text string) tuple.Relationship {
	t.Helper()
	now := time.Now()
	text, expired := strings.CutSuffix(text, "[expired]")
	text, later := strings.CutSuffix(text, "[later]")
	rel, err := tuple.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	switch {
	case expired:
		now = now.Add(-time.Hour)
		rel.OptionalExpiration = &now
	case later:
		now = now.Add(time.Hour)
		rel.OptionalExpiration = &now
	}
	return rel
}

// parsed reads a question.
func (a ask) parsed(t testing.TB) question {
	t.Helper()
	left, right, found := strings.Cut(a.question, "@")
	if !found {
		t.Fatalf("%q is no question", a.question)
	}
	if !strings.Contains(right, "#") {
		right += "#..."
	}
	read := func(text string) tuple.ObjectAndRelation {
		objectType, rest, ok := strings.Cut(text, ":")
		id, relation, also := strings.Cut(rest, "#")
		if !ok || !also {
			t.Fatalf("%q is no object and relation", text)
		}
		return tuple.ONR(objectType, id, relation)
	}
	return question{read(left), read(right), a.context}
}

// text is the sample's schema, with what all samples share.
func (s sample) text() string {
	text := strings.ReplaceAll(s.schema, "}", "\n}\n")
	if !strings.Contains(text, "definition user ") {
		text = "definition user {}\n" + text
	}
	return "use expiration\nuse self\n" + text
}

// run asks the reference, SpiceDB's dispatcher, its whole server, and the native evaluator alone and in bulk.
func (s sample) run(t *testing.T, d *desk) {
	rows := make([]tuple.Relationship, 0, len(s.rows))
	for _, text := range s.rows {
		rows = append(rows, row(t, text))
	}
	e, err := d.publish(s.text(), rows)
	if err != nil {
		t.Fatal(err)
	}
	questions := make([]question, 0, len(s.asks))
	for _, a := range s.asks {
		questions = append(questions, a.parsed(t))
	}
	bulk, err := d.asked(e, questions)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range s.asks {
		q := questions[i]
		want := e.reference.Check(q.resource, q.subject, q.context)
		if want.String() != a.want {
			t.Errorf("%s: the reference answers %s, want %s", q, want.Answer, a.want)
		}
		alone, err := d.asked(e, questions[i:i+1])
		if err != nil {
			t.Fatal(err)
		}
		if alone[0].String() != a.want || bulk[i].String() != a.want {
			t.Errorf("%s: native answers %s, in bulk %s, want %s", q, alone[0], bulk[i], a.want)
		}
		if want.Stalls || !e.reference.affordable(q, want) {
			continue // SpiceDB would not answer, see TestHang and cost_test.go
		}
		got := e.ask(d.local, q)
		if c := d.judge(e, q, want, got); c == differs || a.spicedb != "" && got.String() != a.spicedb {
			t.Errorf("%s: SpiceDB answers %s (%s), want %s%s", q, got, c, a.want, strings.TrimSuffix(", and itself "+a.spicedb, ", and itself "))
		}
		if c, got := d.judgeServer(e, q, want); c == differs {
			t.Errorf("%s: SpiceDB's server answers %s, want %s", q, got, a.want)
		}
	}
}

// runAll runs samples over one store, one after the other.
func runAll(t *testing.T, samples []sample) {
	d := openDesk(t, true)
	names := map[string]bool{}
	for _, s := range samples {
		if names[s.name] {
			t.Fatalf("two samples are named %q", s.name)
		}
		names[s.name] = true
		t.Run(s.name, func(t *testing.T) { s.run(t, d) })
	}
}

// many is a row for each of so many numbers.
func many(format string, count int) []string {
	var rows []string
	for i := range count {
		rows = append(rows, fmt.Sprintf(format, i))
	}
	return rows
}

// chain is a row for each of sixty steps, more than a check may take: format takes a number and the one after
// it.
func chain(format string, more ...string) []string {
	var rows []string
	for i := range 60 {
		rows = append(rows, fmt.Sprintf(format, i, i+1))
	}
	return slices.Concat(rows, more)
}
