package differential

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/evaluate"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
)

// TestRegressions holds everybody to what was once answered wrongly.
func TestRegressions(t *testing.T) {
	runAll(t, []sample{
		{
			// The native evaluator never came to an end: a cycle that is gone round twice at each step.
			name: "a cycle that branches",
			schema: `definition folder {
				relation sup: folder
				relation mem: user | folder
				permission per0 = (mem - nil) + (sup->mem + sup + sup.all(per1))
				permission per1 = per0 - (nil - sup->per2) - (sup.all(mem) + per0)
			}`,
			rows: []string{"folder:x#mem@folder:y", "folder:x#sup@folder:x"},
			asks: []ask{fails("folder:x#per0@user:cat"), has("folder:x#per0@folder:x"), has("folder:x#per0@folder:y"), fails("folder:x#per1@user:ann")},
		},
		{
			// In bulk it never came to an end: what one subject was found out to be was forgotten for another.
			name: "many subjects in a clique of usersets",
			schema: caveatTexts["lit"] + `definition user { relation friend: user | user#friend }
			definition folder {
				relation own: user#friend with lit | user
				relation mem: user | folder#sup
				relation sup: user
				permission per0 = mem & own.all(friend) & own.any(per0)
				permission per2 = own.any(friend) + own->per2 + per0 + self
			}`,
			rows: []string{
				"user:ann#friend@user:ann#friend", "user:ann#friend@user:bob#friend", "user:ann#friend@user:cat#friend", "user:bob#friend@user:ann#friend",
				"user:bob#friend@user:bob#friend", "user:cat#friend@user:ann#friend", "user:cat#friend@user:bob#friend", "user:cat#friend@user:cat#friend",
				"user:ann#friend@user:bob", "user:bob#friend@user:cat", "user:cat#friend@user:ann",
				"folder:x#own@user:bob#friend[lit]", "folder:x#own@user:ann", "folder:x#mem@folder:x#sup", "folder:x#sup@user:bob", "folder:x#mem@user:dan",
			},
			asks: []ask{
				has("folder:x#per2@user:ann"), has("folder:x#per2@user:bob"), has("folder:x#per2@user:cat"), fails("folder:x#per2@user:dan"),
				fails("folder:x#per2@user:eve"), lacks("folder:x#per0@user:eve"), lacks("folder:x#per0@user:dan"), lacks("folder:x#per0@user:ann"), lacks("folder:x#per0@user:bob"),
				has("folder:x#per2@folder:x"), fails("folder:x#per2@folder:y"), has("folder:x#per2@user:cat#friend"), has("user:ann#friend@user:ann"),
				has("user:ann#friend@user:cat"), fails("user:ann#friend@user:dan"), fails("user:ann#friend@user:ann#missing"), fails("user:bob#friend@folder:x#per0"),
			},
		},
		{
			// SpiceDB takes a relation that allows a wildcard for one that may hold usersets.
			name: "usersets in a relation that allows a wildcard alone",
			schema: `definition user { relation friend: user }
			definition team {
				relation read: user:*
				permission per0 = read
			}
			definition group { relation mem: team#per0 }`,
			rows: []string{"team:x#read@user:bob#gone", "team:y#read@user:bob#friend", "user:bob#friend@user:ann", "group:x#mem@team:x#per0"},
			asks: []ask{
				fails("team:x#per0@team:x"), fails("team:x#read@group:x"), lacks("team:y#per0@team:x"), fails("group:x#mem@group:y"), has("team:y#read@user:bob#friend"),
				has("team:y#read@user:ann"),
			},
		},
	})
}

// TestWide asks about objects with so many rows that they are not read at once. SpiceDB evaluates a hundred
// at a time.
func TestWide(t *testing.T) {
	group := `definition group {
		relation mem: user | user:* | group#mem
		relation read: user | user with over | user:* with over | group#mem with over | group#any
		relation open: user:*
		relation all: group | group:* | group#sub with over
		relation sub: group
		permission any = mem + open
	}
	`
	var samples []sample
	counts := []int{32, 33, 64, 65, 100, 101, 1024, 1025}
	if raceDetector {
		counts = counts[:6]
	}
	for _, count := range counts {
		// The rows that count come first, in the middle and last, in the order of ids.
		samples = append(samples, sample{
			name: fmt.Sprintf("%d subjects", count),
			schema: caveatTexts["over"] + group + `definition doc {
				relation sup: group | group with over
				permission view = sup->mem
				permission every = sup.all(mem)
			}`,
			rows: slices.Concat(
				many("group:x#mem@user:m%04d", count), many("group:x#mem@group:m%04d#mem", count),
				[]string{"group:a#mem@user:ann", "group:m0000#mem@user:bob", fmt.Sprintf("group:m%04d#mem@user:cat", count-1), "group:z#mem@user:dan"},
				[]string{"group:x#mem@group:a#mem", "group:x#mem@group:z#mem"},
				many("group:y#read@user:m%04d[over]", count), many("group:y#read@group:m%04d#mem[over]", count),
				[]string{"group:y#read@group:z#mem[over]", "group:y#read@group:a#any", "group:y#read@user:*[over]", "group:y#read@user:eve"},
				many("doc:x#sup@group:m%04d", count), []string{"doc:x#sup@group:a[over]", "doc:x#sup@group:z"},
				many("doc:y#sup@group:e%04d", count), many("group:e%04d#mem@user:ann", count), many("group:e%04d#mem@group:w#mem", count),
				[]string{fmt.Sprintf("group:e%04d#mem@user:bob", count-1), "group:w#mem@user:cat", "group:w#mem@user:*"},
				many("group:x#all@group:m%04d", count), many("group:z#all@group:m%04d", count),
				[]string{"group:x#all@group:*", "group:z#all@group:y", "group:z#all@group:y#sub[over]", "group:y#sub@group:v"},
			),
			asks: []ask{
				has("group:x#mem@user:m0000"), has(fmt.Sprintf("group:x#mem@user:m%04d", count-1)), lacks("group:x#mem@user:nobody"), has("group:x#mem@user:ann"),
				has("group:x#mem@user:bob"), has("group:x#mem@user:cat"), has("group:x#mem@user:dan"), has("group:x#mem@group:z#mem"), lacks("group:x#mem@group:y#mem"),
				depends("group:y#read@user:m0000", "least,level"), depends("group:y#read@user:nobody", "least,level"), has("group:y#read@user:eve"), has("group:y#read@user:ann"),
				depends("group:y#read@user:dan", "least,level"), depends("group:y#read@group:z#mem", "least,level"), lacks("group:y#read@group:w"),
				lacks("doc:x#view@user:nobody"), depends("doc:x#view@user:ann", "least,level"), has("doc:x#view@user:cat"), has("doc:x#view@user:dan"), lacks("doc:x#every@user:dan"),
				has("doc:y#every@user:ann"), has("doc:y#every@user:bob"), has("doc:y#every@user:nobody"), lacks("doc:y#every@group:a"), has("doc:y#view@group:w#mem"),
				has("group:x#all@group:nobody"), has("group:x#all@group:nobody#sub"), has("group:z#all@group:y"), lacks("group:z#all@group:nobody"),
				lacks("group:z#all@group:nobody#sub"), depends("group:z#all@group:y#sub", "least,level"), depends("group:z#all@group:v", "least,level"),
				has("doc:y#every@group:w#mem"), has("doc:y#every@user:x").given("level", 1.0),
			},
		})
	}
	runAll(t, samples)
}

// TestHang shows where SpiceDB may not answer at all: an intersection arrow leads to two types, and one of
// them fails before the other has begun. The native evaluator answers what SpiceDB answers otherwise.
func TestHang(t *testing.T) {
	d := openDesk(t, false)
	s := sample{
		schema: `definition group {
			relation mem: user | group#mem
		}
		definition folder {
			relation mem: user
		}
		definition doc {
			relation sup: group | folder
			permission all = sup.all(mem)
		}`,
		rows: []string{"doc:x#sup@group:x", "doc:x#sup@folder:x", "group:x#mem@group:x#mem", "folder:x#mem@user:ann"},
	}
	var rows []tuple.Relationship
	for _, text := range s.rows {
		rows = append(rows, row(t, text))
	}
	e, err := d.publish(s.text(), rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []ask{fails("doc:x#all@user:ann"), lacks("doc:x#all@user:bob")} {
		q := a.parsed(t)
		want := e.reference.Check(q.resource, q.subject, q.context)
		if want.String() != a.want || !want.Stalls {
			t.Errorf("%s: the reference answers %s (stalls: %v), want %s", q, want.Answer, want.Stalls, a.want)
		}
		if answers, err := d.asked(e, []question{q}); err != nil || answers[0].String() != a.want {
			t.Errorf("%s: native answers %v, %v, want %s", q, answers, err, a.want)
		}
		if got := e.ask(d.local, q); d.judge(e, q, want, got) == differs {
			t.Errorf("%s: SpiceDB answers %s, want %s, an error or nothing", q, got, a.want)
		}
	}
}

// TestAliasAfterWrite asks about an alias before and after another type of the schema is written. SpiceDB then
// writes the alias's type again as well, without its note that it is one, and the alias takes a step.
func TestAliasAfterWrite(t *testing.T) {
	d := openDesk(t, true)
	text := func(more string) string {
		return sample{schema: `definition group {
			relation mem: user | group#mem
			` + more + `
		}
		definition doc {
			relation read: group#mem
			permission view = read
		}`}.text()
	}
	texts := append(chain("group:n%d#mem@group:n%d#mem"), "doc:x#read@group:n0#mem", "group:n48#mem@user:ann", "group:n47#mem@user:bob", "group:n49#mem@user:cat")
	var rows []tuple.Relationship
	for _, text := range texts {
		rows = append(rows, row(t, text))
	}
	before, err := d.publish(text(""), rows)
	if err != nil {
		t.Fatal(err)
	}
	after, err := d.restate(text("permission all = mem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		when string
		e    *edition
		asks []ask
	}{
		{"before", before, []ask{has("doc:x#view@user:bob"), has("doc:x#view@user:ann"), fails("doc:x#view@user:cat"), has("doc:x#read@user:ann")}},
		{"after", after, []ask{has("doc:x#view@user:bob"), fails("doc:x#view@user:ann"), fails("doc:x#view@user:cat"), has("doc:x#read@user:ann")}},
		{"before, again", before, []ask{has("doc:x#view@user:ann")}},
	} {
		for _, a := range step.asks {
			q := a.parsed(t)
			answers, err := d.asked(step.e, []question{q})
			if err != nil {
				t.Fatal(err)
			}
			got, want := step.e.ask(d.server, q), step.e.reference.Check(q.resource, q.subject, nil)
			if answers[0].String() != a.want || got.String() != a.want || want.String() != a.want {
				t.Errorf("%s %s: native answers %s, SpiceDB %s, the reference %s, want %s", q, step.when, answers[0], got, want.Answer, a.want)
			}
		}
	}
}

// TestCrossing asks about a cycle from both ends at once. SpiceDB's whole server, which shares calls in flight,
// may not answer then: the call for one end waits for that for the other, which waits for it. How
// many it left unanswered is logged. The native evaluator answers.
func TestCrossing(t *testing.T) {
	d := openDesk(t, true)
	s := sample{schema: "definition group { relation mem: user | group#mem }"}
	e, err := d.publish(s.text(), []tuple.Relationship{row(t, "group:x#mem@group:y#mem"), row(t, "group:y#mem@group:x#mem")})
	if err != nil {
		t.Fatal(err)
	}
	ends := []question{fails("group:x#mem@user:ann").parsed(t), fails("group:y#mem@user:ann").parsed(t)}
	var asked, unanswered atomic.Int32
	for round := 0; round < 20 && unanswered.Load() == 0; round++ {
		var group errgroup.Group
		for i := range 8 {
			q := ends[i%2]
			group.Go(func() error {
				asked.Add(1)
				switch got := e.askFor(300*time.Millisecond, d.server, q); got.Code {
				case codes.DeadlineExceeded:
					unanswered.Add(1)
				case codes.FailedPrecondition:
				default:
					return fmt.Errorf("%s: SpiceDB answers %s", q, got)
				}
				answers, err := d.asked(e, []question{q})
				if err == nil && answers[0].Code != codes.FailedPrecondition {
					return fmt.Errorf("%s: native answers %s", q, answers[0])
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SpiceDB left %d of %d checks unanswered", unanswered.Load(), asked.Load())
}

// TestHistory asks about one object at many revisions, in which its relationships and the schema change, in
// every order: a revision is answered as it was.
func TestHistory(t *testing.T) {
	// Few rows and many are kept in different ways.
	for _, others := range []int{0, 40, 70} {
		t.Run(fmt.Sprintf("beside %d others", others), func(t *testing.T) { history(t, many("doc:x#read@user:m%04d", others)) })
	}
}

// history is TestHistory, with other rows that are always there.
func history(t *testing.T, others []string) {
	d := openDesk(t, false)
	schemas := []string{
		"permission view = read + sup->view", "permission view = read - ban", "permission view = read & sup.all(read)",
	}
	text := func(i int) string {
		s := sample{schema: caveatTexts["over"] + `definition doc {
			relation read: user | user with over | user with expiration | user:* | doc#view
			relation ban: user
			relation sup: doc
			` + schemas[i] + "\n}"}
		return s.text()
	}
	steps := []struct {
		schema  int
		gone    []string
		touched []string
		want    string // of doc:x#view@user:ann
	}{
		{schema: 0, want: "no"},
		{schema: 0, touched: []string{"doc:x#read@user:ann"}, want: "yes"},
		{schema: 0, touched: []string{"doc:x#read@user:ann[over]"}, want: "conditional on least,level"},
		{schema: 0, touched: []string{"doc:x#read@user:ann[expired]"}, want: "no"},
		{schema: 0, touched: []string{"doc:x#read@user:*"}, want: "yes"},
		{schema: 1, want: "yes"},
		{schema: 1, touched: []string{"doc:x#ban@user:ann"}, want: "no"},
		{schema: 0, want: "yes"},
		{schema: 0, gone: []string{"doc:x#read@user:*"}, want: "no"},
		{schema: 0, touched: []string{"doc:x#sup@doc:y", "doc:y#read@user:ann[later]"}, want: "yes"},
		{schema: 2, want: "no"},
		{schema: 2, touched: []string{"doc:x#read@user:ann[over]"}, want: "conditional on least,level"},
		{schema: 2, touched: []string{"doc:y#read@user:ann[expired]"}, want: "no"},
		{schema: 2, gone: []string{"doc:y#read@user:ann"}, touched: []string{"doc:y#read@doc:z#view", "doc:z#sup@doc:z", "doc:z#read@user:ann"}, want: "conditional on least,level"},
		{schema: 0, want: "yes"},
	}
	parse := func(texts []string) []tuple.Relationship {
		var rows []tuple.Relationship
		for _, text := range texts {
			rows = append(rows, row(t, text))
		}
		return rows
	}
	var editions []*edition
	// held are snapshots that stay open while the rest is written.
	var held []*kept.Pinned
	for i, step := range steps {
		var e *edition
		var err error
		switch {
		case i == 0:
			e, err = d.publish(text(0), parse(others))
		case step.schema != steps[i-1].schema:
			e, err = d.restate(text(step.schema))
		default:
			e, err = d.change(editions[i-1], parse(step.gone), parse(step.touched))
		}
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if len(step.touched) > 0 && step.schema != steps[max(i-1, 0)].schema {
			t.Fatalf("step %d changes the schema and relationships", i)
		}
		editions = append(editions, e)
		at, err := d.native.At(e.at)
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		held = append(held, at)
	}
	q := ask{question: "doc:x#view@user:ann"}.parsed(t)
	for i, at := range held {
		if got := answerOf(at.Check(t.Context(), []evaluate.Check{{Resource: q.resource, Subject: q.subject}})[0]); got.String() != steps[i].want {
			t.Errorf("step %d, from a snapshot that was held: native answers %s, want %s", i, got, steps[i].want)
		}
	}
	for round := range 3 {
		for n := range editions {
			i := [...]int{n, len(editions) - 1 - n, n * 7 % len(editions)}[round]
			e, want := editions[i], steps[i].want
			answers, err := d.asked(e, []question{q, q})
			if err != nil {
				t.Fatal(err)
			}
			if answers[0].String() != want || answers[1] != answers[0] {
				t.Errorf("step %d, round %d: native answers %v, want %s", i, round, answers, want)
			}
			if got := e.reference.Check(q.resource, q.subject, nil); got.String() != want {
				t.Errorf("step %d: the reference answers %s, want %s", i, got.Answer, want)
			}
			if got := e.ask(d.local, q); got.String() != want {
				t.Errorf("step %d: SpiceDB answers %s, want %s", i, got, want)
			}
		}
	}
}

// TestExpiry asks about the same revision before and after a relationship expires.
func TestExpiry(t *testing.T) {
	d := openDesk(t, false)
	start := time.Now()
	at := func(after time.Duration) { d.clock.Store(start.Add(after).UnixNano()) }
	at(0)
	s := sample{schema: `definition group { relation mem: user }
	definition doc {
		relation read: user with expiration | group#mem with expiration
		relation sup: doc with expiration
		permission view = read + sup->view
		permission every = sup.all(read)
	}`}
	expiring := func(text string, after time.Duration) tuple.Relationship {
		rel := row(t, text)
		expires := start.Add(after)
		rel.OptionalExpiration = &expires
		return rel
	}
	rows := []tuple.Relationship{
		expiring("doc:x#read@user:ann", time.Minute), expiring("doc:x#sup@doc:y", 3*time.Minute), expiring("doc:y#read@user:ann", 2*time.Minute),
		expiring("doc:x#sup@doc:z", 2*time.Minute), expiring("doc:y#read@user:bob", 4*time.Minute), expiring("doc:z#read@group:x#mem", 2*time.Minute),
		row(t, "group:x#mem@user:cat"),
	}
	e, err := d.publish(s.text(), rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after time.Duration
		asks  []ask
	}{
		{0, []ask{has("doc:x#read@user:ann"), has("doc:x#view@user:ann"), has("doc:x#view@user:cat"), lacks("doc:x#every@user:bob")}},
		{90 * time.Second, []ask{lacks("doc:x#read@user:ann"), has("doc:x#view@user:ann"), has("doc:x#view@user:cat"), lacks("doc:x#every@user:bob")}},
		{150 * time.Second, []ask{lacks("doc:x#view@user:ann"), lacks("doc:x#view@user:cat"), has("doc:x#every@user:bob"), has("doc:x#view@user:bob")}},
		{200 * time.Second, []ask{lacks("doc:x#every@user:bob"), lacks("doc:x#view@user:bob"), has("doc:y#view@user:bob")}},
		{time.Hour, []ask{lacks("doc:y#view@user:bob")}},
	} {
		at(step.after)
		reference := NewReference(e.compiled, rows, start.Add(step.after))
		for _, a := range step.asks {
			q := a.parsed(t)
			answers, err := d.asked(e, []question{q})
			if err != nil {
				t.Fatal(err)
			}
			got, want := e.ask(d.local, q), reference.Check(q.resource, q.subject, nil)
			if answers[0].String() != a.want || got.String() != a.want || want.String() != a.want {
				t.Errorf("%s, %s later: native answers %s, SpiceDB %s, the reference %s, want %s", q, step.after, answers[0], got, want.Answer, a.want)
			}
		}
	}
}
