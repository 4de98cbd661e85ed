package journal

import (
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal/index"
	"github.com/deputyauth/deputy/pkg/journal/persons"
)

// Personal seals what of records is a person's with that person's key, and opens it as long as the key is there. It is safe for concurrent use.
//
// A record is sealed with the key of its person in its tenant: the principal, or else the user that it is about (its object or its subject), or
// else nobody, which is a key of the tenant's own, so that it is erased with the tenant. Sealed are
//   - the principal's id, and the object's, if their types are personal;
//   - a subject of a personal type;
//   - reasons that people gave, open fields of caveat contexts, and relationships;
//   - the earlier actors of an agent's token, which an issuer names in its own way: whether one is a user here is not known.
//
// Where one of these names another user, it is sealed with that user's key too: it is gone when either key is. The digests of the context,
// of the request and of a tool's arguments are replaced by digests of them under the key, because ids can be guessed and tried.
//
// Ids of agents, tenants, sessions and delegations, names of callers, and ids of services unless their type is named, are not a person's and stay
// as they are.
type Personal struct {
	keys  *persons.Keys
	types map[string]bool
}

// NewPersonal seals with keys what is of personal types: user, and those that are named. With keys that are open for reading only it opens what was
// sealed before, and seals nothing.
func NewPersonal(keys *persons.Keys, types []string) *Personal {
	p := &Personal{keys: keys, types: map[string]bool{authz.TypeUser: true}}
	for _, t := range types {
		p.types[t] = true
	}
	return p
}

// noPersonal is what a record says where what is a person's could not be sealed, and had to be left out.
const noPersonal = "what is a person's is left out: the key of the person could not be read or made"

// noKey is what the record of a read says where somebody is named who has no key, or none any more. Reading makes none: to ask for a person who was
// erased must not have the journal hold the id again.
const noKey = "what is a person's is left out: the person has no key, and a read makes none"

// sealRecords seals what is a person's in records that are about to be written, and takes it out of them. Where the keys fail, records that nothing
// may hold up are written without it, and say so: those of a duty other than Refuse, and with Config.AnswerUnrecorded all.
func (j *Journal) sealRecords(duty Duty, records []*Record) error {
	p := j.cfg.Personal
	if p == nil || p.keys.ReadOnly() {
		return nil
	}
	for _, r := range records {
		err := p.seal(r)
		switch {
		case err == nil:
		case duty != Refuse || j.cfg.AnswerUnrecorded:
			j.cfg.Log.Error("the journal could not seal what is a person's, and left it out of a record", zap.Error(err))
			_, _ = p.take(r)
			r.ContextHash, r.RequestHash, r.Note = nil, nil, noPersonal
			sealArguments(r, nil)
		default:
			return err
		}
	}
	return nil
}

// personal is a part of a record: values, each with the users whom it names.
type personal struct {
	values *deputyv1.PersonalRecord
	// resource, subject and relationships say whom the values of that name name.
	resource, subject []persons.Person
	relationships     [][]persons.Person
}

// take takes out of a record what is a person's, and says whose it is.
func (p *Personal) take(r *Record) (whose persons.Person, of personal) {
	whose = p.whose(r)
	v := new(deputyv1.PersonalRecord)
	of.values = v
	if p.types[r.GetPrincipalType()] {
		v.PrincipalId, r.PrincipalId = r.GetPrincipalId(), ""
	}
	if p.types[r.GetResourceType()] {
		of.resource = user(nil, r.GetTenantId(), r.GetResourceType(), r.GetResourceId())
		v.ResourceId, r.ResourceId = r.GetResourceId(), ""
	}
	if objectType, id := subjectOf(r.GetSubject()); p.types[objectType] {
		of.subject = user(nil, r.GetTenantId(), objectType, id)
		v.Subject, r.Subject = r.GetSubject(), ""
	}
	for _, text := range r.GetRelationships() {
		of.relationships = append(of.relationships, named(r.GetTenantId(), text))
	}
	v.GivenReason, r.GivenReason = r.GetGivenReason(), ""
	v.Context, r.Context = r.GetContext(), nil
	v.Relationships, r.Relationships = r.GetRelationships(), nil
	if len(r.GetActorToken().GetPriorActors()) > 0 {
		v.PriorActors, r.ActorToken.PriorActors = r.GetActorToken().GetPriorActors(), nil
	}
	return whose, of
}

// whose says whose key seals a record.
func (p *Personal) whose(r *Record) persons.Person {
	tenant := r.GetTenantId()
	switch {
	case r.GetPrincipalId() != "" && p.types[r.GetPrincipalType()]:
		return persons.Person{Tenant: tenant, Type: r.GetPrincipalType(), ID: r.GetPrincipalId()}
	case r.GetResourceType() == authz.TypeUser && r.GetResourceId() != "":
		return persons.Person{Tenant: tenant, Type: authz.TypeUser, ID: r.GetResourceId()}
	default:
		if objectType, id := subjectOf(r.GetSubject()); objectType == authz.TypeUser {
			return persons.Person{Tenant: tenant, Type: objectType, ID: id}
		}
		return persons.Person{Tenant: tenant}
	}
}

// user adds a person if it is a user: those are who have keys of their own.
func user(to []persons.Person, tenant, objectType, id string) []persons.Person {
	if objectType != authz.TypeUser || id == "" {
		return to
	}
	one := persons.Person{Tenant: tenant, Type: objectType, ID: id}
	if slices.Contains(to, one) {
		return to
	}
	return append(to, one)
}

// subjectOf reads a subject in SpiceDB's notation, with the id as callers know it.
func subjectOf(text string) (objectType, id string) {
	objectType, id, _ = strings.Cut(text, ":")
	if i := strings.IndexAny(id, "#[ "); i >= 0 {
		id = id[:i]
	}
	return objectType, authz.DecodeID(id)
}

// named returns the users that a relationship names, in SpiceDB's notation, after the operation.
func named(tenant, text string) (found []persons.Person) {
	if _, after, ok := strings.Cut(text, " "); ok {
		text = after
	}
	resource, rest, _ := strings.Cut(text, "#")
	_, subject, _ := strings.Cut(rest, "@")
	for _, one := range [...]string{subject, resource} {
		objectType, id := subjectOf(one)
		found = user(found, tenant, objectType, id)
	}
	return found
}

// longPersonal is how long what is sealed may be before what makes a record long is taken from it.
const longPersonal = MaxRecord / 2

// seal seals what is a person's in a record. After an error nothing has been taken out of it.
func (p *Personal) seal(r *Record) error {
	if r.GetPersonalKey() != nil {
		return errors.New("journal: a record comes sealed")
	}
	for {
		original := &Record{
			PrincipalId: r.GetPrincipalId(), ResourceId: r.GetResourceId(), Subject: r.GetSubject(), GivenReason: r.GetGivenReason(), Context: r.GetContext(),
			Relationships: r.GetRelationships(),
		}
		prior := r.GetActorToken().GetPriorActors()
		whose, of := p.take(r)
		if proto.Size(of.values) == 0 && (whose.ID == "" || len(r.GetContextHash()) == 0 && len(r.GetRequestHash()) == 0 &&
			len(r.GetToolCall().GetArgumentsHash()) == 0) {
			return nil
		}
		keys, err := p.keysOf(whose, &of, r.GetKind() != deputyv1.RecordKind_RECORD_KIND_READ)
		if errors.Is(err, persons.ErrErased) {
			r.ContextHash, r.RequestHash, r.Note = nil, nil, noKey
			sealArguments(r, nil)
			return nil
		}
		var sealed []byte
		if err == nil {
			sealed, err = keys.seal([]persons.Person{whose}, &of, r.GetTime())
		}
		if err != nil || len(sealed) > longPersonal {
			r.PrincipalId, r.ResourceId, r.Subject = original.GetPrincipalId(), original.GetResourceId(), original.GetSubject()
			r.GivenReason, r.Context, r.Relationships = original.GetGivenReason(), original.GetContext(), original.GetRelationships()
			if len(prior) > 0 {
				r.ActorToken.PriorActors = prior
			}
			if err == nil && shorten(r) {
				continue
			}
			if err == nil {
				err = errors.New("journal: what is a person's in a record is too long")
			}
			return err
		}
		key := keys[whose]
		tag := key.Tag()
		r.Personal, r.PersonalKey = sealed, tag[:]
		r.ContextHash, r.RequestHash = underKey(key, "context", r.GetContextHash()), underKey(key, "request", r.GetRequestHash())
		sealArguments(r, func(purpose string, digest []byte) []byte { return underKey(key, purpose, digest) })
		return nil
	}
}

// underKey is what a record that is sealed with a key has in place of a digest.
func underKey(key *persons.Key, purpose string, digest []byte) []byte {
	if len(digest) == 0 {
		return nil
	}
	return key.Digest(purpose, string(digest))[:len(digest)]
}

// keysOf are the keys of all that a record names.
type keysOf map[persons.Person]*persons.Key

// keysOf returns the keys of everybody in a record. With mint it makes those that are missing, and else the error is persons.ErrErased.
func (p *Personal) keysOf(whose persons.Person, of *personal, mint bool) (keysOf, error) {
	all := []persons.Person{whose}
	for _, names := range append(of.relationships, of.resource, of.subject) {
		for _, one := range names {
			if !slices.Contains(all, one) {
				all = append(all, one)
			}
		}
	}
	keys := keysOf{}
	if !mint {
		for _, one := range all {
			var err error
			if keys[one], err = p.known(one); err != nil {
				return nil, err
			}
		}
		return keys, nil
	}
	made, err := p.keys.Make(all...)
	if err != nil {
		return nil, err
	}
	for i, one := range all {
		keys[one] = made[i]
	}
	return keys, nil
}

// known returns the key of a person, and in no tenant any key that the person has in one: those are gone once the person is erased in all of them.
func (p *Personal) known(one persons.Person) (*persons.Key, error) {
	key, err := p.keys.Key(p.keys.Tag(one))
	if !errors.Is(err, persons.ErrErased) || one.Tenant != "" || one.ID == "" {
		return key, err
	}
	tags, err := p.keys.Tenants(one)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if key, err = p.keys.Key(tag); !errors.Is(err, persons.ErrErased) {
			return key, err
		}
	}
	return nil, persons.ErrErased
}

// seal seals values with the key of the last of those under whose keys they lie; what names others is sealed with theirs first.
func (k keysOf) seal(under []persons.Person, of *personal, time int64) ([]byte, error) {
	v := of.values
	others := map[persons.Person]*personal{}
	var order []persons.Person
	next := func(names []persons.Person) *personal {
		for _, one := range names {
			if slices.Contains(under, one) {
				continue
			}
			if others[one] == nil {
				others[one] = &personal{values: new(deputyv1.PersonalRecord)}
				order = append(order, one)
			}
			return others[one]
		}
		return nil
	}
	if other := next(of.resource); other != nil {
		other.values.ResourceId, other.resource, v.ResourceId = v.GetResourceId(), of.resource, ""
	}
	if other := next(of.subject); other != nil {
		other.values.Subject, other.subject, v.Subject = v.GetSubject(), of.subject, ""
	}
	var own []string
	for i, text := range v.GetRelationships() {
		other := next(of.relationships[i])
		if other == nil {
			own = append(own, text)
			continue
		}
		other.values.Relationships = append(other.values.Relationships, text)
		other.relationships = append(other.relationships, of.relationships[i])
	}
	v.Relationships = own
	for _, one := range order {
		sealed, err := k.seal(append(slices.Clip(under), one), others[one], time)
		if err != nil {
			return nil, err
		}
		tag := k[one].Tag()
		v.Others = append(v.Others, &deputyv1.OtherPerson{Key: tag[:], Sealed: sealed})
	}
	text, err := proto.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("journal: cannot encode what is a person's: %w", err)
	}
	key := k[under[len(under)-1]]
	return key.Seal(make([]byte, 0, len(text)+persons.Overhead), text, beside(key.Tag(), time)), nil
}

// beside is what is authenticated with what is sealed: whose it is and when the record is of, so that it opens in no other record.
func beside(tag persons.Tag, time int64) []byte {
	return binary.LittleEndian.AppendUint64(tag[:], uint64(time)) //nolint:gosec // its bits
}

// Open opens in a record what is a person's, and reports whether all of it is open then; it does nothing with a record that nothing is sealed in. What
// cannot be opened any more stays sealed in the record, and its fields empty. Errors: a key could not be read, or what is sealed is not as it was.
func (p *Personal) Open(r *Record) (opened bool, err error) {
	if len(r.GetPersonalKey()) == 0 {
		return true, nil
	}
	erased, err := p.open(r, r.GetPersonalKey(), r.GetPersonal(), 0)
	if err != nil {
		return false, fmt.Errorf("journal: record %d: %w", r.GetSequence(), err)
	}
	if !erased {
		r.Personal = nil
	}
	return !erased, nil
}

// deepest is how deep values are sealed: a relationship names two users at most, besides the record's own.
const deepest = 3

// open opens what is sealed into the record.
func (p *Personal) open(r *Record, tag, sealed []byte, depth int) (erased bool, err error) {
	if len(tag) != len(persons.Tag{}) || depth == deepest {
		return true, errors.New("what is sealed is not as it was")
	}
	key, err := p.keys.Key(persons.Tag(tag))
	if errors.Is(err, persons.ErrErased) {
		return true, nil
	}
	if err != nil {
		return true, err
	}
	text, err := key.Open(sealed, beside(persons.Tag(tag), r.GetTime()))
	if err != nil {
		// The person was erased, and has come again: the new key is another one.
		return true, nil //nolint:nilerr // who changed what is sealed has changed the leaf of the record, which verify finds
	}
	v := new(deputyv1.PersonalRecord)
	if err := proto.Unmarshal(text, v); err != nil {
		return true, fmt.Errorf("what is sealed cannot be read: %w", err)
	}
	putBack(r, v)
	for _, other := range v.GetOthers() {
		gone, err := p.open(r, other.GetKey(), other.GetSealed(), depth+1)
		if err != nil {
			return true, err
		}
		erased = erased || gone
	}
	return erased, nil
}

// putBack puts values back into the record that they were taken out of.
func putBack(r *Record, v *deputyv1.PersonalRecord) {
	for _, one := range [...]struct {
		to   *string
		from string
	}{
		{&r.PrincipalId, v.GetPrincipalId()},
		{&r.ResourceId, v.GetResourceId()},
		{&r.Subject, v.GetSubject()},
		{&r.GivenReason, v.GetGivenReason()},
	} {
		if one.from != "" {
			*one.to = one.from
		}
	}
	if v.GetContext() != nil {
		r.Context = v.GetContext()
	}
	r.Relationships = append(r.Relationships, v.GetRelationships()...)
	if r.GetActorToken() != nil {
		r.ActorToken.PriorActors = append(r.ActorToken.PriorActors, v.GetPriorActors()...)
	}
}

// ErrErased is why a digest cannot be compared: the key that it was made with was destroyed.
var ErrErased = persons.ErrErased

// SameContext reports whether a caveat context is the one that a record of this journal has the digest of. Errors: ErrErased where
// the key that the digest was made with is not there; the disk's.
func (r *Reader) SameContext(record *Record, given map[string]any) (bool, error) {
	if r.live == nil {
		return false, errors.New("journal: the digests of contexts are known to the server only")
	}
	digest, _ := r.live.Context(given)
	if tag := record.GetPersonalKey(); len(tag) > 0 {
		p := r.live.cfg.Personal
		if p == nil || len(tag) != len(persons.Tag{}) {
			return false, persons.ErrErased
		}
		key, err := p.keys.Key(persons.Tag(tag))
		if err != nil {
			return false, err
		}
		digest = underKey(key, "context", digest)
	}
	return hmac.Equal(digest, record.GetContextHash()), nil
}

// Under is Persons'.
func (p *Personal) Under(tag []byte, purpose string, digest []byte) []byte {
	if len(tag) != len(persons.Tag{}) {
		return nil
	}
	key, err := p.keys.Key(persons.Tag(tag))
	if err != nil {
		return nil
	}
	return underKey(key, purpose, digest)
}

// term stands in the index for a principal or an object that is sealed in records. It is made with the key of the user that it is, and else with that of
// the record: once the key is destroyed nobody can tell what it stood for.
func term(key *persons.Key, field index.Field, objectType, id string) index.Term {
	return index.Term(binary.LittleEndian.Uint64(key.Digest("index", string(byte(field)), objectType, id)))
}

// hiddenTerm stands in the index for what is sealed in a record, and cannot be found by a key: an object of a personal type that is no user, because
// it lies under keys of others; and with an empty type anything, where the keys could not be read.
func hiddenTerm(field index.Field, objectType string) index.Term {
	return index.OfObject(field, objectType, "")
}

// Terms appends the terms by which the index finds what is sealed in a record, which is as it stands in the journal, and is not changed. What is
// erased has none.
func (p *Personal) Terms(r *Record, terms []index.Term) []index.Term {
	if len(r.GetPersonalKey()) == 0 {
		return terms
	}
	start := len(terms)
	opened := proto.CloneOf(r)
	if _, err := p.Open(opened); err != nil {
		return append(terms, hiddenTerm(index.Principal, ""), hiddenTerm(index.Resource, ""))
	}
	for _, one := range [...]struct {
		field          index.Field
		objectType, id string
		sealed         bool
	}{
		{index.Principal, opened.GetPrincipalType(), opened.GetPrincipalId(), r.GetPrincipalId() == ""},
		{index.Resource, opened.GetResourceType(), opened.GetResourceId(), r.GetResourceId() == ""},
	} {
		switch {
		case !one.sealed || one.id == "":
			continue
		case one.objectType != authz.TypeUser && one.field != index.Principal:
			terms = append(terms, hiddenTerm(one.field, one.objectType))
			continue
		}
		key, err := p.keys.Key(p.keys.Tag(persons.Person{Tenant: r.GetTenantId(), Type: one.objectType, ID: one.id}))
		switch {
		case errors.Is(err, persons.ErrErased): // just now, or it is a read in no tenant, see known
			terms = append(terms, hiddenTerm(one.field, one.objectType))
		case err != nil:
			return append(terms[:start], hiddenTerm(index.Principal, ""), hiddenTerm(index.Resource, ""))
		default:
			terms = append(terms, term(key, one.field, one.objectType, one.id))
		}
	}
	return terms
}

// Asked returns the terms by which the index finds records in which a principal or an object is sealed: in a tenant, or in all. known is false where the
// keys could not be read, and any record may be one. The keys of a person in all tenants are found by reading the whole file of keys.
func (p *Personal) Asked(field index.Field, objectType, id, tenant string) (terms []index.Term, known bool) {
	terms = []index.Term{hiddenTerm(field, objectType), hiddenTerm(field, "")}
	if objectType != authz.TypeUser && field != index.Principal {
		return terms, true
	}
	whose := persons.Person{Tenant: tenant, Type: objectType, ID: id}
	tags := []persons.Tag{p.keys.Tag(whose)}
	if tenant == "" {
		var err error
		if tags, err = p.keys.Tenants(whose); err != nil {
			return nil, false
		}
	}
	for _, tag := range tags {
		key, err := p.keys.Key(tag)
		switch {
		case errors.Is(err, persons.ErrErased):
		case err != nil:
			return nil, false
		default:
			terms = append(terms, term(key, field, objectType, id))
		}
	}
	return terms, true
}

// Persons opens what is sealed in the journal; nil where nothing is.
func (j *Journal) Persons() Persons {
	if j.cfg.Personal == nil {
		return nil
	}
	return j.cfg.Personal
}

// Close closes the keys.
func (p *Personal) Close() error { return p.keys.Close() }
