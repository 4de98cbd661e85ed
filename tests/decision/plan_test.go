package decision_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/tuple"

	"github.com/deputyauth/deputy/pkg/fixture/plan"
	"github.com/deputyauth/deputy/pkg/schema/source"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestPlannedWriteRace: of many writers with the same plan exactly one writes, and all others are told that the
// schema has moved.
func TestPlannedWriteRace(t *testing.T) {
	harness.EachEngine(t, func(t *testing.T, s *harness.Server) {
		if strings.HasSuffix(t.Name(), "remote") {
			return // it compares just before it writes
		}
		s.WriteSchema(t, schema.Core)
		text, _ := readSchema(t, s)
		before, err := source.Parse("old.zed", text, nil, source.Options{})
		if err != nil {
			t.Fatal(err)
		}
		after, err := source.Parse("new.zed", schema.Core+domain, nil, source.Options{Core: true})
		if err != nil {
			t.Fatal(err)
		}
		planned, err := plan.New(t.Context(), plan.Graph{
			Against: plan.AgainstServer, Text: text, Schema: before, Relationships: func(func(tuple.Relationship, error) bool) {},
		}, after, plan.Sampling{})
		if err != nil {
			t.Fatal(err)
		}
		errs := make([]error, 8)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() {
				var guard string
				guard, _, errs[i] = plan.Write(t.Context(), v1.NewSchemaServiceClient(s.Admin), planned, planned.New.Text)
				if errs[i] == nil && guard != plan.Locked {
					t.Errorf("guarded %q", guard)
				}
			})
		}
		all.Wait()
		if won := len(slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err != nil })); won != 1 {
			t.Errorf("%d writers won: %v", won, errs)
		}
		if now, _ := readSchema(t, s); !strings.Contains(now, "definition document") {
			t.Errorf("nobody wrote:\n%s", now)
		}
	})
}
