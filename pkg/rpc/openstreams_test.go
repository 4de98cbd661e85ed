package rpc

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/rpc/admission"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// TestStreamThatBeginsWhileTheBookIsReplaced: a stream whose caller was found in one book, and which is among the open ones only once another
// book has been put in force and all open ones have been judged by it, is judged by the new one all the same. Nothing else judges streams here.
func TestStreamThatBeginsWhileTheBookIsReplaced(t *testing.T) {
	t.Parallel()
	const method = "/authzed.api.v1.WatchService/Watch"
	book := func(key string, roles ...caller.Role) *caller.Book {
		c := caller.Preshared([]string{key}, nil)[0]
		c.Roles = caller.RolesOf(roles...)
		b, err := caller.NewBook([]*caller.Caller{c}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	auditor, checker := deputyv1.Role_ROLE_AUDITOR, deputyv1.Role_ROLE_CHECKER
	for name, c := range map[string]struct {
		next *caller.Book
		want codes.Code
	}{
		"the key is gone":             {book("another", auditor, checker), codes.Unauthenticated},
		"no role opens it any more":   {book("key", deputyv1.Role_ROLE_RESPONDER), codes.PermissionDenied},
		"the caller may do less":      {book("key", checker), codes.Unavailable},
		"the caller may do as much":   {book("key", auditor, checker), codes.OK},
		"the caller may do even more": {book("key", auditor, checker, deputyv1.Role_ROLE_WRITER), codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			callers := caller.NewCallers(book("key", auditor, checker))
			gate := NewGate(callers, admission.New(admission.Settings{}), nil, nil, zap.NewNop())
			asked, replaced := 0, false
			// The time is asked for by the basis of a call, and then once a book has been chosen.
			callers.Now = func() time.Time {
				if asked++; asked == 2 {
					replaced = true
					callers.Replace(c.next)
				}
				return time.Now()
			}
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer key"))
			// What ends a stream is there before its handler begins, where StreamLimits look for it.
			err := gate.stream(nil, &oneStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: method}, func(_ any, s grpc.ServerStream) error {
				select {
				case err := <-s.(*identified).barred:
					return err
				default:
					return nil
				}
			})
			if status.Code(err) != c.want || !replaced {
				t.Errorf("it ends with %v, want %s", err, c.want)
			}
			if reason := statuses.Info(status.Convert(err)).GetReason(); c.want == codes.Unavailable && reason != authz.ReasonCallerChanged {
				t.Errorf("it ends with %v, want the reason %s", err, authz.ReasonCallerChanged)
			}
		})
	}
}
