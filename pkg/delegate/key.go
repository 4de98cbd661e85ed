package delegate

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// checkKey refuses an idempotency key that is too long.
func checkKey(key string) error {
	if len(key) > MaxKeyBytes {
		return authz.FieldErrorf("idempotency_key", "is %d bytes long, more than %d", len(key), MaxKeyBytes)
	}
	return nil
}

// mint returns an id of 128 bits: random, or derived from what was given, so that a retry finds what
// the first try wrote. Without the server's key nobody can tell what id a key leads to.
func (d *Delegate) mint(kind, key string, index int) string {
	var id [16]byte
	if key == "" {
		_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	} else {
		copy(id[:], d.digest("id", kind, key, strconv.Itoa(index)))
	}
	return hex.EncodeToString(id[:])
}

// digest is HMAC-SHA256 over parts, each with its length before it. The caller's name comes first, because idempotency keys are its own; but
// see First.
func (d *Delegate) digest(parts ...string) []byte {
	if !d.first {
		parts = append([]string{"caller", d.caller}, parts...)
	}
	h := hmac.New(sha256.New, d.key)
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return h.Sum(nil)
}

// keyDigest is what is stored of an idempotency key: it tells a retry of the same request from another
// request with the same key.
func (d *Delegate) keyDigest(key string, r request) string {
	if key == "" {
		return ""
	}
	return hex.EncodeToString(d.digest(append([]string{"key", key}, r...)...)[:16])
}

// request is what a creating call asks for, as a list of "name=value" in a fixed order, to be digested. Digests are stored and
// compared by other versions of Deputy, which share the database with this one or come after it. So neither names nor order ever
// change; a field that is added comes last, and is left out where it is zero.
type request []string

func (r *request) add(name, value string) {
	if value != "" {
		*r = append(*r, name+"="+value)
	}
}

func (r *request) object(name string, o authz.Object) {
	if !o.IsZero() {
		r.add(name, o.String())
	}
}

func (r *request) flag(name string, set bool) {
	if set {
		r.add(name, "true")
	}
}

// ttl adds a duration in nanoseconds.
func (r *request) ttl(ttl time.Duration) {
	if ttl != 0 {
		r.add("ttl", strconv.FormatInt(int64(ttl), 10))
	}
}

func (r *request) scope(scope []facts.Grant) {
	for _, g := range scope {
		r.add("grant", g.Resource.String()+"#"+g.Relation)
	}
}

// registration is the request for an agent with the owners.
func registration(owners []authz.Object) request {
	r := request{"agent"}
	for _, o := range owners {
		r.object("owner", o)
	}
	return r
}

func (s *Spec) request() request {
	r := request{"delegation"}
	r.add("agent", string(s.Agent))
	if s.Principal != (authz.Subject{}) {
		r.add("principal", s.Principal.String())
	}
	r.add("tenant", string(s.Tenant))
	r.object("granted_by", s.GrantedBy)
	r.add("parent", string(s.Parent))
	r.scope(s.Scope)
	r.flag("unscoped", s.Unscoped)
	r.flag("allow_direct", s.AllowDirect)
	r.ttl(s.TTL)
	if s.Consent != nil {
		r.add("consent", string(s.Consent.Token))
	}
	return r
}

func (s *Start) request() request {
	r := request{"session"}
	r.add("agent", string(s.Agent))
	for _, t := range s.Targets {
		r = append(r, "target="+string(t.Delegation))
		for _, p := range t.Principals {
			r.object("principal", p.Object)
		}
		r.scope(t.Scope)
	}
	r.ttl(s.TTL)
	r.flag("frozen", s.Frozen)
	r.add("tenant", string(s.Tenant))
	return r
}
