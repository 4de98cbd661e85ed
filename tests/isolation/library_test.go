package isolation_test

import (
	"io/fs"
	"os"
	"testing"

	"github.com/deputyauth/deputy/pkg/fixture"
	"github.com/deputyauth/deputy/tests/isolation"
)

// TestLibrary: for every actor in the fixtures that Deputy ships and tests with, however it acts, no decision goes beyond the rule.
func TestLibrary(t *testing.T) {
	t.Parallel()
	swept := 0
	for _, root := range []string{"../../schema", "../fixtures"} {
		project := os.DirFS(root)
		if err := fs.WalkDir(project, ".", func(name string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			s, err := fixture.Read(t.Context(), project, name, fixture.Options{})
			if err != nil {
				return nil // it is no fixture, or one that is broken on purpose
			}
			defer s.Close()
			if !s.Rules.HasCore() {
				return nil
			}
			swept++
			r, err := isolation.Run(t.Context(), s, s.Graph())
			if err != nil {
				return err
			}
			if r.Decisions == 0 {
				t.Errorf("%s: no decision was made", name)
			}
			for _, f := range r.Findings {
				t.Errorf("%s: %s", name, f)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if swept < 8 {
		t.Errorf("%d fixtures were swept", swept)
	}
}
