package journal

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal/index"
	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// Query says which records are looked for. Fields that are set narrow, together; the zero Query looks for all. Ids are what callers know them by.
type Query struct {
	// Agent is the agent that the call names, or one of the chain.
	Agent string
	// PrincipalType and PrincipalID are the principal's, and ResourceType and ResourceID the object's.
	PrincipalType, PrincipalID string
	ResourceType, ResourceID   string
	Tenant, Permission, Caller string
	Session, Delegation        string
	Answer                     deputyv1.Permissionship
	RefusedBy                  deputyv1.Gate
	// Kinds are the kinds of records; none means all.
	Kinds []deputyv1.RecordKind
	// Tool is the call of a tool that a record names, by those of its fields that are set; nil asks for none. Its digest is either a SHA-256 digest of
	// the arguments, which is found with the journal's secret only, or that of a record.
	Tool *deputyv1.ToolCall
	// From and Until bound when calls began: at From or later, and before Until. Zero is no bound.
	From, Until time.Time
	// Within are the tenants and the agents to which the caller is bound; nil is no bound. They spare reading, and Admits decides.
	WithinTenants, WithinAgents []string
	// Admits reports whether the caller may see a record, in which all that can be opened is open; nil admits all.
	Admits func(*Record) bool
	// Newest has the newest come first.
	Newest bool
	// Budget is how long may be looked before the query ends without having come to the end; 0 is no bound.
	Budget time.Duration
}

// Found is a record that a query found.
type Found struct {
	// Record is good until the next one is found.
	Record *Record
	// Erased says that some of it is sealed, and cannot be opened.
	Erased bool
}

// Place is where a query goes on: the sequence of the next record that is looked at, or with Newest the one after. nil is the beginning.
type Place *uint64

// query is a Query that runs.
type query struct {
	*Query
	*walk
	terms index.Query
	// group is the group that the index was asked of last, and may its answer.
	group uint64
	asked bool
	may   index.Bundles

	// digest is that of a tool's arguments, as records have it; nil where it is asked for as it is.
	digest []byte
	seen   index.Seen
	record Record
	until  time.Time
}

// Query calls found with the records that match, one after the other, until it returns false, or an error. It returns where to go on, and nil where it
// came to the end of what had been written when it began. Memory and the work between two looks at ctx are bounded. Errors: those of reading, of
// ctx, and of found.
func (r *Reader) Query(ctx context.Context, q *Query, at Place, found func(Found) (more bool, err error)) (next Place, err error) {
	end, err := r.End()
	if err != nil {
		return nil, err
	}
	run, err := r.run(q)
	if err != nil {
		return nil, err
	}
	if q.Newest {
		if at != nil {
			end = min(end, *at)
		}
		return run.back(ctx, end, found)
	}
	from := r.First()
	if at != nil {
		from = max(from, *at)
	}
	return run.forth(ctx, from, end, found)
}

// Follow is Query from a place on, without an end: once it has come to what is written, it waits for more. With a nil place it begins with what is
// written from now on. It ends with the error of ctx or of found, or when found returns false, and says where it came to.
func (r *Reader) Follow(ctx context.Context, q *Query, at Place, found func(Found) (more bool, err error)) (next Place, err error) {
	from, err := r.End()
	if err != nil {
		return nil, err
	}
	if at != nil {
		from = max(r.First(), *at)
	}
	run, err := r.run(q)
	if err != nil {
		return nil, err
	}
	for {
		end, err := r.End()
		if err != nil {
			return &from, err
		}
		if from < end {
			if next, err = run.forth(ctx, from, end, found); err != nil || next != nil {
				return next, err
			}
			from = end
		}
		if err := r.wait(ctx, from); err != nil {
			return &from, err
		}
	}
}

// run prepares a query.
func (r *Reader) run(q *Query) (*query, error) {
	run := &query{Query: q, walk: r.walk()}
	if err := run.asksTool(); err != nil {
		return nil, err
	}
	run.backward = q.Newest
	if q.Budget > 0 {
		run.until = time.Now().Add(q.Budget)
	}
	narrow := func(terms ...index.Term) { run.terms.All = append(run.terms.All, terms) }
	for _, one := range []struct {
		field index.Field
		value string
	}{
		{index.Agent, q.Agent}, {index.Tenant, q.Tenant}, {index.Permission, q.Permission}, {index.Caller, q.Caller},
		{index.Session, q.Session}, {index.Delegation, q.Delegation}, {index.Tool, q.Tool.GetName()},
	} {
		if one.value != "" {
			narrow(index.Of(one.field, one.value))
		}
	}
	for _, one := range []struct {
		field    index.Field
		kind, id string
	}{{index.Principal, q.PrincipalType, q.PrincipalID}, {index.Resource, q.ResourceType, q.ResourceID}} {
		if one.id == "" {
			continue
		}
		terms := []index.Term{index.OfObject(one.field, one.kind, one.id)}
		if r.persons != nil {
			sealed, known := r.persons.Asked(one.field, one.kind, one.id, q.Tenant)
			if !known {
				continue
			}
			terms = append(terms, sealed...)
		}
		narrow(terms...)
	}
	if q.Answer != 0 {
		narrow(index.OfNumber(index.Answer, int32(q.Answer)))
	}
	if q.RefusedBy != 0 {
		narrow(index.OfNumber(index.Gate, int32(q.RefusedBy)))
	}
	var kinds, tenants, agents []index.Term
	for _, k := range q.Kinds {
		kinds = append(kinds, index.OfNumber(index.Kind, int32(k)))
	}
	for _, t := range q.WithinTenants {
		tenants = append(tenants, index.Of(index.Tenant, t))
	}
	for _, a := range q.WithinAgents {
		agents = append(agents, index.Of(index.Agent, a))
	}
	for _, either := range [][]index.Term{kinds, tenants, agents} {
		if len(either) > 0 {
			narrow(either...)
		}
	}
	run.terms.From, run.terms.Until = nanoseconds(q.From), nanoseconds(q.Until)
	return run, nil
}

// nanoseconds is a bound as records have times; 0 is none.
func nanoseconds(t time.Time) int64 {
	switch {
	case t.IsZero():
		return 0
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	case t.UnixNano() == 0:
		return 1 // the nanosecond after, because 0 is no bound
	}
	return t.UnixNano()
}

// forth looks at the records from one to another, which is not among them.
func (q *query) forth(ctx context.Context, from, end uint64, found func(Found) (bool, error)) (next Place, err error) {
	for from < end {
		if q.over(ctx) {
			return &from, ctx.Err() //nolint:wrapcheck // it is what is asked for
		}
		n := from / tree.Width
		until := min(end, (n+1)*tree.Width)
		records, err := q.load(n, end)
		if errors.Is(err, ErrNoRecord) { // it was removed meanwhile
			from = max(until, q.First())
			continue
		}
		if err != nil {
			return &from, err
		}
		for at := from % tree.Width; at < uint64(len(records)); at++ {
			more, err := q.judge(records[at], found)
			if err != nil || !more {
				from = n*tree.Width + at + 1
				return &from, err
			}
		}
		from = until
	}
	return nil, nil //nolint:nilnil // that is the end, see Query
}

// back looks at the records before end, the newest first.
func (q *query) back(ctx context.Context, end uint64, found func(Found) (bool, error)) (next Place, err error) {
	first := q.First()
	for end > first {
		if q.over(ctx) {
			return &end, ctx.Err() //nolint:wrapcheck // it is what is asked for
		}
		n := (end - 1) / tree.Width
		records, err := q.load(n, end)
		if errors.Is(err, ErrNoRecord) {
			return nil, nil //nolint:nilnil // it was removed meanwhile, and with it all before
		}
		if err != nil {
			return &end, err
		}
		for at, record := range slices.Backward(records) {
			more, err := q.judge(record, found)
			if err != nil || !more {
				end = n*tree.Width + uint64(at) //nolint:gosec // an index
				return &end, err
			}
		}
		end = n * tree.Width
	}
	return nil, nil //nolint:nilnil // that is the end, see Query
}

// over reports whether the query has to end.
func (q *query) over(ctx context.Context) bool {
	return ctx.Err() != nil || !q.until.IsZero() && time.Now().After(q.until)
}

// load returns the records of a chunk, or none if the index says that it has none that match.
func (q *query) load(n, end uint64) ([][]byte, error) {
	if n < q.known() {
		if group := n / index.Wide; !q.asked || q.group != group {
			q.group, q.asked, q.may = group, true, q.index.May(group, &q.terms)
		}
		if !q.may.Has(int(n % index.Wide)) {
			return nil, nil
		}
	}
	return q.chunk(n, end)
}

// known is how many bundles are known of.
func (r *Reader) known() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bundles
}

// judge passes a record on if it matches.
func (q *query) judge(encoded []byte, found func(Found) (bool, error)) (more bool, err error) {
	// What is sealed is not among the terms.
	if q.seen.See(encoded) && !q.seen.Sealed && !q.terms.May(&q.seen) {
		return true, nil
	}
	erased, err := q.open(encoded, &q.record)
	if err != nil {
		return false, err
	}
	if !q.matches(&q.record) || !q.matchesTool(&q.record) || q.Admits != nil && !q.Admits(&q.record) {
		return true, nil
	}
	return found(Found{&q.record, erased})
}

// matches reports whether a record is one that is looked for.
func (q *Query) matches(r *Record) bool {
	is := func(asked, has string) bool { return asked == "" || asked == has }
	at := r.GetTime()
	from, until := nanoseconds(q.From), nanoseconds(q.Until)
	return (q.Agent == "" || q.Agent == r.GetAgentId() || slices.Contains(r.GetAgentChain(), q.Agent)) &&
		is(q.PrincipalType, r.GetPrincipalType()) && is(q.PrincipalID, r.GetPrincipalId()) &&
		is(q.ResourceType, r.GetResourceType()) && is(q.ResourceID, r.GetResourceId()) &&
		is(q.Tenant, r.GetTenantId()) && is(q.Permission, r.GetPermission()) && is(q.Caller, r.GetCaller()) &&
		is(q.Session, r.GetSessionId()) && is(q.Delegation, r.GetDelegationId()) &&
		(q.Answer == 0 || q.Answer == r.GetAnswer()) && (q.RefusedBy == 0 || q.RefusedBy == r.GetRefusedBy()) &&
		(len(q.Kinds) == 0 || slices.Contains(q.Kinds, r.GetKind())) &&
		(from == 0 || at >= from) && (until == 0 || at < until)
}
