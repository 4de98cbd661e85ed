// Package door serves authzed.api.v1 whole by passing calls on to the engine, so that every SpiceDB
// client and tool works against Deputy.
//
// Nothing here is written per method: one forwarder copies frames both ways, and the methods come from
// the service descriptors of authzed-go. Reads pass untouched, for every key, whatever revision, token
// or cursor they carry. What writes is decoded and judged first (see guards), because the core of the
// graph is what decisions trust. A method that is neither a known read nor guarded is refused, so that a
// newer authzed-go cannot open a way to write.
//
// The door does not authenticate: an interceptor before it does.
package door

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/deputyauth/deputy/pkg/authz"
)

// apiPackage is the protobuf package that the door serves.
const apiPackage protoreflect.FullName = "authzed.api.v1"

// Answer answers an encoded request. ok is false for one that is left to the engine.
type Answer func(ctx context.Context, request []byte) (response []byte, ok bool, err error)

// Config is what a Door needs; every field but Answers, ComparesSchema, ImportIdle and ImportTime is required. The functions are called concurrently, with the
// context of the call that they are for.
type Config struct {
	// Upstream is the connection to SpiceDB. Calls go out with the caller's deadline and metadata, save
	// what belongs to the connection or authenticates the caller to Deputy.
	Upstream grpc.ClientConnInterface
	// Schema returns the schema that is in force now, never one from before the call: a guard that
	// judged by an older one would let pass what a newer one forbids.
	Schema func(context.Context) (*authz.Schema, error)
	// Model returns what a schema that is yet to be written amounts to. The message of its error is
	// sent to the admin who writes it.
	Model func(text string) (*authz.Schema, error)
	// Answers may hold what answers a method, named as service/method, without the engine.
	Answers map[string]Answer
	// ComparesSchema says that Upstream itself compares the schema in force with the one that a write
	// expects (authz.MetadataExpectSchema), within its transaction. Else the door does, just before the write,
	// by the Text of the Schema.
	ComparesSchema bool
	// ImportIdle is how long the caller of an import may say nothing; 0 means 30 s. ImportTime is how long an import may
	// take; 0 means 5 min.
	ImportIdle, ImportTime time.Duration
	// IsAdmin reports whether the call's caller is an admin.
	IsAdmin func(context.Context) bool
}

// Door serves authzed.api.v1. It is safe for concurrent use.
type Door struct {
	cfg      Config
	services []*grpc.ServiceDesc
}

// New returns a Door. It fails where the config is incomplete.
func New(cfg Config) (*Door, error) {
	if cfg.Upstream == nil || cfg.Schema == nil || cfg.Model == nil || cfg.IsAdmin == nil {
		return nil, errors.New("door: the config is incomplete")
	}
	cfg.ImportIdle = cmp.Or(cfg.ImportIdle, 30*time.Second)
	cfg.ImportTime = cmp.Or(cfg.ImportTime, 5*time.Minute)
	d := &Door{cfg: cfg}
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
// as a stream, whose frames are not decoded, so unary interceptors do not see it.
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
		r := route{
			path:   "/" + string(service.FullName()) + "/" + string(m.Name()),
			stream: stream,
			guard:  judge,
			answer: d.cfg.Answers[key],

			readsSchema:  key == "SchemaService/ReadSchema",
			writesSchema: key == "SchemaService/WriteSchema",
		}
		stream.Handler = func(_ any, down grpc.ServerStream) error {
			if !guarded && !reads[key] {
				return failure(codes.Unimplemented, reasonNotServed, "", "Deputy does not serve "+r.path)
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
