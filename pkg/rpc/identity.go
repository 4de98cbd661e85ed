package rpc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Role is what a caller may do. The zero Role may nothing.
type Role uint8

// The roles; each may all that the ones before it may.
const (
	// Nobody has no valid key.
	Nobody Role = iota
	// Service asks for decisions, starts sessions and creates delegations.
	Service
	// Admin also explains, registers, suspends and resumes, and writes schema and core relationships.
	Admin
)

// String returns the role's name.
func (r Role) String() string {
	switch r {
	case Service:
		return "service"
	case Admin:
		return "admin"
	default:
		return "nobody"
	}
}

// Keys knows which preshared key has which role. It is immutable.
type Keys struct{ known []known }

// known is a key's digest, so that comparing takes the same time for keys of any length.
type known struct {
	digest [sha256.Size]byte
	role   Role
}

// NewKeys returns the keys of services and admins. A key that is both is an admin's.
func NewKeys(services, admins []string) *Keys {
	k := &Keys{}
	for _, key := range services {
		k.known = append(k.known, known{sha256.Sum256([]byte(key)), Service})
	}
	for _, key := range admins {
		k.known = append(k.known, known{sha256.Sum256([]byte(key)), Admin})
	}
	return k
}

// role returns the role of the key that a call carries, in time that does not depend on the key.
func (k *Keys) role(ctx context.Context) Role {
	given, found := bearer(ctx)
	digest := sha256.Sum256([]byte(given))
	role := Nobody
	for _, one := range k.known {
		if subtle.ConstantTimeCompare(digest[:], one.digest[:]) == 1 {
			role = max(role, one.role)
		}
	}
	if !found {
		return Nobody
	}
	return role
}

// bearer returns the one bearer token of a call.
func bearer(ctx context.Context) (string, bool) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	return token, ok && strings.EqualFold(scheme, "bearer") && token != ""
}

type roleKey struct{}

// RoleOf returns the role of the call's caller.
func RoleOf(ctx context.Context) Role {
	role, _ := ctx.Value(roleKey{}).(Role)
	return role
}

// IsAdmin reports whether the call's caller is an admin.
func IsAdmin(ctx context.Context) bool { return RoleOf(ctx) >= Admin }

// open lists the services that need no key: what probes a server has none. Reflection would say nothing about the graph
// either, but answers a few bytes with all that the server knows of its own API, so it takes any key.
var open = []string{"/grpc.health.v1.Health/"}

// isOpen reports whether a method needs no key.
func isOpen(method string) bool {
	return slices.ContainsFunc(open, func(prefix string) bool { return strings.HasPrefix(method, prefix) })
}

// adminMethods lists the methods of deputy.v1 that are an admin's: those that say what CheckPermission
// conceals, those that make or unmake an actor, and those about the store, which holds the whole graph.
var adminMethods = map[string]bool{
	"/deputy.v1.PermissionsService/ExplainPermission": true,
	"/deputy.v1.PermissionsService/LookupAgents":      true,
	"/deputy.v1.AgentsService/RegisterAgent":          true,
	"/deputy.v1.AgentsService/SuspendAgent":           true,
	"/deputy.v1.AgentsService/ResumeAgent":            true,
	"/deputy.v1.PrincipalsService/Suspend":            true,
	"/deputy.v1.PrincipalsService/Resume":             true,
	"/deputy.v1.AdoptionService/ReviewAdoption":       true,
	"/deputy.v1.AdoptionService/ConfirmAdoption":      true,
	"/deputy.v1.StoreService/GetStatistics":           true,
	"/deputy.v1.StoreService/Compact":                 true,
	"/deputy.v1.StoreService/Backup":                  true,
}

// authenticate returns the call's context with the caller's role.
func (k *Keys) authenticate(ctx context.Context, method string) (context.Context, error) {
	role := k.role(ctx)
	ctx = context.WithValue(ctx, roleKey{}, role)
	switch {
	case isOpen(method):
		return ctx, nil
	case role == Nobody:
		return ctx, authz.Errorf(authz.Unauthenticated, authz.ReasonUnauthenticated, "a valid preshared key is required, as a bearer token")
	case adminMethods[method] && role < Admin:
		return ctx, authz.Errorf(authz.Denied, authz.ReasonAdminOnly, "this takes an admin's key")
	}
	return ctx, nil
}
