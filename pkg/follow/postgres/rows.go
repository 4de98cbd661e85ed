package postgres

import (
	"encoding/json"
	"fmt"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/follow"
)

// columns are those of a relationship, in scanRelationships' order.
const columns = `namespace, object_id, relation, userset_namespace, userset_object_id, userset_relation,
	caveat_name, caveat_context::text, expiration`

// alive is the deleted_xid of a row that was not deleted.
const alive = `'9223372036854775807'::xid8`

// each calls fn after each row of a result, which scan has read into its targets.
func each(results pgx.BatchResults, targets []any, fn func() error) error {
	rows, err := results.Query()
	if err != nil {
		return refusal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return refusal(err)
		}
		if err := fn(); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return refusal(err)
	}
	return nil
}

// relationshipRow takes the columns of one relationship after the other.
type relationshipRow struct {
	rel           tuple.Relationship
	caveat, given *string
	expires       *time.Time
}

func (r *relationshipRow) targets() []any {
	return []any{
		&r.rel.Resource.ObjectType, &r.rel.Resource.ObjectID, &r.rel.Resource.Relation,
		&r.rel.Subject.ObjectType, &r.rel.Subject.ObjectID, &r.rel.Subject.Relation, &r.caveat, &r.given, &r.expires,
	}
}

// size is how many bytes the relationship has that was read.
func (r *relationshipRow) size() int {
	n := len(r.rel.Resource.ObjectType) + len(r.rel.Resource.ObjectID) + len(r.rel.Resource.Relation) +
		len(r.rel.Subject.ObjectType) + len(r.rel.Subject.ObjectID) + len(r.rel.Subject.Relation)
	if r.given != nil {
		n += len(*r.given)
	}
	return n
}

// appendTo appends the relationship that was read to a list.
func (r *relationshipRow) appendTo(to *[]tuple.Relationship) (err error) {
	found := tuple.Relationship{RelationshipReference: r.rel.RelationshipReference}
	if r.expires != nil {
		at := r.expires.UTC()
		found.OptionalExpiration = &at
	}
	if r.caveat != nil && *r.caveat != "" {
		if found.OptionalCaveat, err = caveatOf(*r.caveat, r.given); err != nil {
			return fmt.Errorf("follow: %.500s: %w", tuple.StringWithoutCaveatOrExpiration(found), err)
		}
	}
	*to = append(*to, found)
	return nil
}

// caveatOf reads a caveat's context as SpiceDB does.
func caveatOf(name string, given *string) (*core.ContextualizedCaveat, error) {
	var values map[string]any
	if given != nil {
		if err := json.Unmarshal([]byte(*given), &values); err != nil {
			return nil, fmt.Errorf("the context of caveat %.200s: %w", name, err)
		}
	}
	context, err := structpb.NewStruct(values)
	if err != nil {
		return nil, fmt.Errorf("the context of caveat %.200s: %w", name, err)
	}
	return &core.ContextualizedCaveat{CaveatName: name, Context: context}, nil
}

// gather returns a taker of relationships that appends them to a list.
func gather(to *[]tuple.Relationship) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		var row relationshipRow
		return each(results, row.targets(), func() error { return row.appendTo(to) })
	}
}

// maxPageBytes is about how much of relationships a page has: it ends with the one that comes to it. The database has sent more by then, so it is no
// less than pages of common relationships have.
const maxPageBytes = 32 << 20

// gatherPage is gather, and leaves out what comes after a full page.
func gatherPage(to *[]tuple.Relationship, full *bool) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		var row relationshipRow
		room := maxPageBytes
		return each(results, row.targets(), func() error {
			if *full = *full || len(*to) > 0 && room <= 0; *full {
				return nil
			}
			room -= row.size()
			return row.appendTo(to)
		})
	}
}

func gatherTypes(to *[]*core.NamespaceDefinition) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		var encoded []byte
		return each(results, []any{&encoded}, func() error { return appendType(to, encoded) })
	}
}

func appendType(to *[]*core.NamespaceDefinition, encoded []byte) error {
	d := &core.NamespaceDefinition{}
	if err := d.UnmarshalVT(encoded); err != nil {
		return fmt.Errorf("follow: a definition of the authority cannot be read: %w", err)
	}
	*to = append(*to, d)
	return nil
}

func gatherCaveats(to *[]*core.CaveatDefinition) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		var encoded []byte
		return each(results, []any{&encoded}, func() error { return appendCaveat(to, encoded) })
	}
}

func appendCaveat(to *[]*core.CaveatDefinition, encoded []byte) error {
	d := &core.CaveatDefinition{}
	if err := d.UnmarshalVT(encoded); err != nil {
		return fmt.Errorf("follow: a caveat of the authority cannot be read: %w", err)
	}
	*to = append(*to, d)
	return nil
}

func gatherCounters(to *[]follow.Counter) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		var name string
		var encoded []byte
		return each(results, []any{&name, &encoded}, func() error { return appendCounter(to, name, encoded) })
	}
}

func appendCounter(to *[]follow.Counter, name string, encoded []byte) error {
	filter := &core.RelationshipFilter{}
	if err := filter.UnmarshalVT(encoded); err != nil {
		return fmt.Errorf("follow: counter %.200s of the authority cannot be read: %w", name, err)
	}
	*to = append(*to, follow.Counter{Name: name, Filter: filter})
	return nil
}
