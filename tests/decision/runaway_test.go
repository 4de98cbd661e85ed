package decision_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestLookupThatNeverEnds: lookups over a ladder, on which the ways double with each rung, hold up neither other calls
// nor the server's health, nor its end. A service's key is enough to write such a ladder. The evaluator's lookups end by themselves.
func TestLookupThatNeverEnds(t *testing.T) {
	for name, cfg := range map[string]daemon.Config{
		"memory":   {Engine: engine.Config{Kind: engine.Memory}},
		"embedded": {Engine: harness.Embedded(t), Evaluator: daemon.EvaluatorSpiceDB},
		"native":   {Engine: harness.Embedded(t), Evaluator: daemon.EvaluatorNative},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.ShutdownGrace = time.Second
			s := harness.Start(t, cfg)
			w := newWorld(t, s)
			d := w.delegate(&deputyv1.CreateDelegationRequest{Unscoped: true, AllowDirect: true})
			c := under(d).view("document:plan")
			w.allow(c)
			schema, err := v1.NewSchemaServiceClient(s.Admin).ReadSchema(t.Context(), &v1.ReadSchemaRequest{})
			w.ok(err)
			s.WriteSchema(t, schema.GetSchemaText()+`
definition rung {
	relation tenant: tenant
	relation left: user | rung#reach
	relation right: user | rung#reach
	permission reach = left + right
}`)
			var ladder []string
			for i := range 22 {
				ladder = append(ladder, fmt.Sprintf("rung:%d#left@rung:%d#reach", i, i+1), fmt.Sprintf("rung:%d#right@rung:%d#reach", i, i+1))
			}
			_, err = harness.Update(t.Context(), s.Service, v1.RelationshipUpdate_OPERATION_TOUCH, append(ladder, "rung:22#left@user:alice")...)
			w.ok(err)
			lookups, leave := context.WithCancel(t.Context())
			defer leave()
			ended := make(chan error, 8)
			const each = 2
			for range each {
				go func() { ended <- lookupSubjects(lookups, s) }()
				go func() { ended <- lookupResources(lookups, s) }()
			}
			for range 20 {
				w.allow(c)
				health, err := healthv1.NewHealthClient(s.Service).Check(t.Context(), &healthv1.HealthCheckRequest{})
				if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
					t.Fatalf("%v, %v, want that it serves", health, err)
				}
			}
			if name == "native" {
				for range 2 * each {
					if err := <-ended; err != nil {
						t.Errorf("a lookup by the evaluator ended with %v", err)
					}
				}
				return
			}
			leave()
			for range 2 * each {
				if code := statusOf(<-ended); code != codes.Canceled && code != codes.ResourceExhausted {
					t.Errorf("a lookup whose caller left ended with %v", code)
				}
			}
			for range each {
				go func() { ended <- lookupSubjects(t.Context(), s) }()
				go func() { ended <- lookupResources(t.Context(), s) }()
			}
			w.allow(c)
			s.Stop()
			for range 2 * each {
				<-ended
			}
			stopped := time.Now()
			<-s.Stopped
			if err := s.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
			if took := time.Since(stopped); took > 20*time.Second {
				t.Errorf("the server took %s to close", took)
			}
		})
	}
}

func lookupSubjects(ctx context.Context, s *harness.Server) error {
	stream, err := v1.NewPermissionsServiceClient(s.Service).LookupSubjects(ctx, &v1.LookupSubjectsRequest{
		Consistency: atHead(), Resource: &v1.ObjectReference{ObjectType: "rung", ObjectId: "0"},
		Permission: "reach", SubjectObjectType: "user",
	})
	for err == nil {
		_, err = stream.Recv()
	}
	return endOf(err)
}

func lookupResources(ctx context.Context, s *harness.Server) error {
	stream, err := v1.NewPermissionsServiceClient(s.Service).LookupResources(ctx, &v1.LookupResourcesRequest{
		Consistency: atHead(), ResourceObjectType: "rung", Permission: "reach",
		Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
	})
	for err == nil {
		_, err = stream.Recv()
	}
	return endOf(err)
}

func atHead() *v1.Consistency {
	return &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}
}

func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
