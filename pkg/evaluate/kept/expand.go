package kept

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/store"
)

// ExpandPermissionTree answers authzed.api.v1's method of that name; ok is as for CheckPermission. Where trees of the permission have been
// found to differ from SpiceDB's, they are left to SpiceDB too.
func (g *Graph) ExpandPermissionTree(
	ctx context.Context, req *v1.ExpandPermissionTreeRequest,
) (resp *v1.ExpandPermissionTreeResponse, ok bool, err error) {
	of := req.GetResource()
	if !isID(of.GetObjectId()) || g.verifier.distrusts(permissionName{of.GetObjectType(), req.GetPermission()}) {
		return nil, false, nil
	}
	ctx, turn, err := take(ctx, g.trees)
	if err != nil {
		return nil, true, err
	}
	defer turn.leave()
	at, token, ok := g.pin(ctx, req.GetConsistency())
	if !ok {
		return nil, false, nil
	}
	defer at.Close()
	// That there is such an object and such a permission is all that is looked at.
	check := checkOf(of, req.GetPermission(), &v1.SubjectReference{Object: of}, nil)
	if err := at.program.Resolve(&check); err != nil {
		return nil, false, nil
	}
	tree, err := at.Expand(ctx, check.Resource)
	if err != nil {
		return nil, true, statusOf(err).Err()
	}
	g.verifier.sampleTree(at.Revision(), authz.Revision{Token: token.GetToken()}, check.Resource, tree)
	return &v1.ExpandPermissionTreeResponse{ExpandedAt: token, TreeRoot: tree}, true, nil
}

// expanded is a tree that was answered: of it a digest is kept until it is verified.
type expanded struct {
	of     tuple.ObjectAndRelation
	digest [sha256.Size]byte
}

// sampleTree gives a share of the trees to verification.
func (v *verifier) sampleTree(at store.Revision, token authz.Revision, of tuple.ObjectAndRelation, tree *v1.PermissionRelationshipTree) {
	if v.graph.expand != nil && v.draws() {
		v.enqueue(answered{at: at, token: token, tree: &expanded{of, digest(tree)}})
	}
}

// verifyTree compares a tree with SpiceDB's. It is looked at again where they differ, because both depend on the clock.
func (v *verifier) verifyTree(ctx context.Context, a answered) {
	for try := range again {
		theirs, err := v.theirTree(ctx, a)
		if err != nil {
			v.skipped.Inc()
			return
		}
		if a.tree.digest == theirs {
			v.verified.Inc()
			return
		}
		if try == again-1 {
			break
		}
		at, err := v.graph.evaluator.At(a.at)
		if err != nil {
			v.skipped.Inc()
			return
		}
		ours, err := at.Expand(ctx, a.tree.of)
		at.Close()
		if err != nil {
			v.skipped.Inc()
			return
		}
		a.tree = &expanded{a.tree.of, digest(ours)}
	}
	v.verified.Inc()
	v.differences.Inc()
	v.distrust(permissionName{a.tree.of.ObjectType, a.tree.of.Relation})
	v.log.Error("the evaluator and SpiceDB expand a permission to different trees; from now on SpiceDB answers for trees of it",
		zap.String("permission", tuple.StringONR(a.tree.of)), zap.String("revision", a.at.String()))
}

// theirTree is the digest of SpiceDB's tree.
func (v *verifier) theirTree(ctx context.Context, a answered) ([sha256.Size]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyPatience)
	defer cancel()
	theirs, err := v.graph.expand(ctx, &v1.ExpandPermissionTreeRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: &v1.ZedToken{Token: a.token.ZedToken()}}},
		Resource:    &v1.ObjectReference{ObjectType: a.tree.of.ObjectType, ObjectId: a.tree.of.ObjectID}, Permission: a.tree.of.Relation,
	})
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return digest(theirs.GetTreeRoot()), nil
}

// digest is the digest of a tree: the same whatever the order of its subjects, and of its children but for what an exclusion takes away from.
func digest(t *v1.PermissionRelationshipTree) (sum [sha256.Size]byte) {
	var parts [][]byte
	for _, s := range t.GetLeaf().GetSubjects() {
		parts = append(parts, []byte(s.GetObject().GetObjectType()+":"+s.GetObject().GetObjectId()+"#"+s.GetOptionalRelation()))
	}
	op := t.GetIntermediate().GetOperation()
	for i, child := range t.GetIntermediate().GetChildren() {
		of := digest(child)
		if i == 0 && op == v1.AlgebraicSubjectSet_OPERATION_EXCLUSION {
			parts = append(parts, append([]byte("first "), of[:]...))
		} else {
			parts = append(parts, append([]byte("child "), of[:]...))
		}
	}
	slices.SortFunc(parts, bytes.Compare)
	h := sha256.New()
	of := t.GetExpandedObject()
	_, _ = fmt.Fprintf(h, "%s %t %s:%s#%s", op, t.GetLeaf() != nil, of.GetObjectType(), of.GetObjectId(), t.GetExpandedRelation())
	for _, part := range parts {
		_, _ = fmt.Fprintf(h, " %d:%s", len(part), part)
	}
	h.Sum(sum[:0])
	return sum
}
