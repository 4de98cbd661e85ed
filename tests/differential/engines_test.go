package differential

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/development"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	devinterface "github.com/authzed/spicedb/pkg/proto/developer/v1"
	dispatchv1 "github.com/authzed/spicedb/pkg/proto/dispatch/v1"
	"github.com/authzed/spicedb/pkg/schemadsl/compiler"
	"github.com/authzed/spicedb/pkg/schemadsl/input"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/authzed/spicedb/pkg/zedtoken"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	inmemory "github.com/deputyauth/deputy/pkg/fixture/world"
	"github.com/deputyauth/deputy/pkg/store"
	"github.com/deputyauth/deputy/tests/harness"
)

// question is one check.
type question struct {
	resource, subject tuple.ObjectAndRelation
	context           map[string]any
}

// String writes a question as it is reported.
func (q question) String() string {
	text := strings.TrimSuffix(q.resource.String()+"@"+q.subject.String(), "#...")
	if len(q.context) > 0 {
		text += fmt.Sprintf(" with %v", q.context)
	}
	return text
}

// desk is a store with everybody over it who can be asked.
type desk struct {
	store *store.Store
	// clock is the store's, in nanoseconds since 1970; 0 for the system's.
	clock  atomic.Int64
	layer  datalayer.DataLayer
	dev    *development.DevContext
	schema v1.SchemaServiceClient
	// local is SpiceDB's check over its dispatcher alone, which has no races but those of class a.
	local v1.PermissionsServiceClient
	// server is SpiceDB's check as Deputy runs it. Its dispatcher shares calls in flight, whatever is left
	// of their depth: near a cycle its answers vary.
	server v1.PermissionsServiceClient
	native *kept.Evaluator
	// rows is what is in the store now.
	rows []tuple.Relationship
}

// openDesk opens a store in memory and everything over it. Only a desk that is asked to has SpiceDB's whole
// server.
func openDesk(t testing.TB, whole bool) *desk {
	t.Helper()
	d, shut, err := newDesk(whole)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shut)
	return d
}

func newDesk(whole bool) (_ *desk, shut func(), err error) {
	d := &desk{}
	s, err := store.Open("store", store.Config{
		Now:        d.now,
		CacheBytes: 1 << 20, MemTableBytes: 1 << 20, DiskReserve: 1, FS: vfs.NewMem(), CollectEvery: time.Hour,
	})
	if err != nil {
		return nil, nil, err
	}
	ends := []func(){func() { _ = s.Close() }}
	shut = func() {
		for _, end := range slices.Backward(ends) {
			end()
		}
	}
	defer func() {
		if err != nil {
			shut()
		}
	}()
	layer := datalayer.NewDataLayer(s)
	// SpiceDB's development package makes a dispatcher over a datastore of its own; the dispatcher reads
	// from whatever the context of a call names.
	made, problems, err := development.NewDevContext(context.Background(), &devinterface.RequestContext{Schema: "definition user {}"})
	if err != nil || problems != nil {
		return nil, nil, fmt.Errorf("development: %w %v", err, problems)
	}
	ends = append(ends, made.Dispose)
	d.store, d.layer = s, layer
	d.dev = &development.DevContext{
		Ctx: datalayer.ContextWithDataLayer(context.Background(), layer), DataLayer: layer, Dispatcher: made.Dispatcher,
	}
	conn, stop, err := d.dev.RunV1InMemoryService()
	if err != nil {
		return nil, nil, err
	}
	ends = append(ends, stop)
	d.schema, d.local = v1.NewSchemaServiceClient(conn), v1.NewPermissionsServiceClient(conn)
	if whole {
		conn, stop, err := harness.SpiceDB(s)
		if err != nil {
			return nil, nil, err
		}
		ends = append(ends, func() { _ = stop() })
		d.server = v1.NewPermissionsServiceClient(conn)
	}
	d.native = kept.New(s)
	return d, shut, nil
}

// now is the store's time.
func (d *desk) now() time.Time {
	if at := d.clock.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Now()
}

// edition is a world at one revision, with the reference over the same.
type edition struct {
	at store.Revision
	// schema is what the text was written from, where a world was drawn.
	schema    *schema
	token     *v1.ZedToken
	text      string
	rows      []tuple.Relationship
	compiled  *compiler.CompiledSchema
	reference *Reference
	// memory is the same graph in memory.
	memory *inmemory.Graph
}

// publish makes the store hold a schema and relationships, and nothing else. The rows are written past
// SpiceDB's validation, so that they can be what a schema does not allow.
func (d *desk) publish(text string, rows []tuple.Relationship) (*edition, error) {
	ctx := context.Background()
	compiled, err := compiler.Compile(compiler.InputSchema{Source: input.Source("schema"), SchemaString: text}, compiler.AllowUnprefixedObjectType())
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	wanted := map[string]tuple.Relationship{}
	for _, rel := range rows {
		wanted[rel.String()] = rel
	}
	if err := d.write(ctx, tuple.UpdateOperationDelete, d.rows); err != nil {
		return nil, err
	}
	d.rows = nil
	if _, err := d.schema.WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: text}); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	kept := make([]tuple.Relationship, 0, len(wanted))
	for _, rel := range rows {
		key := rel.String()
		if last, ok := wanted[key]; ok {
			kept = append(kept, last)
			delete(wanted, key)
		}
	}
	if err := d.write(ctx, tuple.UpdateOperationTouch, kept); err != nil {
		return nil, err
	}
	d.rows = kept
	return d.edition(text, compiled)
}

// change writes other relationships under the same schema: a revision later, without deleting the rest.
func (d *desk) change(last *edition, gone, touched []tuple.Relationship) (*edition, error) {
	ctx := context.Background()
	if err := d.write(ctx, tuple.UpdateOperationDelete, gone); err != nil {
		return nil, err
	}
	if err := d.write(ctx, tuple.UpdateOperationTouch, touched); err != nil {
		return nil, err
	}
	replaced := map[string]bool{}
	for _, rel := range slices.Concat(gone, touched) {
		replaced[rel.String()] = true
	}
	var rows []tuple.Relationship
	for _, rel := range d.rows {
		if !replaced[rel.String()] {
			rows = append(rows, rel)
		}
	}
	d.rows = slices.Concat(rows, touched)
	return d.restate(last.text)
}

// restate writes another schema over the same relationships.
func (d *desk) restate(text string) (*edition, error) {
	compiled, err := compiler.Compile(compiler.InputSchema{Source: input.Source("schema"), SchemaString: text}, compiler.AllowUnprefixedObjectType())
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	if _, err := d.schema.WriteSchema(context.Background(), &v1.WriteSchemaRequest{Schema: text}); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return d.edition(text, compiled)
}

func (d *desk) write(ctx context.Context, op tuple.UpdateOperation, rows []tuple.Relationship) error {
	updates := make([]tuple.RelationshipUpdate, 0, len(rows))
	for _, rel := range rows {
		updates = append(updates, tuple.RelationshipUpdate{Operation: op, Relationship: rel})
	}
	_, err := d.store.ReadWriteTx(ctx, func(ctx context.Context, tx datastore.ReadWriteTransaction) error {
		return tx.WriteRelationships(ctx, updates)
	})
	return err
}

func (d *desk) edition(text string, compiled *compiler.CompiledSchema) (*edition, error) {
	head, err := d.store.HeadRevision(context.Background())
	if err != nil {
		return nil, err
	}
	stored, err := d.store.SnapshotReader(head.Revision).LegacyListAllNamespaces(context.Background())
	if err != nil {
		return nil, err
	}
	// SpiceDB notes which permissions are aliases only in the definitions that a write of the schema changes.
	// In the others it drops the note, and from then on those cost a step. So that it is noted is taken from
	// the store, and nothing else.
	aliases := map[string]string{}
	for _, definition := range stored {
		for _, relation := range definition.Definition.GetRelation() {
			aliases[definition.Definition.GetName()+"#"+relation.GetName()] = relation.GetAliasingRelation()
		}
	}
	for _, definition := range compiled.ObjectDefinitions {
		for _, relation := range definition.GetRelation() {
			relation.AliasingRelation = aliases[definition.GetName()+"#"+relation.GetName()]
		}
	}
	token, err := zedtoken.NewFromRevision(context.Background(), head.Revision, datalayer.NoSchemaHashInLegacyMode, d.layer)
	if err != nil {
		return nil, err
	}
	rules, err := inmemory.NewRules(compiled.ObjectDefinitions, compiled.CaveatDefinitions)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	memory := inmemory.New(d.now)
	memory.Touch(d.rows...)
	return &edition{
		memory: memory.Under(rules),
		at:     head.Revision.(store.Revision), token: token, text: text, rows: d.rows,
		compiled: compiled, reference: NewReference(compiled, d.rows, time.Now()),
	}, nil
}

// spicedbPatience is how long SpiceDB may think about one question, on a machine that is busy with others.
const spicedbPatience = 5 * time.Second

// ask asks SpiceDB one question, as a check of its own.
func (e *edition) ask(spicedb v1.PermissionsServiceClient, q question) Answer {
	return e.askFor(spicedbPatience, spicedb, q)
}

// askFor is ask with a time limit of its own.
func (e *edition) askFor(patience time.Duration, spicedb v1.PermissionsServiceClient, q question) Answer {
	relation := q.subject.Relation
	if relation == tuple.Ellipsis {
		relation = ""
	}
	req := &v1.CheckPermissionRequest{
		Consistency: &v1.Consistency{Requirement: &v1.Consistency_AtExactSnapshot{AtExactSnapshot: e.token}},
		Resource:    &v1.ObjectReference{ObjectType: q.resource.ObjectType, ObjectId: q.resource.ObjectID},
		Permission:  q.resource.Relation,
		Subject: &v1.SubjectReference{
			Object: &v1.ObjectReference{ObjectType: q.subject.ObjectType, ObjectId: q.subject.ObjectID}, OptionalRelation: relation,
		},
	}
	if q.context != nil {
		fields, err := structpb.NewStruct(q.context)
		if err != nil {
			panic(err)
		}
		req.Context = fields
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := spicedb.CheckPermission(ctx, req)
	switch {
	case err != nil:
		return Answer{Outcome: authz.Failed, Code: status.Code(err)}
	case resp.GetPermissionship() == v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION:
		return Answer{Outcome: authz.Yes}
	case resp.GetPermissionship() == v1.CheckPermissionResponse_PERMISSIONSHIP_CONDITIONAL_PERMISSION:
		return Answer{Outcome: authz.Conditional, Missing: joined(authz.Distinct(resp.GetPartialCaveatInfo().GetMissingRequiredContext()))}
	case resp.GetPermissionship() == v1.CheckPermissionResponse_PERMISSIONSHIP_NO_PERMISSION:
		return Answer{Outcome: authz.No}
	default:
		return Answer{Outcome: authz.Failed, Code: codes.Unknown}
	}
}

// alone asks SpiceDB's dispatcher with chunks of one: no resource is evaluated together with another. What it
// finds the answer to depend on is evaluated by the reference.
func (d *desk) alone(e *edition, q question) Answer {
	ctx, cancel := context.WithTimeout(d.dev.Ctx, spicedbPatience)
	defer cancel()
	bloom, err := dispatchv1.NewTraversalBloomFilter(maxDispatches)
	if err != nil {
		panic(err)
	}
	resp, err := d.dev.Dispatcher.DispatchCheck(ctx, &dispatchv1.DispatchCheckRequest{
		ResourceRelation: q.resource.RelationReference().ToCoreRR(),
		ResourceIds:      []string{q.resource.ObjectID},
		ResultsSetting:   dispatchv1.DispatchCheckRequest_ALLOW_SINGLE_RESULT,
		Subject:          q.subject.ToCoreONR(),
		Metadata: &dispatchv1.ResolverMeta{
			AtRevision: e.at.String(), DepthRemaining: maxDispatches, TraversalBloom: bloom,
			SchemaHash: []byte(datalayer.NoSchemaHashInDevelopment),
		},
		// A trace is what makes the chunks small.
		Debug: dispatchv1.DispatchCheckRequest_ENABLE_TRACE_DEBUGGING,
	})
	result := resp.GetResultsByResourceId()[q.resource.ObjectID]
	switch {
	case err != nil && status.Code(err) == codes.Unknown:
		// What is missing has no status yet.
		return Answer{Outcome: authz.Failed, Code: codes.FailedPrecondition}
	case err != nil:
		return Answer{Outcome: authz.Failed, Code: status.Code(err)}
	case result.GetMembership() == dispatchv1.ResourceCheckResult_MEMBER:
		return Answer{Outcome: authz.Yes}
	case result.GetMembership() == dispatchv1.ResourceCheckResult_CAVEATED_MEMBER:
		return newCaveatBook(e.compiled.CaveatDefinitions).evaluate(conditionOf(result.GetExpression()), q.context).answer()
	default:
		return Answer{Outcome: authz.No}
	}
}

// conditionOf puts SpiceDB's condition into the reference's words.
func conditionOf(e *core.CaveatExpression) *condition {
	if e.GetCaveat() != nil {
		return &condition{caveat: e.GetCaveat()}
	}
	c := &condition{op: map[core.CaveatOperation_Operation]operator{
		core.CaveatOperation_AND: and, core.CaveatOperation_OR: or, core.CaveatOperation_NOT: not,
	}[e.GetOperation().GetOp()]}
	for _, child := range e.GetOperation().GetChildren() {
		c.parts = append(c.parts, conditionOf(child))
	}
	return c
}
