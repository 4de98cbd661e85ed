package triples

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/authzed/spicedb/pkg/validationfile/blocks"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/tests/harness"
)

// shown is how many differences of a file are printed; all are counted.
const shown = 20

// TestTriples asks everything of every file.
func TestTriples(t *testing.T) {
	each(t, files(t), func(t *testing.T, f file) tally {
		return compare(t, f, daemon.EvaluatorNative, f.triples(), edit{})
	})
}

// TestOfTheTest asks SpiceDB on both sides: what differs then is the test's own, or SpiceDB's in bulk.
func TestOfTheTest(t *testing.T) {
	two := slices.DeleteFunc(files(t), func(f file) bool { return f.name != "caveatarrow.yaml" && f.name != "intersectionarrow.yaml" })
	each(t, two, func(t *testing.T, f file) tally {
		return compare(t, f, daemon.EvaluatorSpiceDB, f.triples(), edit{})
	})
}

// TestCrowded asks less of the same graphs with wide objects and relations. Each size makes the reading of an
// object take another way: of its relations one by one, of a relation's subjects one by one, and in pages.
func TestCrowded(t *testing.T) {
	for _, c := range []struct{ size, questions int }{{20, 300}, {70, 300}, {1_100, 60}} {
		t.Run(strconv.Itoa(c.size), func(t *testing.T) {
			each(t, files(t), func(t *testing.T, f file) tally {
				return compare(t, f, daemon.EvaluatorNative, some(f.closer(), c.questions/len(f.contexts(t))), edit{updates: f.crowd(c.size)})
			})
		})
	}
}

// TestSnapshots asks about two pictures of the same graph in turn, of which the later one lacks every other
// relationship: what Deputy knows of one must not show in the other.
func TestSnapshots(t *testing.T) {
	each(t, files(t), func(t *testing.T, f file) tally {
		return compare(t, f, daemon.EvaluatorNative, some(f.closer(), 300/len(f.contexts(t))), edit{updates: f.thin(), both: true})
	})
}

// TestCaveated asks about graphs with more conditions.
func TestCaveated(t *testing.T) {
	conditional := slices.DeleteFunc(files(t), func(f file) bool { return len(f.caveated()) == 0 })
	each(t, conditional, func(t *testing.T, f file) tally {
		return compare(t, f, daemon.EvaluatorNative, some(f.closer(), 1_000/len(f.contexts(t))), edit{updates: f.caveated()})
	})
}

// TestFollowed asks servers that follow a PostgreSQL to which SpiceDB wrote the files, and another Deputy that has them, and then asks about their copies
// as TestTriples does. In make test it asks about every twentieth file; DEPUTY_TRIPLES_FOLLOWED has it ask about all, as make soak does.
func TestFollowed(t *testing.T) {
	var chosen []file
	for i, f := range files(t) {
		if i%20 == 0 || os.Getenv("DEPUTY_TRIPLES_FOLLOWED") != "" {
			chosen = append(chosen, f)
		}
	}
	for kind, of := range authorities {
		t.Run(kind, func(t *testing.T) {
			each(t, chosen, func(t *testing.T, f file) tally {
				return compare(t, f, daemon.EvaluatorNative, f.triples(), edit{followed: of})
			})
		})
	}
}

// some returns at most so many triples, evenly spread, the same ones in every run.
func some(all []triple, most int) []triple {
	if len(all) <= most {
		return all
	}
	spread := make([]triple, most)
	for i := range spread {
		spread[i] = all[i*len(all)/most]
	}
	return spread
}

// each runs the case on each file, and prints what was counted.
func each(t *testing.T, files []file, run func(*testing.T, file) tally) {
	t.Helper()
	var all tally
	for _, f := range files {
		t.Run(f.name, func(t *testing.T) {
			one := run(t, f)
			t.Logf("%s: %s", f.name, &one)
			all.add(one)
		})
	}
	t.Logf("total: %s", &all)
}

// tally counts.
type tally struct {
	triples, questions, yes, conditional, failing, assertions, differences int
	// excused are the differences that are SpiceDB's, by class.
	excused map[string]int
}

func (a *tally) add(b tally) {
	a.triples += b.triples
	a.questions += b.questions
	a.yes += b.yes
	a.conditional += b.conditional
	a.failing += b.failing
	a.assertions += b.assertions
	a.differences += b.differences
	for class, n := range b.excused {
		a.excuse(class, n)
	}
}

func (a *tally) excuse(class string, n int) {
	if a.excused == nil {
		a.excused = map[string]int{}
	}
	a.excused[class] += n
}

// String is the counts in a line.
func (a *tally) String() string {
	text := fmt.Sprintf("%d triples, %d differences; %d questions with their contexts, %d yes, %d conditional, %d failing; %d assertions",
		a.triples, a.differences, a.questions, a.yes, a.conditional, a.failing, a.assertions)
	for _, class := range []string{otherBranch, sharedError} {
		if n := a.excused[class]; n > 0 {
			text += fmt.Sprintf("; %d× %s", n, class)
		}
	}
	return text
}

// edit is what is written after a file's graph.
type edit struct {
	updates []tuple.RelationshipUpdate
	// both says that it is asked about the graph without the edit too: before and after the one with it.
	both bool
	// followed returns a server that follows an authority with the graph, so that Deputy decides from a copy; nil where it follows none.
	followed func(t *testing.T, f file, filled engine.Config) daemon.Config
}

// compare asks SpiceDB and Deputy triples of a file without and with its contexts, and reports every difference.
// An unedited graph is held against the file's assertions too.
func compare(t *testing.T, f file, evaluator string, triples []triple, e edit) tally {
	t.Helper()
	questions := f.questions(t, triples)
	cfg := harness.Embedded(t)
	var pictures []picture
	fill(t, cfg, f, e.updates, func(conn grpc.ClientConnInterface, without, with *v1.ZedToken) {
		pictures = []picture{{with, single(t, conn, with, questions)}}
		if e.both {
			old := picture{without, single(t, conn, without, questions)}
			pictures = []picture{old, pictures[0], old}
		}
	})
	var count tally
	if e.followed != nil {
		var answers []answer
		want := pictures[0].want
		answers, cfg = follows(t, e.followed(t, f, cfg), questions, want)
		count.differences = judge(t, f, evaluator, questions, want, answers, answers).differences
	}
	deputy := open(t, cfg, evaluator)
	if e.followed != nil {
		pictures[0].snapshot = head(t, deputy)
	}
	for _, p := range pictures {
		singly, inBulk := single(t, deputy, p.snapshot, questions), bulk(t, deputy, p.snapshot, questions)
		checkWhoAnswered(t, f, evaluator, questions, singly, inBulk)
		one := judge(t, f, evaluator, questions, p.want, singly, inBulk)
		one.triples = len(triples)
		if len(e.updates) == 0 {
			one.assertions = checkAssertions(t, f, questions, map[string][]answer{"SpiceDB": p.want, "Deputy": singly, "Deputy in bulk": inBulk})
		}
		count.add(one)
	}
	return count
}

// picture is a snapshot with what SpiceDB answers at it.
type picture struct {
	snapshot *v1.ZedToken
	want     []answer
}

// judge reports every difference between what SpiceDB answers and what Deputy does, singly and in bulk.
func judge(t *testing.T, f file, evaluator string, questions []question, want, singly, inBulk []answer) tally {
	t.Helper()
	count := tally{questions: len(questions)}
	report := func(how string, q question, want, got answer) {
		if count.differences++; count.differences <= shown {
			t.Errorf("%s%s %s %s\n  SpiceDB: %s\n  Deputy:  %s", f.name, how, q, compact(t, q.context), want, got)
		}
	}
	shares := sharing(t, questions, want)
	for i, q := range questions {
		count.sort(want[i])
		without := want[q.without]
		if class := excuse(want[i], singly[i], without); class != "" {
			count.excuse(class, 1)
		} else if !singly[i].same(want[i]) {
			report("", q, want[i], singly[i])
		}
		switch class := excuse(want[i], inBulk[i], without); {
		case class != "":
			count.excuse(class, 1)
		case inBulk[i].same(want[i]):
		case evaluator == daemon.EvaluatorSpiceDB && shares[group(t, q)][inBulk[i].reason]:
			count.excuse(sharedError, 1)
		default:
			report(" in bulk:", q, want[i], inBulk[i])
		}
	}
	return count
}

// checkWhoAnswered makes sure that it was not SpiceDB that answered on both sides. The native evaluator leaves
// to it only what it refuses; in bulk, where an item is refused by itself, only what is asked for everybody.
func checkWhoAnswered(t *testing.T, f file, evaluator string, questions []question, singly, inBulk []answer) {
	t.Helper()
	native := evaluator == daemon.EvaluatorNative
	for i, q := range questions {
		everybody := q.subject.ObjectID == tuple.PublicWildcard
		refused := singly[i].code != codes.OK && !slices.Contains(caveatErrors, singly[i].reason)
		if !refused && singly[i].spicedb == native || !everybody && inBulk[i].spicedb == native {
			t.Fatalf("%s: %s %s: SpiceDB answered: singly %t, in bulk %t", f.name, q, compact(t, q.context), singly[i].spicedb, inBulk[i].spicedb)
		}
	}
}

// sort counts an answer of SpiceDB's by its kind.
func (a *tally) sort(want answer) {
	switch {
	case want.reason != "" || want.permissionship == v1.CheckPermissionResponse_PERMISSIONSHIP_UNSPECIFIED:
		a.failing++
	case want.permissionship == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION:
		a.yes++
	case want.permissionship == v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
		a.conditional++
	}
}

// The classes of differences that are SpiceDB's own. That missing fields come in another order is none:
// they are compared as sets.
const (
	otherBranch = "SpiceDB fails on a caveat though another branch decides"
	sharedError = "an item in SpiceDB's bulk gets the caveat error of its neighbour"
)

// caveatErrors are the reasons of errors that a caveat makes.
var caveatErrors = []string{
	v1.ErrorReason_ERROR_REASON_CAVEAT_EVALUATION_ERROR.String(),
	v1.ErrorReason_ERROR_REASON_CAVEAT_PARAMETER_TYPE_ERROR.String(),
}

// excuse returns otherBranch where SpiceDB fails on a caveat and Deputy gives the definite answer that SpiceDB
// itself gives to the same triple without any context: an answer that needs no context is not changed by one.
func excuse(want, got, without answer) string {
	if slices.Contains(caveatErrors, want.reason) && got.definite() && got.same(without) {
		return otherBranch
	}
	return ""
}

// sharing lists, for each group of questions that SpiceDB's bulk evaluates together, which caveat errors its
// members give singly.
func sharing(t *testing.T, questions []question, want []answer) map[string]map[string]bool {
	t.Helper()
	shares := map[string]map[string]bool{}
	for i, q := range questions {
		if slices.Contains(caveatErrors, want[i].reason) {
			key := group(t, q)
			if shares[key] == nil {
				shares[key] = map[string]bool{}
			}
			shares[key][want[i].reason] = true
		}
	}
	return shares
}

// group is what the questions that SpiceDB's bulk evaluates together have in common: all but the resource's id.
func group(t *testing.T, q question) string {
	t.Helper()
	return strings.Join([]string{q.resource.ObjectType, q.resource.Relation, tuple.StringONR(q.subject), string(compact(t, q.context))}, " ")
}

// checkAssertions holds the answers against what the file itself asserts, and returns how many assertions there are.
func checkAssertions(t *testing.T, f file, questions []question, answers map[string][]answer) int {
	t.Helper()
	place := map[string]int{}
	key := func(x triple, c *structpb.Struct) string { return x.String() + " " + string(compact(t, c)) }
	for i, q := range questions {
		place[key(q.triple, q.context)] = i
	}
	checked := 0
	check := func(list []blocks.Assertion, want v1.CheckPermissionResponse_Permissionship) {
		for _, a := range list {
			c := pack(t, a.CaveatContext)
			if len(c.GetFields()) == 0 {
				c = nil
			}
			i, asked := place[key(triple{a.Relationship.Resource, a.Relationship.Subject}, c)]
			if !asked {
				t.Errorf("%s: %s was not asked", f.name, a.RelationshipWithContextString)
				continue
			}
			checked++
			for whose, list := range answers {
				if list[i].permissionship != want {
					t.Errorf("%s asserts %s on %s, and %s answers %s", f.name, want, a.RelationshipWithContextString, whose, list[i])
				}
			}
		}
	}
	check(f.parsed.Assertions.AssertTrue, v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION)
	check(f.parsed.Assertions.AssertCaveated, v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION)
	check(f.parsed.Assertions.AssertFalse, v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION)
	return checked
}
