package isolation_test

import (
	"testing"

	"github.com/deputyauth/deputy/pkg/fixture/isolate"
	"github.com/deputyauth/deputy/tests/isolation"
)

// TestDesk: decisions about the support desk keep to the rule, though its actors do all that actors can.
func TestDesk(t *testing.T) {
	t.Parallel()
	s := isolation.Desk(t, "../..")
	swept, err := isolation.Run(t.Context(), s, s.Graph())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range swept.Findings {
		t.Error(f)
	}
	if swept.Decisions < 500 || swept.Decisions == isolation.Limit || swept.Allowed < 50 {
		t.Errorf("%d decisions were made, of which %d allow", swept.Decisions, swept.Allowed)
	}
}

// TestDrawn: whatever a sound schema, its relationships and its actors are, nothing is found, neither by what users run nor by the
// sweep.
func TestDrawn(t *testing.T) {
	t.Parallel()
	const files = 24
	allowed := 0
	for seed := range files {
		text := isolation.Drawn.Example(seed)
		s := isolation.Read(t, text)
		found, err := isolate.New(s).Run(t.Context(), s.Graph(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found.Findings {
			t.Errorf("%s\nin\n%s", f.String(), text)
		}
		if leak, err := isolate.New(s).Leak(t.Context(), s.Graph(), nil); leak != "" || err != nil {
			t.Errorf("in short: %q %v", leak, err)
		}
		swept, err := isolation.Run(t.Context(), s, s.Graph())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range swept.Findings {
			t.Errorf("%s\nin\n%s", f, text)
		}
		if swept.Allowed > 0 {
			allowed++
		}
	}
	if allowed < files/2 {
		t.Errorf("agents may do something in %d of %d files, which shows little", allowed, files)
	}
}
