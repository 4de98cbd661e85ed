package bench

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"testing"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/daemon"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// The caller that is measured beside the service, by each of its credentials.
const (
	callerName = "desk"
	callerKey  = "the-key-of-desk"
	callerID   = "spiffe://example.org/desk"
)

// boundedCaller is a caller with a role and bounds of every kind, which hold all that is asked.
func boundedCaller(g graph, credentials ...caller.Credential) *caller.Caller {
	var tenants, agents []string
	for t := range g.tenants {
		tenants, agents = append(tenants, tenant(t)), append(agents, agent(t, 0))
	}
	return &caller.Caller{
		Name: callerName, Roles: caller.RolesOf(deputyv1.Role_ROLE_CHECKER),
		Bounds: &authz.Bounds{
			Tenants: authz.NamesOf(tenants...), Agents: authz.NamesOf(agents...), Principals: authz.NamesOf("user"),
			Objects: authz.NamesOf("document"), IDs: authz.PrefixesOf("t"),
		},
		Credentials: append([]caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(callerKey))}}, credentials...),
	}
}

// TestCallers measures what it costs to know who calls: a caller with roles and bounds beside the service's preshared key, a client
// certificate beside TLS alone, a token beside a key, and counting the calls beside not counting them.
func TestCallers(t *testing.T) {
	g := sized(scaled(87_300, 5_000))
	rounds := scaled(11, 1)
	open := func(cfg daemon.Config) *harness.Server {
		cfg.Engine, cfg.Callers = harness.Embedded(t), append(cfg.Callers, boundedCaller(g))
		cfg.Engine.CacheBytes = 0
		return harness.Start(t, cfg)
	}
	asks := func(conn grpc.ClientConnInterface, draw drawing) asking {
		return decide(deputyv1.NewPermissionsServiceClient(conn), draw)
	}
	// beside measures two contenders in turns, and says how many times as long as the first one's a call of the second takes.
	beside := func(what string, most float64, one, other contender) {
		for _, workers := range []int{1, 32} {
			r := contest(t, what, workers, rounds, []contender{one, other})
			name := other.name + " / " + one.name + ", time of a call" + workersOf(other, workers)
			if most == 0 {
				add(t, name, r.slower(other.name, one.name), "")
				continue
			}
			atMost(t, name, r.slower(other.name, one.name), "", most)
		}
	}

	plain := open(daemon.Config{})
	addr := plain.Addr().String()
	d := dialDeputy(t, addr)
	draw := cold(d.settle(t, g))
	service := contender{name: "the service's key", ask: asks(d.service, draw)}
	bounded := contender{name: "a caller with roles and bounds", ask: asks(harness.Dial(t, addr, callerKey), draw)}
	agree(t, 60, []contender{{}, service, bounded})
	beside("decisions over loopback", 1.05, service, bounded)

	// In the process nothing is left of a call but the decision.
	inProcess := func(as *daemon.InProcess) asking {
		return func(ctx context.Context, r *rand.Rand) (bool, error) {
			q := draw(r)
			decision, err := as.Decide(ctx, authz.Case{
				Agent: authz.AgentID(q.agent), Session: authz.SessionID(q.session),
				Resource: authz.Object{Type: "document", ID: q.document}, Permission: "view",
			}, authz.Freshness{})
			return decision.Permissionship == authz.HasPermission, err
		}
	}
	program := contender{name: "the program itself", ask: inProcess(plain.InProcess())}
	boundedHere := contender{name: "as a caller with roles and bounds", ask: inProcess(plain.As(boundedCaller(g)))}
	agree(t, 60, []contender{{}, program, boundedHere})
	beside("decisions in process", 1.05, program, boundedHere)

	// Another server has another store, so the third one shows what that alone makes of a ratio.
	another := func(name string, cfg daemon.Config) contender {
		d := dialDeputy(t, open(cfg).Addr().String())
		return contender{name: name, ask: asks(d.service, cold(d.settle(t, g)))}
	}
	beside("decisions over loopback, counted", 1.05, service, another("with --metrics-addr", daemon.Config{MetricsAddr: "127.0.0.1:0"}))
	beside("decisions over loopback, another server", 0, service, another("another server without", daemon.Config{}))

	authority, issuer, dir := harness.NewAuthority(t, "bench"), harness.NewIssuer(t), t.TempDir()
	cfg := harness.TLS(t, dir, authority, true, daemon.Config{Issuers: []token.Issuer{issuer.Known(t, dir)}})
	cfg.Engine = harness.Embedded(t)
	cfg.Engine.CacheBytes = 0
	cfg.Callers = []*caller.Caller{boundedCaller(g, caller.Credential{ID: "svid", SPIFFE: callerID}, issuer.Credential(callerName))}
	secured := harness.Start(t, cfg)
	addr = secured.Addr().String()
	ds := deputy{
		service: secured.Service, admin: secured.Admin, decisions: deputyv1.NewPermissionsServiceClient(secured.Service),
		checks: spicedb{v1.NewPermissionsServiceClient(secured.Admin)},
	}
	drawSecured := cold(ds.settle(t, g))
	byKey := contender{name: "TLS and a key", ask: asks(harness.DialTLS(t, addr, callerKey, authority), drawSecured)}
	byCertificate := contender{
		name: "mTLS and no key",
		ask:  asks(harness.DialTLS(t, addr, "", authority, authority.Issue(t, harness.ForURI(callerID))), drawSecured),
	}
	byToken := contender{name: "TLS and a JWT", ask: asks(harness.DialTLS(t, addr, issuer.Token(t, callerName), authority), drawSecured)}
	agree(t, 60, []contender{{}, byKey, byCertificate, byToken})
	beside("decisions over loopback, TLS", 1.05, byKey, byCertificate)
	beside("decisions over loopback, tokens", 1.1, byKey, byToken)
}
