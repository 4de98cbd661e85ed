package postgres

import (
	"testing"

	dscfg "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/datastore"

	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/follow"
	"github.com/deputyauth/deputy/tests/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestRevisions reads and prints revisions as SpiceDB's datastore does, and orders them as it does.
func TestRevisions(t *testing.T) {
	uri := pgtest.Database(t)
	if err := engine.Migrate(t.Context(), engine.Config{Kind: engine.Postgres, URI: uri}, "head"); err != nil {
		t.Fatal(err)
	}
	ds, err := dscfg.NewDatastore(t.Context(), dscfg.WithEngine(dscfg.PostgresEngine), dscfg.WithURI(uri), dscfg.WithEnableDatastoreMetrics(false))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ds.Close() }()
	a := &Authority{}
	states := []string{"10:10:", "10:12:10", "10:20:10,11,15", "10:20:10,15", "10:21:10,15", "22:22:", "20:22:20", "18446744073:18446744075:18446744073"}
	var theirs []datastore.Revision
	for _, state := range states {
		printed, err := a.Revision(follow.Position{State: state})
		if err != nil {
			t.Fatal(err)
		}
		revision, err := ds.RevisionFromString(printed)
		if err != nil {
			t.Fatalf("%s: SpiceDB does not read %s: %v", state, printed, err)
		}
		if revision.String() != printed {
			t.Errorf("%s: printed as %s, and SpiceDB prints %s", state, printed, revision)
		}
		theirs = append(theirs, revision)
	}
	for i, state := range states {
		for j := range states {
			shows, err := a.Shows(follow.Position{State: state}, theirs[j].String())
			want := theirs[i].GreaterThan(theirs[j]) || theirs[i].Equal(theirs[j])
			if err != nil || shows != want {
				t.Errorf("%s shows %s: %v, %v; SpiceDB says %v", state, states[j], shows, err, want)
			}
		}
	}
	head, err := ds.HeadRevision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	read, err := parseRevision(head.Revision.String())
	if err != nil {
		t.Fatal(err)
	}
	if printed, err := read.revision(); err != nil || printed != head.Revision.String() {
		t.Errorf("SpiceDB's head %s is printed as %s, %v", head.Revision, printed, err)
	}
	for _, wrong := range []string{"", "12.3", "!", "AAAA", "CAoQ////////////AQ=="} {
		if shows, err := a.Shows(follow.Position{State: "10:10:"}, wrong); err == nil || shows {
			t.Errorf("%q is no revision: %v, %v", wrong, shows, err)
		}
	}
}
