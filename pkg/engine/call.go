package engine

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/authzed/authzed-go/pkg/requestmeta"
	"github.com/authzed/spicedb/pkg/cmd/server"
	"github.com/authzed/spicedb/pkg/datalayer"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/datastore/options"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/pkg/turns"
)

// bounds are what SpiceDB's server in this process may do. SpiceDB itself has no such bounds: two relationships that
// lead in a circle, or a ladder of twenty, are enough for a lookup that takes more time and memory than there is.
type bounds struct {
	// call is how long a call may take whose caller sets no deadline, or a later one, and long the same for longCalls.
	call, long time.Duration
	// reads is how often a call may read relationships. SpiceDB reads up to 100 objects at a time.
	reads int64
	// rows is how many relationships a call may read, and subjectRows the same for LookupSubjects: SpiceDB copies the subjects
	// that it finds from set to set on every way that they are reached by, and holds all of them.
	rows, subjectRows int64
	// tracedReads and tracedRows are reads and rows for a call that asks for a trace, which grows with each.
	tracedReads, tracedRows int64
	// ways is how many ways may lead to the subjects of a LookupSubjects, and branches how many branches and leaves a
	// tree of ExpandPermissionTree may have. caveats is how many bytes the caveats on them may take, once for each, and
	// steps how many SpiceDB may take where a wildcard has exclusions; see survey.
	ways, branches, caveats, steps int64
	// held is how many ways all permissions of a lookup may hold together, and links how many places a survey follows.
	held, links int64
	// lookups is how many lookups of resources one caller has under way at once; subjects, trees and traces the same for
	// lookups of subjects, trees and calls with a trace; and own for lookups that decisions are made of. There are some
	// more, see pkg/turns. turn is how long another one waits for its turn.
	lookups, subjects, trees, traces, own int
	turn                                  time.Duration
	// imports is how many relationships one import may write, and importBytes their size. An import is one transaction:
	// until it ends, all of it is in memory.
	imports, importBytes int64
	// loads is how many relationships all imports under way may hold together, and loadBytes their size.
	loads, loadBytes int64
	// answer is how long a database may take to answer a question, or to go on with an answer. It is less than a call
	// without a deadline waits for the engine, so that there is time left to say so.
	answer time.Duration
	// questions is how many questions to a database one caller has under way at once, with some more for the others. It is
	// well above the connections of a pool, which are what questions wait for while the database answers.
	questions int
	// stop is how long the engine waits, when it is closed, for SpiceDB and the datastore to end.
	stop time.Duration
}

// usual are the bounds of every engine. SpiceDB's own default for a stream is 30 s, too.
var usual = bounds{
	call: 30 * time.Second, long: 24 * time.Hour,
	reads: 100_000, rows: 2_000_000, subjectRows: 1_000_000,
	tracedReads: 2_000, tracedRows: 20_000,
	ways: 200_000, branches: 100_000, caveats: 32 << 20, steps: 20_000_000, held: 1_000_000, links: 500_000,
	lookups: 32, subjects: 4, trees: 4, traces: 2, own: 64, turn: 5 * time.Second,
	imports: 100_000, importBytes: 64 << 20, loads: 200_000, loadBytes: 128 << 20,
	answer: 8 * time.Second, questions: 256,
	stop: 15 * time.Second,
}

// longCalls are the methods that may take longer, because they do as much as there are relationships. Time and
// amount of most of them are bounded elsewhere: streams at the border, imports by their size.
var longCalls = map[string]bool{
	"/authzed.api.v1.PermissionsService/DeleteRelationships":             true,
	"/authzed.api.v1.PermissionsService/ReadRelationships":               true,
	"/authzed.api.v1.PermissionsService/ImportBulkRelationships":         true,
	"/authzed.api.v1.PermissionsService/ExportBulkRelationships":         true,
	"/authzed.api.v1.ExperimentalService/BulkImportRelationships":        true,
	"/authzed.api.v1.ExperimentalService/BulkExportRelationships":        true,
	"/authzed.api.v1.ExperimentalService/ExperimentalCountRelationships": true,
	"/authzed.api.v1.SchemaService/WriteSchema":                          true,
}

// lookupSubjects is the method that keeps in memory all that it reads.
const lookupSubjects = "/authzed.api.v1.PermissionsService/LookupSubjects"

// expandTree is the method that answers with a tree of all ways.
const expandTree = "/authzed.api.v1.PermissionsService/ExpandPermissionTree"

// watches is the method that lasts as long as its caller wants.
const watches = "/authzed.api.v1.WatchService/Watch"

// limit is how long a call of a method may take; 0 for one that lasts as long as its caller wants.
func (b *bounds) limit(method string) time.Duration {
	switch {
	case method == watches:
		return 0
	case longCalls[method]:
		return b.long
	default:
		return b.call
	}
}

// call is the record of one call to SpiceDB's server, which the datastore finds in the context of what SpiceDB asks
// of it. It is safe for concurrent use: SpiceDB works on one call in many goroutines.
type call struct {
	bounds *bounds
	// mostReads and mostRows are how often it may read, and how many rows.
	mostReads, mostRows int64
	reads, rows         atomic.Int64
	// unlimited is set for a call that reads what there is, once: it is bounded by time alone.
	unlimited bool
}

type callKey struct{}

// callOf returns the record of the call that ctx belongs to; nil for what does not come through SpiceDB's server.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// read counts a read of relationships.
func (c *call) read() error {
	if c == nil || c.unlimited {
		return nil
	}
	if c.reads.Add(1) > c.mostReads {
		return errTooMuch(fmt.Sprintf("the call reads relationships more than %d times", c.mostReads))
	}
	return c.row(0)
}

// row counts rows that were read.
func (c *call) row(n int64) error {
	if c == nil || c.unlimited || c.rows.Add(n) <= c.mostRows {
		return nil
	}
	return errTooMuch(fmt.Sprintf("the call reads more than %d relationships", c.mostRows))
}

// errTooMuch is the status of a call that would take more than a call may.
func errTooMuch(what string) error {
	return refusal(codes.ResourceExhausted, authz.ReasonEngineRefused,
		what+": ask for less at a time, and look for relationships that lead in a circle")
}

// refusal is a status of Deputy's own from beneath SpiceDB, which passes statuses on as they are.
func refusal(code codes.Code, reason, message string) error {
	return statuses.New(code, reason, "", message).Err()
}

// gate is what every call to SpiceDB's server in this process passes first: a panic becomes INTERNAL with a line in
// the log, the call gets an end and a record, and lookups take turns.
//
// What SpiceDB runs in goroutines of its own for a call cannot be recovered from here; see bounded.
type gate struct {
	bounds *bounds
	log    *zap.Logger
	// own is the value of ownHeader that only this process knows.
	own string
	// Of each kind of call so many are under way at once, shared between callers.
	lookups, subjects, trees, traces, decisions *turns.Set
	lapsed
}

func newGate(b *bounds, log *zap.Logger) *gate {
	return &gate{
		bounds: b, log: log, own: rand.Text(),
		lookups: turns.New("lookups of resources", int64(b.lookups)), subjects: turns.New("lookups of subjects", int64(b.subjects)),
		trees: turns.New("trees", int64(b.trees)), traces: turns.New("checks with a trace", int64(b.traces)),
		decisions: turns.New("lookups and traces for decisions", int64(b.own)),
	}
}

// ownHeader marks the lookups of subjects and the checks with a trace that decisions are made of. They take turns among
// themselves, so that callers' hold no decision up.
const ownHeader = "deputy-own-lookup"

// ownCall marks a call as one that a decision is made of, where SpiceDB runs in this process.
func (e *Engine) ownCall(ctx context.Context) context.Context {
	if e.own == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, ownHeader, e.own)
}

// callerHeader says for whom a call is made, behind the value that only this process knows: calls that come through the door bring metadata of their
// callers'.
const callerHeader = "deputy-caller-bin"

// naming has a call say for whom it is made, where SpiceDB runs in this process.
func naming(ctx context.Context, own string) context.Context {
	name := authz.CallerOf(ctx)
	if own == "" || name == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, callerHeader, own+name)
}

// caller returns for whom a call is made; "" where nobody says.
func (g *gate) caller(ctx context.Context) string {
	for _, value := range metadata.ValueFromIncomingContext(ctx, callerHeader) {
		if name, ours := strings.CutPrefix(value, g.own); ours {
			return name
		}
	}
	return ""
}

// turns returns which turns a call takes; nil if it takes none.
func (g *gate) turns(ctx context.Context, method string, traced bool) *turns.Set {
	switch {
	case traced && g.isOwn(ctx):
		return g.decisions
	case traced:
		return g.traces
	case method == expandTree:
		return g.trees
	case !strings.Contains(method, "/Lookup"):
		return nil
	case method != lookupSubjects:
		return g.lookups
	case g.isOwn(ctx):
		return g.decisions
	default:
		return g.subjects
	}
}

// isOwn reports whether Deputy makes the call for a decision.
func (g *gate) isOwn(ctx context.Context) bool {
	return slices.Equal(metadata.ValueFromIncomingContext(ctx, ownHeader), []string{g.own})
}

// isTraced reports whether a call asks for a trace, which only checks have.
func isTraced(ctx context.Context, request any) bool {
	asks, ok := request.(interface{ GetWithTracing() bool })
	return ok && (asks.GetWithTracing() || len(metadata.ValueFromIncomingContext(ctx, string(requestmeta.RequestDebugInformation))) > 0)
}

// middleware puts the gate before everything else in SpiceDB's chains.
func (g *gate) middleware() server.ConfigOption {
	unary := server.MiddlewareModification[grpc.UnaryServerInterceptor]{
		DependencyMiddlewareName: server.DefaultMiddlewareRequestID,
		Operation:                server.OperationPrepend,
		Middlewares:              []server.ReferenceableMiddleware[grpc.UnaryServerInterceptor]{{Name: "deputy", Middleware: g.unary}},
	}
	stream := server.MiddlewareModification[grpc.StreamServerInterceptor]{
		DependencyMiddlewareName: server.DefaultMiddlewareRequestID,
		Operation:                server.OperationPrepend,
		Middlewares:              []server.ReferenceableMiddleware[grpc.StreamServerInterceptor]{{Name: "deputy", Middleware: g.stream}},
	}
	layer := server.MiddlewareModification[grpc.StreamServerInterceptor]{
		DependencyMiddlewareName: server.DefaultInternalMiddlewareDatastore,
		Operation:                server.OperationAppend,
		Middlewares:              []server.ReferenceableMiddleware[grpc.StreamServerInterceptor]{{Name: "deputy-layer", Middleware: attach}},
	}
	last := server.MiddlewareModification[grpc.StreamServerInterceptor]{
		DependencyMiddlewareName: server.DefaultInternalMiddlewareConsistency,
		Operation:                server.OperationAppend,
		Middlewares: []server.ReferenceableMiddleware[grpc.StreamServerInterceptor]{
			{Name: "deputy-survey", Middleware: surveyStream}, {Name: "deputy-lapse", Middleware: g.lapse},
		},
	}
	lastUnary := server.MiddlewareModification[grpc.UnaryServerInterceptor]{
		DependencyMiddlewareName: server.DefaultInternalMiddlewareConsistency,
		Operation:                server.OperationAppend,
		Middlewares:              []server.ReferenceableMiddleware[grpc.UnaryServerInterceptor]{{Name: "deputy-survey", Middleware: surveyUnary}},
	}
	return func(c *server.Config) {
		// One branch after the other. With several at once a walk in a circle has a goroutine for each object that it
		// has ever visited, 90,000 within seconds, before the first of its branches is too deep, which ends it. Checks
		// stay as they are: SpiceDB shares their branches.
		c.DispatchConcurrencyLimits.LookupSubjects, c.DispatchConcurrencyLimits.LookupResources = 1, 1
		c.UnaryMiddlewareModification = append(c.UnaryMiddlewareModification, unary, lastUnary)
		c.StreamingMiddlewareModification = append(c.StreamingMiddlewareModification, stream, layer, last)
	}
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() { err = g.recovered(info.FullMethod, recover(), err) }()
	ctx, leave, err := g.enter(ctx, info.FullMethod, req)
	if err != nil {
		return nil, err
	}
	defer leave()
	return handler(ctx, req)
}

func (g *gate) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() { err = g.recovered(info.FullMethod, recover(), err) }()
	ctx, leave, err := g.enter(stream.Context(), info.FullMethod, nil)
	if err != nil {
		return err
	}
	defer leave()
	return handler(srv, &recorded{stream, ctx})
}

// recorded is a stream whose context holds the call's record and end.
type recorded struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a stream has its context
}

// Context is grpc.ServerStream's.
func (r *recorded) Context() context.Context { return r.ctx }

// lookupResources is the method whose walk SpiceDB detaches from its call.
const lookupResources = "/authzed.api.v1.PermissionsService/LookupResources"

// attach attaches LookupResources to its call again: below its first branch SpiceDB goes on with a context of its own,
// which neither ends nor holds the call's record. What that context does hold is the call's data layer.
func attach(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if info.FullMethod != lookupResources {
		return handler(srv, stream)
	}
	ctx := stream.Context()
	ctx = datalayer.ContextWithDataLayer(ctx, &attached{datalayer.FromContext(ctx), ctx})
	return handler(srv, &recorded{stream, ctx})
}

// attached is a data layer of one call.
type attached struct {
	datalayer.DataLayer
	call context.Context //nolint:containedctx // it is the call's
}

// SnapshotReader is datalayer.DataLayer's.
func (a *attached) SnapshotReader(at datastore.Revision, hash datalayer.SchemaHash) datalayer.RevisionedReader {
	return &attachedReader{a.DataLayer.SnapshotReader(at, hash), a.call}
}

// attachedReader reads for one call. Only the walk itself is attached, which alone reads in reverse: the checks on its
// way may be shared with other calls, which must not end with this one.
type attachedReader struct {
	datalayer.RevisionedReader
	call context.Context //nolint:containedctx // it is the call's
}

// ReverseQueryRelationships is datalayer.RevisionedReader's.
func (r *attachedReader) ReverseQueryRelationships(
	ctx context.Context, filter datastore.SubjectsFilter, opts ...options.ReverseQueryOptionsOption,
) (datastore.RelationshipIterator, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return r.RevisionedReader.ReverseQueryRelationships(r.call, filter, opts...) //nolint:contextcheck // the call's is what this is for
}

// enter gives a call its record and its end, and has it wait for its turn. leave ends what it gave. The request is nil for a
// stream.
func (g *gate) enter(ctx context.Context, method string, request any) (_ context.Context, leave func(), err error) {
	record := &call{bounds: g.bounds, mostReads: g.bounds.reads, mostRows: g.bounds.rows, unlimited: longCalls[method] || method == watches}
	traced := isTraced(ctx, request)
	switch {
	case traced:
		record.mostReads, record.mostRows = g.bounds.tracedReads, g.bounds.tracedRows
	case method == lookupSubjects:
		record.mostRows = g.bounds.subjectRows
	}
	ctx = authz.WithCaller(context.WithValue(ctx, callKey{}, record), g.caller(ctx))
	limit := g.bounds.limit(method)
	if limit == 0 {
		return ctx, func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	of := g.turns(ctx, method, traced)
	if of == nil {
		return ctx, cancel, nil
	}
	turn, err := of.Take(ctx, 1, g.bounds.turn)
	if err != nil {
		if ended := ctx.Err(); ended != nil {
			err = status.FromContextError(ended).Err()
		}
		cancel()
		return nil, nil, statuses.Raised(err)
	}
	// The handler of a lookup returns when its walk has ended, also where the caller has left: until then the turn is
	// taken. Of checks and trees SpiceDB may leave goroutines behind, which end at their next read.
	return ctx, func() { cancel(); turn.Give() }, nil
}

// recovered turns a panic of a call into its status.
func (g *gate) recovered(method string, panicked any, err error) error {
	if panicked == nil {
		return err
	}
	g.log.Error("the engine panicked", zap.String("method", method), zap.Error(authz.Panicked("engine", panicked)))
	return refusal(codes.Internal, "INTERNAL", messageInternal)
}
