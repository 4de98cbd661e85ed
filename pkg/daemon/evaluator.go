package daemon

import (
	"context"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/door/spicedb"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	"github.com/deputyauth/deputy/pkg/store"
)

// closer makes an io.Closer of what cannot fail to close.
type closer func()

// Close is io.Closer's.
func (c closer) Close() error { c(); return nil }

// openEvaluator has decisions made over a store by the native evaluator.
func (d *Daemon) openEvaluator(s *store.Store) {
	d.evaluator = kept.Open(kept.Config{
		Engine: d.engine, Store: s, API: d.engine.Conn(), Failure: engine.Failure, VerifySample: d.cfg.VerifySample, Log: d.log,
	})
	d.graph = d.evaluator
}

// answers are the methods of authzed.api.v1 that the native evaluator answers.
func (d *Daemon) answers() map[string]spicedb.Answer {
	if d.evaluator == nil {
		return nil
	}
	return map[string]spicedb.Answer{
		"PermissionsService/CheckPermission":      answer[v1.CheckPermissionRequest](d.evaluator.CheckPermission),
		"PermissionsService/CheckBulkPermissions": answer[v1.CheckBulkPermissionsRequest](d.evaluator.CheckBulkPermissions),
		"PermissionsService/ExpandPermissionTree": answer[v1.ExpandPermissionTreeRequest](d.evaluator.ExpandPermissionTree),
		"PermissionsService/LookupResources":      streamed[v1.LookupResourcesRequest](d.evaluator.LookupResources),
		"PermissionsService/LookupSubjects":       streamed[v1.LookupSubjectsRequest](d.evaluator.LookupSubjects),
	}
}

// message is a pointer to a protobuf message.
type message[M any] interface {
	*M
	proto.Message
}

// answer makes a door's answer of a method with one answer.
func answer[M any, P message[M], R proto.Message](method func(context.Context, P) (R, bool, error)) spicedb.Answer {
	return streamed(func(ctx context.Context, req P, send func(R) error) (bool, error) {
		resp, ok, err := method(ctx, req)
		if !ok || err != nil {
			return ok, err
		}
		return true, send(resp)
	})
}

// streamed makes a door's answer of a method that streams its answer. What cannot be decoded is left to SpiceDB.
func streamed[M any, P message[M], R proto.Message](method func(context.Context, P, func(R) error) (bool, error)) spicedb.Answer {
	return func(ctx context.Context, request []byte, send func([]byte) error) (bool, error) {
		req := P(new(M))
		if err := proto.Unmarshal(request, req); err != nil {
			return false, nil //nolint:nilerr // SpiceDB says it
		}
		return method(ctx, req, func(resp R) error {
			encoded, err := proto.Marshal(resp)
			if err != nil {
				return err
			}
			return send(encoded)
		})
	}
}
