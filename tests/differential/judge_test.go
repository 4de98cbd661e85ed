package differential

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
)

// class is what an answer of SpiceDB's came to, compared with the reference.
type class uint8

const (
	// same: they agree. Of the fields that SpiceDB misses each counts once, whatever their order (class c), as in what Deputy passes on.
	same class = iota
	// classA: SpiceDB answers with an error of one branch where another branch gives a definite answer.
	classA
	// classB: SpiceDB evaluates several resources of one type at once, and an intersection arrow then mixes
	// their caveats. One resource at a time, it agrees.
	classB
	// raced: SpiceDB's whole server agrees when it is asked again.
	raced
	// hung: SpiceDB did not answer at all. Where an intersection arrow leads to several types and one of them
	// fails, it may wait for another that is not evaluated any more. And near a cycle the calls in flight that
	// its whole server shares may wait for each other.
	hung
	// differs: nothing of the above.
	differs
	classes
)

// String names a class as it is counted.
func (c class) String() string {
	return [...]string{"same", "class a", "class b", "raced", "hung", "differs"}[c]
}

// fits tells whether an answer is what the reference says, or an error that the reference met in a branch
// that does not decide.
func fits(want Verdict, got Answer) class {
	switch {
	case got.Outcome == authz.Failed && want.Outcome == authz.Failed && want.Trouble.Has(got.Code):
		return same
	case got == want.Answer:
		return same
	case got.Outcome == authz.Failed && want.Trouble.Has(got.Code):
		return classA
	default:
		return differs
	}
}

// judge compares an answer of SpiceDB's dispatcher with the reference.
func (d *desk) judge(e *edition, q question, want Verdict, got Answer) class {
	c := fits(want, got)
	if got.Code == codes.DeadlineExceeded && want.Trouble != 0 && strings.Contains(e.text, ".all(") {
		return hung
	}
	if c == differs && want.Pooled && fits(want, d.alone(e, q)) != differs {
		return classB
	}
	return c
}

// patience is how often SpiceDB's whole server is asked again before its answer counts as different.
const patience = 10

// judgeServer compares an answer of SpiceDB's whole server with the reference.
func (d *desk) judgeServer(e *edition, q question, want Verdict) (class, Answer) {
	got := e.ask(d.server, q)
	if got.Code == codes.DeadlineExceeded {
		if want.Trouble != 0 {
			return hung, got
		}
		got = e.askFor(10*spicedbPatience, d.server, q)
	}
	c := d.judge(e, q, want, got)
	for range patience {
		if c != differs {
			return c, got
		}
		if d.judge(e, q, want, e.ask(d.server, q)) != differs {
			return raced, got
		}
	}
	return c, got
}

// difference is a question that was answered wrongly.
type difference struct {
	who     string
	q       question
	want    Verdict
	got     Answer
	spicedb string
	edition *edition
	seed    uint64
}

// String is the report of a difference.
func (d difference) String() string {
	text := fmt.Sprintf("seed %d: %s answers %s (again: DEPUTY_DIFFERENTIAL_SEED=%d DEPUTY_DIFFERENTIAL_TIME=10s)\nquestion:  %s\nreference: %s (trouble %b, pooled %v)\nspicedb:   %s\nschema:\n%s\nrelationships:\n",
		d.seed, d.who, d.got, d.seed, d.q, d.want.Answer, d.want.Trouble, d.want.Pooled, d.spicedb, d.edition.text)
	for _, rel := range d.edition.rows {
		text += "  " + written(rel) + "\n"
	}
	return text
}
