package consent

import (
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/token"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestConsent: a caller that may not vouch creates a delegation with the person's token, by either form, and the agent acts for the person then, until
// the token ends. Without a token it creates none.
func TestConsent(t *testing.T) {
	w := newWorld(t, harness.Embedded(t))
	desk := w.dial(t, deskKey)
	_, err := desk.CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "triage-bot", TenantId: "acme", Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")}, Unscoped: true, Ttl: durationpb.New(time.Hour),
	})
	if code, reason := outcome(err); code != codes.PermissionDenied || reason != "OUT_OF_BOUNDS" || !strings.Contains(err.Error(), "consent_token") {
		t.Errorf("without a token: %v", err)
	}
	byScope := w.issuer.Claims("alice", map[string]any{
		"aud": []string{"https://elsewhere.example.com", audience}, "scope": "openid deputy:delegate:triage-bot:acme:on=document%3Aplan%23reader:unscoped:direct:ttl=600 email",
	})
	for name, c := range map[string]struct {
		token string
		most  time.Duration
	}{
		"details": {w.consent(t, map[string]any{"unscoped": true, "allow_direct": true, "locations": []string{audience}}), time.Hour},
		"a scope": {w.issuer.Sign(t, token.DefaultType, byScope), 10 * time.Minute},
	} {
		r := asks(c.token)
		r.Unscoped, r.AllowDirect = true, true
		made, err := desk.CreateDelegation(t.Context(), r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d := made.GetDelegation()
		ends := time.Until(d.GetExpiresAt().AsTime())
		if d.GetPrincipal().GetObject().GetObjectId() != "alice" || d.GetGrantedBy().GetObjectId() != "alice" || d.GetTenantId() != "acme" || ends > c.most ||
			ends < c.most-5*time.Minute {
			t.Errorf("%s: %v", name, d)
		}
		check, err := w.Permissions().CheckPermission(t.Context(), &deputyv1.CheckPermissionRequest{
			AgentId: "triage-bot", Via: &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: d.GetDelegationId()}, Resource: harness.Ref("document:plan"),
			Permission: "view",
		})
		if err != nil || check.GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
			t.Errorf("%s: %v, %v", name, check, err)
		}
	}
}

// TestNoConsent: tokens that consent to nothing, or to something else than is asked for. Each is one claim, or one field, away from one that
// consents. None of them is used up by being refused.
func TestNoConsent(t *testing.T) {
	w := newWorld(t, harness.Embedded(t))
	desk, vouching := w.dial(t, deskKey), w.dial(t, harness.AdminKey)
	const invalid, more = "CONSENT_TOKEN_INVALID", "NOT_CONSENTED"
	claim := func(name string, value any) func(map[string]any) {
		return func(c map[string]any) {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		}
	}
	detail := func(name string, value any) func(map[string]any) {
		return func(c map[string]any) { c["authorization_details"].([]any)[0].(map[string]any)[name] = value }
	}
	ask := func(change func(*deputyv1.CreateDelegationRequest)) func(*deputyv1.CreateDelegationRequest) {
		return change
	}
	subject := func(text string) *deputyv1.SubjectReference {
		return &deputyv1.SubjectReference{Object: harness.Ref(text)}
	}
	for name, c := range map[string]struct {
		says   func(map[string]any)
		typ    string
		asks   func(*deputyv1.CreateDelegationRequest)
		reason string
	}{
		"all is well":                      {},
		"who may act for the person":       {says: claim("may_act", map[string]any{"sub": "triage-bot"})},
		"on behalf of the person":          {says: claim("act", map[string]any{"sub": "triage-bot"}), reason: invalid},
		"on behalf of the person, by null": {says: claim("act", json.RawMessage("null")), reason: invalid},
		"the agent's own, by client":       {says: claim("client_id", "alice"), reason: invalid},
		"the agent's own, by azp":          {says: claim("azp", "alice"), reason: invalid},
		"the agent's own, by its profile":  {says: claim("sub_profile", "ai_agent"), reason: invalid},
		"an application's":                 {says: claim("idtyp", "app"), reason: invalid},
		"by client credentials":            {says: claim("gty", "client-credentials"), reason: invalid},
		"an application, by a list":        {says: claim("idtyp", []string{"user"}), reason: invalid},
		"by client_credentials":            {says: claim("gty", "client_credentials"), reason: invalid},
		"a person's, by all that says it": {says: func(c map[string]any) {
			c["idtyp"], c["gty"], c["sub_profile"] = "user", "password", "user"
		}},
		"an agent's, among what says otherwise": {says: func(c map[string]any) {
			c["idtyp"], c["gty"], c["sub_profile"] = "user", "password", "service"
		}, reason: invalid},
		"the client is its subject, by appid": {says: claim("appid", "alice"), reason: invalid},
		"two consents in its details": {says: func(c map[string]any) {
			one := maps.Clone(c["authorization_details"].([]any)[0].(map[string]any))
			c["authorization_details"] = append(c["authorization_details"].([]any), one)
		}, reason: invalid},
		"two consents in its scopes": {says: func(c map[string]any) {
			delete(c, "authorization_details")
			c["scope"] = "deputy:delegate:triage-bot:acme deputy:delegate:triage-bot:acme:direct"
		}, reason: invalid},
		"two consents, in scope and scp": {says: func(c map[string]any) {
			delete(c, "authorization_details")
			c["scope"], c["scp"] = "deputy:delegate:triage-bot:acme", []string{"deputy:delegate:other-bot:acme"}
		}, reason: invalid},
		"another client":                    {says: claim("client_id", "agent-runtime"), reason: invalid},
		"another client's azp":              {says: claim("azp", "agent-runtime"), reason: invalid},
		"no client":                         {says: claim("client_id", nil), reason: invalid},
		"the audience of callers":           {says: claim("aud", "https://deputy.example.com"), reason: invalid},
		"another audience":                  {says: claim("aud", "https://other.example.com"), reason: invalid},
		"no audience":                       {says: claim("aud", nil), reason: invalid},
		"another issuer":                    {says: claim("iss", "https://evil.example.com"), reason: invalid},
		"expired":                           {says: claim("exp", time.Now().Add(-time.Second).Unix()), reason: invalid},
		"no end":                            {says: claim("exp", nil), reason: invalid},
		"not yet":                           {says: claim("nbf", time.Now().Add(time.Hour).Unix()), reason: invalid},
		"no id":                             {says: claim("jti", nil), reason: invalid},
		"an empty id":                       {says: claim("jti", ""), reason: invalid},
		"no subject":                        {says: claim("sub", nil), reason: invalid},
		"a transaction":                     {typ: "txntoken+jwt", reason: invalid},
		"an ID token":                       {typ: "JWT", reason: invalid},
		"bound to another client":           {says: claim("cnf", map[string]any{"x5t#S256": strings.Repeat("A", 43)}), reason: invalid},
		"bound to a key":                    {says: claim("cnf", map[string]any{"jkt": strings.Repeat("A", 43)}), reason: invalid},
		"nothing":                           {says: claim("authorization_details", nil), reason: invalid},
		"details that are none":             {says: claim("authorization_details", "deputy_delegation"), reason: invalid},
		"details of another type":           {says: detail("type", "payment"), reason: invalid},
		"details without an agent":          {says: detail("agent", nil), reason: invalid},
		"details without a tenant":          {says: detail("tenant", ""), reason: invalid},
		"details with a star":               {says: detail("agent", "*"), reason: invalid},
		"details with more than is known":   {says: detail("only_on", "mondays"), reason: invalid},
		"details in another case":           {says: detail("Unscoped", true), reason: invalid},
		"details for another server":        {says: detail("locations", []string{"https://other.example.com"}), reason: invalid},
		"details with a text for a flag":    {says: detail("unscoped", "true"), reason: invalid},
		"details with no time":              {says: detail("ttl", 0), reason: invalid},
		"details with a grant of no object": {says: detail("scope", []string{"document#reader"}), reason: invalid},
		"the bare scope":                    {says: func(c map[string]any) { delete(c, "authorization_details"); c["scope"] = "deputy:delegate" }, reason: invalid},
		"a scope that goes on otherwise": {says: func(c map[string]any) {
			delete(c, "authorization_details")
			c["scope"] = "deputy:delegates:triage-bot:acme"
		}, reason: invalid},
		"a scope with more than is known": {says: func(c map[string]any) {
			delete(c, "authorization_details")
			c["scope"] = "deputy:delegate:triage-bot:acme:mondays"
		}, reason: invalid},
		"a scope besides": {says: claim("scope", "deputy:delegate:triage-bot:acme"), reason: invalid},

		"another agent, asked":   {asks: ask(func(r *deputyv1.CreateDelegationRequest) { r.AgentId = "other-bot" }), reason: more},
		"another agent, said":    {says: detail("agent", "other-bot"), reason: more},
		"another tenant, asked":  {asks: ask(func(r *deputyv1.CreateDelegationRequest) { r.TenantId = "globex" }), reason: more},
		"another tenant, said":   {says: detail("tenant", "globex"), asks: ask(func(r *deputyv1.CreateDelegationRequest) { r.TenantId = "acme" }), reason: more},
		"another person, asked":  {asks: ask(func(r *deputyv1.CreateDelegationRequest) { r.Principal = subject("user:bob") }), reason: more},
		"another person, said":   {says: claim("sub", "bob"), asks: ask(func(r *deputyv1.CreateDelegationRequest) { r.Principal = subject("user:alice") }), reason: more},
		"another person, grants": {asks: ask(func(r *deputyv1.CreateDelegationRequest) { r.GrantedBy = harness.Ref("user:bob") }), reason: more},
		"all members": {says: claim("sub", "bob"), asks: ask(func(r *deputyv1.CreateDelegationRequest) {
			r.Principal = subject("tenant:acme")
			r.Principal.OptionalRelation = "member"
		}), reason: more},
		"unscoped, unasked": {asks: ask(func(r *deputyv1.CreateDelegationRequest) { r.Unscoped = true }), reason: more},
		"direct, unasked":   {asks: ask(func(r *deputyv1.CreateDelegationRequest) { r.AllowDirect = true }), reason: more},
		"too wide": {says: detail("scope", []string{"document:plan#reader"}), asks: ask(func(r *deputyv1.CreateDelegationRequest) {
			r.Scope = []*deputyv1.ScopeGrant{{Resource: harness.Ref("document:other"), Relation: "reader"}}
		}), reason: more},
		"within the scope": {says: detail("scope", []string{"document:plan#reader"}), asks: ask(func(r *deputyv1.CreateDelegationRequest) {
			r.Scope = []*deputyv1.ScopeGrant{{Resource: harness.Ref("document:plan"), Relation: "reader"}}
		})},
		"too long": {asks: ask(func(r *deputyv1.CreateDelegationRequest) { r.Ttl = durationpb.New(2 * time.Hour) }), reason: more},
	} {
		claims := w.says(nil)
		if c.says != nil {
			c.says(claims)
		}
		if c.typ == "" {
			c.typ = token.DefaultType
		}
		said := maps.Clone(claims)
		raw := w.issuer.Sign(t, c.typ, said)
		for by, calls := range map[string]deputyv1.DelegationsServiceClient{"a caller that may vouch": vouching, "one that may not": desk} {
			if c.reason == "" && by != "one that may not" {
				continue // it would use the token up
			}
			r := asks(raw)
			if c.asks != nil {
				c.asks(r)
			}
			_, err := calls.CreateDelegation(t.Context(), r)
			code, reason := outcome(err)
			if reason != c.reason || code != map[string]codes.Code{"": codes.OK, invalid: codes.PermissionDenied, more: codes.PermissionDenied}[c.reason] {
				t.Errorf("%s, %s: %v, want the reason %q", name, by, err, c.reason)
			}
			if err != nil && strings.Contains(err.Error(), raw) {
				t.Errorf("%s: the token is shown: %v", name, err)
			}
		}
		if c.reason != more {
			continue
		}
		r := asks(raw)
		r.AgentId = claims["authorization_details"].([]any)[0].(map[string]any)["agent"].(string)
		if claims["authorization_details"].([]any)[0].(map[string]any)["tenant"] == "globex" {
			continue // whose agents are none
		}
		if _, err := desk.CreateDelegation(t.Context(), r); err != nil {
			t.Errorf("%s: the token was used up though it was refused: %v", name, err)
		}
	}
}

// TestConsentOfATenant: where an issuer's tokens say of which tenant a person is, the person consents in that tenant alone.
func TestConsentOfATenant(t *testing.T) {
	issuer := harness.NewIssuer(t)
	cfg := config(t, issuer, harness.Embedded(t))
	var err error
	if cfg.People[0].Tenant, err = actor.ParseTemplate(actor.Tenant, "{org_id}"); err != nil {
		t.Fatal(err)
	}
	w := &world{harness.Start(t, cfg), issuer}
	w.fill(t)
	for name, c := range map[string]struct {
		org    any
		reason string
	}{"of acme": {"acme", ""}, "of globex": {"globex", "CONSENT_TOKEN_INVALID"}, "of two": {[]string{"acme", "globex"}, "CONSENT_TOKEN_INVALID"}, "of none": {nil, "CONSENT_TOKEN_INVALID"}} {
		claims := w.says(nil)
		if claims["org_id"] = c.org; c.org == nil {
			delete(claims, "org_id")
		}
		_, err := w.dial(t, deskKey).CreateDelegation(t.Context(), asks(issuer.Sign(t, token.DefaultType, claims)))
		if _, reason := outcome(err); reason != c.reason {
			t.Errorf("a person %s consents in acme: %v", name, err)
		}
	}
}

// TestForgedConsent: a token that the issuer has not signed.
func TestForgedConsent(t *testing.T) {
	w := newWorld(t, harness.Embedded(t))
	forged := harness.NewIssuer(t).Sign(t, token.DefaultType, w.says(nil))
	parts := strings.Split(w.consent(t, nil), ".")
	for name, raw := range map[string]string{"another key": forged, "no signature": parts[0] + "." + parts[1] + ".", "no token": "nonsense", "too long": strings.Repeat("a", 100_000)} {
		_, err := w.dial(t, deskKey).CreateDelegation(t.Context(), asks(raw))
		if code, reason := outcome(err); code != codes.PermissionDenied || reason != "CONSENT_TOKEN_INVALID" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// race has several callers use one token at once, through servers in turn, and returns how many got a delegation. All others are told that it was
// used.
func race(t *testing.T, raw string, servers ...*world) (made int32) {
	t.Helper()
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 32 {
		calls := servers[i%len(servers)].dial(t, []string{deskKey, otherKey}[i/2%2])
		all.Go(func() {
			for {
				_, err := calls.CreateDelegation(t.Context(), asks(raw))
				switch code, reason := outcome(err); {
				case ended(err):
					won.Add(1)
				case code == codes.Aborted: // two writes met: try again, as the contract says
					continue
				case code != codes.AlreadyExists || reason != "CONSENT_TOKEN_USED":
					t.Error(err)
				}
				return
			}
		})
	}
	all.Wait()
	return won.Load()
}

// TestReplay: of 32 callers that use a token at once one gets a delegation, and nobody does later: not after the server was started again, with
// another key for ids and cursors, nor after the delegation was revoked.
func TestReplay(t *testing.T) {
	on := harness.Embedded(t)
	w := newWorld(t, on)
	raw := w.consent(t, nil)
	if made := race(t, raw, w); made != 1 {
		t.Fatalf("%d delegations were made with one token", made)
	}
	list, err := w.Delegations().ListDelegations(t.Context(), &deputyv1.ListDelegationsRequest{AgentId: "triage-bot"})
	if err != nil || len(list.GetDelegations()) != 1 {
		t.Fatal(list, err)
	}
	if _, err := w.Delegations().RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: list.GetDelegations()[0].GetDelegationId()}); err != nil {
		t.Fatal(err)
	}
	if made := race(t, raw, w); made != 0 {
		t.Errorf("%d delegations were made with a token that was used", made)
	}
	w.Stop()
	<-w.Stopped
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := config(t, w.issuer, on)
	cfg.TokenKey = []byte("another key of at least 32 bytes, for another start")
	again := &world{harness.Start(t, cfg), w.issuer}
	if made := race(t, raw, again); made != 0 {
		t.Errorf("%d delegations were made with a token that was used before the server was started again", made)
	}
}

// TestReplayOnTwoServers: of 32 callers of two servers over one database one gets a delegation.
func TestReplayOnTwoServers(t *testing.T) {
	on := harness.Postgres(t)
	w := newWorld(t, on)
	other := &world{harness.Start(t, config(t, w.issuer, on)), w.issuer}
	raw := w.consent(t, nil)
	if made := race(t, raw, w, other); made != 1 {
		t.Errorf("%d delegations were made with one token", made)
	}
	if made := race(t, raw, other); made != 0 {
		t.Errorf("%d delegations were made with a token that another server has taken", made)
	}
}

// TestRetry: a retry with the same idempotency key and token returns the delegation of the first try.
func TestRetry(t *testing.T) {
	w := newWorld(t, harness.Embedded(t))
	desk := w.dial(t, deskKey)
	r := asks(w.consent(t, nil))
	r.IdempotencyKey = "once"
	first, err := desk.CreateDelegation(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := desk.CreateDelegation(t.Context(), r); err != nil || again.GetDelegation().GetDelegationId() != first.GetDelegation().GetDelegationId() {
		t.Errorf("a retry: %v, %v", again, err)
	}
	_, err = w.dial(t, otherKey).CreateDelegation(t.Context(), r)
	if _, reason := outcome(err); reason != "CONSENT_TOKEN_USED" {
		t.Errorf("another caller: %v", err)
	}
	r.ConsentToken = w.consent(t, nil)
	_, err = desk.CreateDelegation(t.Context(), r)
	if _, reason := outcome(err); reason != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("the key with another token: %v", err)
	}
}
