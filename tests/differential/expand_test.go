package differential

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/status"
)

// TestTrees compares the trees of random worlds with SpiceDB's, with children in any order.
func TestTrees(t *testing.T) {
	worlds := uint64(200)
	if raceDetector || testing.Short() {
		worlds = 60
	}
	var count treeTally
	for done := uint64(0); done < worlds; done += worldsPerDesk {
		d, shut, err := newDesk(false)
		if err != nil {
			t.Fatal(err)
		}
		for seed := done; seed < min(done+worldsPerDesk, worlds); seed++ {
			if err := d.expandWorld(t.Context(), seed+1, &count); err != nil {
				shut()
				t.Fatalf("seed %d: %v", seed+1, err)
			}
		}
		shut()
	}
	t.Logf("trees: %+v", count)
	for _, n := range []int{count.same / 100, count.branches / 100, count.tooDeep, count.strays} {
		if n < int(worlds/20) {
			t.Errorf("the worlds show too little: %+v", count)
			break
		}
	}
}

// treeTally counts trees, and their branches; tooDeep are those that both say are too deep, and skipped those that only Deputy was asked for.
type treeTally struct{ same, branches, tooDeep, skipped, strays int }

// expandWorld expands what can be asked about in the world of a seed.
func (d *desk) expandWorld(ctx context.Context, seed uint64, count *treeTally) error {
	now := time.Now()
	w := drawWorld(seed, now)
	editions, err := w.editions(d, now)
	if err != nil {
		if strings.Contains(err.Error(), "schema: ") {
			return nil
		}
		return err
	}
	slices.Reverse(editions)
	for _, e := range editions {
		if newLookups(d, e, new(lookupTally)).strays {
			count.strays++
		}
		asked := map[tuple.ObjectAndRelation]bool{}
		for _, q := range w.questions(e, 1<<20) {
			if asked[q.resource] {
				continue
			}
			if asked[q.resource] = true; len(asked) > 40 {
				break
			}
			if err := d.expand(ctx, w, e, q.resource, count); err != nil {
				return fmt.Errorf("%s: %w\n%s\n%v", tuple.StringONR(q.resource), err, e.text, e.rows)
			}
		}
	}
	return nil
}

// expand compares one tree.
func (d *desk) expand(ctx context.Context, w *world, e *edition, of tuple.ObjectAndRelation, count *treeTally) error {
	at, err := d.native.At(e.at)
	if err != nil {
		return err
	}
	defer at.Close()
	ours, failed := at.Expand(ctx, of)
	if failed != nil && !w.deep {
		// In a circle SpiceDB walks all ways at once, which are more than there is memory.
		count.skipped++
		return nil
	}
	theirs, err := d.local.ExpandPermissionTree(ctx, &v1.ExpandPermissionTreeRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: e.token}},
		Resource:    &v1.ObjectReference{ObjectType: of.ObjectType, ObjectId: of.ObjectID}, Permission: of.Relation,
	})
	switch {
	case status.Code(failed) != status.Code(err):
		return fmt.Errorf("SpiceDB: %w, Deputy: %w", err, failed)
	case failed != nil:
		count.tooDeep++
		return nil
	}
	want, got := treeText(theirs.GetTreeRoot()), treeText(ours)
	if want != got {
		return fmt.Errorf("SpiceDB:\n%s\nDeputy:\n%s", want, got)
	}
	count.same++
	count.branches += strings.Count(got, "(")
	return nil
}

// treeText writes a tree, with what is in it in one order. The first operand of an exclusion stays the first.
func treeText(t *v1.PermissionRelationshipTree) string {
	var parts []string
	for _, s := range t.GetLeaf().GetSubjects() {
		parts = append(parts, s.GetObject().GetObjectType()+":"+s.GetObject().GetObjectId()+"#"+s.GetOptionalRelation())
	}
	for _, child := range t.GetIntermediate().GetChildren() {
		parts = append(parts, treeText(child))
	}
	first := 0
	if t.GetIntermediate().GetOperation() == v1.AlgebraicSubjectSet_OPERATION_EXCLUSION {
		first = 1
	}
	slices.Sort(parts[min(first, len(parts)):])
	kind := "leaf"
	if t.GetIntermediate() != nil {
		kind = t.GetIntermediate().GetOperation().String()
	}
	return fmt.Sprintf("%s %s:%s#%s(%s)", kind, t.GetExpandedObject().GetObjectType(), t.GetExpandedObject().GetObjectId(), t.GetExpandedRelation(),
		strings.Join(parts, ", "))
}
