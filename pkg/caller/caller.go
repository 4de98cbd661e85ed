package caller

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// Caller is a program or a person that sends calls, with what it may do. It is immutable: it may be shared and read concurrently. The zero Caller, and nil, are
// nobody: they may only call open methods.
type Caller struct {
	// Name is unique among the callers of a server.
	Name string
	// Roles open methods.
	Roles Roles
	// Bounds say what part of the graph exists for the caller; nil admits nothing.
	Bounds *authz.Bounds
	// SpiceDB are the methods of authzed.api.v1 that the caller may call, where its roles open them: "CheckPermission".
	SpiceDB authz.Names
	// Limits say how much of the server it may take.
	Limits Limits
	// ActorToken says how it sends agents' tokens.
	ActorToken ActorToken
	// Signals are the security events that it may transmit; nil means none.
	Signals *Signals
	// Credentials prove that a call is this caller's, each by itself.
	Credentials []Credential

	// preshared says that Preshared made it. A name says nothing of what a caller may do: programs choose names too.
	preshared bool
}

// Credential is one way in which a caller proves who it is. Exactly one of Key, SPIFFE, DNS, Subject and People is set.
type Credential struct {
	// ID names the credential among those of its caller, for people and logs. It is no secret.
	ID string
	// Key is the SHA-256 digest of a preshared key.
	Key [sha256.Size]byte
	// SPIFFE is the SPIFFE id of a client certificate: "spiffe://example.org/billing".
	SPIFFE string
	// DNS is the DNS name of a client certificate.
	DNS string
	// Issuer and Subject are a token's iss and sub.
	Issuer, Subject string
	// People stands for all people whose own tokens are of the Issuer, as far as those are no other caller's. Only a caller that is Personal has it.
	People bool
	// Created is when it was made, for people; zero where that is not known.
	Created time.Time
	// Expires is when it proves nothing any more; zero means never.
	Expires time.Time
}

// Expired reports whether it proves nothing any more.
func (c Credential) Expired(now time.Time) bool { return !c.Expires.IsZero() && !now.Before(c.Expires) }

// Known reports whether the caller is somebody.
func (c *Caller) Known() bool { return c != nil && c.Name != "" }

// Label is the caller's name in figures and logs: NobodyName where none is known.
func (c *Caller) Label() string {
	if !c.Known() {
		return NobodyName
	}
	return c.Name
}

// Brakes reports whether the caller can suspend in all tenants: room is kept for it when all others' is taken. A caller that is bound to some
// tenants could take that room from the others'.
func (c *Caller) Brakes() bool {
	return c.Known() && c.Roles.Has(deputyv1.Role_ROLE_RESPONDER) && !c.Bounds.Confined()
}

// Administers reports whether the caller may do what only admins may.
func (c *Caller) Administers() bool { return c.Known() && c.Roles.Has(deputyv1.Role_ROLE_ADMIN) }

// Follows reports whether it is a server that follows this one, and passes on what its own callers may do.
func (c *Caller) Follows() bool { return c.Known() && c.Roles&followers != 0 }

// Services reports whether it is the caller that the services' preshared keys stand for, which keeps what it had before there were others.
func (c *Caller) Services() bool { return c.Known() && c.preshared && c.Name == ServiceName }

// Organizes reports whether the caller may write what decides a tenant, or what agents and delegations reach.
func (c *Caller) Organizes() bool { return c.Known() && c.Roles.Has(deputyv1.Role_ROLE_ORGANIZER) }

// Personal reports whether the caller stands for people, each of whom calls for himself or herself alone: its one role is self.
func (c *Caller) Personal() bool { return c.Known() && c.Roles == selfRoles }

// For returns what a caller that is Personal is while one person calls: what exists for it is that person's.
func (c *Caller) For(person authz.Principal) *Caller {
	of := *c
	of.Bounds = c.Bounds.Of(person)
	return &of
}

// May returns nil where the caller may call a method, as far as its roles and what the method asks of its bounds go. Errors: Unauthenticated
// for nobody, Denied with what is missing otherwise; it says nothing of the graph.
func (c *Caller) May(m *Method) error {
	switch {
	case m != nil && m.Open:
		return nil
	case !c.Known():
		return authz.Errorf(authz.Unauthenticated, authz.ReasonUnauthenticated, "a valid credential is required: a preshared key, or a token, as a bearer "+
			"token, or a client certificate")
	case m == nil:
		return authz.Errorf(authz.Denied, authz.ReasonRoleRequired, "no role opens this method")
	case c.Personal() && (c.Bounds == nil || c.Bounds.Person.IsZero()):
		return authz.Errorf(authz.Denied, authz.ReasonOutOfBounds,
			"the caller %s is for people, by tokens of their own, and it is not known which person calls", c.Name)
	case m.AnyRole:
	case m.Roles == 0:
		return authz.Errorf(authz.Denied, authz.ReasonRoleRequired, "no role opens %s", m.Name())
	case m.WithoutAdmin && c.Roles&m.Roles == 0:
		return authz.Errorf(authz.Denied, authz.ReasonRoleRequired, "%s takes the role %s, which admin does not include; the caller %s has %s",
			m.Name(), m.Roles, c.Name, c.roles())
	case !c.Roles.Any(m.Roles):
		return authz.Errorf(authz.Denied, authz.ReasonRoleRequired, "%s takes %s; the caller %s has %s", m.Name(), m.Roles.oneOf(), c.Name, c.roles())
	}
	switch {
	case m.SpiceDB && !c.SpiceDB.Has(m.Name()):
		return authz.Errorf(authz.Denied, authz.ReasonOutOfBounds, "authzed.api.v1's %s is not open to the caller %s", m.Name(), c.Name)
	case m.AllTenants && c.Bounds.Confined():
		return authz.Errorf(authz.Denied, authz.ReasonOutOfBounds, "%s affects all tenants, and the caller %s is bound to some", m.Name(), c.Name)
	case m.Everything && !c.Bounds.Everything():
		return authz.Errorf(authz.Denied, authz.ReasonOutOfBounds, "%s is about everything, and the caller %s has bounds", m.Name(), c.Name)
	case m.AllTypes && !c.Bounds.Objects.All():
		return authz.Errorf(authz.Denied, authz.ReasonOutOfBounds, "%s affects all types of objects, and the caller %s is bound to some", m.Name(), c.Name)
	}
	return nil
}

// Covers reports whether it is the caller of the same name, and may do all that was could do.
func (c *Caller) Covers(was *Caller) bool {
	return c.Known() && was.Known() && c.Name == was.Name && c.Roles.covers(was.Roles) && was.Bounds.Within(c.Bounds) && was.SpiceDB.Within(c.SpiceDB) &&
		c.ActorToken.covers(was.ActorToken)
}

func (c *Caller) roles() string {
	if c.Roles == 0 {
		return "none"
	}
	return c.Roles.String()
}

// The names of the callers that the two settings with preshared keys stand for. No other caller of a Book can have them.
const (
	// ServiceName is the caller of the services' preshared keys.
	ServiceName = "service"
	// AdminName is the caller of the admins'.
	AdminName = "admin"
	// InProcessName is the caller that a program is which holds the server itself. It has a blank, which no name in a file has.
	InProcessName = "in process"
)

// InProcess returns the caller that a program is which holds the server itself, unless it says otherwise: an unbounded admin.
func InProcess() *Caller {
	return &Caller{Name: InProcessName, Roles: adminRoles, Bounds: authz.Unbounded(), SpiceDB: authz.AllNames()}
}

// The names under which figures count calls of nobody known, and of callers that are too many to be counted apart. No caller can have them.
const (
	NobodyName = "nobody"
	OtherName  = "other"
)

// Preshared returns the two unbounded callers that the settings with preshared keys stand for, each only where it has a key.
func Preshared(services, admins []string) []*Caller {
	var callers []*Caller
	for _, one := range []struct {
		name  string
		roles Roles
		keys  []string
	}{
		{ServiceName, serviceRoles, services},
		{AdminName, adminRoles, admins},
	} {
		if len(one.keys) == 0 {
			continue
		}
		c := &Caller{Name: one.name, Roles: one.roles, Bounds: authz.Unbounded(), SpiceDB: authz.AllNames(), preshared: true}
		for i, key := range one.keys {
			c.Credentials = append(c.Credentials, Credential{ID: fmt.Sprintf("preshared-%d", i+1), Key: sha256.Sum256([]byte(key))})
		}
		callers = append(callers, c)
	}
	return callers
}

type contextKey struct{}

// Held is a context that carries the caller of a call, which another one may follow once the call's message has come. Its Context is to be set
// before use. It is safe for concurrent use.
type Held struct {
	context.Context //nolint:containedctx // it is a context itself

	caller atomic.Pointer[Caller]
}

// Hold has the context carry a caller from now on.
func (h *Held) Hold(c *Caller) { h.caller.Store(c) }

// Value is context.Context's.
func (h *Held) Value(key any) any {
	switch key {
	case contextKey{}:
		return h.caller.Load()
	case authz.CallerKey{}:
		if c := h.caller.Load(); c != nil {
			return c.Name
		}
	}
	return h.Context.Value(key)
}

// With returns a context that carries the caller of a call; with nil it carries none.
func With(ctx context.Context, c *Caller) context.Context {
	name := ""
	if c != nil {
		name = c.Name
	}
	return authz.WithCaller(context.WithValue(ctx, contextKey{}, c), name)
}

// Of returns the caller of a call, nobody where the context carries none. It is never nil.
func Of(ctx context.Context) *Caller {
	if c, ok := ctx.Value(contextKey{}).(*Caller); ok && c != nil {
		return c
	}
	return &nobody
}

var nobody Caller
