package cli

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/fixture"
	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// outsider is a caller that is bound to one tenant and asks about others.
type outsider struct {
	// questions are those of other tenants that the story allows, to agents without a session.
	questions []*fixture.Decision
	tenant    string
	key       string
}

// outsiderOf finds what an outsider can ask in a story; nil if there is nothing. It is bound to the tenant that is named last but for that of
// the last question.
func outsiderOf(suite *fixture.Suite, key string) *outsider {
	var direct []*fixture.Decision
	tenants := map[string]bool{}
	for _, step := range suite.Steps {
		d := step.Decide
		if d == nil || d.Tenant == "" {
			continue
		}
		tenants[d.Tenant] = true
		if d.Session == "" && d.Delegation == "" && d.Expect == authz.HasPermission.String() {
			direct = append(direct, d)
		}
	}
	if len(direct) == 0 || len(tenants) < 2 {
		return nil
	}
	of := direct[len(direct)-1].Tenant
	delete(tenants, of)
	direct = slices.DeleteFunc(direct, func(d *fixture.Decision) bool { return d.Tenant != of })
	return &outsider{questions: direct, tenant: slices.Max(slices.Collect(maps.Keys(tenants))), key: key}
}

func (o *outsider) name() string { return o.tenant + "-service" }

// caller is the outsider as the server knows it.
func (o *outsider) caller() *caller.Caller {
	bounds := authz.Unbounded()
	bounds.Tenants = authz.NamesOf(o.tenant)
	return &caller.Caller{
		Name: o.name(), Roles: caller.RolesOf(deputy.Role_ROLE_CHECKER), Bounds: bounds, SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "demo", Key: sha256.Sum256([]byte(o.key))}},
	}
}

// with adds the outsider to the callers of a server.
func (o *outsider) with(cfg daemon.Config) daemon.Config {
	if o != nil {
		cfg.Callers = append(cfg.Callers, o.caller())
	}
	return cfg
}

// ask asks what a story asks, about a resource.
func ask(ctx context.Context, of *server, q *fixture.Decision, resource string) (*deputy.CheckPermissionResponse, error) {
	object, err := parseObject("RESOURCE", resource)
	if err != nil {
		return nil, err
	}
	principal, err := parseObject("--on-behalf-of", q.OnBehalfOf)
	if err != nil {
		return nil, err
	}
	return of.permissions.CheckPermission(ctx, &deputy.CheckPermissionRequest{
		AgentId: q.Agent, OnBehalfOf: principal, TenantId: q.Tenant, Resource: object, Permission: q.Permission,
	})
}

// allowed returns the last of the questions that a server still allows, or else the first, with its answer: what the story took back since is
// refused to everybody.
func (o *outsider) allowed(ctx context.Context, of *server) (q *fixture.Decision, answer *deputy.CheckPermissionResponse, err error) {
	for _, q = range slices.Backward(o.questions) {
		if answer, err = ask(ctx, of, q, q.Resource); err != nil {
			return nil, nil, err
		}
		if answer.GetPermissionship() == deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
			break
		}
	}
	return q, answer, nil
}

// answered shows what was asked by itself, and came to.
func answered(q *fixture.Decision, resource string, got *deputy.CheckPermissionResponse, want string) demoRow {
	row := demoRow{
		Agent: q.Agent, OnBehalfOf: q.OnBehalfOf, Tenant: q.Tenant, May: q.Permission + " " + resource,
		Permissionship: strings.TrimPrefix(got.GetPermissionship().String(), "PERMISSIONSHIP_"), Expected: want,
	}
	row.Answer = everyday(row.Permissionship)
	row.OK = row.Answer == want
	return row
}

// askOutside has the outsider ask what the service is allowed, and about an object that does not exist: it has to get one answer.
func (r *demoRun) askOutside(ctx context.Context, o *outsider) error {
	q, inside, err := o.allowed(ctx, r.service)
	if err != nil {
		return err
	}
	kind, _, _ := strings.Cut(q.Resource, ":")
	absent := kind + ":no-such-" + kind
	foreign, err := ask(ctx, r.outsider, q, q.Resource)
	if err != nil {
		return err
	}
	missing, err := ask(ctx, r.outsider, q, absent)
	if err != nil {
		return err
	}
	rows := []demoRow{answered(q, q.Resource, foreign, "refused"), answered(q, absent, missing, "refused")}
	for i := range rows {
		rows[i].Caller = o.name()
	}
	if still := answered(q, q.Resource, inside, "allowed"); !still.OK {
		rows = append(rows, still)
	}
	for _, answer := range []*deputy.CheckPermissionResponse{foreign, missing} {
		answer.DecisionId, answer.CheckedAt, answer.FreshAt = "", nil, nil
	}
	if rows[0].OK && !proto.Equal(foreign, missing) {
		rows[0].OK, rows[0].Answer = false, "refused otherwise than what does not exist"
	}
	stream, err := authzed.NewWatchServiceClient(r.outsider.conn).Watch(ctx, &authzed.WatchRequest{})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	watch := demoRow{Caller: o.name(), May: "watch what changes in all tenants", Answer: "allowed", Expected: "refused: " + authz.ReasonOutOfBounds}
	if err != nil {
		watch.Answer = "refused: " + errorInfo(status.Convert(err)).GetReason()
	}
	watch.OK = watch.Answer == watch.Expected
	r.sections = append(r.sections, demoSection{
		Title: fmt.Sprintf("A caller bound to %s asks about %s. To it, %[2]s's %[3]s is one that does not exist.", o.tenant, q.Tenant, kind),
		Rows:  append(rows, watch),
	})
	return nil
}
