package evaluate

import (
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Row is a relationship of an object, as far as the object does not say it.
//
// It is an alias of a struct without a name, so that every struct with these fields is the same type: a store hands out the
// rows that it keeps without importing this package, and nobody copies them on the way.
type Row = struct {
	Relation    string
	SubjectType string
	// SubjectRelation is empty where SpiceDB says "...".
	SubjectRelation string
	SubjectID       string
	// Caveat is the name of its caveat; empty if there is none.
	Caveat string
	// Context is what was written with the caveat: JSON values.
	Context map[string]any
	// ExpiresAt is zero if it does not expire.
	ExpiresAt time.Time
	// Link is for the Rows that the row came from, to find the rows of its subject faster. It may be nil.
	Link any
}

// Rows is a graph at one revision and one moment, as far as a walk reads it. All methods return rows that have not expired at
// that moment, in the order of their relations. Rows may be shared, and must not be changed.
//
// Where a method takes a limit it returns all rows if there are at most that many, and otherwise none, with more set. An error
// ends the walk, which fails with it. An implementation need not be safe for concurrent use.
type Rows interface {
	// Object returns the rows of an object.
	Object(objectType, id string, limit int) (rows []Row, more bool, err error)
	// Subject is Object for the subject of a row that these Rows returned.
	Subject(r *Row, limit int) (rows []Row, more bool, err error)
	// Relation returns the rows of one relation of an object.
	Relation(objectType, id, relation string, limit int) (rows []Row, more bool, err error)
	// Usersets returns those rows of a relation whose subject has a relation. The others should cost nothing: there may be
	// millions.
	Usersets(objectType, id, relation string, limit int) (rows []Row, more bool, err error)
	// Page returns the first rows of a relation, or of its usersets alone: at most limit of them, from the one behind after on
	// unless that is nil. more reports whether others follow.
	Page(objectType, id, relation string, usersets bool, after *Row, limit int) (rows []Row, more bool, err error)
	// Find returns the row of a relation with this subject; subjectRelation is empty for "...".
	Find(objectType, id, relation, subjectType, subjectRelation, subjectID string) (r Row, found bool, err error)

	IDs
}

// IDs are Rows as lookups read them: from either end, and ids alone. Each method returns ids in order, each once, from one on (""
// is the first): at most limit, which is not 0. more reports whether others follow.
type IDs interface {
	// ResourceIDs returns the ids of the objects of a type that have a row with this relation and subject.
	ResourceIDs(subjectType, subjectRelation, subjectID, objectType, relation, from string, limit int) (ids []string, more bool, err error)
	// SubjectIDs returns the ids of the subjects of a kind that a relation of an object names, wildcards included.
	SubjectIDs(objectType, id, relation, subjectType, subjectRelation, from string, limit int) (ids []string, more bool, err error)
	// ObjectIDs returns the ids of all objects of a type that have rows.
	ObjectIDs(objectType, from string, limit int) (ids []string, more bool, err error)
	// NamedIDs returns the ids of all subjects of a kind that any row names, wildcards included.
	NamedIDs(subjectType, subjectRelation, from string, limit int) (ids []string, more bool, err error)
}

// Matches reports whether a row matches what a filter says of relations and subjects. The filter's object is not looked at.
func Matches(f authz.Filter, r *Row) bool {
	same := func(want, is string) bool { return want == "" || want == is }
	return same(f.Relation, r.Relation) && same(f.SubjectType, r.SubjectType) && same(f.SubjectID, r.SubjectID) &&
		same(f.SubjectRelation, r.SubjectRelation)
}

// Relationship puts a row of an object into the words of authz.
func Relationship(object authz.Object, r *Row) authz.Relationship {
	return authz.Relationship{
		Resource: object, Relation: r.Relation,
		Subject:   authz.Subject{Object: authz.Object{Type: r.SubjectType, ID: r.SubjectID}, Relation: r.SubjectRelation},
		ExpiresAt: r.ExpiresAt,
		Caveat:    r.Caveat, CaveatContext: r.Context,
	}
}
