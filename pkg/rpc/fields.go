package rpc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/facts"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Limits on what comes in.
const (
	maxContextBytes = 4096
	maxContextDepth = 16
	maxBulkItems    = 1000
	maxFilter       = 10_000
	maxLookup       = 10_000
	defaultLookup   = 1000
	maxList         = 1000
	defaultList     = 100
)

// What SpiceDB takes for names, by hand, because every call is looked at:
//
//	a type       ([a-z][a-z0-9_]{1,61}[a-z0-9]/)*[a-z][a-z0-9_]{1,62}[a-z0-9]
//	a relation   [a-z][a-z0-9_]{1,62}[a-z0-9]

func isTypeName(s string) bool {
	for {
		prefix, rest, more := strings.Cut(s, "/")
		if !more {
			return isName(s, 64)
		}
		if !isName(prefix, 63) {
			return false
		}
		s = rest
	}
}

func isRelationName(s string) bool { return isName(s, 64) }

// isName reports whether s has three to longest bytes of a name.
func isName(s string, longest int) bool {
	if len(s) < 3 || len(s) > longest || !lower(s[0]) || s[len(s)-1] == '_' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !lower(c) && !digit(c) && c != '_' {
			return false
		}
	}
	return true
}

func lower(c byte) bool { return 'a' <= c && c <= 'z' }
func digit(c byte) bool { return '0' <= c && c <= '9' }

// id reads an id from outside.
func id(field, given string) (string, error) {
	encoded, err := authz.EncodeID(given)
	if err != nil {
		return "", authz.FieldErrorf(field, "%v", err)
	}
	return encoded, nil
}

// optionalID reads an id that may be left out.
func optionalID(field, given string) (string, error) {
	if given == "" {
		return "", nil
	}
	return id(field, given)
}

// mintedID reads an id that the server minted. One that cannot be is malformed; whether it is, the
// graph says.
func mintedID(field, given string) (string, error) {
	if !authz.IsStoredID(given) {
		return "", authz.FieldErrorf(field, "is malformed")
	}
	return given, nil
}

// nameRule is what isName looks for, in words.
const nameRule = "a name has 3 to 64 lower-case letters, digits and underscores, and begins with a letter"

func objectType(field, given string) (string, error) {
	if given == "" {
		return "", authz.FieldErrorf(field, "is required")
	}
	if len(given) > 256 || !isTypeName(given) {
		return "", authz.FieldErrorf(field, "%.64q cannot be the name of a type: %s", given, nameRule)
	}
	return given, nil
}

func relationName(field, given string) (string, error) {
	if given == "" {
		return "", authz.FieldErrorf(field, "is required")
	}
	if !isRelationName(given) {
		return "", authz.FieldErrorf(field, "%.64q cannot be the name of a permission or relation: %s", given, nameRule)
	}
	return given, nil
}

// object reads a reference that is required.
func object(field string, o *deputyv1.ObjectReference) (authz.Object, error) {
	if o == nil {
		return authz.Object{}, authz.FieldErrorf(field, "is required")
	}
	kind, err := objectType(field+".object_type", o.GetObjectType())
	if err != nil {
		return authz.Object{}, err
	}
	name, err := id(field+".object_id", o.GetObjectId())
	if err != nil {
		return authz.Object{}, err
	}
	return authz.Object{Type: kind, ID: name}, nil
}

// principal reads a user or a service; left out it is zero.
func principal(field string, o *deputyv1.ObjectReference) (authz.Principal, error) {
	if o == nil {
		return authz.Principal{}, nil
	}
	read, err := object(field, o)
	if err != nil {
		return authz.Principal{}, err
	}
	p, ok := authz.NewPrincipal(read)
	if !ok {
		return authz.Principal{}, authz.FieldErrorf(field+".object_type", "must be user or service")
	}
	return p, nil
}

// party reads a user, a service, or a set of a tenant; left out it is zero.
func party(field string, s *deputyv1.SubjectReference) (authz.Subject, error) {
	if s == nil {
		return authz.Subject{}, nil
	}
	read, err := object(field+".object", s.GetObject())
	if err != nil {
		return authz.Subject{}, err
	}
	out := authz.Subject{Object: read, Relation: s.GetOptionalRelation()}
	_, concrete := authz.NewPrincipal(read)
	set := read.Type == authz.TypeTenant && (out.Relation == facts.RelationMember || out.Relation == facts.RelationAdmin)
	if !set && (!concrete || out.Relation != "") {
		return authz.Subject{}, authz.FieldErrorf(field, "must be a user, a service, or a tenant's member or admin")
	}
	return out, nil
}

// user reads a user; left out it is zero.
func user(field string, o *deputyv1.ObjectReference, kinds ...string) (authz.Object, error) {
	if o == nil {
		return authz.Object{}, nil
	}
	read, err := object(field, o)
	if err != nil {
		return authz.Object{}, err
	}
	if slices.Contains(kinds, read.Type) {
		return read, nil
	}
	return authz.Object{}, authz.FieldErrorf(field+".object_type", "must be one of %s", strings.Join(kinds, ", "))
}

// grants reads a scope.
func grants(field string, given []*deputyv1.ScopeGrant) ([]facts.Grant, error) {
	out := make([]facts.Grant, len(given))
	seen := map[facts.Grant]bool{}
	for i, g := range given {
		at := fmt.Sprintf("%s[%d]", field, i)
		resource, err := object(at+".resource", g.GetResource())
		if err != nil {
			return nil, err
		}
		relation, err := relationName(at+".relation", g.GetRelation())
		if err != nil {
			return nil, err
		}
		out[i] = facts.Grant{Resource: resource, Relation: relation}
		if seen[out[i]] {
			return nil, authz.FieldErrorf(at, "is there twice")
		}
		seen[out[i]] = true
	}
	return out, nil
}

// caveatContext reads the context for caveats, within its limits.
func caveatContext(s *structpb.Struct) (map[string]any, error) {
	const field = "context"
	if s == nil {
		return nil, nil //nolint:nilnil // no context is a valid context
	}
	if size := proto.Size(s); size > maxContextBytes {
		return nil, authz.FieldErrorf(field, "takes %d bytes, more than %d", size, maxContextBytes)
	}
	if tooDeep(structpb.NewStructValue(s), maxContextDepth) {
		return nil, authz.FieldErrorf(field, "is nested deeper than %d levels", maxContextDepth)
	}
	given := s.AsMap()
	if err := authz.ExactNumbers(given); err != nil {
		return nil, authz.FieldErrorf(field, "has a number that may not be the one that was meant: %v", err)
	}
	return given, nil
}

// tooDeep reports whether a value is nested deeper than the levels; it looks no deeper than that.
func tooDeep(v *structpb.Value, levels int) bool {
	var inner []*structpb.Value
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		for _, f := range k.StructValue.GetFields() {
			inner = append(inner, f)
		}
	case *structpb.Value_ListValue:
		inner = k.ListValue.GetValues()
	default:
		return false
	}
	if levels == 0 {
		return true
	}
	for _, f := range inner {
		if tooDeep(f, levels-1) {
			return true
		}
	}
	return false
}

// ttl reads a duration that may be left out.
func ttl(field string, d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, authz.FieldErrorf(field, "is not a valid duration")
	}
	if d.AsDuration() <= 0 {
		return 0, authz.FieldErrorf(field, "must be positive")
	}
	return d.AsDuration(), nil
}

// limit reads how many results are asked for.
func limit(given uint32, otherwise, most int) (int, error) {
	if given == 0 {
		return otherwise, nil
	}
	if int64(given) > int64(most) {
		return 0, authz.FieldErrorf("limit", "is more than %d", most)
	}
	return int(given), nil
}

// digest identifies a caller's request apart from its limit and its cursor, which are cleared before. parts are what the place of a cursor
// depends on besides.
func digest(ctx context.Context, m proto.Message, parts ...string) ([16]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return [16]byte{}, fmt.Errorf("cannot encode a request: %w", err)
	}
	h := sha256.New()
	is := caller.Of(ctx)
	if is.Personal() && is.Bounds != nil {
		parts = append([]string{"person", is.Bounds.Person.String()}, parts...)
	}
	for _, part := range append([]string{is.Name, string(m.ProtoReflect().Descriptor().FullName()), string(b)}, parts...) {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return [16]byte(h.Sum(nil)[:16]), nil
}

// objectProto shows an object with its id decoded.
func objectProto(o authz.Object) *deputyv1.ObjectReference {
	if o.IsZero() {
		return nil
	}
	return &deputyv1.ObjectReference{ObjectType: o.Type, ObjectId: authz.DecodeID(o.ID)}
}

func subjectProto(s authz.Subject) *deputyv1.SubjectReference {
	return &deputyv1.SubjectReference{Object: objectProto(s.Object), OptionalRelation: s.Relation}
}

// timeProto leaves out a time that is none.
func timeProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// state is where an object stands by its own marks.
func state(l facts.Life) deputyv1.LifecycleState {
	switch {
	case l.Stopped:
		return deputyv1.LifecycleState_LIFECYCLE_STATE_STOPPED
	case l.Live():
		return deputyv1.LifecycleState_LIFECYCLE_STATE_ACTIVE
	default:
		return deputyv1.LifecycleState_LIFECYCLE_STATE_INACTIVE
	}
}
