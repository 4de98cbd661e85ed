package decision_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// readSchema returns the schema in force and how the server says that it would guard a write.
func readSchema(t *testing.T, s *harness.Server) (text, guard string) {
	t.Helper()
	var trailer metadata.MD
	read, err := v1.NewSchemaServiceClient(s.Admin).ReadSchema(t.Context(), &v1.ReadSchemaRequest{}, grpc.Trailer(&trailer))
	if err != nil && status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	return read.GetSchemaText(), strings.Join(trailer.Get(authz.MetadataSchemaGuard), ",")
}

// writeOver writes a schema that may only replace the ones with these digests, which is one unless the test
// is about that. It returns how the server says that it has guarded the write.
func writeOver(ctx context.Context, s *harness.Server, text string, digests ...string) (guard string, err error) {
	ctx = metadata.NewOutgoingContext(ctx, metadata.MD{authz.MetadataExpectSchema: digests})
	var trailer metadata.MD
	_, err = v1.NewSchemaServiceClient(s.Admin).WriteSchema(ctx, &v1.WriteSchemaRequest{Schema: text}, grpc.Trailer(&trailer))
	return strings.Join(trailer.Get(authz.MetadataSchemaGuard), ","), err
}

func isMoved(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == authz.ReasonSchemaMoved && info.GetDomain() == "deputy.dev" {
			return status.Code(err) == codes.FailedPrecondition
		}
	}
	return false
}

// TestExpectedSchema: a write that expects a schema replaces that one only, the caller learns how that was
// made sure, and a schema that has moved back is as good as one that never moved.
func TestExpectedSchema(t *testing.T) {
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		const note = "\ndefinition note {\n\trelation author: user\n}\n"
		want := authz.SchemaGuardLocked
		if strings.HasSuffix(t.Name(), "remote") {
			want = authz.SchemaGuardChecked
		}
		text, guard := readSchema(t, s)
		if text != "" || guard != want {
			t.Fatalf("a graph without a schema reads %q, guarded %q, want %q", text, guard, want)
		}
		write := func(text, over string, moved bool) {
			t.Helper()
			guard, err := writeOver(t.Context(), s, text, authz.SchemaDigest(over))
			switch {
			case moved && !isMoved(err):
				t.Fatalf("over another schema: %v", err)
			case !moved && err != nil:
				t.Fatal(err)
			case !moved && guard != want:
				t.Fatalf("the write was guarded %q, want %q", guard, want)
			}
		}
		write(schema.Core, "definition user {}", true)
		write(schema.Core, "", false)
		first, _ := readSchema(t, s)
		write(schema.Core+note, "", true)
		if now, _ := readSchema(t, s); now != first {
			t.Fatal("a write that was refused was made")
		}
		write(schema.Core+note, first, false)
		second, _ := readSchema(t, s)
		if second == first {
			t.Fatal("nothing was written")
		}
		write(schema.Core, first, true)
		s.WriteSchema(t, schema.Core)
		write(schema.Core+domain, first, false)

		now, _ := readSchema(t, s)
		if guard, err := writeOver(t.Context(), s, schema.Core, authz.SchemaDigest(now), authz.SchemaDigest(now)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("two expectations: %v, guarded %q", err, guard)
		}
		if guard, err := writeOver(t.Context(), s, schema.Core+domain); err != nil || guard != "" {
			t.Errorf("without an expectation: %v, guarded %q", err, guard)
		}
	})
}

// TestExpectedSchemaElsewhere: an expectation that would not be looked at is refused, except on a read, which
// is right whatever the schema is.
func TestExpectedSchemaElsewhere(t *testing.T) {
	s := harness.Start(t, daemon.Config{Engine: harness.Engines()["memory"](t)})
	s.WriteSchema(t, schema.Core+domain)
	ctx := metadata.AppendToOutgoingContext(t.Context(), authz.MetadataExpectSchema, authz.SchemaDigest("another"))
	if _, err := harness.Update(ctx, s.Admin, v1.RelationshipUpdate_OPERATION_TOUCH, "document:plan#reader@user:alice"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a write of relationships: %v", err)
	}
	if _, err := v1.NewSchemaServiceClient(s.Admin).ReadSchema(ctx, &v1.ReadSchemaRequest{}); err != nil {
		t.Errorf("a read: %v", err)
	}
}

// TestExpectedSchemaRace: of many writers that expect the same schema exactly one wins, where the comparison
// is made in the transaction.
func TestExpectedSchemaRace(t *testing.T) {
	const writers, rounds = 8, 10
	harness.EachEngineAndCopy(t, func(t *testing.T, s *harness.Server) {
		if strings.HasSuffix(t.Name(), "remote") {
			return // it can race, and says so: TestExpectedSchema
		}
		s.WriteSchema(t, schema.Core)
		for round := range rounds {
			text, _ := readSchema(t, s)
			start := make(chan struct{})
			errs := make([]error, writers)
			var all sync.WaitGroup
			for i := range writers {
				all.Go(func() {
					<-start
					mine := fmt.Sprintf("%s\ndefinition note%d {\n\trelation author%d: user\n}\n", schema.Core, round, i)
					_, errs[i] = writeOver(t.Context(), s, mine, authz.SchemaDigest(text))
				})
			}
			close(start)
			all.Wait()
			winner := -1
			for i, err := range errs {
				switch {
				case err == nil && winner >= 0:
					t.Fatalf("round %d: both %d and %d wrote", round, winner, i)
				case err == nil:
					winner = i
				case !isMoved(err) && status.Code(err) != codes.Aborted:
					t.Errorf("round %d: a loser was told %v", round, err)
				}
			}
			now, _ := readSchema(t, s)
			if winner < 0 || !strings.Contains(now, fmt.Sprintf("author%d:", winner)) {
				t.Fatalf("round %d: %d won, and the schema is\n%s", round, winner, now)
			}
		}
	})
}
