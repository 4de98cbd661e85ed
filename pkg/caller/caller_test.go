package caller

import (
	"errors"
	"slices"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

const (
	checker   = deputyv1.Role_ROLE_CHECKER
	writer    = deputyv1.Role_ROLE_WRITER
	organizer = deputyv1.Role_ROLE_ORGANIZER
	responder = deputyv1.Role_ROLE_RESPONDER
	admin     = deputyv1.Role_ROLE_ADMIN
)

// bounded is Unbounded with a change.
func bounded(change func(*authz.Bounds)) *authz.Bounds {
	b := authz.Unbounded()
	change(b)
	return b
}

func reasonOf(err error) string {
	if e, ok := errors.AsType[*authz.Error](err); ok {
		return e.Reason
	}
	return ""
}

// TestMay: what a method asks of roles and bounds, a branch each.
func TestMay(t *testing.T) {
	t.Parallel()
	ofAcme := bounded(func(b *authz.Bounds) { b.Tenants = authz.NamesOf("acme") })
	ofNotes := bounded(func(b *authz.Bounds) { b.Objects = authz.NamesOf("note") })
	somebody := func(within *authz.Bounds, spicedb authz.Names, roles ...Role) *Caller {
		return &Caller{Name: "billing", Roles: RolesOf(roles...), Bounds: within, SpiceDB: spicedb}
	}
	everything := somebody(authz.Unbounded(), authz.AllNames(), admin)
	checks := somebody(authz.Unbounded(), authz.NamesOf("CheckPermission"), checker)
	of := func(change func(*Method)) *Method {
		m := &Method{Full: "/authzed.api.v1.PermissionsService/CheckPermission", Roles: RolesOf(checker)}
		change(m)
		return m
	}
	asIs := of(func(*Method) {})
	anyRole := of(func(m *Method) { m.Roles, m.AnyRole = 0, true })
	spicedb := of(func(m *Method) { m.SpiceDB = true })
	allTenants, allTypes := of(func(m *Method) { m.AllTenants = true }), of(func(m *Method) { m.AllTypes = true })
	nobodys := of(func(m *Method) { m.Roles = 0 })
	for name, c := range map[string]struct {
		who    *Caller
		method *Method
		kind   authz.Kind
		reason string
	}{
		"no such method":                      {everything, nil, authz.Denied, authz.ReasonRoleRequired},
		"open, to nobody":                     {nil, of(func(m *Method) { m.Open = true }), 0, ""},
		"nobody, where any role does":         {&Caller{}, anyRole, authz.Unauthenticated, authz.ReasonUnauthenticated},
		"nobody with all roles":               {&Caller{Roles: RolesOf(admin), Bounds: authz.Unbounded()}, asIs, authz.Unauthenticated, authz.ReasonUnauthenticated},
		"no role, where any does":             {somebody(nil, authz.Names{}), anyRole, 0, ""},
		"a method that no role opens":         {everything, nobodys, authz.Denied, authz.ReasonRoleRequired},
		"no role":                             {somebody(authz.Unbounded(), authz.AllNames()), asIs, authz.Denied, authz.ReasonRoleRequired},
		"another role":                        {somebody(authz.Unbounded(), authz.AllNames(), writer, responder), asIs, authz.Denied, authz.ReasonRoleRequired},
		"the role":                            {checks, asIs, 0, ""},
		"the role among others":               {somebody(nil, authz.Names{}, writer, checker), asIs, 0, ""},
		"the admin's role":                    {everything, asIs, 0, ""},
		"SpiceDB's, opened":                   {checks, spicedb, 0, ""},
		"SpiceDB's, another one opened":       {somebody(authz.Unbounded(), authz.NamesOf("Watch"), checker), spicedb, authz.Denied, authz.ReasonOutOfBounds},
		"SpiceDB's, none opened to an admin":  {somebody(authz.Unbounded(), authz.Names{}, admin), spicedb, authz.Denied, authz.ReasonOutOfBounds},
		"all tenants":                         {checks, allTenants, 0, ""},
		"all tenants, confined":               {somebody(ofAcme, authz.AllNames(), checker), allTenants, authz.Denied, authz.ReasonOutOfBounds},
		"all tenants, a confined admin":       {somebody(ofAcme, authz.AllNames(), admin), allTenants, authz.Denied, authz.ReasonOutOfBounds},
		"all tenants, no bounds":              {somebody(nil, authz.AllNames(), admin), allTenants, authz.Denied, authz.ReasonOutOfBounds},
		"all tenants, bound to types":         {somebody(ofNotes, authz.AllNames(), checker), allTenants, 0, ""},
		"all types":                           {checks, allTypes, 0, ""},
		"all types, bound to some":            {somebody(ofNotes, authz.AllNames(), admin), allTypes, authz.Denied, authz.ReasonOutOfBounds},
		"all types, confined but to no types": {somebody(ofAcme, authz.AllNames(), checker), allTypes, 0, ""},
	} {
		err := c.who.May(c.method)
		if c.kind == 0 && err != nil || c.kind != 0 && (authz.KindOf(err) != c.kind || reasonOf(err) != c.reason) {
			t.Errorf("%s: %v, want %v %s", name, err, c.kind, c.reason)
		}
	}
}

// TestNobodyMayCall: the zero Caller, nil, and the caller of a context without one are refused every method but the open ones, which are
// health's; and a name alone opens no more than reflection.
func TestNobodyMayCall(t *testing.T) {
	t.Parallel()
	open := map[string]bool{}
	for _, name := range []string{"Check", "List", "Watch"} {
		open["/grpc.health.v1.Health/"+name] = true
	}
	anyRole := map[string]bool{
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": true, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": true,
	}
	if len(Methods()) < 50 {
		t.Fatalf("%d methods, so that nothing is shown", len(Methods()))
	}
	for full, m := range Methods() {
		for name, nobody := range map[string]*Caller{"the zero Caller": {}, "nil": nil, "a context's": Of(t.Context()), "nil in a context": Of(With(t.Context(), nil))} {
			if err := nobody.May(m); open[full] != (err == nil) || err != nil && authz.KindOf(err) != authz.Unauthenticated {
				t.Errorf("%s calls %s: %v", name, full, err)
			}
			if nobody.Known() || nobody.Brakes() || nobody.Administers() || nobody.Organizes() || nobody.Covers(nobody) {
				t.Errorf("%s is somebody", name)
			}
		}
		if err := (&Caller{Name: "billing"}).May(m); (open[full] || anyRole[full]) != (err == nil) || err != nil && authz.KindOf(err) != authz.Denied {
			t.Errorf("a name alone calls %s: %v", full, err)
		}
		if err := (&Caller{Name: "billing", Roles: RolesOf(admin)}).May(m); err == nil && (m.SpiceDB || m.AllTenants || m.AllTypes) {
			t.Errorf("an admin without bounds calls %s", full)
		}
	}
	if MethodOf("/deputy.v1.PermissionsService/NoSuchMethod") != nil {
		t.Error("a method that is not there is known")
	}
}

// TestCovers: only what leaves a caller all that it could do goes on.
func TestCovers(t *testing.T) {
	t.Parallel()
	was := func(change func(*Caller)) *Caller {
		c := &Caller{
			Name: "billing", Roles: RolesOf(checker, writer), SpiceDB: authz.NamesOf("Watch"),
			Bounds: bounded(func(b *authz.Bounds) { b.Tenants = authz.NamesOf("acme") }),
		}
		change(c)
		return c
	}
	for name, c := range map[string]struct {
		change func(*Caller)
		want   bool
	}{
		"the same":               {func(*Caller) {}, true},
		"another name":           {func(c *Caller) { c.Name = "audit" }, false},
		"no name":                {func(c *Caller) { c.Name = "" }, false},
		"a role more":            {func(c *Caller) { c.Roles |= RolesOf(responder) }, true},
		"a role less":            {func(c *Caller) { c.Roles = RolesOf(checker) }, false},
		"the admin's instead":    {func(c *Caller) { c.Roles = RolesOf(admin) }, true},
		"all tenants":            {func(c *Caller) { c.Bounds = authz.Unbounded() }, true},
		"another tenant":         {func(c *Caller) { c.Bounds = bounded(func(b *authz.Bounds) { b.Tenants = authz.NamesOf("globex") }) }, false},
		"no bounds":              {func(c *Caller) { c.Bounds = nil }, false},
		"all SpiceDB's methods":  {func(c *Caller) { c.SpiceDB = authz.AllNames() }, true},
		"none of them":           {func(c *Caller) { c.SpiceDB = authz.Names{} }, false},
		"other credentials only": {func(c *Caller) { c.Credentials = []Credential{{ID: "k"}} }, true},
	} {
		if got := was(c.change).Covers(was(func(*Caller) {})); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if was(func(*Caller) {}).Covers(nil) {
		t.Error("it covers nobody")
	}
}

// TestRoles: the admin's role is every other one, and the unspecified one is none.
func TestRoles(t *testing.T) {
	t.Parallel()
	none, two, all := RolesOf(deputyv1.Role_ROLE_UNSPECIFIED, -1, 16), RolesOf(writer, checker), RolesOf(admin)
	if none != 0 || none.Any(two) || two.Any(none) || all.Any(none) || none.String() != "" || none.covers(two) || !two.covers(none) || !all.covers(two) || two.covers(all) {
		t.Error("no roles are some")
	}
	for i := deputyv1.Role_ROLE_UNSPECIFIED; int(i) < len(deputyv1.Role_name); i++ {
		if want := i == checker || i == writer; two.Has(i) != want || two.Any(RolesOf(i)) != want {
			t.Errorf("checker and writer have %s: %v", i, two.Has(i))
		}
		if want := i != deputyv1.Role_ROLE_UNSPECIFIED; all.Has(i) != want || none.Has(i) {
			t.Errorf("the admin has %s: %v, nobody: %v", i, all.Has(i), none.Has(i))
		}
		if i == 0 {
			continue
		}
		if got, err := ParseRole(RoleName(i)); err != nil || got != i {
			t.Errorf("%s is read as %s, %v", RoleName(i), got, err)
		}
	}
	if two.String() != "checker, writer" || !slices.Equal(two.List(), []Role{checker, writer}) {
		t.Errorf("they are %q, %v", two, two.List())
	}
	if got, err := ParseRole("cheker"); err == nil || got != 0 {
		t.Errorf("a role that is none is %s", got)
	}
	for role, marks := range map[Role][3]bool{admin: {true, true, true}, responder: {true, false, false}, organizer: {false, false, true}, checker: {}} {
		c := &Caller{Name: "x", Roles: RolesOf(role), Bounds: authz.Unbounded()}
		if got := [3]bool{c.Brakes(), c.Administers(), c.Organizes()}; got != marks {
			t.Errorf("%s brakes, administers, organizes: %v, want %v", role, got, marks)
		}
	}
}
