// Package spicedb serves authzed.api.v1 whole by passing calls on to the engine, so that every SpiceDB
// client and tool works against Deputy.
//
// Nearly nothing here is written per method: one forwarder passes messages both ways, and the methods come from
// the service descriptors of authzed-go. Every request, also a read's and an admin's, is decoded, and goes on in an
// encoding of the door's own. Reads pass, for callers without bounds. What writes is
// judged first (see guards), because the core of the graph is what decisions trust. A method that is neither a
// known read nor guarded is refused, so that a newer authzed-go cannot open a way to write. What a caller with bounds asks is judged
// besides, and what does not exist for it is asked of the engine as what does not exist (see scope). Answers pass as they
// are, save for what is sealed or told in other words (see edits), and those that are too large for a client with gRPC's default limit
// (see split).
//
// The door does not authenticate: an interceptor before it does.
package spicedb

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
)

// apiPackage is the protobuf package that the door serves.
const apiPackage protoreflect.FullName = "authzed.api.v1"

// Answer answers an encoded request, which is sound: the door has encoded it. It sends the messages of the answer one after the other, and
// ends with the error of send. ok is false for a request that is left to the engine; then it has sent nothing.
type Answer func(ctx context.Context, request []byte, send func(response []byte) error) (ok bool, err error)

// Config is what a Door needs; Upstream, Receiver, Schema, Model and Rights are required. The functions are called concurrently, with the
// context of the call that they are for.
type Config struct {
	// Upstream is the connection to SpiceDB. Calls go out with the caller's deadline and metadata, save
	// what belongs to the connection or authenticates the caller to Deputy. Its failures are passed on to callers as they are.
	Upstream grpc.ClientConnInterface
	// Receiver receives the callers' messages, within the room that the server has for them.
	Receiver *wire.Receiver
	// CursorKey seals cursors and tokens: the same on every node of a deployment. Empty means a random one.
	CursorKey []byte
	// Schema returns the schema that is in force now, never one from before the call: a guard that
	// judged by an older one would let pass what a newer one forbids.
	Schema func(context.Context) (*authz.Schema, error)
	// Snapshot returns the graph, as fresh as is asked for. Without it nobody places objects (see placing), and nothing exists for a confined
	// caller.
	Snapshot func(context.Context, authz.Freshness) (authz.Snapshot, error)
	// Histories says which history the engine's revisions are of. Sealed tokens carry it, and those of another one are refused. Nil where the engine
	// does not tell.
	Histories authz.Histories
	// SnapshotMaxAge is how old a snapshot may be that a confined caller reads at; 0 means that any will do.
	SnapshotMaxAge time.Duration
	// Staleness is how far a revision that SpiceDB chooses may lie behind the head. No token is stamped later than a moment at which its revision was the
	// newest.
	Staleness time.Duration
	// Model returns what a schema that is yet to be written amounts to. The message of its error is
	// sent to the admin who writes it.
	Model func(text string) (*authz.Schema, error)
	// Told returns what callers may read of the failure of an item in Upstream's answers; nil means that all of it may be read.
	Told func(*status.Status) *status.Status
	// Answers may hold what answers a method, named as service/method, without the engine.
	Answers map[string]Answer
	// ComparesSchema says that Upstream itself compares the schema in force with the one that a write
	// expects (authz.MetadataExpectSchema), within its transaction. Else the door does, just before the write,
	// by the Text of the Schema.
	ComparesSchema bool
	// Version is the version of SpiceDB that callers who ask for it are told, also where the door itself answers; empty leaves it to Upstream.
	Version string
	// Rights returns what the call's caller may do.
	Rights func(context.Context) Rights
	// NotIndexed is called before marks of life of sessions or delegations are written, about once a minute; nil means that nobody has to
	// know. See facts.Indexed.
	NotIndexed func(context.Context) error
	// Recording returns what records a call; nil where nothing does.
	Recording func(context.Context) Recording
}

// Recording records a call, which the door only tells what it knows of it.
type Recording interface {
	// Asks is told each message of the caller's, once it is decoded: what it names, and its caveat context, nil without.
	Asks(request proto.Message, about *deputyv1.Record, given *structpb.Struct)
	// Begin is called before the engine is asked to write. With its error it is not asked.
	Begin(ctx context.Context) error
	// Answers is told of each message of the answer, before it leaves: how many results it has, and SpiceDB's revision, "" for none.
	Answers(results, failed uint64, revision string)
	// Item is told of each item of an answer that has several, or a decision, before that leaves.
	Item(item *deputyv1.Record, given *structpb.Struct)
	// Evaluated is told what has evaluated the answer to a lookup or an expansion, before the first message leaves.
	Evaluated(by deputyv1.Evaluator)
}

// Rights is what a caller may do beyond calling a method, which an interceptor before the door has judged. The zero Rights are a caller's for
// whom nothing exists.
type Rights struct {
	// Name is the caller's; its cursors are good for it alone.
	Name string
	// Core lets it write relationships of the core types, and Feeds those that decide a tenant, or what agents and delegations reach.
	Core, Feeds bool
	// Lists says that what it writes of sessions and delegations is listed, because it is a server that has its own callers' written.
	Lists bool
	// Relays says that it is a server that passes on calls of its own callers. It is not told what the schema has instead of an unknown name: that server
	// tells its callers, as far as they may know it.
	Relays bool
	// Seals says that its ZedTokens are sealed. Those of others are SpiceDB's own, in and out.
	Seals bool
	// Bounds say what part of the graph exists for it; see scope.
	Bounds *authz.Bounds
}

// Door serves authzed.api.v1. It is safe for concurrent use.
type Door struct {
	cfg      Config
	services []*grpc.ServiceDesc
	noted    *indexNote
	seals    *sealer
}

// New returns a Door. It fails where the config is incomplete.
func New(cfg Config) (*Door, error) {
	if cfg.Upstream == nil || cfg.Receiver == nil || cfg.Schema == nil || cfg.Model == nil || cfg.Rights == nil {
		return nil, errors.New("door: the config is incomplete")
	}
	if len(cfg.CursorKey) == 0 {
		cfg.CursorKey = make([]byte, sha256.Size)
		_, _ = rand.Read(cfg.CursorKey) // never fails, see crypto/rand
	}
	d := &Door{cfg: cfg, noted: new(indexNote), seals: newSealer(cfg.CursorKey)}
	protoregistry.GlobalFiles.RangeFilesByPackage(apiPackage, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			d.services = append(d.services, d.describe(f, f.Services().Get(i)))
		}
		return true
	})
	if len(d.services) == 0 {
		return nil, fmt.Errorf("door: no service of %s is known to this process", apiPackage)
	}
	return d, nil
}

// Register adds every service of authzed.api.v1 to the server. The server must have been built with
// grpc.ForceServerCodecV2(Codec()), and its stream interceptors authenticate: every method is registered
// as a stream, so unary interceptors do not see it. The door reads the messages of its calls by itself; interceptors
// do not see those either.
func Register(s grpc.ServiceRegistrar, d *Door) {
	for _, service := range d.services {
		s.RegisterService(service, d)
	}
}

// describe builds the description of a service whose every method goes through the door.
func (d *Door) describe(file protoreflect.FileDescriptor, service protoreflect.ServiceDescriptor) *grpc.ServiceDesc {
	desc := &grpc.ServiceDesc{
		ServiceName: string(service.FullName()),
		HandlerType: (*any)(nil),
		Metadata:    file.Path(),
	}
	for i := range service.Methods().Len() {
		m := service.Methods().Get(i)
		key := string(service.Name()) + "/" + string(m.Name())
		stream := grpc.StreamDesc{
			StreamName:    string(m.Name()),
			ClientStreams: m.IsStreamingClient(),
			ServerStreams: m.IsStreamingServer(),
		}
		judge, guarded := guards[key]
		r := &route{
			path:    "/" + string(service.FullName()) + "/" + string(m.Name()),
			stream:  stream,
			input:   messageType(m.Input()),
			receive: &wire.Method{Type: wire.TypeOf(m.Input()), Limit: limitOf(key), Streams: m.IsStreamingClient()},
			guard:   judge,
			answer:  d.cfg.Answers[key],
			split:   splitOf(key, m),
			sealed:  sealedIn(m.Input()),
			edits:   editsOf(m.Output(), upstreamEdits),
			edited:  editsOf(m.Output(), upstreamEdits, callerEdits),
			own:     editsOf(m.Output(), ownEdits),
			told:    answerOf(key, m, splitOf(key, m)),

			readsSchema:  key == "SchemaService/ReadSchema",
			writesSchema: key == "SchemaService/WriteSchema",
		}
		stream.Handler = func(_ any, down grpc.ServerStream) error {
			if !guarded && !reads[key] {
				return failure(codes.Unimplemented, authz.ReasonMethodNotServed, "", "Deputy does not serve "+r.path)
			}
			return d.forward(r, down)
		}
		// gRPC runs no stream interceptor, and so no authentication, for a method that streams in neither
		// direction. Every client of a unary method takes one message of a server's stream all the same.
		stream.ServerStreams = true
		desc.Streams = append(desc.Streams, stream)
	}
	return desc
}

// messageType returns the generated type of a message, or a dynamic one.
func messageType(m protoreflect.MessageDescriptor) protoreflect.MessageType {
	if t, err := protoregistry.GlobalTypes.FindMessageByName(m.FullName()); err == nil {
		return t
	}
	return dynamicpb.NewMessageType(m)
}
