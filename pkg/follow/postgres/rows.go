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

// scanRelationships reads a result whose columns are those of relationships.
func scanRelationships(results pgx.BatchResults, fn func(tuple.Relationship) error) error {
	var rel tuple.Relationship
	var caveat, given *string
	var expires *time.Time
	targets := []any{
		&rel.Resource.ObjectType, &rel.Resource.ObjectID, &rel.Resource.Relation,
		&rel.Subject.ObjectType, &rel.Subject.ObjectID, &rel.Subject.Relation, &caveat, &given, &expires,
	}
	return each(results, targets, func() (err error) {
		found := tuple.Relationship{RelationshipReference: rel.RelationshipReference}
		if expires != nil {
			at := expires.UTC()
			found.OptionalExpiration = &at
		}
		if caveat != nil && *caveat != "" {
			if found.OptionalCaveat, err = caveatOf(*caveat, given); err != nil {
				return fmt.Errorf("follow: %s: %w", tuple.StringWithoutCaveatOrExpiration(found), err)
			}
		}
		return fn(found)
	})
}

// caveatOf reads a caveat's context as SpiceDB does.
func caveatOf(name string, given *string) (*core.ContextualizedCaveat, error) {
	var values map[string]any
	if given != nil {
		if err := json.Unmarshal([]byte(*given), &values); err != nil {
			return nil, fmt.Errorf("the context of caveat %s: %w", name, err)
		}
	}
	context, err := structpb.NewStruct(values)
	if err != nil {
		return nil, fmt.Errorf("the context of caveat %s: %w", name, err)
	}
	return &core.ContextualizedCaveat{CaveatName: name, Context: context}, nil
}

// gather returns a taker of relationships that appends them to a list, and reports follow.ErrTooMany beyond a limit, 0 for none.
func gather(to *[]tuple.Relationship, limit int) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		return scanRelationships(results, func(rel tuple.Relationship) error {
			if limit > 0 && len(*to) == limit {
				return follow.ErrTooMany
			}
			*to = append(*to, rel)
			return nil
		})
	}
}

func gatherTypes(to *[]*core.NamespaceDefinition) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		var encoded []byte
		return each(results, []any{&encoded}, func() error {
			d := &core.NamespaceDefinition{}
			if err := d.UnmarshalVT(encoded); err != nil {
				return fmt.Errorf("follow: a definition of the authority cannot be read: %w", err)
			}
			*to = append(*to, d)
			return nil
		})
	}
}

func gatherCaveats(to *[]*core.CaveatDefinition) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		var encoded []byte
		return each(results, []any{&encoded}, func() error {
			d := &core.CaveatDefinition{}
			if err := d.UnmarshalVT(encoded); err != nil {
				return fmt.Errorf("follow: a caveat of the authority cannot be read: %w", err)
			}
			*to = append(*to, d)
			return nil
		})
	}
}

func gatherCounters(to *[]follow.Counter) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		var name string
		var encoded []byte
		return each(results, []any{&name, &encoded}, func() error {
			filter := &core.RelationshipFilter{}
			if err := filter.UnmarshalVT(encoded); err != nil {
				return fmt.Errorf("follow: counter %s of the authority cannot be read: %w", name, err)
			}
			*to = append(*to, follow.Counter{Name: name, Filter: filter})
			return nil
		})
	}
}

func gatherNames(to *[]string) func(pgx.BatchResults) error {
	return func(results pgx.BatchResults) error {
		var name string
		return each(results, []any{&name}, func() error {
			*to = append(*to, name)
			return nil
		})
	}
}
