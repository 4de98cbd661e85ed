package mcp_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/proxy"
	"github.com/deputyauth/deputy/tests/harness"
)

// resource is what agents' tokens are for.
const resource = "https://mcp.example.com/files"

// tokenFor makes a token of bot for a person, with other claims where some are given.
func tokenFor(t testing.TB, i *harness.Issuer, person string, other map[string]any) string {
	t.Helper()
	claims := map[string]any{"act": map[string]any{"sub": "bot"}, "org_id": "acme", "aud": resource}
	maps.Copy(claims, other)
	return i.Sign(t, token.DefaultType, i.Claims(person, claims))
}

// actors say how such tokens of an issuer name agents.
func actors(t *testing.T, name string, types ...string) []actor.Issuer {
	t.Helper()
	of := actor.Issuer{Issuer: name, Audiences: []string{resource}, Types: types}
	for _, one := range []struct {
		kind actor.Kind
		to   *actor.Template
		text string
	}{{actor.Agent, &of.Agent, "{act.sub}"}, {actor.Principal, &of.Principal, "user:{sub}"}, {actor.Tenant, &of.Tenant, "{org_id}"}} {
		parsed, err := actor.ParseTemplate(one.kind, one.text)
		if err != nil {
			t.Fatal(err)
		}
		*one.to = parsed
	}
	return []actor.Issuer{of}
}

// webWorld is a world whose agents have tokens, and act for Alice and Bob without a session.
type webWorld struct {
	*world

	issuer *harness.Issuer
	// name is the issuer's.
	name   string
	verify func(ctx context.Context, raw string) (proxy.Caller, error)
}

// token makes a token of bot for a person, with other claims where some are given.
func (w *webWorld) token(t testing.TB, person string, other map[string]any) string {
	t.Helper()
	return tokenFor(t, w.issuer, person, other)
}

func openWeb(t *testing.T, grants ...string) *webWorld {
	t.Helper()
	w := &webWorld{issuer: harness.NewIssuer(t)}
	issuers := []token.Issuer{w.issuer.Known(t, t.TempDir())}
	w.name = issuers[0].Issuer
	w.world = openWith(t, filepath.Join(t.TempDir(), "data"), func(c *daemon.Config) {
		c.Issuers, c.Actors = issuers, actors(t, w.name)
	}, grants...)
	w.direct(t)
	keys, err := token.Open(t.Context(), issuers, token.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	verifier, err := actor.New(keys, actors(t, w.name))
	if err != nil {
		t.Fatal(err)
	}
	w.verify = func(ctx context.Context, raw string) (proxy.Caller, error) {
		is, err := verifier.Verify(ctx, raw, nil)
		if err != nil {
			return proxy.Caller{}, err
		}
		return proxy.Caller{
			Issuer: is.Evidence.Issuer, Agent: is.AgentName, Principal: is.Principal.Type + ":" + is.PrincipalName, Tenant: is.TenantName,
			Scopes: strings.Split(is.Scope, " "), Ends: is.Ends,
		}, nil
	}
	return w
}

// direct lets bot act for Alice and for Bob without a session.
func (w *world) direct(t *testing.T) {
	t.Helper()
	for _, user := range []string{"alice", "bob"} {
		if _, err := w.admin.CreateDelegation(t.Context(), client.DelegationSpec{
			Agent: "bot", Principal: client.User(user), Tenant: "acme", Unscoped: true, AllowDirect: true, TTL: time.Hour,
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// ask decides in the world for a caller, whose token is verified once more there.
func (w *webWorld) ask(c proxy.Caller) mcp.Asker {
	_, user, _ := strings.Cut(c.Principal, ":")
	return mcp.AskerOf(w.admin, client.Question{Agent: c.Agent, Principal: client.User(user), Tenant: c.Tenant, ActorToken: c.Token})
}

// web is a proxy in front of a server.
type web struct {
	url   string
	world *webWorld
	// wire has the bodies that the server got, a line each, and heads the headers.
	wire *recorder

	mu    sync.Mutex
	heads []http.Header
	// requests counts all requests that the server got.
	requests int
}

func (s *web) got() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

type discard struct{ io.Writer }

func (discard) Close() error { return nil }

// secret is the proxy's own credential for the server.
const secret = "the-guards-own-credential"

// proxied serves a proxy in front of a server.
func (w *webWorld) proxied(t *testing.T, server http.Handler, pins *mcp.Pins, change func(*proxy.Config)) *web {
	t.Helper()
	s := &web{world: w, wire: &recorder{to: discard{io.Discard}}}
	upstream := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		_, _ = s.wire.Write(append(text, '\n'))
		s.mu.Lock()
		s.requests++
		s.heads = append(s.heads, r.Header.Clone())
		s.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(text))
		server.ServeHTTP(answer, r)
	}))
	t.Cleanup(func() {
		upstream.CloseClientConnections()
		upstream.Close()
	})
	up, err := proxy.NewUpstream(upstream.URL+"/mcp", func() (string, error) { return secret, nil })
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(resource)
	if err != nil {
		t.Fatal(err)
	}
	cfg := proxy.Config{
		Guard:    mcp.Config{Map: decode(t, filesMap), Pins: pins},
		Resource: at, AuthorizationServers: []string{w.name}, Verify: w.verify, Ask: w.ask, Upstream: up,
	}
	if change != nil {
		change(&cfg)
	}
	p, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("the proxy ends with %v", err)
		}
	})
	s.url = "http://" + listener.Addr().String() + "/files"
	return s
}

// handler is a server of the go-sdk's over HTTP, on one of the wires.
func handler(version string, server *sdk.Server) http.Handler {
	return sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server },
		&sdk.StreamableHTTPOptions{Stateless: version == "2026-07-28", PropagateRequestCancellation: true})
}

// bearer sends a token along.
type bearer string

// RoundTrip is http.RoundTripper's.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	r.Header.Set("Cookie", "client=cookie")
	return http.DefaultTransport.RoundTrip(r)
}

// connect connects a client of the go-sdk's for a person.
func (s *web) connect(t *testing.T, person, version string, c *sdk.Client) *guarded {
	t.Helper()
	transport := &sdk.StreamableClientTransport{
		Endpoint: s.url, HTTPClient: &http.Client{Transport: bearer(s.world.token(t, person, nil))}, MaxRetries: -1,
	}
	session, err := c.Connect(t.Context(), transport, &sdk.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return &guarded{session: session, wire: s.wire}
}

// said is an answer over HTTP.
type said struct {
	status int
	header http.Header
	text   string
}

// send sends a request as it is, with the headers that every one has and others, which take their place. A header without a value is left out.
func (s *web) send(t testing.TB, method, raw, body string, headers ...string) said {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+raw)
	request.Header.Set("Accept", "application/json, text/event-stream")
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, one := range headers {
		name, value, _ := strings.Cut(one, ": ")
		switch {
		case value == "":
			request.Header.Del(name)
		case name == "Host":
			request.Host = value
		case name == "Path":
			request.URL.Path = value
		default:
			request.Header.Set(name, value)
		}
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return said{response.StatusCode, response.Header, string(text)}
}

const initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`

// begin begins a session, and returns its id.
func (s *web) begin(t testing.TB, raw string) string {
	t.Helper()
	got := s.send(t, http.MethodPost, raw, initialize)
	id := got.header.Get("Mcp-Session-Id")
	if got.status != http.StatusOK || id == "" {
		t.Fatalf("initialize: %+v", got)
	}
	if got := s.send(t, http.MethodPost, raw, `{"jsonrpc":"2.0","method":"notifications/initialized"}`, "Mcp-Session-Id: "+id); got.status != http.StatusAccepted {
		t.Fatalf("initialized: %+v", got)
	}
	return id
}

// newCall is a request of the wire 2026-07-28, with its headers.
func newCall(method, params string) (body string, headers []string) {
	if params != "" {
		params = "," + params
	}
	body = `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",` +
		`"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}` + params + `}}`
	return body, []string{"Mcp-Protocol-Version: 2026-07-28", "Mcp-Method: " + method}
}
