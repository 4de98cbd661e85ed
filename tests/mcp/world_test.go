package mcp_test

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authzed "github.com/authzed/authzed-go/proto/authzed/api/v1"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/zap"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/client"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/mapping"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
)

func TestMain(m *testing.M) {
	asChild()
	pgtest.Main(m)
}

// domain is what the servers of these tests are about.
const domain = `
definition mcp_tool {
	relation tenant: tenant
	relation caller: user | agent
	permission call = caller
}
definition file {
	relation tenant: tenant
	relation reader: user | agent
	relation writer: user | agent
	relation lister: user | agent
	permission list = lister
	permission read = reader + writer
	permission write = writer
}`

// world is a Deputy in which bot acts for alice and for bob.
type world struct {
	admin *client.Client
	// alice and bob are what questions have in common.
	alice, bob client.Question
	// addr is where it listens, and close closes it before the test ends.
	addr  string
	close func()
}

// open opens a world with relationships. "X for alice" is the relation X for alice and the bot, of an object of acme's.
func open(t *testing.T, grants ...string) *world {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "data"), grants...)
}

// openAt is open with a data directory.
func openAt(t *testing.T, dir string, grants ...string) *world {
	t.Helper()
	return openWith(t, dir, func(*daemon.Config) {}, grants...)
}

// openWith is openAt with a configuration that is changed.
func openWith(t *testing.T, dir string, change func(*daemon.Config), grants ...string) *world {
	t.Helper()
	cfg := daemon.Config{
		Addr: "127.0.0.1:0", AdminPresharedKeys: []string{harness.AdminKey}, PresharedKeys: []string{harness.ServiceKey},
		Engine: engine.Config{Kind: engine.Embedded, Dir: dir, CacheBytes: 8 << 20},
	}
	change(&cfg)
	d, err := daemon.Open(t.Context(), cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	life, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = d.Serve(life)
	}()
	w := &world{addr: d.Addr().String(), close: sync.OnceFunc(func() {
		stop()
		<-stopped
		_ = d.Close()
	})}
	t.Cleanup(w.close)
	if w.admin, err = client.Dial(w.addr, client.WithInsecure(), client.WithPresharedKey(harness.AdminKey)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.admin.Close() })
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(authzed.NewSchemaServiceClient(w.admin.Conn()).WriteSchema(t.Context(), &authzed.WriteSchemaRequest{Schema: schema.Core + domain}))
	must(w.admin.ResumeTenant(t.Context(), "acme"))
	must(w.admin.RegisterAgent(t.Context(), client.AgentSpec{Agent: "bot", Owners: []string{"carol"}}))
	w.write(t, "tenant:acme#agent@agent:bot")
	for _, user := range []string{"alice", "bob"} {
		must(w.admin.Resume(t.Context(), client.User(user)))
		w.write(t, "tenant:acme#member@user:"+user)
		delegation, err := w.admin.CreateDelegation(t.Context(), client.DelegationSpec{
			Agent: "bot", Principal: client.User(user), Tenant: "acme", Unscoped: true, TTL: time.Hour,
		})
		must(nil, err)
		session, err := w.admin.StartSession(t.Context(), client.SessionSpec{
			Agent: "bot", Targets: []client.Target{{Delegation: delegation.GetDelegation().GetDelegationId()}},
		})
		must(nil, err)
		q := client.Question{Agent: "bot", Session: session.ID()}
		if user == "alice" {
			w.alice = q
		} else {
			w.bob = q
		}
	}
	w.grant(t, grants...)
	return w
}

// grant writes "mcp_tool:files/read#caller for alice".
func (w *world) grant(t *testing.T, grants ...string) {
	t.Helper()
	for _, text := range grants {
		grant, user, _ := strings.Cut(text, " for ")
		object, _, _ := strings.Cut(grant, "#")
		w.write(t, object+"#tenant@tenant:acme", grant+"@user:"+user, grant+"@agent:bot")
	}
}

func (w *world) write(t *testing.T, texts ...string) {
	t.Helper()
	w.update(t, authzed.RelationshipUpdate_OPERATION_TOUCH, texts...)
}

func (w *world) update(t *testing.T, operation authzed.RelationshipUpdate_Operation, texts ...string) {
	t.Helper()
	request := &authzed.WriteRelationshipsRequest{}
	for _, text := range texts {
		resource, rest, _ := strings.Cut(text, "#")
		relation, subject, _ := strings.Cut(rest, "@")
		object := func(text string) *authzed.ObjectReference {
			objectType, id, _ := strings.Cut(text, ":")
			return &authzed.ObjectReference{ObjectType: objectType, ObjectId: stored(t, id)}
		}
		request.Updates = append(request.Updates, &authzed.RelationshipUpdate{Operation: operation, Relationship: &authzed.Relationship{
			Resource: object(resource), Relation: relation, Subject: &authzed.SubjectReference{Object: object(subject)},
		}})
	}
	if _, err := authzed.NewPermissionsServiceClient(w.admin.Conn()).WriteRelationships(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}

// guarded connects a client to a server through a guard, and returns what the server got, line by line.
type guarded struct {
	session *sdk.ClientSession
	wire    *recorder
	// ended gets what ended the guard.
	ended chan error
}

// recorder keeps what goes through it.
type recorder struct {
	mu   sync.Mutex
	text strings.Builder
	to   io.WriteCloser
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	r.text.Write(b)
	r.mu.Unlock()
	return r.to.Write(b)
}

func (r *recorder) Close() error { return r.to.Close() }

// count returns how many requests of a method the server got.
func (r *recorder) count(method string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range strings.Lines(r.text.String()) {
		if strings.Contains(line, `"method":"`+method+`"`) {
			n++
		}
	}
	return n
}

// pinned approves the tools of a server.
func pinned(t testing.TB, server *sdk.Server) *mcp.Pins {
	t.Helper()
	serverIn, toServer := io.Pipe()
	fromServer, serverOut := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = server.Run(ctx, &sdk.IOTransport{Reader: serverIn, Writer: serverOut}) }()
	definitions, err := mcp.ReadDefinitions(ctx, fromServer, toServer)
	if err != nil {
		t.Fatal(err)
	}
	pins, err := mcp.PinsOf("files", definitions)
	if err != nil {
		t.Fatal(err)
	}
	return pins
}

// through connects a client to a server of the go-sdk's through a guard.
func through(t *testing.T, server *sdk.Server, cfg mcp.Config, c *sdk.Client, options *sdk.ClientSessionOptions) *guarded {
	t.Helper()
	fromClient, clientOut := io.Pipe()
	clientIn, toClient := io.Pipe()
	serverIn, toServer := io.Pipe()
	fromServer, serverOut := io.Pipe()
	g := &guarded{wire: &recorder{to: toServer}, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	go func() { _ = server.Run(ctx, &sdk.IOTransport{Reader: serverIn, Writer: serverOut}) }()
	go func() {
		g.ended <- mcp.New(cfg).Serve(ctx, mcp.Streams{FromClient: fromClient, ToClient: toClient, FromServer: fromServer, ToServer: g.wire})
		_ = toClient.Close()
		_ = toServer.Close()
	}()
	var err error
	if g.session, err = c.Connect(t.Context(), &sdk.IOTransport{Reader: clientIn, Writer: clientOut}, options); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.session.Close()
		cancel()
	})
	return g
}

// call calls a tool, and returns its text, after "refused: " where the result is an error.
func (g *guarded) call(t *testing.T, tool string, arguments map[string]any) string {
	t.Helper()
	result, err := g.session.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		return "error: " + err.Error()
	}
	var texts []string
	for _, one := range result.Content {
		if text, ok := one.(*sdk.TextContent); ok {
			texts = append(texts, text.Text)
		}
	}
	if result.IsError {
		return "isError: " + strings.Join(texts, "\n")
	}
	return strings.Join(texts, "\n")
}

// tools are the names of the tools that the client sees.
func (g *guarded) tools(t *testing.T) string {
	t.Helper()
	var names []string
	for tool, err := range g.session.Tools(t.Context(), nil) {
		if err != nil {
			return "error: " + err.Error()
		}
		names = append(names, tool.Name)
	}
	return strings.Join(names, " ")
}

func decode(t testing.TB, text string) *mapping.Map {
	t.Helper()
	m, err := mapping.Decode("guard.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// stored is an id as the graph has it.
func stored(t *testing.T, id string) string {
	t.Helper()
	text, err := authz.EncodeID(id)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
