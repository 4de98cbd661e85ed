package spicedb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
)

// between puts a door between a client and an upstream that follows a script: for what SpiceDB itself
// cannot be made to show.
func between(t *testing.T, script grpc.StreamHandler) *house {
	t.Helper()
	s := grpc.NewServer(grpc.UnknownServiceHandler(script), grpc.ForceServerCodecV2(Codec()))
	conn, err := grpc.NewClient(serveOn(t, s), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return open(t, Config{
		Upstream: conn,
		Receiver: wire.NewReceiver(nil),
		Schema: func(context.Context) (*authz.Schema, error) {
			return &authz.Schema{Types: map[string]*authz.Type{
				"note": {Name: "note", Members: map[string]bool{"author": false}},
			}}, nil
		},
		Model:  func(string) (*authz.Schema, error) { return &authz.Schema{}, nil },
		Told:   func(*status.Status) *status.Status { return status.New(codes.Unavailable, "told") },
		Rights: rightsOf,
	})
}

func TestMetadata(t *testing.T) {
	seen := make(chan metadata.MD, 1)
	h := between(t, func(_ any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		seen <- md
		if err := s.RecvMsg(&v1.ReadSchemaRequest{}); err != nil {
			return err
		}
		if err := s.SetHeader(metadata.Pairs("io.spicedb.debug.version", "v1", "set-cookie", "crumb")); err != nil {
			return err
		}
		s.SetTrailer(metadata.Pairs("io.spicedb.respmeta.dispatchedoperationscount", "7", "trace-bin", "\x00\xff"))
		return s.SendMsg(&v1.ReadSchemaResponse{SchemaText: "text"})
	})
	ctx := metadata.AppendToOutgoingContext(context.Background(),
		"io.spicedb.requestdebuginfo", "1", "x-request-id", "r1", "traceparent", "t", "own-bin", "\x00\x01",
		"io.spicedb.twice", "a", "io.spicedb.twice", "b",
		"cookie", "crumb", "x-forwarded-for", "10.0.0.1", "proxy-authorization", "Basic x")
	var header, trailer metadata.MD
	resp, err := h.client(t, adminKey).ReadSchema(ctx, &v1.ReadSchemaRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || resp.GetSchemaText() != "text" {
		t.Fatalf("%v %v", resp, err)
	}
	got := <-seen
	for key, want := range map[string][]string{
		"io.spicedb.requestdebuginfo": {"1"}, "x-request-id": {"r1"}, "traceparent": {"t"}, "own-bin": {"\x00\x01"},
		"io.spicedb.twice": {"a", "b"},
		"authorization":    nil, "cookie": nil, "x-forwarded-for": nil, "proxy-authorization": nil,
	} {
		if !slices.Equal(got.Get(key), want) {
			t.Errorf("upstream got %s %q, want %q", key, got.Get(key), want)
		}
	}
	if !slices.Equal(header.Get("io.spicedb.debug.version"), []string{"v1"}) || header.Get("set-cookie") != nil {
		t.Errorf("header %v", header)
	}
	if !slices.Equal(trailer.Get("io.spicedb.respmeta.dispatchedoperationscount"), []string{"7"}) ||
		!slices.Equal(trailer.Get("trace-bin"), []string{"\x00\xff"}) {
		t.Errorf("trailer %v", trailer)
	}
}

// TestFailure: a failure brings its trailers and details along, before and after messages.
func TestFailure(t *testing.T) {
	for _, messages := range []int{0, 2} {
		h := between(t, func(_ any, s grpc.ServerStream) error {
			s.SetTrailer(metadata.Pairs("io.spicedb.respmeta.requestid", "r1"))
			for range messages {
				if err := s.SendMsg(&v1.ReadRelationshipsResponse{}); err != nil {
					return err
				}
			}
			st, err := status.New(codes.ResourceExhausted, "too much").WithDetails(&errdetails.ErrorInfo{Reason: "ENOUGH", Domain: "authzed.com"})
			if err != nil {
				return err
			}
			return st.Err()
		})
		stream, err := h.client(t, serviceKey).ReadRelationships(context.Background(), &v1.ReadRelationshipsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for range messages {
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		_, err = stream.Recv()
		if status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "too much" || infoOf(err).GetReason() != "ENOUGH" {
			t.Errorf("after %d messages: %v", messages, err)
		}
		if !slices.Equal(stream.Trailer().Get("io.spicedb.respmeta.requestid"), []string{"r1"}) {
			t.Errorf("after %d messages: trailer %v", messages, stream.Trailer())
		}
	}
}

// TestItemFailures: the failures of items in an answer are told as Config.Told says, and everything else as it came.
func TestItemFailures(t *testing.T) {
	secret := status.New(codes.Unavailable, "secret of 10.0.0.1")
	item := &v1.CheckBulkPermissionsPair_Item{Item: &v1.CheckBulkPermissionsResponseItem{Permissionship: v1.CheckPermissionResponse_PERMISSIONSHIP_HAS_PERMISSION}}
	h := between(t, func(_ any, s grpc.ServerStream) error {
		return s.SendMsg(&v1.CheckBulkPermissionsResponse{CheckedAt: &v1.ZedToken{Token: "t"}, Pairs: []*v1.CheckBulkPermissionsPair{
			{Response: &v1.CheckBulkPermissionsPair_Error{Error: secret.Proto()}}, {Response: item},
		}})
	})
	resp, err := h.client(t, serviceKey).CheckBulkPermissions(context.Background(), &v1.CheckBulkPermissionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetPairs()) != 2 || resp.GetPairs()[0].GetError().GetMessage() != "told" || resp.GetCheckedAt().GetToken() != "t" ||
		resp.GetPairs()[1].GetItem().GetPermissionship() != item.Item.GetPermissionship() {
		t.Errorf("the answer is %v", resp)
	}
}

// TestUpstreamFailures: Upstream's failures pass, and without a schema nothing is judged, for reasons that are not told.
func TestUpstreamFailures(t *testing.T) {
	// With details it is SpiceDB that speaks, and not the connection.
	h := between(t, func(any, grpc.ServerStream) error {
		st, err := status.New(codes.Unavailable, "read-only").WithDetails(&errdetails.ErrorInfo{Reason: "READ_ONLY", Domain: "authzed.com"})
		if err != nil {
			return err
		}
		return st.Err()
	})
	_, err := h.client(t, serviceKey).ReadSchema(context.Background(), &v1.ReadSchemaRequest{})
	if status.Convert(err).Message() != "read-only" || infoOf(err).GetReason() != "READ_ONLY" {
		t.Errorf("with details: %v", err)
	}

	h = open(t, Config{
		Upstream: h.conn, Rights: rightsOf, Receiver: wire.NewReceiver(nil),
		Schema: func(context.Context) (*authz.Schema, error) { return nil, errors.New("secret") },
		Model:  func(string) (*authz.Schema, error) { return nil, errors.New("secret") },
	})
	_, err = h.client(t, serviceKey).WriteRelationships(context.Background(), updates("note:n#author@user:alice"))
	wants(t, "no schema", err, codes.Unavailable, authz.ReasonEngineUnavailable, "")
	_, err = h.client(t, adminKey).WriteSchema(context.Background(), &v1.WriteSchemaRequest{Schema: "x"})
	wants(t, "no model", err, codes.InvalidArgument, authz.ReasonInvalidField, "schema")
}

// TestDeadline: the caller's deadline reaches upstream.
func TestDeadline(t *testing.T) {
	deadline := make(chan time.Time, 1)
	h := between(t, func(_ any, s grpc.ServerStream) error {
		at, _ := s.Context().Deadline()
		deadline <- at
		return s.SendMsg(&v1.ReadSchemaResponse{})
	})
	want := time.Now().Add(time.Hour)
	ctx, cancel := context.WithDeadline(context.Background(), want)
	defer cancel()
	if _, err := h.client(t, serviceKey).ReadSchema(ctx, &v1.ReadSchemaRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := <-deadline; got.Before(want.Add(-time.Minute)) || got.After(want.Add(time.Minute)) {
		t.Errorf("deadline %s, want %s", got, want)
	}
}

// TestCancel: upstream's context ends when the client goes, whatever the client and upstream wait for.
func TestCancel(t *testing.T) {
	note := &v1.ImportBulkRelationshipsRequest{Relationships: relationships("note:n#author@user:alice")}
	for name, call := range map[string]func(context.Context, *house) error{
		"unary": func(ctx context.Context, h *house) error {
			_, err := h.client(t, serviceKey).ReadSchema(ctx, &v1.ReadSchemaRequest{})
			return err
		},
		"server stream": func(ctx context.Context, h *house) error {
			watch, err := h.client(t, serviceKey).Watch(ctx, &v1.WatchRequest{})
			if err == nil {
				_, err = watch.Recv()
			}
			return err
		},
		"client stream": func(ctx context.Context, h *house) error {
			load, err := h.client(t, serviceKey).ImportBulkRelationships(ctx)
			if err == nil {
				err = load.Send(note)
			}
			if err == nil {
				err = load.RecvMsg(&v1.ImportBulkRelationshipsResponse{})
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			h := between(t, func(_ any, s grpc.ServerStream) error {
				cancel() // the client goes once upstream has the call
				<-s.Context().Done()
				ended <- s.Context().Err()
				return s.Context().Err()
			})
			if err := call(ctx, h); status.Code(err) != codes.Canceled {
				t.Errorf("the client got %v", err)
			}
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("upstream ended with %v", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("upstream's context did not end")
			}
		})
	}
}

// TestClientStream: messages arrive one by one, the half-close arrives, and an upstream that ends the
// call early is heard at once.
func TestClientStream(t *testing.T) {
	var got atomic.Int64
	h := between(t, func(_ any, s grpc.ServerStream) error {
		for {
			var req v1.ImportBulkRelationshipsRequest
			switch err := s.RecvMsg(&req); {
			case errors.Is(err, io.EOF):
				return s.SendMsg(&v1.ImportBulkRelationshipsResponse{NumLoaded: uint64(got.Load())})
			case err != nil:
				return err
			case req.GetRelationships()[0].GetResource().GetObjectId() == "stop":
				return status.Error(codes.AlreadyExists, "stop")
			}
			got.Add(1)
		}
	})
	ctx, c := context.Background(), h.client(t, serviceKey)
	stream, err := c.ImportBulkRelationships(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(5) {
		if err := stream.Send(&v1.ImportBulkRelationshipsRequest{Relationships: relationships("note:n#author@user:alice")}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "message has arrived before the next is sent", func() bool { return got.Load() == i+1 })
	}
	resp, err := stream.CloseAndRecv()
	if err != nil || resp.GetNumLoaded() != 5 {
		t.Errorf("%v %v", resp, err)
	}

	if n, err := load(ctx, c); err != nil || n != 5 {
		t.Errorf("a stream without messages: %d, %v", n, err)
	}
	stopped, err := c.ImportBulkRelationships(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stopped.Send(&v1.ImportBulkRelationshipsRequest{Relationships: relationships("note:stop#author@user:alice")}); err != nil {
		t.Fatal(err)
	}
	// The client has not half-closed, and hears the end all the same.
	if err := stopped.RecvMsg(&v1.ImportBulkRelationshipsResponse{}); status.Code(err) != codes.AlreadyExists {
		t.Errorf("upstream stopped: %v", err)
	}
}

// TestRefusedStreamIsBrokenOff: upstream sees what was allowed, then the end of its context, and never a
// half-close, which would commit.
func TestRefusedStreamIsBrokenOff(t *testing.T) {
	end := make(chan error, 1)
	h := between(t, func(_ any, s grpc.ServerStream) error {
		for {
			if err := s.RecvMsg(&v1.ImportBulkRelationshipsRequest{}); err != nil {
				end <- err
				return err
			}
		}
	})
	_, err := load(context.Background(), h.client(t, serviceKey),
		relationships("note:n#author@user:alice"), relationships("tenant:acme#admin@user:mallory"))
	wants(t, "load", err, codes.PermissionDenied, authz.ReasonRoleRequired, "messages[1].relationships[0]")
	if err := <-end; status.Code(err) != codes.Canceled {
		t.Errorf("upstream's stream ended with %v", err)
	}
}

// TestBackpressure: a client that does not read stops upstream.
func TestBackpressure(t *testing.T) {
	const messages, size = 1000, 1 << 16 // 64 MB, far more than the windows of two connections
	var sent atomic.Int64
	h := between(t, func(_ any, s grpc.ServerStream) error {
		big := &v1.ReadRelationshipsResponse{AfterResultCursor: &v1.Cursor{Token: string(bytes.Repeat([]byte("x"), size))}}
		for range messages {
			if err := s.SendMsg(big); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	})
	stream, err := h.client(t, serviceKey).ReadRelationships(context.Background(), &v1.ReadRelationshipsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// It has come to rest when nothing was sent for a while, or everything was.
	last, still := int64(-1), 0
	eventually(t, "upstream rests", func() bool {
		if now := sent.Load(); now != last || now == 0 {
			last, still = now, 0
		} else {
			still++
		}
		return still == 30 || last == messages
	})
	if last > messages/2 {
		t.Errorf("upstream sent %d of %d messages to a client that read none", last, messages)
	}
	if got := collect(t, stream, nil); len(got) != messages {
		t.Errorf("in the end the client got %d messages", len(got))
	}
}

// TestOneReading: what goes upstream is the encoding of what was judged, and what cannot be judged does
// not go.
func TestOneReading(t *testing.T) {
	arrived := make(chan []byte, 16)
	h := between(t, func(_ any, s grpc.ServerStream) error {
		var f frame
		if err := s.RecvMsg(&f); err != nil {
			return err
		}
		arrived <- f.data.Materialize()
		f.free()
		return s.SendMsg(&v1.WriteRelationshipsResponse{})
	})
	send := func(key string, data []byte) error {
		ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key)
		f := frame{data: sliceOf(data)}
		return h.conn.Invoke(ctx, v1.PermissionsService_WriteRelationships_FullMethodName, &f, &v1.WriteRelationshipsResponse{}, grpc.ForceCodecV2(Codec()))
	}
	encode := func(m proto.Message) []byte {
		return must[[]byte](t)(proto.MarshalOptions{Deterministic: true}.Marshal(m))
	}
	field := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	update := updates("note:n#author@user:alice").GetUpdates()[0]

	// The relationship comes in two halves, the way protobuf lets a message be split.
	halves := slices.Concat(
		[]byte{0x08, byte(update.GetOperation())},
		field(2, encode(&v1.Relationship{Resource: update.GetRelationship().GetResource()})),
		field(2, encode(&v1.Relationship{Relation: "author", Subject: update.GetRelationship().GetSubject()})),
	)
	if err := send(serviceKey, field(1, halves)); err != nil {
		t.Fatal(err)
	}
	if got := <-arrived; !bytes.Equal(got, encode(updates("note:n#author@user:alice"))) {
		t.Errorf("upstream got %x", got)
	}

	// Two halves of another type together: judged as what they amount to.
	core := slices.Concat(halves, field(2, encode(&v1.Relationship{Resource: object("tenant:acme")})))
	wants(t, "halves of a core type", send(serviceKey, field(1, core)), codes.PermissionDenied, authz.ReasonRoleRequired, "updates[0]")

	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1)
	for name, c := range map[string]struct {
		data []byte
		at   string
	}{
		"unknown in the request":    {slices.Concat(field(1, halves), unknown), ""},
		"unknown in an update":      {field(1, slices.Concat(halves, unknown)), "updates[0]"},
		"unknown in a relationship": {field(1, slices.Concat(halves, field(2, unknown))), "updates[0].relationship"},
		"unknown in a struct": {
			slices.Concat(field(1, halves), field(3, field(1, slices.Concat(field(1, []byte("k")), field(2, unknown))))),
			"optional_transaction_metadata.fields[0].value",
		},
		"garbage":   {[]byte{0xff, 0xff}, ""},
		"not UTF-8": {field(1, slices.Concat(halves, field(2, field(2, []byte{0xff})))), ""},
	} {
		for _, key := range []string{serviceKey, adminKey} {
			wants(t, name, send(key, c.data), codes.InvalidArgument, authz.ReasonInvalidField, c.at)
		}
	}
	select {
	case got := <-arrived:
		t.Errorf("upstream got %x", got)
	default:
	}
	// An admin's is not judged, but read the same way.
	wants(t, "unknown of an admin", send(adminKey, slices.Concat(field(1, core), unknown)), codes.InvalidArgument, authz.ReasonInvalidField, "")
	if err := send(adminKey, field(1, core)); err != nil {
		t.Fatal(err)
	}
	whole := updates("tenant:acme#author@user:alice")
	if got := <-arrived; !bytes.Equal(got, encode(whole)) {
		t.Errorf("upstream got %x of an admin, want %x", got, encode(whole))
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}

func sliceOf(data []byte) mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer(data)} }
