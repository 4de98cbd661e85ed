package evaluate

import (
	"context"
	"fmt"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// maxTree is how many branches and leaves the tree of an expansion has at most: it is one message, and held as a whole.
const maxTree = 100_000

// Expand returns the tree by which a permission of an object is computed, in the form of SpiceDB's shallow expansion: permissions are followed
// down to relations, and a relation has the subjects that its rows name, without their caveats. Children are in the order of
// the schema, and then of rows. Errors: FailedPrecondition for a name that the schema does not have and for a tree that is deeper than a check
// may be, ResourceExhausted for one of more than 100,000 branches and leaves, and those of the rows and of ctx.
func (p *Program) Expand(ctx context.Context, rows Rows, resource tuple.ObjectAndRelation) (*v1.PermissionRelationshipTree, error) {
	m, err := p.member(resource.ObjectType, resource.Relation)
	if err != nil {
		return nil, err
	}
	e := expansion{ctx: ctx, program: p, rows: rows}
	return e.member(memberKey{m, resource.ObjectID}, maxDepth)
}

// expansion is the progress of one Expand.
type expansion struct {
	ctx     context.Context //nolint:containedctx // of one call
	program *Program
	rows    Rows
	// size counts branches and leaves.
	size int
}

// grow counts one more branch or leaf.
func (e *expansion) grow() error {
	if e.size++; e.size > maxTree {
		return statuses.New(codes.ResourceExhausted, authz.ReasonEngineRefused, "",
			fmt.Sprintf("the tree has more than %d branches and leaves: ask for less at a time, and look for relationships in a circle", maxTree)).Err()
	}
	return nil
}

// member expands a member of an object; left is how many more may be expanded one in another.
func (e *expansion) member(of memberKey, left int) (*v1.PermissionRelationshipTree, error) {
	if err := e.ctx.Err(); err != nil {
		return nil, err
	}
	switch {
	case left == 0:
		return nil, tooDeep()
	case of.of.rewrite == nil:
		return e.direct(of)
	case len(of.of.rewrite.children) > 0:
		return e.node(of.of.rewrite, of, left)
	default: // SpiceDB stores it as a union of one
		return e.group(v1.AlgebraicSubjectSet_OPERATION_UNION, []*node{of.of.rewrite}, of, left)
	}
}

// direct lists the subjects of a relation.
func (e *expansion) direct(of memberKey) (*v1.PermissionRelationshipTree, error) {
	var subjects []*v1.SubjectReference
	err := e.each(of, func(row *Row) error {
		if err := e.grow(); err != nil {
			return err
		}
		subjects = append(subjects, &v1.SubjectReference{
			Object: &v1.ObjectReference{ObjectType: row.SubjectType, ObjectId: row.SubjectID}, OptionalRelation: row.SubjectRelation,
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return e.leaf(of, subjects)
}

// each calls fn with the rows of a relation of an object.
func (e *expansion) each(of memberKey, fn func(*Row) error) error {
	rows, more, err := e.rows.Relation(of.of.of.name, of.id, of.of.name, narrowRelation)
	if err != nil {
		return err
	}
	if more {
		rows = nil // there are too many for one read: they are read in pages
	}
	for {
		for i := range rows {
			if err := fn(&rows[i]); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		if err := e.ctx.Err(); err != nil {
			return err
		}
		var after *Row
		if len(rows) > 0 {
			after = &rows[len(rows)-1]
		}
		if rows, more, err = e.rows.Page(of.of.of.name, of.id, of.of.name, false, after, page); err != nil {
			return err
		}
	}
}

// node expands a part of a permission of an object.
func (e *expansion) node(n *node, of memberKey, left int) (*v1.PermissionRelationshipTree, error) {
	switch n.op {
	case schema.Union:
		return e.group(v1.AlgebraicSubjectSet_OPERATION_UNION, n.children, of, left)
	case schema.Intersection:
		return e.group(v1.AlgebraicSubjectSet_OPERATION_INTERSECTION, n.children, of, left)
	case schema.Exclusion:
		return e.group(v1.AlgebraicSubjectSet_OPERATION_EXCLUSION, n.children, of, left)
	case schema.Computed:
		return e.member(memberKey{n.target, of.id}, left-1)
	case schema.Arrow:
		return e.arrow(v1.AlgebraicSubjectSet_OPERATION_UNION, n, of, left)
	case schema.ArrowAll:
		return e.arrow(v1.AlgebraicSubjectSet_OPERATION_INTERSECTION, n, of, left)
	case schema.Self:
		if err := e.grow(); err != nil {
			return nil, err
		}
		return e.leaf(of, []*v1.SubjectReference{{Object: of.object()}})
	case schema.Nil:
	}
	return e.leaf(of, nil)
}

// group expands operands.
func (e *expansion) group(op v1.AlgebraicSubjectSet_Operation, operands []*node, of memberKey, left int) (*v1.PermissionRelationshipTree, error) {
	children := make([]*v1.PermissionRelationshipTree, len(operands))
	for i, n := range operands {
		var err error
		if children[i], err = e.node(n, of, left); err != nil {
			return nil, err
		}
	}
	return e.branch(op, children, of)
}

// arrow expands a permission of each object that a relation leads to.
func (e *expansion) arrow(op v1.AlgebraicSubjectSet_Operation, n *node, of memberKey, left int) (*v1.PermissionRelationshipTree, error) {
	var children []*v1.PermissionRelationshipTree
	err := e.each(memberKey{n.tupleset, of.id}, func(row *Row) error {
		t := e.program.types[row.SubjectType]
		if t == nil {
			return noType(row.SubjectType)
		}
		var child *v1.PermissionRelationshipTree
		var err error
		if m := t.members[n.permission]; m != nil {
			child, err = e.member(memberKey{m, row.SubjectID}, left-1)
		} else {
			child, err = e.leaf(of, nil)
		}
		children = append(children, child)
		return err
	})
	if err != nil {
		return nil, err
	}
	return e.branch(op, children, of)
}

func (e *expansion) branch(
	op v1.AlgebraicSubjectSet_Operation, children []*v1.PermissionRelationshipTree, of memberKey,
) (*v1.PermissionRelationshipTree, error) {
	return &v1.PermissionRelationshipTree{
		TreeType:       &v1.PermissionRelationshipTree_Intermediate{Intermediate: &v1.AlgebraicSubjectSet{Operation: op, Children: children}},
		ExpandedObject: of.object(), ExpandedRelation: of.of.name,
	}, e.grow()
}

func (e *expansion) leaf(of memberKey, subjects []*v1.SubjectReference) (*v1.PermissionRelationshipTree, error) {
	return &v1.PermissionRelationshipTree{
		TreeType:       &v1.PermissionRelationshipTree_Leaf{Leaf: &v1.DirectSubjectSet{Subjects: subjects}},
		ExpandedObject: of.object(), ExpandedRelation: of.of.name,
	}, e.grow()
}

// object is the object whose member it is.
func (k memberKey) object() *v1.ObjectReference {
	return &v1.ObjectReference{ObjectType: k.of.of.name, ObjectId: k.id}
}
