package tokens

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/tests/harness"
)

// actors say how the provider's exchanged tokens name agents.
func (p provider) actors(t testing.TB) actor.Issuer {
	t.Helper()
	i := actor.Issuer{Issuer: p.issuer, Audiences: []string{"deputy"}, Types: []string{token.PlainType}}
	for kind, text := range map[actor.Kind]string{actor.Agent: "{act.sub}", actor.Principal: "user:{sub}", actor.Tenant: "{org_id}"} {
		parsed, err := actor.ParseTemplate(kind, text)
		if err != nil {
			t.Fatal(err)
		}
		*map[actor.Kind]*actor.Template{actor.Agent: &i.Agent, actor.Principal: &i.Principal, actor.Tenant: &i.Tenant}[kind] = parsed
	}
	return i
}

// world is a server that takes the provider's tokens of agents, with callers that have keys.
type world struct {
	*harness.Server

	provider provider
	// gateway may name agents without a token, and bound may not; both are checkers and delegators, gateway with an audience of its own.
	gateway, bound *grpc.ClientConn
	session        string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	p := startProvider(t)
	w := &world{provider: p}
	keyed := func(name string, of caller.ActorToken) *caller.Caller {
		return &caller.Caller{
			Name: name, Bounds: authz.Unbounded(), ActorToken: of,
			Roles:       caller.RolesOf(deputyv1.Role_ROLE_CHECKER, deputyv1.Role_ROLE_DELEGATOR, deputyv1.Role_ROLE_AUDITOR),
			Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(name + "-has-this-key-of-32-characters"))}},
		}
	}
	w.Server = harness.Start(t, daemon.Config{
		Engine: engine.Config{Kind: engine.Memory}, Issuers: []token.Issuer{p.config()}, Actors: []actor.Issuer{p.actors(t)},
		Callers: []*caller.Caller{keyed("gateway", caller.ActorToken{Audiences: []string{"gateway"}}), keyed("bound", caller.ActorToken{Required: true})},
	})
	w.gateway = harness.Dial(t, w.Addr().String(), "gateway-has-this-key-of-32-characters")
	w.bound = harness.Dial(t, w.Addr().String(), "bound-has-this-key-of-32-characters")
	w.session = furnish(t, w.Server)
	return w
}

// is asserts that a call is refused with a reason, about a field.
func is(t *testing.T, err error, code codes.Code, reason, field string) {
	t.Helper()
	info := statuses.Info(status.Convert(err))
	if status.Code(err) != code || info.GetReason() != reason || info.GetMetadata()["field"] != field {
		t.Errorf("%v, reason %s, field %q; want %s, %s, %q", err, info.GetReason(), info.GetMetadata()["field"], code, reason, field)
	}
}

const (
	invalid  = authz.ReasonActorTokenInvalid
	mismatch = authz.ReasonActorTokenMismatch
	required = authz.ReasonActorTokenRequired
)

// TestActorToken: an agent's token of a real provider stands for the names of agent, principal and tenant, and a request that says otherwise is refused.
// What the agent may do is the graph's to say.
func TestActorToken(t *testing.T) {
	w := newWorld(t)
	alice := w.provider.token(t, "alice@idp")
	raw := w.provider.actorToken(t, alice, "bot", "deputy", "acme")
	check := func(conn grpc.ClientConnInterface, change func(*deputyv1.CheckPermissionRequest)) (*deputyv1.CheckPermissionResponse, error) {
		r := &deputyv1.CheckPermissionRequest{
			ActorToken: raw, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: w.session}, Resource: harness.Ref("document:plan"), Permission: "view",
		}
		if change != nil {
			change(r)
		}
		return deputyv1.NewPermissionsServiceClient(conn).CheckPermission(t.Context(), r)
	}
	answers := func(name string, want deputyv1.Permissionship, change func(*deputyv1.CheckPermissionRequest)) {
		t.Helper()
		for _, conn := range []*grpc.ClientConn{w.gateway, w.bound} {
			d, err := check(conn, change)
			if err != nil || d.GetPermissionship() != want {
				t.Errorf("%s: %v, %v; want %s", name, d, err, want)
			}
		}
	}
	has, no := deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
	answers("the token alone", has, nil)
	answers("with the names that it says", has, func(r *deputyv1.CheckPermissionRequest) {
		r.AgentId, r.OnBehalfOf, r.TenantId = "bot", harness.Ref("user:alice"), "acme"
	})
	answers("an object that the agent may not view", no, func(r *deputyv1.CheckPermissionRequest) { r.Resource = harness.Ref("document:payroll") })
	other := w.provider.actorToken(t, w.provider.token(t, "bob@idp"), "bot", "deputy", "acme")
	answers("the token of bot for Bob, who has let it do nothing", no, func(r *deputyv1.CheckPermissionRequest) { r.ActorToken = other })
	thief := w.provider.actorToken(t, alice, "thief", "deputy", "acme")
	answers("the token of another agent, in the session of bot", no, func(r *deputyv1.CheckPermissionRequest) { r.ActorToken = thief })

	for field, change := range map[string]func(*deputyv1.CheckPermissionRequest){
		"agent_id":     func(r *deputyv1.CheckPermissionRequest) { r.AgentId = "thief" },
		"on_behalf_of": func(r *deputyv1.CheckPermissionRequest) { r.OnBehalfOf = harness.Ref("user:bob") },
		"tenant_id":    func(r *deputyv1.CheckPermissionRequest) { r.TenantId = "globex" },
	} {
		_, err := check(w.gateway, change)
		is(t, err, codes.PermissionDenied, mismatch, field)
	}
	service := func(r *deputyv1.CheckPermissionRequest) { r.OnBehalfOf = harness.Ref("service:alice") }
	_, err := check(w.gateway, service)
	is(t, err, codes.PermissionDenied, mismatch, "on_behalf_of")

	for name, wrong := range map[string]string{
		"for another service":  w.provider.actorToken(t, alice, "bot", "files", "acme"),
		"without an actor":     w.provider.token(t, "bot@deputy"),
		"without a tenant":     w.provider.actorToken(t, alice, "bot", "deputy", ""),
		"changed":              raw[:len(raw)-10] + "AAAAAAAAAA",
		"nothing of the kind":  "bot",
		"of nine actors":       w.nested(t, 9),
		"too long for a token": strings.Repeat("a", 9000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := check(w.gateway, func(r *deputyv1.CheckPermissionRequest) { r.ActorToken = wrong })
			is(t, err, codes.PermissionDenied, invalid, "actor_token")
			if strings.Contains(err.Error(), wrong) {
				t.Errorf("the token is shown: %v", err)
			}
		})
	}
	forGateway := w.provider.actorToken(t, alice, "bot", "gateway", "acme")
	if d, err := check(w.gateway, func(r *deputyv1.CheckPermissionRequest) { r.ActorToken = forGateway }); err != nil || d.GetPermissionship() != has {
		t.Errorf("a token that was made for the caller that sends it: %v, %v", d, err)
	}
	_, err = check(w.bound, func(r *deputyv1.CheckPermissionRequest) { r.ActorToken = forGateway })
	is(t, err, codes.PermissionDenied, invalid, "actor_token")

	bare := func(r *deputyv1.CheckPermissionRequest) { r.ActorToken, r.AgentId = "", "bot" }
	if d, err := check(w.gateway, bare); err != nil || d.GetPermissionship() != has {
		t.Errorf("a caller that may name agents: %v, %v", d, err)
	}
	_, err = check(w.bound, bare)
	is(t, err, codes.PermissionDenied, required, "actor_token")
}

// nested is a token that names so many actors, each of which has exchanged the token of the one before.
func (w *world) nested(t *testing.T, actors int) string {
	t.Helper()
	raw := w.provider.token(t, "alice@idp")
	for range actors - 1 {
		raw = w.provider.actorToken(t, raw, "planner", "idp", "acme")
	}
	return w.provider.actorToken(t, raw, "bot", "deputy", "acme")
}

// TestActorTokenEverywhere: each method that names an agent takes its token, and a caller that is bound to send one is refused without.
func TestActorTokenEverywhere(t *testing.T) {
	w := newWorld(t)
	alice := w.provider.token(t, "alice@idp")
	raw := w.provider.actorToken(t, alice, "bot", "deputy", "acme")
	bobs := w.provider.actorToken(t, w.provider.token(t, "bob@idp"), "bot", "deputy", "acme")
	permissions := deputyv1.NewPermissionsServiceClient(w.bound)
	plan := harness.Ref("document:plan")

	t.Run("valid until", func(t *testing.T) {
		d, err := permissions.CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{
			ActorToken: raw, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: w.session}, Resource: plan, Permission: "view",
		})
		// The session lasts an hour, and the provider's tokens five minutes.
		if ends := time.Until(d.GetValidUntil().AsTime()); err != nil || ends > 6*time.Minute || ends < time.Minute {
			t.Errorf("%v, %v: it is valid for %s; want the token's 5 m", d, err, ends)
		}
	})
	t.Run("bulk", func(t *testing.T) {
		item := func(own, document string) *deputyv1.CheckBulkPermissionsRequestItem {
			return &deputyv1.CheckBulkPermissionsRequestItem{
				ActorToken: own, Via: &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: w.session},
				Resource: harness.Ref("document:" + document), Permission: "view",
			}
		}
		ask := func(of string, items ...*deputyv1.CheckBulkPermissionsRequestItem) (*deputyv1.CheckBulkPermissionsResponse, error) {
			return permissions.CheckBulkPermissions(t.Context(), &deputyv1.CheckBulkPermissionsRequest{ActorToken: of, Items: items})
		}
		disagrees := item("", "plan")
		disagrees.AgentId = "thief"
		answer, err := ask(raw, item("", "plan"), item("", "payroll"), item(bobs, "plan"), item("nonsense", "plan"), disagrees)
		if err != nil || len(answer.GetPairs()) != 5 {
			t.Fatal(answer, err)
		}
		for i, want := range []string{"HAS", "NO", "NO", invalid, mismatch} {
			pair := answer.GetPairs()[i]
			got := strings.TrimSuffix(strings.TrimPrefix(pair.GetItem().GetPermissionship().String(), "PERMISSIONSHIP_"), "_PERMISSION")
			if pair.GetError() != nil {
				got = pair.GetError().GetReason()
			}
			if got != want {
				t.Errorf("item %d: %v; want %s", i, pair, want)
			}
			if pair.GetRequest().GetActorToken() != "" {
				t.Errorf("item %d: the answer shows the token", i)
			}
		}
		if answer, err := ask("", item(raw, "plan"), item("", "plan")); err != nil || answer.GetPairs()[1].GetError().GetReason() != required {
			t.Errorf("an item without a token: %v, %v", answer, err)
		}
		_, err = ask("nonsense", item("", "plan"))
		is(t, err, codes.PermissionDenied, invalid, "actor_token")
		// To verify tokens takes long, so that one call can carry a hundred: here one for all, and 99 of items.
		var many []*deputyv1.CheckBulkPermissionsRequestItem
		for i := range 99 {
			many = append(many, item(fmt.Sprint("nonsense ", i), "plan"), item(fmt.Sprint("nonsense ", i), "plan"), item("", "plan"))
		}
		answer, err = ask(raw, many...)
		if err != nil || answer.GetPairs()[0].GetError().GetReason() != invalid || answer.GetPairs()[296].GetItem() == nil {
			t.Errorf("a hundred tokens: %v, %v", answer, err)
		}
		_, err = ask(raw, append(many, item("nonsense 99", "plan"))...)
		is(t, err, codes.InvalidArgument, authz.ReasonInvalidField, "items")
	})
	t.Run("watch", func(t *testing.T) {
		ask := func(raw string) (*deputyv1.WatchPermissionResponse, error) {
			ctx, end := context.WithCancel(t.Context())
			defer end()
			stream, err := permissions.WatchPermission(ctx, &deputyv1.WatchPermissionRequest{Check: &deputyv1.CheckPermissionRequest{
				ActorToken: raw, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: w.session}, Resource: plan, Permission: "view",
			}})
			if err != nil {
				return nil, err
			}
			return stream.Recv()
		}
		d, err := ask(raw)
		if ends := time.Until(d.GetDecision().GetValidUntil().AsTime()); err != nil || ends > 6*time.Minute || ends < time.Minute {
			t.Errorf("%v, %v: it is valid for %s; want the token's 5 m", d, err, ends)
		}
		_, err = ask("")
		is(t, err, codes.PermissionDenied, required, "actor_token")
	})
	t.Run("filter", func(t *testing.T) {
		ask := func(raw string) (*deputyv1.FilterResourcesResponse, error) {
			return permissions.FilterResources(t.Context(), &deputyv1.FilterResourcesRequest{
				ActorToken: raw, Via: &deputyv1.FilterResourcesRequest_SessionId{SessionId: w.session}, ResourceObjectType: "document",
				ResourceObjectIds: []string{"plan", "payroll"}, Permission: "view",
			})
		}
		if answer, err := ask(raw); err != nil || strings.Join(answer.GetAllowedObjectIds(), " ") != "plan" {
			t.Errorf("%v, %v", answer, err)
		}
		_, err := ask("")
		is(t, err, codes.PermissionDenied, required, "actor_token")
	})
	t.Run("lookup", func(t *testing.T) {
		ask := func(raw string) (found []string, err error) {
			stream, err := permissions.LookupResources(t.Context(), &deputyv1.LookupResourcesRequest{
				ActorToken: raw, Via: &deputyv1.LookupResourcesRequest_SessionId{SessionId: w.session}, ResourceObjectType: "document", Permission: "view",
			})
			for err == nil {
				var m *deputyv1.LookupResourcesResponse
				if m, err = stream.Recv(); err == nil && m.GetResource() != nil {
					found = append(found, m.GetResource().GetResource().GetObjectId())
				}
			}
			return found, err
		}
		if found, err := ask(raw); err.Error() != "EOF" || strings.Join(found, " ") != "plan" {
			t.Errorf("%v, %v", found, err)
		}
		_, err := ask("")
		is(t, err, codes.PermissionDenied, required, "actor_token")
	})
	t.Run("explain", func(t *testing.T) {
		ask := func(raw string) (*deputyv1.ExplainPermissionResponse, error) {
			return permissions.ExplainPermission(t.Context(), &deputyv1.ExplainPermissionRequest{Check: &deputyv1.CheckPermissionRequest{
				AgentId: "bot", ActorToken: raw, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: w.session}, Resource: plan, Permission: "view",
			}})
		}
		for _, one := range []string{raw, ""} { // an auditor has no tokens
			if answer, err := ask(one); err != nil || answer.GetDecision().GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
				t.Errorf("%v, %v", answer, err)
			}
		}
		_, err := ask("nonsense")
		is(t, err, codes.PermissionDenied, invalid, "actor_token")
	})

	created, err := w.Delegations().CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "bot", Principal: &deputyv1.SubjectReference{Object: harness.Ref("tenant:acme"), OptionalRelation: "member"}, TenantId: "acme", Unscoped: true,
		GrantedBy: harness.Ref("user:dana"), Ttl: durationpb.New(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	delegation := created.GetDelegation().GetDelegationId()
	t.Run("session", func(t *testing.T) {
		ask := func(raw string, principals ...*deputyv1.ObjectReference) (*deputyv1.StartSessionResponse, error) {
			return deputyv1.NewSessionsServiceClient(w.bound).StartSession(t.Context(), &deputyv1.StartSessionRequest{
				ActorToken: raw, Targets: []*deputyv1.SessionTarget{{DelegationId: delegation, Principals: principals}},
			})
		}
		answer, err := ask(raw)
		if leaves := answer.GetSession().GetLeaves(); err != nil || len(leaves) != 1 || leaves[0].GetPrincipal().GetObjectId() != "alice" {
			t.Errorf("a session under a delegation for all members: %v, %v; want it for alice alone", answer, err)
		}
		_, err = ask(raw, harness.Ref("user:alice"), harness.Ref("user:bob"))
		is(t, err, codes.PermissionDenied, mismatch, "targets[0].principals[1]")
		_, err = ask("")
		is(t, err, codes.PermissionDenied, required, "actor_token")
		_, err = ask(w.provider.actorToken(t, alice, "bot", "deputy", "globex"))
		is(t, err, codes.InvalidArgument, authz.ReasonInvalidField, "targets[0].delegation_id")
	})
	t.Run("delegation", func(t *testing.T) {
		ask := func(raw string, change func(*deputyv1.CreateDelegationRequest)) (*deputyv1.CreateDelegationResponse, error) {
			r := &deputyv1.CreateDelegationRequest{AgentId: "helper", ActorToken: raw, ParentDelegationId: delegation, Unscoped: true}
			if change != nil {
				change(r)
			}
			return deputyv1.NewDelegationsServiceClient(w.bound).CreateDelegation(t.Context(), r)
		}
		answer, err := ask(raw, nil)
		if of := answer.GetDelegation(); err != nil || of.GetAgentId() != "helper" || of.GetGrantedBy().GetObjectId() != "bot" ||
			of.GetPrincipal().GetObject().GetObjectId() != "alice" {
			t.Errorf("a part of bot's delegation: %v, %v; want it granted by bot, for alice alone", answer, err)
		}
		_, err = ask(w.provider.actorToken(t, alice, "thief", "deputy", "acme"), nil)
		is(t, err, codes.FailedPrecondition, authz.ReasonNotEntitled, "")
		_, err = ask(raw, func(r *deputyv1.CreateDelegationRequest) {
			r.Principal = &deputyv1.SubjectReference{Object: harness.Ref("tenant:acme"), OptionalRelation: "member"}
		})
		is(t, err, codes.PermissionDenied, mismatch, "principal")
		_, err = ask(raw, func(r *deputyv1.CreateDelegationRequest) { r.ParentDelegationId = "" })
		is(t, err, codes.PermissionDenied, mismatch, "agent_id")
		_, err = ask("", nil)
		is(t, err, codes.PermissionDenied, required, "actor_token")
	})
}

// TestActorTokenOfAnAgent: an agent that the callers file binds to its token acts with no bare name, whichever caller says it, and passes nothing on.
func TestActorTokenOfAnAgent(t *testing.T) {
	p := startProvider(t)
	dir := t.TempDir()
	resp, err := http.Get(p.issuer + "/keys")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "jwks.json"), keys, 0o600); err != nil {
		t.Fatal(err)
	}
	const key = "gateway-has-this-key-of-32-characters"
	file := filepath.Join(dir, "callers.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
issuers:
  - issuer: %s
    algorithms: [RS256]
    jwks_file: jwks.json
    actors: {audiences: [deputy], types: [JWT], agent: "{act.sub}", principal: "user:{sub}", tenant: "{org_id}"}
agents:
  - {id: bot, actor_token: required}
  - {prefix: idp/, actor_token: required}
callers:
  - {name: gateway, roles: [checker, delegator, auditor], tenants: all, vouch: true, credentials: [{id: key, key: "sha256:%x"}]}
`, p.issuer, sha256.Sum256([]byte(key))), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := harness.Embedded(t)
	s := harness.Start(t, daemon.Config{
		Engine: cfg, CallersPath: file, PresharedKeys: []string{harness.ServiceKey}, AdminPresharedKeys: []string{harness.AdminKey},
	})
	gateway := harness.Dial(t, s.Addr().String(), key)
	raw := p.actorToken(t, p.nestedSubject(t), "bot", "deputy", "acme")
	furnished := furnish(t, s, raw)
	check := func(agent, raw string) (*deputyv1.CheckPermissionResponse, error) {
		return deputyv1.NewPermissionsServiceClient(gateway).CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{
			AgentId: agent, ActorToken: raw, Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: furnished}, Resource: harness.Ref("document:plan"),
			Permission: "view",
		})
	}
	for _, bare := range []string{"bot", "idp/other"} {
		_, err := check(bare, "")
		is(t, err, codes.PermissionDenied, required, "actor_token")
	}
	if _, err := check("helper", ""); err != nil {
		t.Errorf("another agent: %v", err)
	}
	decision, err := check("", raw)
	if err != nil || decision.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
		t.Errorf("with its token: %v, %v", decision, err)
	}
	started, err := deputyv1.NewSessionsServiceClient(gateway).GetSession(t.Context(), &deputyv1.GetSessionRequest{SessionId: furnished})
	if err != nil {
		t.Fatal(err)
	}
	_, err = deputyv1.NewDelegationsServiceClient(gateway).CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "helper", ParentDelegationId: started.GetSession().GetLeaves()[0].GetDelegationId(), Unscoped: true,
	})
	is(t, err, codes.PermissionDenied, required, "actor_token")

	// The journal says which token it was and who acted before, and does not have the token.
	stream, err := deputyv1.NewJournalServiceClient(gateway).GetRecord(t.Context(), &deputyv1.GetRecordRequest{DecisionId: decision.GetDecisionId()})
	if err != nil {
		t.Fatal(err)
	}
	of := stream.GetRecord().GetRecord().GetActorToken()
	if digest := sha256.Sum256([]byte(raw)); of.GetIssuer() != p.issuer || !bytes.Equal(of.GetDigest(), digest[:]) || of.GetTokenId() == "" ||
		len(of.GetPriorActors()) != 1 || of.GetPriorActors()[0].GetSubject() != "planner" {
		t.Errorf("the record says %v of the token", of)
	}
	if record := stream.GetRecord().GetRecord(); record.GetAgentId() != "bot" || record.GetPrincipalId() != "alice" {
		t.Errorf("the record names %s and %s", record.GetAgentId(), record.GetPrincipalId())
	}
	signature := raw[strings.LastIndexByte(raw, '.')+1:]
	if err := filepath.WalkDir(cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && bytes.Contains(text, []byte(signature)) {
			t.Errorf("%s holds the token", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// nestedSubject is a token of Alice's in which planner acts.
func (p provider) nestedSubject(t testing.TB) string {
	return p.actorToken(t, p.token(t, "alice@idp"), "planner", "idp", "acme")
}
