package reach

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Message is a message of a reach's stream.
type Message = deputy.ReadReachResponse

// Join makes one stream of the streams that cursors join: each party once, its objects, one count of each type and permission, and one end. It
// keeps one count, so that its memory does not grow with the reach. It is not safe for concurrent use.
type Join struct {
	yield func(*Message) error
	party *deputy.ReachParty
	// count is what the streams so far counted of a type and a permission. The next stream may count more of them.
	count *deputy.ReachCount
}

// NewJoin returns a Join that hands its stream to yield, whose errors end it.
func NewJoin(yield func(*Message) error) *Join { return &Join{yield: yield} }

// Add takes the next message, of the first stream or of one that a cursor joins. The message may be kept. Errors: those of yield, and a stream
// that counts or names objects before any party.
func (j *Join) Add(m *Message) error {
	switch {
	case m.GetParty() != nil:
		if j.party != nil && PartyKey(j.party) == PartyKey(m.GetParty()) {
			return nil
		}
		if err := j.flush(); err != nil {
			return err
		}
		j.party = m.GetParty()
		return j.yield(m)
	case m.GetObject() != nil:
		o := m.GetObject()
		if j.party == nil {
			return errNoParty
		}
		if j.count != nil && !counts(j.count, o.GetResource().GetObjectType(), o.GetPermission()) {
			if err := j.flush(); err != nil {
				return err
			}
		}
		return j.yield(m)
	case m.GetCount() != nil:
		if j.party == nil {
			return errNoParty
		}
		if j.count != nil && counts(j.count, m.GetCount().GetResourceObjectType(), m.GetCount().GetPermission()) {
			addCount(j.count, m.GetCount())
			return nil
		}
		if err := j.flush(); err != nil {
			return err
		}
		j.count = proto.CloneOf(m.GetCount())
		return nil
	case m.GetEnd() != nil:
		if !m.GetEnd().GetComplete() {
			return nil // another stream goes on
		}
		if err := j.flush(); err != nil {
			return err
		}
		return j.yield(m)
	default:
		return nil // of a newer server: it names nothing that is reached
	}
}

// errNoParty is a stream that says of nobody what is reached.
var errNoParty = errors.New("the server says what is reached before it says by whom; this stream is not to be used")

// flush hands on the count that is kept.
func (j *Join) flush() error {
	if j.count == nil {
		return nil
	}
	count := j.count
	j.count = nil
	return j.yield(&Message{Result: &deputy.ReadReachResponse_Count{Count: count}})
}

func counts(c *deputy.ReachCount, objectType, permission string) bool {
	return c.GetResourceObjectType() == objectType && c.GetPermission() == permission
}

// PartyKey tells parties of a reach apart: it is the same for the same delegations, principal and tenant.
func PartyKey(p *deputy.ReachParty) string {
	return strings.Join(append(slices.Clone(p.GetDelegationChain()),
		p.GetSessionId(), p.GetTenantId(), p.GetPrincipal().GetObjectType(), p.GetPrincipal().GetObjectId()), "\x00")
}

// The most kinds of grants and sets of one count that a Join keeps. A server sends fewer of them in one stream; the objects of what there
// is no room for are counted as others.
const (
	maxGrants = 10_000
	maxSets   = 1_000
)

// addCount adds what another stream counted of the same type and permission.
func addCount(to, more *deputy.ReachCount) {
	to.Has += more.GetHas()
	to.Conditional += more.GetConditional()
	to.Failed += more.GetFailed()
	to.Others += more.GetOthers()
	to.OnlyThroughCut = to.GetOnlyThroughCut() || more.GetOnlyThroughCut()
	to.Flags = union(to.GetFlags(), more.GetFlags())
	at := map[grantKey]*deputy.ReachGrants{}
	for _, g := range to.GetGrants() {
		at[keyOf(g)] = g
	}
	for _, g := range more.GetGrants() {
		switch known := at[keyOf(g)]; {
		case known != nil:
			known.Objects += g.GetObjects()
			known.WithoutEnd += g.GetWithoutEnd()
		case len(to.GetGrants()) < maxGrants:
			g = proto.CloneOf(g)
			to.Grants, at[keyOf(g)] = append(to.Grants, g), g
		default:
			to.Others += g.GetObjects()
		}
	}
	sets := map[setKey]*deputy.ReachSet{}
	for _, s := range to.GetOnlyThrough() {
		sets[setKeyOf(s)] = s
	}
	for _, s := range more.GetOnlyThrough() {
		if known := sets[setKeyOf(s)]; known != nil {
			known.Objects += s.GetObjects()
		} else if len(to.GetOnlyThrough()) < maxSets {
			s = proto.CloneOf(s)
			to.OnlyThrough, sets[setKeyOf(s)] = append(to.OnlyThrough, s), s
		} else {
			to.OnlyThroughCut = true
		}
	}
	slices.SortFunc(to.GetGrants(), func(a, b *deputy.ReachGrants) int {
		return cmp.Or(cmp.Compare(b.GetObjects(), a.GetObjects()), keyOf(a).compare(keyOf(b)))
	})
	slices.SortFunc(to.GetOnlyThrough(), func(a, b *deputy.ReachSet) int {
		return cmp.Or(cmp.Compare(b.GetObjects(), a.GetObjects()), setKeyOf(a).compare(setKeyOf(b)))
	})
}

// union returns the flags of both, in the order of the enum.
func union(a, b []deputy.ReachFlag) []deputy.ReachFlag {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// grantKey tells kinds of grants apart.
type grantKey struct{ holder, objectType, relation, subject string }

func keyOf(g *deputy.ReachGrants) grantKey {
	return grantKey{Object(g.GetHolder()), g.GetResourceObjectType(), g.GetRelation(), Subject(g.GetSubject())}
}

func (k grantKey) compare(other grantKey) int {
	return cmp.Or(cmp.Compare(k.holder, other.holder), cmp.Compare(k.objectType, other.objectType),
		cmp.Compare(k.relation, other.relation), cmp.Compare(k.subject, other.subject))
}

// setKey tells sets with their members apart.
type setKey struct{ holder, set string }

func setKeyOf(s *deputy.ReachSet) setKey { return setKey{Object(s.GetHolder()), Subject(s.GetSet())} }

func (k setKey) compare(other setKey) int {
	return cmp.Or(cmp.Compare(k.holder, other.holder), cmp.Compare(k.set, other.set))
}
