package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/datastore/queryshape"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/schema"
)

// dropping is a transaction that keeps what a schema write drops from coming back.
//
// SpiceDB leaves the filter on expiration out of a query where the relation admits no expiration. A row that
// has expired, and that garbage collection has not reached, would then grant again once a schema write drops
// "with expiration" from its relation; SpiceDB's own validation of the write counts live rows only. Removing
// the relation, or the whole type, and adding it again later has the same effect in two steps. So every
// schema write removes, in its own transaction, the rows of the relations that it changes which have expired
// and which the new schema does not admit. Where such a row is still live the write is refused.
//
// At an older revision SpiceDB reads the older schema with the older rows, so nothing changes there.
//
// A dropping belongs to one run of one transaction and is not safe for concurrent use, like the transaction.
type dropping struct {
	datastore.ReadWriteTransaction
	// before holds what the relations of the types that were written or deleted admitted before; nil for a type that is new.
	before map[string]map[string][]schema.Allowed
}

// LegacyWriteNamespaces is the transaction's.
func (d *dropping) LegacyWriteNamespaces(ctx context.Context, definitions ...*core.NamespaceDefinition) error {
	names := make([]string, len(definitions))
	for i, definition := range definitions {
		names[i] = definition.GetName()
	}
	if err := d.remember(ctx, names); err != nil {
		return err
	}
	return d.ReadWriteTransaction.LegacyWriteNamespaces(ctx, definitions...)
}

// LegacyDeleteNamespaces is the transaction's.
func (d *dropping) LegacyDeleteNamespaces(ctx context.Context, names []string, option datastore.DeleteNamespacesRelationshipsOption) error {
	if err := d.remember(ctx, names); err != nil {
		return err
	}
	return d.ReadWriteTransaction.LegacyDeleteNamespaces(ctx, names, option)
}

// remember reads the types as they are before their first change in the transaction.
func (d *dropping) remember(ctx context.Context, names []string) error {
	found, err := d.admitted(ctx, names)
	if err != nil {
		return err
	}
	if d.before == nil {
		d.before = make(map[string]map[string][]schema.Allowed, len(names))
	}
	for _, name := range names {
		if _, known := d.before[name]; !known {
			d.before[name] = found[name]
		}
	}
	return nil
}

// finish removes what the schema write has left without a place in the schema. Without a schema write it does
// nothing. Errors: FAILED_PRECONDITION where a live row has no place.
func (d *dropping) finish(ctx context.Context) error {
	if len(d.before) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(d.before))
	after, err := d.admitted(ctx, names)
	if err != nil {
		return err
	}
	for _, name := range names {
		for _, relation := range changedRelations(d.before[name], after[name]) {
			if err := d.clear(ctx, name, relation, after[name][relation]); err != nil {
				return err
			}
		}
	}
	return nil
}

// admitted reads what the members of types admit, without where it is written.
func (d *dropping) admitted(ctx context.Context, names []string) (map[string]map[string][]schema.Allowed, error) {
	found, err := d.LegacyLookupNamespacesWithNames(ctx, names)
	types := make(map[string]map[string][]schema.Allowed, len(found))
	for _, f := range found {
		members := map[string][]schema.Allowed{}
		for _, m := range f.Definition.GetRelation() {
			members[m.GetName()] = nil
			for _, a := range m.GetTypeInformation().GetAllowedDirectRelations() {
				// One of a kind that is not known, which another program stored, reads as a kind that no relation admits. So the
				// schema that takes it away counts as a change.
				kind, _ := schema.ReadAllowed(a)
				kind.At = nil
				members[m.GetName()] = append(members[m.GetName()], kind)
			}
		}
		types[f.Definition.GetName()] = members
	}
	return types, err
}

// changedRelations names the relations, in order, that admit other kinds of subjects after than before, those that are new or
// gone included. A type that does not exist has none.
func changedRelations(before, after map[string][]schema.Allowed) (changed []string) {
	all := map[string]bool{}
	for _, members := range []map[string][]schema.Allowed{before, after} {
		for name := range members {
			all[name] = true
		}
	}
	within := func(a, b []schema.Allowed) bool {
		return !slices.ContainsFunc(a, func(kind schema.Allowed) bool { return !slices.Contains(b, kind) })
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !within(before[name], after[name]) || !within(after[name], before[name]) {
			changed = append(changed, name)
		}
	}
	return changed
}

// pageOfRows is how many rows are read and removed at once.
const pageOfRows = 1000

// clear removes the rows with an expiration that the relation does not admit any more. Where one of them is
// live it fails instead.
func (d *dropping) clear(ctx context.Context, objectType, relation string, allowed []schema.Allowed) error {
	if len(allowed) == 0 {
		// SpiceDB has looked for live rows of a relation that goes. memdb does not see those with a caveat then.
		found, err := d.rows(ctx, objectType, relation, datastore.ExpirationFilterOptionNone, nil, false)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return errInTheWay(found[0])
		}
	}
	for _, expired := range []bool{false, true} {
		var last *tuple.Relationship
		for {
			found, err := d.rows(ctx, objectType, relation, datastore.ExpirationFilterOptionHasExpiration, last, expired)
			if err != nil {
				return err
			}
			if err := d.clearPage(ctx, found, allowed, expired); err != nil {
				return err
			}
			if len(found) < pageOfRows {
				break
			}
			last = &found[len(found)-1]
		}
	}
	return nil
}

// clearPage does what clear does with a page of rows, which are those that have expired and others, or live ones.
func (d *dropping) clearPage(ctx context.Context, page []tuple.Relationship, allowed []schema.Allowed, expired bool) error {
	var stray []tuple.RelationshipUpdate
	for _, r := range page {
		kind := schema.KindOf(r)
		kind.Expires = true // all of them do; PostgreSQL leaves out when if it is not to look at it
		if !slices.Contains(allowed, kind) {
			stray = append(stray, tuple.Delete(r))
		}
	}
	switch {
	case len(stray) == 0:
		return nil
	case !expired:
		return errInTheWay(stray[0].Relationship)
	}
	return d.WriteRelationships(ctx, stray)
}

// rows returns a page of a relation's rows after the last, those that have expired included if that is asked for.
func (d *dropping) rows(
	ctx context.Context, objectType, relation string, which datastore.ExpirationFilterOption, last *tuple.Relationship, expired bool,
) ([]tuple.Relationship, error) {
	limit := uint64(pageOfRows)
	with := []options.QueryOptionsOption{
		options.WithLimit(&limit),
		options.WithSort(options.ByResource),
		options.WithSkipExpiration(expired),
		options.WithQueryShape(queryshape.Varying),
	}
	if last != nil {
		with = append(with, options.WithAfter(options.ToCursor(*last)))
	}
	found, err := d.QueryRelationships(ctx, datastore.RelationshipsFilter{
		OptionalResourceType:     objectType,
		OptionalResourceRelation: relation,
		OptionalExpirationOption: which,
	}, with...)
	if err != nil {
		return nil, err
	}
	var rows []tuple.Relationship
	for r, err := range found {
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// errInTheWay refuses a schema write because of a row that the schema would not admit.
func errInTheWay(r tuple.Relationship) error {
	return refusal(codes.FailedPrecondition, authz.ReasonSchemaInUse, fmt.Sprintf(
		"the new schema does not admit the relationship %s, which is live; delete it first, or keep its type in relation %s of %s; nothing was written",
		tuple.StringWithoutCaveatOrExpiration(r), r.Resource.Relation, r.Resource.ObjectType))
}
