package spicedb

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/authzed/authzed-go/pkg/requestmeta"
	"github.com/authzed/authzed-go/pkg/responsemeta"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
)

// route is one method: where its calls go and what judges them.
type route struct {
	path   string
	stream grpc.StreamDesc
	// input is the type of the caller's messages, and receive what bounds them.
	input   protoreflect.MessageType
	receive *wire.Method
	// guard judges every message that the caller sends; nil for a read.
	guard guard
	// answer answers what it can by itself; nil for most methods.
	answer Answer
	// split is how an answer that is too large is split; nil where it cannot be.
	split *split
	// sealed are the fields of a request that hold what may be sealed.
	sealed []sealed
	// edits are made in everybody's answers of the engine, own in those of answer, and edited in both for a caller with bounds or with sealed
	// tokens.
	edits, own, edited *edits
	// told is what is recorded of an answer.
	told recorded
	// readsSchema and writesSchema name the two methods that expectations of the schema are about.
	readsSchema, writesSchema bool
}

// call is one call on its way, and its caller. Its messages come one after the other, but the answers of one that streams both ways come
// beside them; no method of this API does.
type call struct {
	*Door
	route  *route
	rights Rights
	// bound says that there is something that does not exist for the caller; see scope.
	bound bool
	start time.Time
	// stamp is when the revision of the answers was read first, as far as it is known.
	stamp time.Time
	// history is what sealed tokens are marked with, "" where no history is known, and confirm says whether the answer that has come is of it.
	history string
	confirm func() bool
	// last is the value of the token that came last, of answers that can be split; nil if there was none.
	last []byte
	// scope is what exists for the caller of what the call was about so far; nil before it is looked at.
	scope *scope
	// hidden are the ids under which the caller asked for objects, by those that the engine is asked for; see hide.
	hidden map[string]string
	// pairs are those that the door answers itself, by index, and pair counts those that came.
	pairs map[int]proto.Message
	pair  int
	// rows is how many rows the caller still wants, at least 1; 0 for all.
	rows uint32
	// recording records the call; nil where nothing does.
	recording Recording
	// about is what the first message names, with its caveat context; nil where nothing is recorded.
	about *deputyv1.Record
	given *structpb.Struct
	// updates is how many relationships the request writes.
	updates uint64
}

func (d *Door) call(ctx context.Context, r *route) *call {
	c := &call{Door: d, route: r, start: time.Now()}
	// SpiceDB may choose a revision that is not the newest, and does so where a request does not say otherwise.
	c.stamp = c.start.Add(-d.cfg.Staleness)
	if d.cfg.Recording != nil {
		c.recording = d.cfg.Recording(ctx)
	}
	c.know(ctx)
	return c
}

// know notes what the caller may do, which may be something else once the first message has come.
func (c *call) know(ctx context.Context) {
	c.rights = c.cfg.Rights(ctx)
	if c.rights.Bounds == nil {
		c.rights.Bounds = &authz.Bounds{}
	}
	c.bound = !c.rights.Bounds.Everything()
}

// edits returns what is edited in the answers of the engine, or in those of the native evaluator.
func (c *call) edits(by deputyv1.Evaluator) *edits {
	switch {
	case c.bound || c.rights.Seals:
		return c.route.edited
	case by == deputyv1.Evaluator_EVALUATOR_NATIVE:
		return c.route.own
	default:
		return c.route.edits
	}
}

// forward passes one call on: its messages, half-close, deadline and cancellation up, headers,
// messages, status and trailers down. A message is read on one side only once the one before it has
// been taken by the other, so flow control reaches from end to end.
//
// A refusal by the guard ends the call at once, and cancels it upstream before any half-close: SpiceDB
// rolls a bulk load back whose stream breaks off.
func (d *Door) forward(r *route, down grpc.ServerStream) error {
	if err := d.tellVersion(down); err != nil {
		return err
	}
	// The first message comes before the call upstream, so that what is refused never reaches it. No
	// method of this API answers before it was asked.
	c := d.call(down.Context(), r)
	first, err := c.receive(down, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !r.stream.ClientStreams {
		// SpiceDB holds what it was sent until the call ends, and an answer may repeat it, so the room is taken that long.
		defer first.free()
	}
	if answered, err := c.tryAnswer(first, down); answered {
		return err
	}
	md, err := d.expectation(r, down)
	if err != nil {
		first.free()
		return err
	}
	if first != nil {
		c.begin(first.data.Materialize())
	}
	if c.recording != nil {
		if err := c.recording.Begin(down.Context()); err != nil {
			first.free()
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(metadata.NewOutgoingContext(down.Context(), md))
	defer cancel(nil)
	up, err := d.cfg.Upstream.NewStream(ctx, &r.stream, r.path,
		grpc.ForceCodecV2(Codec()),
		grpc.MaxCallRecvMsgSize(math.MaxInt32), // the limits are the server's and the engine's own
		grpc.MaxCallSendMsgSize(math.MaxInt32),
	)
	if err != nil {
		first.free()
		return err
	}
	if r.stream.ClientStreams {
		// It outlives this function by as long as it takes gRPC to end RecvMsg on a finished call.
		go func() {
			if err := authz.Safely("door.ask", func() error { return c.ask(down, up, first) }); err != nil {
				cancel(err)
			}
		}()
	} else if err := c.ask(down, up, first); err != nil {
		return err
	}
	if err := c.passAll(up, down); err != nil {
		var refusal interface{ GRPCStatus() *status.Status }
		if errors.As(context.Cause(ctx), &refusal) {
			return refusal.GRPCStatus().Err()
		}
		if panicked, ok := errors.AsType[*authz.Error](context.Cause(ctx)); ok {
			return panicked
		}
		return c.withWhatThereIs(down.Context(), err, r.guard != nil)
	}
	return nil
}

// tellVersion tells a caller who asks for it the version of SpiceDB. Where upstream is a library in this process it does not
// know its own, and the native evaluator is not asked. zed reads the header, SpiceDB v1.56.2 sends a trailer.
func (d *Door) tellVersion(down grpc.ServerStream) error {
	if d.cfg.Version == "" || len(metadata.ValueFromIncomingContext(down.Context(), string(requestmeta.RequestServerVersion))) == 0 {
		return nil
	}
	version := metadata.Pairs(string(responsemeta.ServerVersion), d.cfg.Version)
	down.SetTrailer(version)
	return down.SetHeader(version)
}

// tryAnswer answers a call whose one message has come, if the route can. What it answers passes down as what comes from upstream does.
func (c *call) tryAnswer(request *frame, down grpc.ServerStream) (answered bool, err error) {
	if c.route.answer == nil || request == nil {
		return false, nil
	}
	answered, err = c.route.answer(down.Context(), request.data.Materialize(), func(response []byte) error {
		f := &frame{data: mem.BufferSlice{mem.SliceBuffer(response)}}
		defer f.free()
		return c.pass(f, down, deputyv1.Evaluator_EVALUATOR_NATIVE)
	})
	switch {
	case !answered:
		return false, nil
	case errors.Is(err, errEnough):
		return true, nil
	default:
		return true, err
	}
}

// receive reads the caller's next message, decodes it, has it judged, and returns its encoding anew. It returns io.EOF
// after the last.
//
// SpiceDB decodes with other code than this (vtprotobuf), which takes what Google's decoder refuses: a group that ends as another
// field's was seen to end the process. So nothing reaches it, from anybody, that Google's encoder has not written, and there is one
// reading of what was judged. Fields that authzed-go does not know are refused by the receiver, because a newer SpiceDB might act on
// them, and a read that drops one would answer another question.
func (c *call) receive(down grpc.ServerStream, n int) (*frame, error) {
	came := func() {}
	if watched, ok := down.(interface{ Await() (came func()) }); ok {
		came = watched.Await() // a caller that sends nothing is not waited for without end
	}
	received, err := c.cfg.Receiver.Receive(down.Context(), c.route.receive)
	came()
	if n == 0 {
		c.know(down.Context())
	}
	if err != nil {
		return nil, receiveFailure(err)
	}
	f, judged := &frame{received: received}, false
	defer func() {
		if !judged { // also after a panic
			f.free()
		}
	}()
	request := c.route.input.New().Interface()
	if err := received.Decode(request); err != nil {
		return nil, receiveFailure(err)
	}
	c.asks(request)
	if err := c.judge(down.Context(), n, request); err != nil {
		return nil, err
	}
	encoded, err := proto.Marshal(request)
	if err != nil {
		return nil, failure(codes.Internal, "INTERNAL", "", "the request cannot be encoded")
	}
	judged = true
	f.data = mem.BufferSlice{mem.SliceBuffer(encoded)}
	return f, nil
}

// judge has message n judged, and made what is asked of the engine.
func (c *call) judge(ctx context.Context, n int, request proto.Message) error {
	if err := judgeText(request); err != nil {
		return err
	}
	if err := judgeSound(request); err != nil {
		return err
	}
	if err := c.open(ctx, request); err != nil {
		return err
	}
	if c.bound {
		if err := c.confine(ctx, request); err != nil {
			return err
		}
	}
	if c.route.guard != nil {
		if err := c.route.guard(ctx, c, n, request); err != nil {
			return err
		}
	}
	c.anchored(ctx, request)
	batched(request)
	return nil
}

// ask passes the caller's messages up, from the first on, which is nil if there is none, and then the
// half-close. It returns why the call has to end, if that is not for upstream to say.
func (c *call) ask(down grpc.ServerStream, up grpc.ClientStream, next *frame) error {
	for n := 1; next != nil; n++ {
		err := up.SendMsg(next)
		if c.route.stream.ClientStreams {
			next.free()
		}
		switch {
		case errors.Is(err, io.EOF): // upstream has ended the call, and the answer says how
			return nil
		case err != nil:
			return err
		case !c.route.stream.ClientStreams:
			return nil // the one message closes
		}
		next, err = c.receive(down, n)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return up.CloseSend()
}

// errEnough says that the caller has got all the answers that it wants.
var errEnough = errors.New("door: the caller has enough")

// passAll passes headers, messages and trailers down until the call ends, and returns its status.
func (c *call) passAll(up grpc.ClientStream, down grpc.ServerStream) error {
	header, err := up.Header()
	if err != nil {
		return err
	}
	if header != nil { // nil: it ended without; RecvMsg knows how
		if err := down.SendHeader(c.told(header)); err != nil {
			return err
		}
	}
	for {
		f := new(frame)
		if err := up.RecvMsg(f); err != nil {
			f.free()
			down.SetTrailer(c.told(up.Trailer()))
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		err := c.pass(f, down, deputyv1.Evaluator_EVALUATOR_SPICEDB)
		f.free()
		switch {
		case errors.Is(err, errEnough):
			return nil
		case err != nil:
			return err
		}
	}
}

// forwarded is the metadata of the call that goes upstream.
func (d *Door) forwarded(ctx context.Context) metadata.MD {
	md, _ := metadata.FromIncomingContext(ctx)
	md = keep(md)
	if d.cfg.Version != "" {
		delete(md, string(requestmeta.RequestServerVersion)) // the door answers that
	}
	return md
}

// connectionOnly lists metadata that belongs to one connection or that proves to Deputy who calls.
var connectionOnly = map[string]bool{
	"authorization": true, "proxy-authorization": true, "proxy-authenticate": true, "cookie": true, "set-cookie": true,
	"connection": true, "keep-alive": true, "proxy-connection": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true, "host": true, "forwarded": true, "via": true,
	"user-agent": true, "content-type": true, "content-length": true, "content-encoding": true,
	"accept-encoding": true, "server": true, "date": true,
}

// keep returns what of the metadata crosses the door: all but gRPC's own, HTTP/2's pseudo-headers,
// connectionOnly, and values that a header cannot hold, over which gRPC would fail the call. So SpiceDB's io.spicedb.* keys,
// request ids and trace contexts do.
func keep(md metadata.MD) metadata.MD {
	kept := make(metadata.MD, len(md))
	for key, values := range md {
		if !connectionOnly[key] && !strings.HasPrefix(key, ":") && !strings.HasPrefix(key, "grpc-") && !strings.HasPrefix(key, "x-forwarded-") &&
			(strings.HasSuffix(key, "-bin") || !slices.ContainsFunc(values, unprintable)) {
			kept[key] = values
		}
	}
	return kept
}

// told returns what of an answer's metadata the caller is told. A caller with bounds is not told how much work the answer took, because
// that counts relationships that do not exist for it. How writes of the schema are guarded the door tells a reader itself, once, also where Upstream is
// another Deputy.
func (c *call) told(md metadata.MD) metadata.MD {
	kept := keep(md)
	if c.route.readsSchema {
		delete(kept, authz.MetadataSchemaGuard)
	}
	if c.bound {
		delete(kept, string(responsemeta.DispatchedOperationsCount))
		delete(kept, string(responsemeta.CachedOperationsCount))
	}
	return kept
}

// unprintable reports whether a value has bytes other than the printable ones of ASCII.
func unprintable(value string) bool {
	return strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' })
}
