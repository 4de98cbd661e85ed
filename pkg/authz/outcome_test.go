package authz_test

import (
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// outcomes are all there are, in the order of the tables below.
var outcomes = []authz.Outcome{authz.Yes, authz.Conditional, authz.NotJudged, authz.No, authz.Failed}

// letters name outcomes in the tables.
var letters = map[rune]authz.Outcome{'y': authz.Yes, 'c': authz.Conditional, 'j': authz.NotJudged, 'n': authz.No, 'f': authz.Failed}

// TestOutcomes asserts the truth tables: a row for the one outcome, a column for the other.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]struct {
		combine func(a, b authz.Outcome) authz.Outcome
		rows    [5]string
	}{
		"And":      {authz.Outcome.And, [...]string{"ycjnf", "ccjnf", "jjjnf", "nnnnn", "fffnf"}},
		"Or":       {authz.Outcome.Or, [...]string{"yyyyy", "ycjcf", "yjjjf", "ycjnf", "yffff"}},
		"Stricter": {authz.Outcome.Stricter, [...]string{"ycjnf", "ccjnf", "jjjnf", "nnnnf", "fffff"}},
	} {
		for i, a := range outcomes {
			for j, want := range []rune(table.rows[i]) {
				if got := table.combine(a, outcomes[j]); got != letters[want] {
					t.Errorf("%v.%s(%v) is %v, want %v", a, name, outcomes[j], got, letters[want])
				}
			}
		}
	}
	for i, want := range "nc" + "j" + "yf" {
		if got := outcomes[i].Not(); got != letters[want] {
			t.Errorf("%v.Not() is %v", outcomes[i], got)
		}
	}
}

// TestOutcomesAreConsistent: the order does not matter, an outcome beside itself is itself, what is negated on both sides is
// the other operation negated, and nothing that has no answer, nor an outcome that nobody knows, is ever turned into Yes by
// a Yes.
func TestOutcomesAreConsistent(t *testing.T) {
	t.Parallel()
	const unknown = authz.Outcome(99)
	for _, a := range outcomes {
		if a.And(a) != a || a.Or(a) != a || a.Stricter(a) != a || a.Not().Not() != a {
			t.Errorf("%v beside itself, or negated twice, is something else", a)
		}
		if unknown.And(a) == authz.Yes || a.And(unknown) == authz.Yes || unknown.Stricter(a) == authz.Yes || unknown.Not() == authz.Yes {
			t.Errorf("an unknown outcome and %v are Yes", a)
		}
		for _, b := range outcomes {
			if a.And(b) != b.And(a) || a.Or(b) != b.Or(a) || a.Stricter(b) != b.Stricter(a) {
				t.Errorf("%v and %v: the order matters", a, b)
			}
			if a.And(b).Not() != a.Not().Or(b.Not()) {
				t.Errorf("%v and %v: not both is not either negated", a, b)
			}
			if (a.And(b) == authz.Yes || a.Stricter(b) == authz.Yes) && (a != authz.Yes || b != authz.Yes) {
				t.Errorf("%v and %v are Yes", a, b)
			}
		}
	}
}
