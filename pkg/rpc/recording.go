package rpc

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/facts"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// A call of a known caller is recorded by the gate, whatever comes of it, by the effect that its method has in the contract:
//
//	reads, one answer     WHOLE before the answer leaves
//	reads, a stream       BEGUN before the first message leaves, ENDED before the status does; WHOLE where no message has left
//	writes, narrows       BEGUN before the engine is asked, ENDED before the answer leaves; WHOLE where the engine is not asked
//	decides               WHOLE for each decision, by the judge, or by the door with its answers; WHOLE for a call that failed as a whole,
//	                      or broke off after its first decision
//	none                  nothing
//
// Where the journal takes no records, the call is answered UNAVAILABLE instead. Only what narrows goes through, and is recorded later. A caller
// that has used up its share of the journal is answered RESOURCE_EXHAUSTED; what it narrows goes through, with one record, WHOLE: a call that
// narrows nothing has none, so that such calls do not take the room of those that do.

// Recording is one call, as it is recorded. nil records nothing. It is safe for concurrent use.
type Recording struct {
	gate    *Gate
	account *journal.Account
	manner

	mu sync.Mutex
	// about is what the call names; nil before its message has come. For a decision, which its judge records, it is made of request, and only
	// where the call fails as a whole.
	about   *journal.Record
	request proto.Message
	// sum is of the encoded messages of a call that writes.
	sum hash.Hash
	// proof is of the token that the call came with; nil where it came with none.
	proof *authz.ActorToken
	// person is the person who calls, where the caller stands for people.
	person authz.Principal
	// consentIssuer and consentDigest are of the token by which a person consents; empty where the call came with none.
	consentIssuer string
	consentDigest []byte
	// items are the records of the items of an answer; none where the answer is one.
	items []*journal.Record
	// made is what the one answer names; nil where it names nothing.
	made *journal.Record
	// results, failed and revision are those of the answers so far.
	results, failed uint64
	revision        string
	// evaluator is what has evaluated the answers of a lookup or an expansion.
	evaluator deputyv1.Evaluator
	// sent says that the one answer has left, and over that none may leave any more.
	sent, over bool
}

// manner is how the calls of a method are recorded.
type manner struct {
	effect deputyv1.Effect
	kind   deputyv1.RecordKind
	// unary says that a call has one answer, also where it is a stream to gRPC.
	unary bool
}

// manners are those of all methods. Calls of a method that stands nowhere are refused, so that the zero manner will do.
var manners = sync.OnceValue(func() map[string]manner {
	all := map[string]manner{}
	for full, m := range caller.Methods() {
		all[full] = manner{m.Effect, kindOf(m), isUnary(full)}
	}
	return all
})

// recording opens the recording of a call whose caller is known.
func (g *Gate) recording(c *call, is *caller.Caller) *Recording {
	if g.journal == nil {
		return nil
	}
	how := manners()[c.method]
	if how.effect == deputyv1.Effect_EFFECT_NONE {
		return nil
	}
	name := cut(strings.ToValidUTF8(strings.TrimPrefix(c.method, "/"), "\uFFFD"), maxRecordedMethod) // of one that there is not a caller chooses it
	r := &Recording{gate: g, account: g.journal.Account(is.Name, name), manner: how}
	if is.Personal() && is.Bounds != nil {
		r.person = is.Bounds.Person
	}
	return r
}

// RecordingOf returns how a call is recorded; nil where it is not.
func RecordingOf(ctx context.Context) *Recording {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c.recording
	}
	return nil
}

// accountOf returns the account of a call; nil where it is not recorded.
func accountOf(ctx context.Context) *journal.Account {
	if r := RecordingOf(ctx); r != nil {
		return r.account
	}
	return nil
}

// kinds are what calls are about whose methods' effects do not say it.
var kinds = map[string]deputyv1.RecordKind{
	"/deputy.v1.PermissionsService/ExplainPermission":    deputyv1.RecordKind_RECORD_KIND_EXPLANATION,
	"/deputy.v1.PermissionsService/LookupResources":      deputyv1.RecordKind_RECORD_KIND_LOOKUP,
	"/deputy.v1.PermissionsService/LookupAgents":         deputyv1.RecordKind_RECORD_KIND_LOOKUP,
	"/deputy.v1.PermissionsService/FilterResources":      deputyv1.RecordKind_RECORD_KIND_LOOKUP,
	"/deputy.v1.PermissionsService/RecordToolRefusal":    deputyv1.RecordKind_RECORD_KIND_UNASKED,
	"/deputy.v1.ReachService/ReadReach":                  deputyv1.RecordKind_RECORD_KIND_LOOKUP,
	"/deputy.v1.BrakeService/Brake":                      deputyv1.RecordKind_RECORD_KIND_BRAKE,
	"/deputy.v1.SignalsService/ReceiveSignal":            deputyv1.RecordKind_RECORD_KIND_BRAKE,
	"/deputy.v1.SignalsService/ApplySignal":              deputyv1.RecordKind_RECORD_KIND_BRAKE,
	"/authzed.api.v1.PermissionsService/LookupResources": deputyv1.RecordKind_RECORD_KIND_LOOKUP,
	"/authzed.api.v1.PermissionsService/LookupSubjects":  deputyv1.RecordKind_RECORD_KIND_LOOKUP,
	"/authzed.api.v1.SchemaService/WriteSchema":          deputyv1.RecordKind_RECORD_KIND_SCHEMA,
}

// kindOf is what calls of a method are about.
func kindOf(m *caller.Method) deputyv1.RecordKind {
	if kind, found := kinds[m.Full]; found {
		return kind
	}
	switch {
	case m.Effect == deputyv1.Effect_EFFECT_READS:
		return deputyv1.RecordKind_RECORD_KIND_READ
	case m.Effect == deputyv1.Effect_EFFECT_DECIDES:
		return deputyv1.RecordKind_RECORD_KIND_DECISION
	case m.SpiceDB:
		return deputyv1.RecordKind_RECORD_KIND_WRITE
	default:
		return deputyv1.RecordKind_RECORD_KIND_LIFECYCLE
	}
}

// writes reports whether the beginning of the call has a record of its own, because it changes the graph. A method that does not say what it
// does may change it.
func (r *Recording) writes() bool {
	switch r.effect {
	case deputyv1.Effect_EFFECT_WRITES, deputyv1.Effect_EFFECT_NARROWS, deputyv1.Effect_EFFECT_UNSPECIFIED:
		return true
	default:
		return false
	}
}

// asks notes what a message of deputy.v1 asks.
func (r *Recording) asks(m any) {
	request, ok := m.(proto.Message)
	if r == nil || !ok {
		return
	}
	if r.effect == deputyv1.Effect_EFFECT_DECIDES {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.request = request
		return
	}
	about, given := aboutOf(request)
	r.Asks(request, about, given)
}

// consented notes the token by which a person consents to what the call asks.
func (r *Recording) consented(issuer string, token facts.Consent) {
	if r == nil {
		return
	}
	digest, err := hex.DecodeString(string(token))
	if err != nil {
		digest = []byte(token) // it is hexadecimal
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.consentIssuer, r.consentDigest = issuer, digest
}

// proven notes what the token of the call's agent proved.
func (r *Recording) proven(p proof) {
	if r == nil || p.actor == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proof = p.evidence()
}

// Asks notes what a message of the caller's asks, once it is decoded: what it names, and its caveat context. Of a caller that streams the first
// one says what the call is about.
func (r *Recording) Asks(request proto.Message, about *journal.Record, given *structpb.Struct) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.about == nil {
		r.about = r.bounded(about, given)
	}
	if !r.writes() {
		return
	}
	if r.sum == nil {
		r.sum = sha256.New()
	}
	if encoded, err := (proto.MarshalOptions{Deterministic: true}).Marshal(request); err == nil {
		r.sum.Write(encoded)
	}
}

// Begin records that a call is about to write, before the engine is asked to. It does nothing for other calls. With its error nothing may be
// written.
func (r *Recording) Begin(ctx context.Context) error {
	if r == nil || !r.writes() {
		return nil
	}
	if r.effect == deputyv1.Effect_EFFECT_NARROWS && r.account.OverShare() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	record := r.record()
	record.RequestHash = r.digest()
	return r.account.Begin(ctx, r.duty(), record)
}

// duty is what the journal owes to the records of a call: what narrows is never refused because of it.
func (r *Recording) duty() journal.Duty {
	if r.effect == deputyv1.Effect_EFFECT_NARROWS {
		return journal.Keep
	}
	return journal.Refuse
}

// Answers notes what the next message of an answer has: so many results, so many that failed, and the engine's revision, "" for none. It is
// called before the message is sent.
func (r *Recording) Answers(results, failed uint64, revision string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results += results
	r.failed += failed
	if revision != "" {
		r.revision = revision
	}
}

// Item notes the record of one item of the answer, with the caveat context that it was asked with. An answer that has items has a record for each
// of them, and none besides.
func (r *Recording) Item(item *journal.Record, given *structpb.Struct) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = append(r.items, r.bounded(item, given))
}

// Evaluated notes what has evaluated the answer to a lookup or an expansion.
func (r *Recording) Evaluated(by deputyv1.Evaluator) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evaluator = by
}

// answers notes what an answer of deputy.v1 has.
func (r *Recording) answers(m any) {
	answer, ok := m.(proto.Message)
	if r == nil || !ok || r.effect == deputyv1.Effect_EFFECT_DECIDES {
		return
	}
	results, failed, token := answered(answer)
	if r.unary && r.effect != deputyv1.Effect_EFFECT_READS {
		r.mu.Lock()
		r.made = madeOf(answer)
		r.mu.Unlock()
	}
	r.Answers(results, failed, r.gate.sealer.within(token))
}

// sends records what has to be recorded before a message of a stream leaves. Errors: those of the journal, with which it must not leave.
func (r *Recording) sends(ctx context.Context, m any) error {
	if r == nil {
		return nil
	}
	until := &bounded{Context: ctx, until: time.Now().Add(engineTimeout)}
	defer until.end()
	if !r.unary {
		r.answers(m)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.over || r.unary && r.sent:
		return authz.Errorf(authz.Canceled, "", "the call is answered already")
	case r.unary:
		if err := r.ends(until, nil); err != nil { //nolint:contextcheck // bounded embeds the call's
			return err
		}
		r.sent = true
		return nil
	case r.effect == deputyv1.Effect_EFFECT_DECIDES:
		if !r.account.Says(0) {
			return authz.Errorf(authz.Internal, "INTERNAL", "a decision leaves that is not recorded")
		}
		return nil
	case !r.account.Begun():
		return r.account.Begin(until, journal.Refuse, r.record()) //nolint:contextcheck // bounded embeds the call's
	}
	return nil
}

// end records how a call ends, unless that is recorded already, and returns what its caller is answered: st, which is a status or nil, or why
// that is not recorded.
func (r *Recording) end(ctx context.Context, st error) error {
	if r == nil {
		return st
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || st == nil && r.sent {
		return st
	}
	r.over = true
	defer r.account.Close()
	ctx = context.WithoutCancel(ctx) // it is recorded too of callers that do not wait for it
	until := &bounded{Context: ctx, until: time.Now().Add(engineTimeout)}
	defer until.end()
	if err := r.ends(until, st); err != nil { //nolint:contextcheck // bounded embeds the call's
		return toStatus(ctx, err)
	}
	return st
}

// late ends the recording of a call that is answered before its handler has ended.
func (g *Gate) late(ctx context.Context, st *status.Status) *status.Status {
	return status.Convert(RecordingOf(ctx).end(ctx, st.Err()))
}

// ends records how a call ends. mu is held.
func (r *Recording) ends(ctx context.Context, st error) error {
	if r.account.Says(int32(status.Code(st))) { //nolint:gosec // codes are small
		return nil
	}
	records := r.items
	if st != nil || len(records) == 0 {
		records = []*journal.Record{r.ended(st)}
	}
	for _, one := range records {
		one.Kind, one.Revision = cmp.Or(one.GetKind(), r.kind), r.revision
	}
	if !r.account.Begun() {
		duty := journal.Refuse
		if r.looked() && mayHaveDone(st) { // a call that is refused does not narrow
			duty = r.duty()
		}
		_, err := r.account.Record(ctx, duty, records...)
		return err
	}
	duty := journal.Reserve // it has happened, so that it is recorded as soon as that is possible
	if r.effect == deputyv1.Effect_EFFECT_NARROWS {
		duty = journal.Keep
	}
	_, err := r.account.Record(ctx, duty, records...)
	if err != nil && st == nil && r.writes() {
		return writtenUnended(err)
	}
	return err
}

// writtenUnended is what is answered to a call that wrote, and whose end the journal did not record for a reason: whether it is recorded later.
func writtenUnended(err error) error {
	kind, reason, then := authz.Unavailable, authz.ReasonJournalUnavailable, "only its beginning is recorded, and the loss is counted"
	switch {
	case errors.Is(err, journal.ErrLate) || authz.KindOf(err) == authz.Canceled || authz.KindOf(err) == authz.Deadline:
		then = "that is recorded as soon as the journal takes records again"
	case authz.KindOf(err) == authz.Exhausted:
		kind, reason = authz.Exhausted, authz.ReasonJournalShare
		then = "because this caller has used up its share of the journal: only its beginning is recorded, and the end is counted"
	}
	return &authz.Error{
		Op: "rpc.Recording", Kind: kind, Reason: reason, Err: err,
		Message: "it was written; the journal does not take the record of how it ended, " + then,
	}
}

// mayHaveDone reports whether a call that ends so may have done what it asked for: nobody knows it of one that broke off.
func mayHaveDone(st error) bool {
	switch status.Code(st) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted,
		codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		return false
	default:
		return true
	}
}

// looked reports whether the call's message has come, so that more was looked at than its caller. mu is held.
func (r *Recording) looked() bool { return r.about != nil || r.request != nil }

// record is a record of what the call names. mu is held.
func (r *Recording) record() *journal.Record {
	if r.about == nil {
		r.about = &journal.Record{}
		if r.request != nil {
			r.about = r.bounded(aboutOf(r.request))
		}
	}
	record, _ := proto.Clone(r.about).(*journal.Record)
	record.Kind = r.kind
	record.Evaluator = cmp.Or(record.GetEvaluator(), r.evaluator)
	record.ActorToken = journal.ActorTokenOf(r.proof)
	record.ConsentIssuer, record.ConsentDigest = r.consentIssuer, r.consentDigest
	if record.GetPrincipalType() == "" && !r.person.IsZero() {
		record.PrincipalType, record.PrincipalId = r.person.Type, authz.DecodeID(r.person.ID)
	}
	return record
}

// ended is the record of how the call ends. mu is held.
func (r *Recording) ended(st error) *journal.Record {
	refused := !r.looked()
	record := r.record()
	record.Results, record.Failed, record.RequestHash = r.results, r.failed, r.digest()
	if r.account.Begun() {
		record.Relationships = nil // the record of the beginning has them
	}
	if st == nil {
		if r.made != nil {
			proto.Merge(record, r.made)
			bound(record)
		}
		return record
	}
	boundNames(record, maxRefusedName)
	said := status.Convert(st)
	record.Code, record.Reason = int32(said.Code()), statuses.Info(said).GetReason() //nolint:gosec // codes are small
	refusals := []codes.Code{codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted, codes.Unimplemented}
	if refused && slices.Contains(refusals, said.Code()) {
		record.Kind = deputyv1.RecordKind_RECORD_KIND_REFUSED
	}
	return record
}

// digest is the digest of the messages of a call that writes. mu is held.
func (r *Recording) digest() []byte {
	if r.sum == nil {
		return nil
	}
	return r.sum.Sum(nil)
}

// bounded makes what a call names short enough for a record, with what a record holds of the caveat context.
func (r *Recording) bounded(about *journal.Record, given *structpb.Struct) *journal.Record {
	if len(given.GetFields()) > 0 {
		var open map[string]any
		if about.ContextHash, open = r.gate.journal.Context(given.AsMap()); len(open) > 0 {
			about.Context, _ = structpb.NewStruct(open) // it came as one
		}
	}
	about.ToolCall = r.gate.journal.ToolCall(about.GetToolCall())
	bound(about)
	return about
}
