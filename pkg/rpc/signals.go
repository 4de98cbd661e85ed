package rpc

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/delegate"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/signal"
)

// signalTime is how long one signal is worked on at most, and in any case no longer than half of its caller's time.
const signalTime = 8 * time.Second

type signals struct {
	deputyv1.UnimplementedSignalsServiceServer
	border
}

// kept returns where signals are kept.
func (s *signals) kept() (*signal.Ledger, error) {
	if s.Signals == nil {
		return nil, authz.Errorf(authz.Precondition, authz.ReasonNoSignals,
			"this server takes no signals: set --http-listen where they come in, and --signals-dir where it has no data directory")
	}
	return s.Signals, nil
}

// ReceiveSignal takes a security event token, and does what it asks for.
//
// The order makes it durable: first it is kept what the token asks for, then that is done, then it is kept that it is done, and then comes the answer.
// A transmitter that was not answered sends the token again, and the work goes on. One that was answered has it take effect once.
func (s *signals) ReceiveSignal(ctx context.Context, r *deputyv1.ReceiveSignalRequest) (*deputyv1.ReceiveSignalResponse, error) {
	by := caller.Of(ctx)
	ledger, err := s.kept()
	switch {
	case err != nil:
		return nil, err
	case by.Signals == nil:
		return nil, authz.Errorf(authz.Denied, authz.ReasonOutOfBounds, "the caller %s transmits no signals: its entry says nothing of them", by.Name)
	case r.GetToken() == "":
		return nil, authz.FieldErrorf("token", "is required")
	}
	t, err := s.Events(ctx, by.Signals.Issuer, r.GetToken())
	if err != nil {
		return nil, err
	}
	reading, err := signal.Read(t, by.Signals, s.Now())
	if err != nil {
		return nil, err
	}
	e := signal.Entry{
		ID: signal.ID(by.Name, t.Issuer, t.ID), Digest: t.Digest, Transmitter: by.Name, Issuer: t.Issuer, Issued: t.Issued, Received: s.Now(),
		Reading: reading,
	}
	if reading.Act == signal.Nothing {
		e.State = signal.Recorded
		return &deputyv1.ReceiveSignalResponse{Signal: signalProto(&e)}, nil
	}
	release, err := ledger.Claim(ctx, e.ID)
	if err != nil {
		return nil, err
	}
	defer release()
	if was, found := ledger.Get(e.ID); found {
		if was.Digest != e.Digest {
			return nil, authz.Errorf(authz.Invalid, authz.ReasonSignalInvalid,
				`the security event token has the "jti" of another one that its issuer sent, and says something else`)
		}
		if was.State != signal.Begun {
			e.State, e.Received = was.State, was.Received
			e.Reading.Waits = was.Reading.Waits
			return &deputyv1.ReceiveSignalResponse{Signal: signalProto(&e), ReceivedBefore: true}, nil
		}
		e.Received = was.Received
	}
	return s.take(ctx, ledger, by, &e)
}

// take does what a signal asks for that has not been done.
func (s *signals) take(ctx context.Context, ledger *signal.Ledger, by *caller.Caller, e *signal.Entry) (*deputyv1.ReceiveSignalResponse, error) {
	within := narrowed(by.Bounds, e)
	as := s.Delegate.For(by.Name, within)
	if e.Reading.Waits == "" && e.Reading.Target.Type == authz.TypeTenant {
		switch reach, err := as.WouldStop(ctx, e.Reading.Target); {
		case err != nil:
			return nil, err
		case !reach.Complete || reach.Sessions+reach.Delegations > by.Signals.MaxSubjects:
			e.Reading.Waits = "it is about a whole tenant, and would stop more than its transmitter's max_subjects"
		}
	}
	out := &deputyv1.ReceiveSignalResponse{}
	if e.Reading.Waits != "" {
		e.State = signal.Waiting
		out.Signal = signalProto(e)
		return out, ledger.Put(*e)
	}
	e.State = signal.Begun
	// What cannot be kept stops something all the same. It is answered with an error, so that its transmitter sends it again.
	unkept := ledger.Put(*e)
	did, err := s.stop(ctx, as, e)
	switch {
	case err == nil:
		e.State = signal.Applied
	case authz.KindOf(err) == authz.NotFound: // within the transmitter's bounds there is nothing to stop
		e.State = signal.Recorded
	case authz.KindOf(err) == authz.Denied:
		e.State, e.Reading.Waits = signal.Waiting, explained(err)
	default:
		return nil, err
	}
	if unkept != nil {
		return nil, unkept
	}
	if err := ledger.Put(*e); err != nil {
		return nil, err
	}
	out.Signal, out.SessionsEnded, out.DelegationsRevoked = signalProto(e), count(did.Sessions), count(did.Delegations)
	if !did.At.IsZero() {
		out.WrittenAt = s.token(ctx, did.At)
	}
	return out, nil
}

// narrowed narrows a transmitter's bounds to the tenant that a signal names, and notes in which tenants it takes effect, and whether it reaches
// beyond.
func narrowed(b *authz.Bounds, e *signal.Entry) *authz.Bounds {
	within := *b
	tenant := e.Reading.Tenant
	switch {
	case tenant != "":
		e.Tenants = []string{string(tenant)}
		within.Tenants = authz.NamesOf(string(tenant))
		e.Beyond = !b.HasTenant(tenant)
	case b.Confined():
		e.Tenants = b.Tenants.List()
	}
	e.Beyond = e.Beyond || !signal.HasTarget(b, e.Reading.Target)
	if e.Beyond && e.Reading.Waits == "" {
		e.Reading.Waits = "it reaches beyond the bounds of its transmitter"
	}
	return &within
}

// stop does all that a signal asks for. A principal that it cannot suspend, because tenants besides have it, loses what it has within, and the
// error is Denied.
func (s *signals) stop(ctx context.Context, as *delegate.Delegate, e *signal.Entry) (all delegate.Braked, err error) {
	until := authz.Until(ctx, signalTime)
	act, denied := as.EndAll, error(nil)
	if e.Reading.Act == signal.Brake {
		act = as.Brake
	}
	var from delegate.Place
	for {
		did, err := act(ctx, e.Reading.Target, from)
		if authz.KindOf(err) == authz.Denied && denied == nil && err != nil {
			act, denied = as.EndAll, err
			continue
		}
		if err != nil {
			return all, err
		}
		all.Sessions, all.Delegations = all.Sessions+did.Sessions, all.Delegations+did.Delegations
		if all.At.IsZero() || e.Reading.Act == signal.End || denied != nil {
			all.At = did.At
		}
		switch {
		case did.Next == nil:
			return all, denied
		case !time.Now().Before(until):
			return all, authz.Errorf(authz.Unavailable, authz.ReasonSignalsUnavailable, "not all that the signal stops has ended yet; send it again")
		}
		from = *did.Next
	}
}

// explained is what an error says to callers.
func explained(err error) string {
	if e, ok := errors.AsType[*authz.Error](err); ok {
		return e.Message
	}
	return "it was refused"
}

// ListSignals lists the signals that wait.
func (s *signals) ListSignals(ctx context.Context, r *deputyv1.ListSignalsRequest) (*deputyv1.ListSignalsResponse, error) {
	ledger, err := s.kept()
	if err != nil {
		return nil, err
	}
	most, err := limit(r.GetLimit(), defaultList, maxList)
	if err != nil {
		return nil, err
	}
	sum, err := digest(ctx, &deputyv1.ListSignalsRequest{}, boundTenants(ctx)...)
	if err != nil {
		return nil, err
	}
	var after place
	stamp, err := s.Sealer.place(sum, r.GetCursor(), &after, s.Now())
	if err != nil {
		return nil, err
	}
	list, more := ledger.Waits(caller.Of(ctx).Bounds, signal.Entry{ID: after.ID, Received: after.Received}, most)
	out := &deputyv1.ListSignalsResponse{Complete: !more}
	for i := range list {
		out.Signals = append(out.Signals, signalProto(&list[i]))
	}
	if more {
		last := &list[len(list)-1]
		out.Next, err = s.Sealer.cursor(sum, stamp, place{last.ID, last.Received})
	}
	return out, err
}

// place is where a list of signals stopped.
type place struct {
	ID       string    `json:"i"`
	Received time.Time `json:"r"`
}

// claim returns a signal that waits and exists for the caller, and keeps others from it.
func (s *signals) claim(ctx context.Context, id, reason string) (*signal.Ledger, *signal.Entry, func(), error) {
	ledger, err := s.kept()
	if err != nil {
		return nil, nil, nil, err
	}
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 || strings.ToLower(id) != id {
		return nil, nil, nil, authz.FieldErrorf("signal_id", "is malformed: it is 32 hexadecimal digits in lower case")
	}
	if err := givenReason(reason, true); err != nil {
		return nil, nil, nil, err
	}
	release, err := ledger.Claim(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	e, found := ledger.Get(id)
	if !found || !e.Open() || !e.In(caller.Of(ctx).Bounds) {
		release()
		return nil, nil, nil, authz.Errorf(authz.NotFound, authz.ReasonSignalNotFound, "no signal with the id %q waits here", id)
	}
	return ledger, &e, release, nil
}

// ApplySignal does what a signal that waits asks for.
func (s *signals) ApplySignal(ctx context.Context, r *deputyv1.ApplySignalRequest) (*deputyv1.ApplySignalResponse, error) {
	ledger, e, release, err := s.claim(ctx, r.GetSignalId(), r.GetReason())
	if err != nil {
		return nil, err
	}
	defer release()
	bare := proto.CloneOf(r)
	bare.Reason, bare.Cursor = "", nil
	sum, err := digest(ctx, bare, boundTenants(ctx)...)
	if err != nil {
		return nil, err
	}
	var from delegate.Place
	stamp, err := s.Sealer.place(sum, r.GetCursor(), &from, s.Now())
	if err != nil {
		return nil, err
	}
	as := s.delegate(ctx)
	act := as.Brake
	if e.Reading.Act != signal.Brake {
		if act = as.EndAll; e.Reading.Tenant != "" {
			within := *caller.Of(ctx).Bounds
			within.Tenants = authz.NamesOf(string(e.Reading.Tenant))
			act = s.Delegate.For(caller.Of(ctx).Name, &within).EndAll
		}
	}
	did, err := act(ctx, e.Reading.Target, from)
	if err != nil {
		return nil, err
	}
	out := &deputyv1.ApplySignalResponse{
		WrittenAt: s.token(ctx, did.At), SessionsEnded: count(did.Sessions), DelegationsRevoked: count(did.Delegations),
		Complete: did.Next == nil,
	}
	if did.Next != nil {
		out.Signal = signalProto(e)
		out.Next, err = s.Sealer.cursor(sum, stamp, did.Next)
		return out, err
	}
	e.State, e.Reading.Waits = signal.Applied, ""
	out.Signal = signalProto(e)
	return out, ledger.Put(*e)
}

// DropSignal takes a signal that waits from the list.
func (s *signals) DropSignal(ctx context.Context, r *deputyv1.DropSignalRequest) (*deputyv1.DropSignalResponse, error) {
	ledger, e, release, err := s.claim(ctx, r.GetSignalId(), r.GetReason())
	if err != nil {
		return nil, err
	}
	defer release()
	e.State, e.Reading.Waits = signal.Dropped, ""
	return &deputyv1.DropSignalResponse{Signal: signalProto(e)}, ledger.Put(*e)
}

// signalProto shows a signal.
func signalProto(e *signal.Entry) *deputyv1.Signal {
	out := &deputyv1.Signal{
		SignalId: e.ID, Transmitter: e.Transmitter, Issuer: e.Issuer, Events: e.Reading.Events,
		Act:      deputyv1.SignalAct(e.Reading.Act),
		TenantId: authz.DecodeID(string(e.Reading.Tenant)), State: deputyv1.SignalState(e.State), WaitsBecause: e.Reading.Waits,
		IssuedAt: timestamppb.New(e.Issued), ReceivedAt: timestamppb.New(e.Received),
	}
	if !e.Reading.Happened.IsZero() {
		out.HappenedAt = timestamppb.New(e.Reading.Happened)
	}
	switch o := e.Reading.Target; o.Type {
	case authz.TypeAgent:
		out.AgentId = authz.DecodeID(o.ID)
	case authz.TypeUser, authz.TypeService:
		out.Principal = objectProto(o)
	case authz.TypeSession:
		out.SessionId = o.ID
	}
	return out
}

// receivedRecord is a record of what a signal names that was received, and of what has become of it.
func receivedRecord(answer *deputyv1.ReceiveSignalResponse) *journal.Record {
	is := answer.GetSignal()
	r, _ := aboutOf(is)
	state := strings.ToLower(strings.TrimPrefix(is.GetState().String(), "SIGNAL_STATE_"))
	if answer.GetReceivedBefore() {
		state = "received before, and " + state
	}
	r.GivenReason = "signal " + is.GetSignalId() + ": " + strings.Join(is.GetEvents(), ", ") + " from " + is.GetIssuer() + ": " + state
	return r
}
