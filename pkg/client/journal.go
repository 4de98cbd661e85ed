package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// RecordQuery asks for records of the journal. Fields that are set narrow, together; the zero RecordQuery asks for all.
type RecordQuery struct {
	// Agent is the agent that a call names, or one of the chain that decided.
	Agent string
	// Principal, Tenant, Resource and Permission are those of the call.
	Principal  Principal
	Tenant     string
	Resource   Resource
	Permission string
	// Caller is the name of who called.
	Caller string
	// Session and Delegation are those of the call.
	Session, Delegation string
	// Answer is how it was answered, and RefusedBy the gate that refused.
	Answer    deputyv1.Permissionship
	RefusedBy deputyv1.Gate
	// Kinds are the kinds of records; none means all.
	Kinds []deputyv1.RecordKind
	// Tool is the call of a tool; those of its fields that are set narrow.
	Tool ToolCall
	// From and Until bound when calls began: at From or later, and before Until. Zero is no bound.
	From, Until time.Time
	// NewestFirst has the newest come first.
	NewestFirst bool
	Page
}

// request is the query as the server has it.
func (q RecordQuery) request() (*deputyv1.QueryRecordsRequest, error) {
	r := &deputyv1.QueryRecordsRequest{
		AgentId: q.Agent, TenantId: q.Tenant, Permission: q.Permission, Caller: q.Caller, SessionId: q.Session, DelegationId: q.Delegation,
		Answer: q.Answer, RefusedBy: q.RefusedBy, Kinds: q.Kinds, NewestFirst: q.NewestFirst, ToolCall: q.Tool.proto(),
	}
	var err error
	if r.Principal, err = q.Principal.one(); err != nil {
		return nil, err
	}
	if q.Resource != (Resource{}) {
		r.Resource = q.Resource.proto()
	}
	if !q.From.IsZero() {
		r.From = timestamppb.New(q.From)
	}
	if !q.Until.IsZero() {
		r.Until = timestamppb.New(q.Until)
	}
	return r, nil
}

// QueryRecords lists the records of the server's journal that match. It takes an auditor.
func (c *Client) QueryRecords(q RecordQuery) *List[*deputyv1.FoundRecord] {
	request, err := q.request()
	if err != nil {
		return failed[*deputyv1.FoundRecord](err)
	}
	open := func(ctx context.Context, limit uint32, from *deputyv1.Cursor) (grpc.ServerStreamingClient[deputyv1.QueryRecordsResponse], error) {
		request.Limit, request.Cursor = limit, from
		return c.Journal.QueryRecords(ctx, request)
	}
	return streamOf(q.Page, open, func(m *deputyv1.QueryRecordsResponse) (*result[*deputyv1.FoundRecord], *end) {
		switch r := m.GetResult().(type) {
		case *deputyv1.QueryRecordsResponse_Record:
			return &result[*deputyv1.FoundRecord]{value: r.Record}, nil
		case *deputyv1.QueryRecordsResponse_End:
			return nil, &end{complete: r.End.GetComplete(), next: r.End.GetNext()}
		default:
			return nil, nil // of a later version
		}
	})
}

// FollowRecords iterates over the records of the server's journal that match, as they are written: from where Page.Cursor stopped, or from From, or
// else from now on. An error is the last thing that it yields. It ends without one only with the loop, or after as many as Limit. Its context
// should have no deadline. NewestFirst is an error.
func (c *Client) FollowRecords(ctx context.Context, q RecordQuery) iter.Seq2[*deputyv1.FoundRecord, error] {
	return func(yield func(*deputyv1.FoundRecord, error) bool) {
		ctx, cancel := context.WithCancel(ctx) // gRPC holds a stream until then
		defer cancel()
		request, err := q.request()
		if err == nil && q.Limit < 0 {
			err = errors.New("client: the limit of a list cannot be negative")
		}
		var stream grpc.ServerStreamingClient[deputyv1.QueryRecordsResponse]
		if err == nil {
			request.Follow, request.Limit, request.Cursor = true, uint32(q.Limit), q.Cursor //nolint:gosec // the server refuses more than 10,000
			stream, err = c.Journal.QueryRecords(ctx, request)
		}
		for err == nil {
			var message *deputyv1.QueryRecordsResponse
			message, err = stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				err = ErrCutOff
			case err != nil:
			case message.GetEnd() != nil:
				return
			case message.GetRecord() != nil && !yield(message.GetRecord(), nil):
				return
			}
		}
		yield(nil, err)
	}
}
