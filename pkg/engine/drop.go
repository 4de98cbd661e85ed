package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"github.com/authzed/spicedb/pkg/datastore/queryshape"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
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
	// before holds the types that were written or deleted, as they were; nil for a type that is new.
	before map[string]*core.NamespaceDefinition
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
	found, err := d.LegacyLookupNamespacesWithNames(ctx, names)
	if err != nil {
		return err
	}
	if d.before == nil {
		d.before = make(map[string]*core.NamespaceDefinition, len(names))
	}
	for _, name := range names {
		if _, known := d.before[name]; known {
			continue
		}
		d.before[name] = nil
		for _, f := range found {
			if f.Definition.GetName() == name {
				d.before[name] = f.Definition
			}
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
	names := make([]string, 0, len(d.before))
	for name := range d.before {
		names = append(names, name)
	}
	slices.Sort(names)
	written, err := d.LegacyLookupNamespacesWithNames(ctx, names)
	if err != nil {
		return err
	}
	for _, name := range names {
		var after *core.NamespaceDefinition
		for _, w := range written {
			if w.Definition.GetName() == name {
				after = w.Definition
			}
		}
		for _, relation := range changedRelations(d.before[name], after) {
			if err := d.clear(ctx, name, relation, allowedTypes(after, relation)); err != nil {
				return err
			}
		}
	}
	return nil
}

// changedRelations names the relations, in order, of which at least one allowed type has been added or removed,
// those that are new or gone included. Either definition may be nil.
func changedRelations(before, after *core.NamespaceDefinition) []string {
	var changed []string
	for _, definition := range []*core.NamespaceDefinition{before, after} {
		for _, m := range definition.GetRelation() {
			name := m.GetName()
			if !slices.Contains(changed, name) && !sameTypes(allowedTypes(before, name), allowedTypes(after, name)) {
				changed = append(changed, name)
			}
		}
	}
	slices.Sort(changed)
	return changed
}

// allowedTypes returns what a relation admits: nothing, if there is no such relation.
func allowedTypes(definition *core.NamespaceDefinition, relation string) []*core.AllowedRelation {
	return named(definition.GetRelation(), relation).GetTypeInformation().GetAllowedDirectRelations()
}

// sameTypes reports whether both lists hold the same allowed types, in whatever order.
func sameTypes(a, b []*core.AllowedRelation) bool {
	within := func(a, b []*core.AllowedRelation) bool {
		return !slices.ContainsFunc(a, func(x *core.AllowedRelation) bool {
			return !slices.ContainsFunc(b, func(y *core.AllowedRelation) bool { return sameType(x, y) })
		})
	}
	return within(a, b) && within(b, a)
}

// sameType compares two allowed types without their positions in the source.
func sameType(a, b *core.AllowedRelation) bool {
	return a.GetNamespace() == b.GetNamespace() && a.GetRelation() == b.GetRelation() &&
		(a.GetPublicWildcard() == nil) == (b.GetPublicWildcard() == nil) &&
		proto.Equal(a.GetRequiredCaveat(), b.GetRequiredCaveat()) &&
		(a.GetRequiredExpiration() == nil) == (b.GetRequiredExpiration() == nil)
}

// pageOfRows is how many rows are read and removed at once.
const pageOfRows = 1000

// clear removes the rows with an expiration that the relation does not admit any more. Where one of them is
// live it fails instead.
func (d *dropping) clear(ctx context.Context, objectType, relation string, allowed []*core.AllowedRelation) error {
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
func (d *dropping) clearPage(ctx context.Context, page []tuple.Relationship, allowed []*core.AllowedRelation, expired bool) error {
	var stray []tuple.RelationshipUpdate
	for _, r := range page {
		if !slices.ContainsFunc(allowed, func(a *core.AllowedRelation) bool { return admitsExpiring(a, r) }) {
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

// admitsExpiring reports whether a row that expires is one of the allowed type.
func admitsExpiring(allowed *core.AllowedRelation, r tuple.Relationship) bool {
	if allowed.GetRequiredExpiration() == nil || allowed.GetNamespace() != r.Subject.ObjectType ||
		allowed.GetRequiredCaveat().GetCaveatName() != r.OptionalCaveat.GetCaveatName() {
		return false
	}
	if allowed.GetPublicWildcard() != nil || r.Subject.ObjectID == tuple.PublicWildcard {
		return allowed.GetPublicWildcard() != nil && r.Subject.ObjectID == tuple.PublicWildcard
	}
	return allowed.GetRelation() == r.Subject.Relation
}

// errInTheWay refuses a schema write because of a row that the schema would not admit.
func errInTheWay(r tuple.Relationship) error {
	return refusal(codes.FailedPrecondition, authz.ReasonSchemaInUse, fmt.Sprintf(
		"the new schema does not admit the relationship %s, which is live; delete it first, or keep its type in relation %s of %s; nothing was written",
		tuple.StringWithoutCaveatOrExpiration(r), r.Resource.Relation, r.Resource.ObjectType))
}
