package follow

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/types/known/structpb"
)

// Buckets is how many buckets the relationships of one type are put into.
const Buckets = 256

// Bucket is a share of the relationships of a type: those whose resource's id and subject's id, with a separator between them, have a SHA-256
// that begins with the byte Number.
type Bucket struct {
	// Type is the type of the objects.
	Type string
	// Number is 0 to Buckets-1.
	Number int
}

// Digest says what is in a bucket without listing it. Equal contents have equal digests. Contents that differ only in how
// a caveat's context is written may have digests that differ, so a difference is looked for among the relationships themselves.
//
// Contents that differ have equal digests by chance in one of about 2^60 cases, and else where all that differs is what textOf leaves out: less than a
// microsecond of an expiration, or whether a caveat has an empty context or none, which caveats do not tell apart. A digest is no protection against
// somebody who chooses the relationships and also what the copy has of them: sums can be made to agree. It finds errors and damage.
type Digest struct {
	Bucket

	// Count is how many relationships there are.
	Count uint64
	// Sum is the sum of the first 60 bits of the SHA-256 of each relationship's text, modulo 2^64.
	Sum uint64
}

// BucketOf returns the bucket of a relationship.
func BucketOf(rel *tuple.Relationship) Bucket {
	sum := sha256.Sum256([]byte(rel.Resource.ObjectID + separator + rel.Subject.ObjectID))
	return Bucket{Type: rel.Resource.ObjectType, Number: int(sum[0])}
}

// Add adds a relationship to the digest of its bucket.
func (d *Digest) Add(rel *tuple.Relationship) {
	d.Count++
	d.Sum += digestOf(rel)
}

// digestOf is what a relationship adds to a sum: the first 60 bits of the SHA-256 of its text.
func digestOf(rel *tuple.Relationship) uint64 {
	sum := sha256.Sum256([]byte(textOf(rel)))
	return binary.BigEndian.Uint64(sum[:]) >> 4
}

// separator stands between the parts of a text. No part contains it.
const separator = "\x01"

// textOf returns the text that is digested: resource type, id and relation, subject type, id and relation, the caveat's name and
// context, and the expiration in microseconds since 1970, the last three empty where there is none. An authority that computes digests
// itself has to write the same.
func textOf(rel *tuple.Relationship) string {
	name, given, expires := "", "", ""
	if c := rel.OptionalCaveat; c.GetCaveatName() != "" {
		name, given = c.GetCaveatName(), contextText(c.GetContext())
	}
	if at := rel.OptionalExpiration; at != nil {
		expires = strconv.FormatInt(at.UnixMicro(), 10)
	}
	return strings.Join([]string{
		rel.Resource.ObjectType, rel.Resource.ObjectID, rel.Resource.Relation,
		rel.Subject.ObjectType, rel.Subject.ObjectID, rel.Subject.Relation, name, given, expires,
	}, separator)
}

// contextText writes a caveat's context as PostgreSQL writes a jsonb: the keys of an object by their length and then their bytes, one blank
// after each colon and comma, numbers without an exponent.
func contextText(given *structpb.Struct) string {
	var b strings.Builder
	appendObject(&b, given)
	return b.String()
}

func appendObject(b *strings.Builder, object *structpb.Struct) {
	fields := object.GetFields()
	keys := make([]string, 0, len(fields))
	for key := range fields {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(x, y string) int {
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
	b.WriteByte('{')
	for i, key := range keys {
		if i > 0 {
			b.WriteString(", ")
		}
		appendString(b, key)
		b.WriteString(": ")
		appendJSON(b, fields[key])
	}
	b.WriteByte('}')
}

func appendJSON(b *strings.Builder, v *structpb.Value) {
	switch v := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		appendString(b, v.StringValue)
	case *structpb.Value_NumberValue:
		b.WriteString(strconv.FormatFloat(v.NumberValue, 'f', -1, 64))
	case *structpb.Value_BoolValue:
		b.WriteString(strconv.FormatBool(v.BoolValue))
	case *structpb.Value_StructValue:
		appendObject(b, v.StructValue)
	case *structpb.Value_ListValue:
		b.WriteByte('[')
		for i, item := range v.ListValue.GetValues() {
			if i > 0 {
				b.WriteString(", ")
			}
			appendJSON(b, item)
		}
		b.WriteByte(']')
	default:
		b.WriteString("null")
	}
}

// escapes are the signs that PostgreSQL writes with a backslash; other control characters have the form \u001f.
var escapes = map[rune]string{'\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '"': `\"`, '\\': `\\`}

func appendString(b *strings.Builder, s string) {
	const hex = "0123456789abcdef"
	b.WriteByte('"')
	for _, r := range s {
		switch escaped := escapes[r]; {
		case escaped != "":
			b.WriteString(escaped)
		case r < ' ':
			b.WriteString(`\u00`)
			b.WriteByte(hex[r>>4])
			b.WriteByte(hex[r&0xf])
		default:
			b.WriteRune(r) // utf8.RuneError where s is no UTF-8, which neither side takes
		}
	}
	b.WriteByte('"')
}
