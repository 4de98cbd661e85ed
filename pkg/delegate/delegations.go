package delegate

import (
	"context"
	"fmt"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/facts"
)

// Spec asks for a delegation. With a Parent, what is zero is the parent's.
type Spec struct {
	Agent     authz.AgentID
	Principal authz.Subject
	Tenant    authz.TenantID
	// GrantedBy may be zero where the principal is a user, and with a parent.
	GrantedBy   authz.Object
	Parent      authz.DelegationID
	Scope       []facts.Grant
	Unscoped    bool
	AllowDirect bool
	// TTL is how long it holds; with a parent it may be 0: as long as that one and all above it.
	TTL time.Duration
	// Key is the idempotency key, or empty.
	Key string
	// Consent is what the person has agreed to by a token; nil without one. Only with it a caller may leave out what it names, and a caller
	// that does not vouch create a delegation without a parent.
	Consent *Consent
}

// Create writes a delegation. Errors: Invalid for what the request gets wrong by itself, Precondition
// where the graph does not entitle the grantor or something is not active, NotFound for an unknown
// agent or parent, Exists where the idempotency key was used for another request, or the token of the consent for another delegation, Denied for
// a delegation without a parent and without a consent where the caller's bounds do not let it vouch, and for more than a consent agrees to.
func (d *Delegate) Create(ctx context.Context, s Spec) (facts.Delegation, authz.Revision, error) {
	none := func(err error) (facts.Delegation, authz.Revision, error) {
		return facts.Delegation{}, authz.Revision{}, err
	}
	if s.Parent == "" && s.Consent == nil && !d.within.Vouch {
		return none(outOfBounds("a delegation without a parent is created on its caller's word that the principal grants it, and the bounds of "+
			"the caller %s do not let it vouch: send the consent_token of the person who grants it, or name a parent_delegation_id to pass on a "+
			"part of a delegation", d.caller))
	}
	v, err := d.look(ctx)
	if err != nil {
		return none(err)
	}
	if s.Consent != nil {
		s.Consent.complete(&s)
		// A retry comes later than the first try, and asks for no more.
		if got, err := d.before(ctx, v, s); err != nil || got.Known {
			return got, v.snap.Revision(), err
		}
		if err := s.Consent.covers(&s, v.now); err != nil {
			return none(err)
		}
	}
	if err := s.check(ctx, v); err != nil {
		return none(err)
	}
	out := facts.Delegation{
		ID:    authz.DelegationID(d.mint(authz.TypeDelegation, s.Key, 0)),
		Agent: s.Agent, Principal: s.Principal, Tenant: s.Tenant, GrantedBy: s.GrantedBy, Parent: s.Parent,
		Unscoped: s.Unscoped, AllowDirect: s.AllowDirect,
		Life: facts.Life{Known: true, Active: true},
	}
	switch { // truncated as every engine stores it
	case s.TTL > 0:
		out.Until = v.now.Add(s.TTL).Truncate(time.Microsecond)
	case s.Consent != nil:
		out.Until = s.Consent.until(v.now).Truncate(time.Microsecond)
	}
	var must []authz.MustHold
	if s.Parent == "" {
		must, err = v.root(ctx, &out)
	} else {
		must, err = v.part(ctx, &out)
	}
	if err != nil {
		return none(err)
	}
	if err := v.liveAgent(ctx, out.Agent); err != nil {
		return none(err)
	}
	must = append(must, facts.MustBeActive(out.Agent.Object())...)
	if s.Key != "" {
		if err := v.unused(ctx, out.ID.Object()); err != nil {
			return none(err)
		}
		must = append(must, facts.MustBeUnused(out.ID.Object()))
	}
	out.Issued = facts.Issued{At: v.now, Until: out.Until, KeyDigest: d.keyDigest(s.Key, s.request())}
	updates := out.Write(s.Scope)
	if s.Consent != nil {
		updates = append(updates, s.Consent.Token.Use())
	}
	rev, err := d.write(ctx, v, updates, must)
	if authz.KindOf(err) == authz.Exists && (s.Key != "" || s.Consent != nil) {
		return d.created(ctx, s)
	}
	if err != nil {
		return none(err)
	}
	return out, rev, nil
}

// before returns what an earlier try with the same idempotency key wrote, if it is what is asked for; else a delegation that is not known.
func (d *Delegate) before(ctx context.Context, v *view, s Spec) (facts.Delegation, error) {
	if s.Key == "" {
		return facts.Delegation{}, nil
	}
	got, err := v.delegation(ctx, authz.DelegationID(d.mint(authz.TypeDelegation, s.Key, 0)))
	switch {
	case authz.KindOf(err) == authz.NotFound, err == nil && got.Issued.KeyDigest != d.keyDigest(s.Key, s.request()):
		return facts.Delegation{}, nil // also for what lies outside the bounds that the caller has now
	default:
		return got, err
	}
}

// created returns what an earlier try with the same idempotency key wrote, or one beside this one, if it is what is asked for. Else the key was
// used for another request, or the token of the consent for another delegation.
func (d *Delegate) created(ctx context.Context, s Spec) (facts.Delegation, authz.Revision, error) {
	none := func(err error) (facts.Delegation, authz.Revision, error) {
		return facts.Delegation{}, authz.Revision{}, err
	}
	v, err := d.look(ctx)
	if err != nil {
		return none(err)
	}
	if got, err := d.before(ctx, v, s); err != nil || got.Known {
		return got, v.snap.Revision(), err
	}
	if s.Consent != nil {
		if used, err := v.used(ctx, s.Consent.Token); err != nil {
			return none(err)
		} else if used {
			return none(consentUsed())
		}
	}
	return none(keyReused())
}

func keyReused() error {
	return authz.Errorf(authz.Exists, authz.ReasonIdempotencyConflict, "the idempotency key was used for another request")
}

// unused refuses the id of a session or a delegation that was purged. An idempotency key leads to the same id again.
func (v *view) unused(ctx context.Context, o authz.Object) error {
	rels, err := v.read(ctx, facts.MustBeUnused(o).Filter)
	if err == nil && len(rels) > 0 {
		err = keyReused()
	}
	return err
}

// check refuses what is wrong with the request by itself.
func (s *Spec) check(ctx context.Context, v *view) error {
	if err := checkKey(s.Key); err != nil {
		return err
	}
	switch {
	case s.TTL < 0, s.TTL == 0 && s.Parent == "" && s.Consent == nil:
		return authz.FieldErrorf("ttl", "must be positive")
	case s.TTL > MaxTTL:
		return authz.FieldErrorf("ttl", "is longer than %s", MaxTTL)
	case len(s.Scope) > MaxScope:
		return authz.FieldErrorf("scope", "has %d grants, more than %d", len(s.Scope), MaxScope)
	case s.Unscoped && len(s.Scope) > 0:
		return authz.FieldErrorf("unscoped", "contradicts a scope")
	}
	return checkScope(ctx, v, "scope", s.Scope)
}

// checkScope refuses grants that are not grants on domain objects: on core types, or through a
// relation that decides whose an object is. An object need not have been named before, unless the caller is confined: then it has to exist
// for it.
func checkScope(ctx context.Context, v *view, field string, scope []facts.Grant) error {
	if len(scope) == 0 {
		return nil
	}
	schema, err := v.snap.Schema(ctx)
	if err != nil {
		return err
	}
	schema = schema.Within(v.within)
	exist := map[authz.Object]bool{}
	for i, g := range scope {
		at := fmt.Sprintf("%s[%d]", field, i)
		t := schema.Types[g.Resource.Type]
		if t == nil {
			return &authz.Error{
				Kind: authz.Invalid, Reason: authz.ReasonUnknownType, Field: at + ".resource.object_type", Message: schema.NoType(g.Resource.Type),
			}
		}
		permission, known := t.Members[g.Relation]
		switch {
		case authz.IsCore(g.Resource.Type):
			return authz.FieldErrorf(at, "grants on a %s, which is not a domain object", g.Resource.Type)
		case !known || permission:
			return &authz.Error{
				Kind: authz.Invalid, Reason: authz.ReasonUnknownPermission, Field: at + ".relation", Message: t.NoRelation(g.Relation),
			}
		case t.FeedsTenant[g.Relation]:
			return authz.FieldErrorf(at, "grants %s#%s, from which the tenant of objects is computed", g.Resource.Type, g.Relation)
		case !t.Delegable[g.Relation]:
			return authz.FieldErrorf(at, "grants a relation that does not admit a delegation: %s", schema.Admitted(g.Resource.Type, g.Relation))
		}
		if exist[g.Resource] {
			continue
		}
		if exist[g.Resource], err = v.object(ctx, g.Resource, t); err != nil {
			return err
		}
		if !exist[g.Resource] {
			return authz.FieldErrorf(at+".resource", "names %s, which does not exist", authz.Show(g.Resource))
		}
	}
	return nil
}

// root completes and checks a delegation that a principal grants, or an admin for a set.
func (v *view) root(ctx context.Context, d *facts.Delegation) ([]authz.MustHold, error) {
	switch {
	case d.Tenant == "":
		return nil, authz.FieldErrorf("tenant_id", "is required")
	case d.Principal == authz.Subject{}:
		return nil, authz.FieldErrorf("principal", "is required")
	}
	if d.GrantedBy.IsZero() && !d.Set() && d.Principal.Type == authz.TypeUser {
		d.GrantedBy = d.Principal.Object
	}
	if d.GrantedBy.IsZero() && d.Set() {
		return nil, authz.FieldErrorf("granted_by", "is required for a set of principals: name an admin of the tenant")
	}
	if d.GrantedBy.IsZero() {
		return nil, authz.FieldErrorf("granted_by", "is required for a service: name an owner of it")
	}
	if d.GrantedBy.Type != authz.TypeUser {
		return nil, authz.FieldErrorf("granted_by", "must be a user")
	}
	must := facts.MustBeActive(d.Tenant.Object())
	if err := v.standing(ctx, d.Tenant.Object()); err != nil {
		return nil, err
	}
	var entitled authz.Filter
	switch {
	case d.Set():
		if d.Principal.Type != authz.TypeTenant || d.Principal.ID != string(d.Tenant) {
			return nil, authz.FieldErrorf("principal", "is a set of another tenant")
		}
		entitled = facts.Admin(d.Tenant, d.GrantedBy)
	case d.Principal.Type == authz.TypeService:
		entitled = facts.Owner(d.Principal.Object, d.GrantedBy)
	case d.GrantedBy != d.Principal.Object:
		return nil, notEntitled("a user's delegation is granted by the user itself")
	}
	if !d.Set() {
		if err := v.standing(ctx, d.Principal.Object); err != nil {
			return nil, err
		}
		must = append(must, facts.MustBeActive(d.Principal.Object)...)
	}
	if entitled == (authz.Filter{}) {
		return must, nil
	}
	exists, err := v.belongs(ctx, d.GrantedBy)
	if err != nil {
		return nil, err
	}
	rels, err := v.read(ctx, entitled)
	if err != nil {
		return nil, err
	}
	if !exists || !facts.Holds(rels, v.now) {
		return nil, notEntitled("granted_by is neither an owner of the service nor a direct admin of the tenant")
	}
	return append(must, authz.MustHold{Filter: entitled, Exists: true}), nil
}

func notEntitled(message string) error {
	return authz.Errorf(authz.Precondition, authz.ReasonNotEntitled, "%s", message)
}

// part completes and checks a delegation that is a part of another one.
func (v *view) part(ctx context.Context, d *facts.Delegation) ([]authz.MustHold, error) {
	chain, err := v.chain(ctx, d.Parent)
	if err != nil {
		return nil, err
	}
	parent := chain[0]
	for _, up := range chain {
		if !up.Live() {
			return nil, notActive("the parent delegation, or one above it, is not active")
		}
	}
	if d.Tenant == "" {
		d.Tenant = parent.Tenant
	}
	if d.GrantedBy.IsZero() {
		d.GrantedBy = parent.Agent.Object()
	}
	inherited := d.Principal == authz.Subject{}
	if inherited {
		d.Principal = parent.Principal
	}
	switch {
	case len(chain)+1 > facts.MaxDepth:
		return nil, authz.Errorf(authz.Precondition, authz.ReasonTooDeep, "a chain has at most %d delegations", facts.MaxDepth)
	case d.Tenant != parent.Tenant:
		return nil, authz.FieldErrorf("tenant_id", "is not the parent delegation's")
	case d.GrantedBy != parent.Agent.Object():
		return nil, notEntitled("a part of a delegation is granted by that delegation's agent")
	case d.Agent == parent.Agent:
		return nil, authz.FieldErrorf("agent_id", "is the parent delegation's own agent: start a session to narrow it")
	case d.AllowDirect && !mayAllowDirect(chain):
		return nil, authz.FieldErrorf("allow_direct", "is more than the parent delegation allows")
	}
	openEnded := d.Until.IsZero()
	for _, up := range chain {
		switch {
		case openEnded && (d.Until.IsZero() || up.Until.Before(d.Until)):
			d.Until = up.Until
		case up.Until.Before(d.Until):
			return nil, authz.FieldErrorf("ttl", "goes beyond the end of the parent delegation, or of one above it, at %s",
				up.Until.UTC().Format(time.RFC3339))
		}
	}
	if !inherited {
		if err := v.covered(ctx, chain, d.Principal); err != nil {
			return nil, err
		}
	}
	must := facts.MustBeActive(d.Parent.Object())
	if parent.Session != "" {
		must = append(must, facts.MustBeActive(parent.Session.Object())...)
	}
	// What is suspended passes nothing on, nor is anything passed on in its name: it would be live once that is resumed.
	if err := v.liveAgent(ctx, parent.Agent); err != nil {
		return nil, err
	}
	standing := []authz.Object{d.Tenant.Object()}
	if !d.Set() {
		standing = append(standing, d.Principal.Object)
	}
	for _, o := range standing {
		if err := v.standing(ctx, o); err != nil {
			return nil, err
		}
		must = append(must, facts.MustBeActive(o)...)
	}
	return append(must, facts.MustBeActive(parent.Agent.Object())...), nil
}

// mayAllowDirect reports whether a part of the first of the chain may act without a session: all up to
// one that a session backs have to.
func mayAllowDirect(chain []facts.Delegation) bool {
	for _, up := range chain {
		if up.Session != "" {
			return true
		}
		if !up.AllowDirect {
			return false
		}
	}
	return true
}

// covered refuses principals that a delegation of the chain does not cover.
func (v *view) covered(ctx context.Context, chain []facts.Delegation, principal authz.Subject) error {
	refused := authz.FieldErrorf("principal", "is not one that the parent delegation covers")
	for _, up := range chain {
		if up.Principal == principal {
			continue
		}
		p, concrete := authz.NewPrincipal(principal.Object)
		if !concrete || principal.Relation != "" || !up.Set() {
			return refused
		}
		if exists, err := v.exists(ctx, principal.Object); err != nil {
			return err
		} else if !exists {
			return refused
		}
		answers, err := v.snap.Check(ctx, []authz.Query{up.PrincipalQuery(p)})
		if err != nil {
			return err
		}
		switch answers[0].Outcome {
		case authz.Yes:
		case authz.Failed:
			return answers[0].Err
		default:
			return refused
		}
	}
	return nil
}

// chain reads a delegation and all above it, itself first, as far as a chain may be deep. One above it that is not there is not live.
func (v *view) chain(ctx context.Context, id authz.DelegationID) ([]facts.Delegation, error) {
	d, err := v.delegation(ctx, id)
	if err != nil {
		return nil, err
	}
	chain := []facts.Delegation{d}
	for d.Parent != "" && len(chain) <= facts.MaxDepth {
		if d, err = v.link(ctx, d.Parent); err != nil {
			return nil, err
		}
		chain = append(chain, d)
	}
	return chain, nil
}

// Delegation reads one delegation.
func (d *Delegate) Delegation(ctx context.Context, id authz.DelegationID) (facts.Delegation, authz.Revision, error) {
	v, err := d.look(ctx)
	if err != nil {
		return facts.Delegation{}, authz.Revision{}, err
	}
	out, err := v.delegation(ctx, id)
	if err != nil {
		return facts.Delegation{}, v.snap.Revision(), err
	}
	out, err = v.shown(ctx, out)
	return out, v.snap.Revision(), err
}
