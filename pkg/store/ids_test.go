package store

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
)

// TestIDs compares the lists of ids with what a reader finds, at every revision, from every id on and cut at every length, between
// writes, deletions, writes anew and expirations.
func TestIDs(t *testing.T) {
	t.Parallel()
	clock := newTestClock()
	s := opened(t, Config{Now: clock.Now, Retention: 100 * time.Hour})
	r := rand.New(rand.NewPCG(3, 4))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	// Names that begin alike, or lie beside others in the order of keys.
	names := []string{"a", "aa", "a-b", "a/b", "b", "b0"}
	kinds := []struct{ subjectType, relation string }{{"user", ""}, {"user", "friend"}, {"group", "member"}}
	var revisions []Revision
	for range 250 {
		rel := tuple.Relationship{RelationshipReference: tuple.RelationshipReference{
			Resource: tuple.ONR(pick("doc", "docs"), pick(names...), pick("view", "viewer")),
		}}
		k := kinds[r.IntN(len(kinds))]
		rel.Subject = tuple.ONR(k.subjectType, pick(names...), subjectRelation(k.relation))
		if k.relation == "" && r.IntN(6) == 0 {
			rel.Subject.ObjectID = tuple.PublicWildcard
		}
		update := tuple.Touch(rel)
		switch r.IntN(5) {
		case 0, 1:
			update = tuple.Delete(rel)
		case 2:
			update = tuple.Touch(tuple.MustWithExpiration(rel, clock.Now().Add(time.Duration(1+r.IntN(40))*time.Minute)))
		}
		revisions = append(revisions, writesOf(t, s, update))
		clock.move(time.Minute)
	}
	some := 0
	for _, at := range append(revisions[len(revisions)-1:], revisions[40], revisions[120], revisions[180]) {
		var rels []tuple.Relationship
		for rel, err := range must(s.SnapshotReader(at).QueryRelationships(t.Context(), datastore.RelationshipsFilter{}))(t) {
			rels = append(rels, must(rel, err)(t))
		}
		// want returns what is selected of the relationships, in order and each once.
		want := func(id func(tuple.Relationship) (string, bool)) []string {
			var ids []string
			for _, rel := range rels {
				if found, ok := id(rel); ok {
					ids = append(ids, found)
				}
			}
			slices.Sort(ids)
			return slices.Compact(ids)
		}
		sn := must(s.Snapshot(at))(t)
		compare := func(what string, all []string, read func(from string, limit int) ([]string, bool, error)) {
			some += len(all)
			for _, from := range append([]string{"", "a\x01", "b\x01", "zz", "*\x01"}, names...) {
				n, _ := slices.BinarySearch(all, from)
				for limit := 1; limit <= len(all)+1; limit++ {
					got, more, err := read(from, limit)
					if err != nil {
						t.Fatal(err)
					}
					same(t, what, got, all[n:min(n+limit, len(all))])
					if more != (n+limit < len(all)) {
						t.Fatalf("%s from %q, %d at most: more is %v of %v", what, from, limit, more, all[n:])
					}
				}
			}
		}
		for _, objectType := range []string{"doc", "docs", "nothing"} {
			compare("objects", want(func(rel tuple.Relationship) (string, bool) {
				return rel.Resource.ObjectID, rel.Resource.ObjectType == objectType
			}), func(from string, limit int) ([]string, bool, error) { return sn.ObjectIDs(objectType, from, limit) })
			for _, relation := range []string{"view", "viewer"} {
				for _, k := range kinds {
					is := func(rel tuple.Relationship) bool {
						return rel.Resource.ObjectType == objectType && rel.Resource.Relation == relation &&
							rel.Subject.ObjectType == k.subjectType && storedRelation(rel.Subject.Relation) == k.relation
					}
					for _, id := range append([]string{tuple.PublicWildcard}, names...) {
						compare("resources", want(func(rel tuple.Relationship) (string, bool) {
							return rel.Resource.ObjectID, is(rel) && rel.Subject.ObjectID == id
						}), func(from string, limit int) ([]string, bool, error) {
							return sn.ResourceIDs(k.subjectType, k.relation, id, objectType, relation, from, limit)
						})
						compare("subjects", want(func(rel tuple.Relationship) (string, bool) {
							return rel.Subject.ObjectID, is(rel) && rel.Resource.ObjectID == id
						}), func(from string, limit int) ([]string, bool, error) {
							return sn.SubjectIDs(objectType, id, relation, k.subjectType, k.relation, from, limit)
						})
					}
				}
			}
		}
		for _, k := range kinds {
			compare("named", want(func(rel tuple.Relationship) (string, bool) {
				return rel.Subject.ObjectID, rel.Subject.ObjectType == k.subjectType && storedRelation(rel.Subject.Relation) == k.relation
			}), func(from string, limit int) ([]string, bool, error) {
				return sn.NamedIDs(k.subjectType, k.relation, from, limit)
			})
		}
		sn.Close()
	}
	if some < 400 {
		t.Errorf("only %d ids were listed", some)
	}
}
