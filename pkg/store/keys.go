package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/authzed/spicedb/pkg/tuple"
	"github.com/cockroachdb/pebble/v2"
)

// The kinds of keys: their first byte. See the package's comment for what they hold.
const (
	kindForward    byte = 'F'
	kindReverse    byte = 'R'
	kindNamespace  byte = 'N'
	kindCaveat     byte = 'C'
	kindCounter    byte = 'K'
	kindSchema     byte = 'S'
	kindSchemaHash byte = 'H'
	kindChangelog  byte = 'L'
	kindExpiration byte = 'E'
	kindMeta       byte = 'M'
	kindMark       byte = 'A'
)

// terminator ends each component of a key.
const terminator = 0

// versionLen is the length in bytes of the version that ends a versioned key.
const versionLen = 8

// components returns how many components a key of the kind has before its version, or -1 if keys of the
// kind have no version.
func components(kind byte) int {
	switch kind {
	case kindForward, kindReverse:
		return 6
	case kindNamespace, kindCaveat, kindCounter:
		return 1
	case kindSchema, kindSchemaHash, kindMark:
		return 0
	default:
		return -1
	}
}

// split returns the length of a key without its version. Bounds, which are not whole keys, and keys that
// have no version are returned as they are.
func split(key []byte) int {
	if len(key) == 0 {
		return 0
	}
	n := components(key[0])
	if n < 0 {
		return len(key)
	}
	end := 1
	for ; n > 0; n-- {
		i := bytes.IndexByte(key[end:], terminator)
		if i < 0 {
			return len(key)
		}
		end += i + 1
	}
	return end
}

// comparer orders keys by their bytes, and tells Pebble where the version begins, so that its bloom
// filters are about rows. Its name is stored: Pebble refuses a database that was written with another.
var comparer = func() *pebble.Comparer {
	c := *pebble.DefaultComparer
	c.Name = "deputy.v1"
	c.Compare = bytes.Compare
	c.Equal = bytes.Equal
	c.ComparePointSuffixes = bytes.Compare
	c.CompareRangeSuffixes = bytes.Compare
	c.Split = split
	c.ImmediateSuccessor = successor
	return &c
}()

// successor appends the first key after all versions of a row or record to dst, or after any other key
// the first one that there can be.
func successor(dst, prefix []byte) []byte {
	dst = append(dst, prefix...)
	if whole(prefix) {
		// Its last byte is a terminator, or a kind that has no components.
		dst[len(dst)-1]++
		return dst
	}
	return append(dst, 0)
}

// whole reports whether a key without a version is that of a row or record, and not only its beginning.
func whole(prefix []byte) bool {
	if len(prefix) == 0 || components(prefix[0]) < 0 || split(prefix) != len(prefix) {
		return false
	}
	return bytes.Count(prefix[1:], []byte{terminator}) == components(prefix[0])
}

// appendVersion appends the version that stands for a revision.
func appendVersion(key []byte, r Revision) []byte {
	return binary.BigEndian.AppendUint64(key, math.MaxUint64-uint64(r))
}

// versionOf reads the revision that a versioned key ends with; ok is false if it ends otherwise.
func versionOf(key []byte, prefixLen int) (r Revision, ok bool) {
	if len(key) != prefixLen+versionLen {
		return 0, false
	}
	return Revision(math.MaxUint64 - binary.BigEndian.Uint64(key[prefixLen:])), true
}

// A row is what identifies a relationship: all of it but caveat, expiration and integrity.
type row struct {
	resourceType, resourceID, relation      string
	subjectType, subjectRelation, subjectID string
}

// rowOf returns the row of a relationship. Errors: a component is empty or contains a zero byte.
func rowOf(ref tuple.RelationshipReference) (row, error) {
	r := row{
		resourceType: ref.Resource.ObjectType, resourceID: ref.Resource.ObjectID, relation: ref.Resource.Relation,
		subjectType: ref.Subject.ObjectType, subjectRelation: storedRelation(ref.Subject.Relation), subjectID: ref.Subject.ObjectID,
	}
	if r.resourceType == "" || r.resourceID == "" || r.relation == "" || r.subjectType == "" || r.subjectID == "" || ref.Subject.Relation == "" {
		return row{}, fmt.Errorf("store: a relationship has an empty part: %q", tuple.StringONR(ref.Resource)+"@"+tuple.StringONR(ref.Subject))
	}
	for _, c := range [...]string{r.resourceType, r.resourceID, r.relation, r.subjectType, r.subjectRelation, r.subjectID} {
		if err := checkComponent(c); err != nil {
			return row{}, err
		}
	}
	return r, nil
}

// checkComponent refuses what would make a key ambiguous.
func checkComponent(c string) error {
	if strings.IndexByte(c, terminator) >= 0 {
		return fmt.Errorf("store: %q contains a zero byte", c)
	}
	return nil
}

// storedRelation returns what stands for a subject relation in a key.
func storedRelation(relation string) string {
	if relation == datastore.Ellipsis {
		return ""
	}
	return relation
}

// subjectRelation is the inverse of storedRelation.
func subjectRelation(stored string) string {
	if stored == "" {
		return datastore.Ellipsis
	}
	return stored
}

// appendComponents appends components, each with its terminator.
func appendComponents(key []byte, parts ...string) []byte {
	for _, p := range parts {
		key = append(append(key, p...), terminator)
	}
	return key
}

// forward returns the row's key from its resource, without a version.
func (r row) forward() []byte {
	n := len(r.resourceType) + len(r.resourceID) + len(r.relation) + len(r.subjectType) + len(r.subjectRelation) + len(r.subjectID)
	return r.appendForward(make([]byte, 0, n+7))
}

// appendForward appends that key.
func (r row) appendForward(key []byte) []byte {
	key = append(key, kindForward)
	return appendComponents(key, r.resourceType, r.resourceID, r.relation, r.subjectType, r.subjectRelation, r.subjectID)
}

// appendReverse appends the row's key from its subject, without a version.
func (r row) appendReverse(key []byte) []byte {
	key = append(key, kindReverse)
	return appendComponents(key, r.subjectType, r.subjectRelation, r.subjectID, r.resourceType, r.relation, r.resourceID)
}

// reference returns the row in SpiceDB's words.
func (r row) reference() tuple.RelationshipReference {
	return tuple.RelationshipReference{
		Resource: tuple.ObjectAndRelation{ObjectType: r.resourceType, ObjectID: r.resourceID, Relation: r.relation},
		Subject:  tuple.ObjectAndRelation{ObjectType: r.subjectType, ObjectID: r.subjectID, Relation: subjectRelation(r.subjectRelation)},
	}
}

// parseRow reads a forward or reverse key without its version. Errors: it is none, so the store is
// damaged.
func parseRow(key []byte) (row, error) {
	if len(key) == 0 || components(key[0]) != 6 {
		return row{}, damaged("a key that is no row: %q", key)
	}
	// One string for all components: they are cut out of it.
	rest := string(key[1:])
	var parts [6]string
	for i := range parts {
		part, after, found := strings.Cut(rest, "\x00")
		if !found {
			return row{}, damaged("a key with %d components: %q", i, key)
		}
		parts[i], rest = part, after
	}
	if rest != "" {
		return row{}, damaged("a key with more than its components: %q", key)
	}
	if key[0] == kindForward {
		return row{
			resourceType: parts[0], resourceID: parts[1], relation: parts[2],
			subjectType: parts[3], subjectRelation: parts[4], subjectID: parts[5],
		}, nil
	}
	return row{
		subjectType: parts[0], subjectRelation: parts[1], subjectID: parts[2],
		resourceType: parts[3], relation: parts[4], resourceID: parts[5],
	}, nil
}

// recordKey returns the key of a named record without its version; name is empty for kinds without one.
func recordKey(kind byte, name string) []byte {
	key := []byte{kind}
	if components(kind) == 1 {
		key = appendComponents(key, name)
	}
	return key
}

// recordName reads the name out of a record's key without its version.
func recordName(prefix []byte) string {
	if len(prefix) < 2 {
		return ""
	}
	return string(prefix[1 : len(prefix)-1])
}

// changelogKey returns the key of a chunk of a revision's changelog.
func changelogKey(r Revision, chunk uint32) []byte {
	key := binary.BigEndian.AppendUint64([]byte{kindChangelog}, uint64(r))
	return binary.BigEndian.AppendUint32(key, chunk)
}

// parseChangelogKey reads a changelog key.
func parseChangelogKey(key []byte) (r Revision, chunk uint32, err error) {
	if len(key) != 13 || key[0] != kindChangelog {
		return 0, 0, damaged("a changelog key of %d bytes", len(key))
	}
	return Revision(binary.BigEndian.Uint64(key[1:])), binary.BigEndian.Uint32(key[9:]), nil
}

// appendExpiration appends the key that finds a row by its expiration, in seconds since 1970. The
// revision comes last but for the row, because it is filled in at the commit.
func appendExpiration(key []byte, seconds int64, r Revision, forward []byte) []byte {
	key = appendExpirationSeconds(key, seconds)
	key = appendVersion(key, r)
	return append(key, forward...)
}

// appendExpirationSeconds appends the beginning of an expiration key. Times before 1970 count as 1970.
func appendExpirationSeconds(key []byte, seconds int64) []byte {
	return binary.BigEndian.AppendUint64(append(key, kindExpiration), uint64(max(seconds, 0)))
}

// parseExpiration reads an expiration key.
func parseExpiration(key []byte) (seconds int64, r Revision, forward []byte, err error) {
	if len(key) <= 17 || key[0] != kindExpiration {
		return 0, 0, nil, damaged("an expiration key of %d bytes", len(key))
	}
	r, _ = versionOf(key[:17], 9)
	return int64(binary.BigEndian.Uint64(key[1:])), r, key[17:], nil //nolint:gosec // it was one when it was written
}

// metaKey returns the key of a fact about the store itself.
func metaKey(name string) []byte { return append([]byte{kindMeta}, name...) }

// end returns the first key after all that begin with prefix.
func end(prefix []byte) []byte {
	after := bytes.Clone(prefix)
	for i := len(after) - 1; i >= 0; i-- {
		if after[i] < math.MaxUint8 {
			after[i]++
			return after[:i+1]
		}
	}
	return nil
}
