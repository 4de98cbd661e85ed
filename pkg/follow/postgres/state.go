package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/jackc/pgx/v5"

	"github.com/deputyauth/deputy/pkg/follow"
)

// state is one position, which may be read for as long as the window holds.
type state struct {
	authority *Authority
	at        follow.Position
}

// At is follow.Authority's.
func (a *Authority) At(p follow.Position) follow.State { return &state{a, p} }

// shown selects the rows that a snapshot ($1) shows. Those that were deleted since are there until they are collected.
const shown = ` WHERE pg_visible_in_snapshot(created_xid, $1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(deleted_xid, $1::text::pg_snapshot)`

// Definitions is follow.State's.
func (s *state) Definitions(ctx context.Context) (follow.Definitions, error) {
	var g guard
	var d follow.Definitions
	r := s.authority.guarded(&s.at, &g)
	r.ask(gatherTypes(&d.Types), `SELECT serialized_config FROM namespace_config`+shown, s.at.State)
	r.ask(gatherCaveats(&d.Caveats), `SELECT definition FROM caveat`+shown, s.at.State)
	r.ask(gatherCounters(&d.Counters), `SELECT name, serialized_filter FROM relationship_counter`+shown, s.at.State)
	if err := s.authority.read(ctx, nothing, r); err != nil {
		return follow.Definitions{}, err
	}
	return d, nil
}

const (
	// order is that of the primary key, which has the two transactions after it.
	order = `namespace, object_id, relation, userset_namespace, userset_object_id, userset_relation`
	// sorting is avoided: the primary key is walked, and the table neither read nor sorted for every page.
	sorting = "enable_sort"

	firstPageQuery = `SELECT ` + columns + ` FROM relation_tuple` + shown + ` ORDER BY ` + order + ` LIMIT $2`
	nextPageQuery  = `SELECT ` + columns + ` FROM relation_tuple` + shown + `
		AND (` + order + `) > ($3::text, $4::text, $5::text, $6::text, $7::text, $8::text) ORDER BY ` + order + ` LIMIT $2`
)

// Page is follow.State's. Where a page ends is the text of its last relationship's six parts, as a JSON list.
func (s *state) Page(ctx context.Context, next string, limit int) (follow.Page, error) {
	var g guard
	var page follow.Page
	full := false
	r := s.authority.guarded(&s.at, &g)
	if next == "" {
		r.ask(gatherPage(&page.Relationships, &full), firstPageQuery, s.at.State, limit)
	} else {
		var after [6]string
		if err := json.Unmarshal([]byte(next), &after); err != nil {
			return page, fmt.Errorf("follow: %q is no end of a page", next)
		}
		r.ask(gatherPage(&page.Relationships, &full), nextPageQuery, s.at.State, limit, after[0], after[1], after[2], after[3], after[4], after[5])
	}
	if err := s.authority.read(ctx, sorting, r); err != nil {
		return follow.Page{}, err
	}
	if n := len(page.Relationships); n > 0 && (n == limit || full) {
		last := &page.Relationships[n-1]
		text, err := json.Marshal([6]string{
			last.Resource.ObjectType, last.Resource.ObjectID, last.Resource.Relation,
			last.Subject.ObjectType, last.Subject.ObjectID, last.Subject.Relation,
		})
		if err != nil {
			return follow.Page{}, fmt.Errorf("follow: %w", err)
		}
		page.Next = string(text)
	}
	return page, nil
}

// ofQuery looks each relationship up by the primary key. The order of the six lists is that of the key.
const ofQuery = `SELECT ` + columns + ` FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS asked(a, b, c, d, e, f)
	JOIN relation_tuple ON namespace = a AND object_id = b AND relation = c AND userset_namespace = d AND userset_object_id = e AND userset_relation = f` + shown

// wholeTables is avoided: a few relationships are looked up, whatever the planner knows of the table.
const wholeTables = "enable_seqscan"

// Of is follow.State's.
func (s *state) Of(ctx context.Context, refs []tuple.RelationshipReference) ([]tuple.Relationship, error) {
	var asked [6][]string
	for i := range refs {
		for j, part := range []string{
			refs[i].Resource.ObjectType, refs[i].Resource.ObjectID, refs[i].Resource.Relation,
			refs[i].Subject.ObjectType, refs[i].Subject.ObjectID, refs[i].Subject.Relation,
		} {
			asked[j] = append(asked[j], part)
		}
	}
	var g guard
	var found []tuple.Relationship
	r := s.authority.guarded(&s.at, &g)
	r.ask(gather(&found), ofQuery, s.at.State, asked[0], asked[1], asked[2], asked[3], asked[4], asked[5])
	if err := s.authority.read(ctx, wholeTables, r); err != nil {
		return nil, err
	}
	return found, nil
}

// The digests of package follow, computed by the database: see follow.Digest and follow.Bucket. The separator is chr(1).
const (
	bucketNumber = `get_byte(sha256(convert_to(object_id || chr(1) || userset_object_id, 'UTF8')), 0)`
	rowText      = `namespace || chr(1) || object_id || chr(1) || relation || chr(1) ||
		userset_namespace || chr(1) || userset_object_id || chr(1) || userset_relation || chr(1) || COALESCE(caveat_name, '') || chr(1) ||
		CASE WHEN COALESCE(caveat_name, '') = '' THEN '' ELSE COALESCE(caveat_context, '{}')::text END || chr(1) ||
		COALESCE((extract(epoch FROM expiration) * 1000000)::bigint::text, '')`
	rowDigest = `('x' || substr(encode(sha256(convert_to(` + rowText + `, 'UTF8')), 'hex'), 1, 15))::bit(60)::bigint`
	living    = ` AND (expiration IS NULL OR expiration > $2)`

	digestsQuery = `SELECT namespace, ` + bucketNumber + `, count(*)::text, mod(sum(` + rowDigest + `), 18446744073709551616)::text
		FROM relation_tuple` + shown + living + ` GROUP BY 1, 2`
	bucketQuery = `SELECT ` + columns + ` FROM relation_tuple` + shown + living + ` AND namespace = $3 AND ` + bucketNumber + ` = $4 LIMIT $5`
)

// Digests is follow.State's.
func (s *state) Digests(ctx context.Context, moment time.Time) ([]follow.Digest, error) {
	var g guard
	var digests []follow.Digest
	r := s.authority.guarded(&s.at, &g)
	r.ask(func(results pgx.BatchResults) error {
		var d follow.Digest
		var count, sum string
		return each(results, []any{&d.Type, &d.Number, &count, &sum}, func() (err error) {
			if d.Count, err = strconv.ParseUint(count, 10, 64); err != nil {
				return fmt.Errorf("follow: a count of %q", count)
			}
			if d.Sum, err = strconv.ParseUint(sum, 10, 64); err != nil {
				return fmt.Errorf("follow: a digest of %q", sum)
			}
			digests = append(digests, d)
			return nil
		})
	}, digestsQuery, s.at.State, moment)
	if err := s.authority.read(ctx, nothing, r); err != nil {
		return nil, err
	}
	return digests, nil
}

// Bucket is follow.State's.
func (s *state) Bucket(ctx context.Context, b follow.Bucket, moment time.Time, limit int, fn func(*tuple.Relationship) error) error {
	var g guard
	r := s.authority.guarded(&s.at, &g)
	r.ask(func(results pgx.BatchResults) error {
		var row relationshipRow
		var one []tuple.Relationship
		return each(results, row.targets(), func() error {
			if err := row.appendTo(&one); err != nil {
				return err
			}
			err := fn(&one[0])
			one = one[:0]
			return err
		})
	}, bucketQuery, s.at.State, moment, b.Type, b.Number, limit)
	return s.authority.read(ctx, nothing, r)
}
