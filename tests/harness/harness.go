// Package harness starts real servers for black-box tests, over each engine: a deputy.Daemon on a
// loopback port that the system picks, with connections that carry a service's key, an admin's and
// none.
package harness

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/cmd/server"
	"github.com/authzed/spicedb/pkg/cmd/util"
	"github.com/authzed/spicedb/pkg/tuple"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/pgtest"
)

// The keys of every server that the harness starts.
const (
	ServiceKey = "key-of-the-service"
	AdminKey   = "key-of-the-admin"
	remoteKey  = "the-remote-engines-key"
)

// Server is a running Deputy.
type Server struct {
	*daemon.Daemon
	// Service and Admin are connections with a service's and an admin's key, Nobody one without.
	Service, Admin, Nobody *grpc.ClientConn
	kind                   string
	follows                bool
	// byCopy and byAuthority are what the states were that the server had answered by the time it was ready: it looks at the graph by itself.
	byCopy, byAuthority float64
	// Stop tells the server to drain; Stopped is closed once it has.
	Stop    context.CancelFunc
	Stopped <-chan struct{}
	// Failed is set by a test once the engine has failed for good: then closing the server may fail too.
	Failed bool
}

// Engines names the engines that the same cases run on. Each opens a fresh, empty one; an engine whose
// database is not there skips the test, and the run says so.
func Engines() map[string]func(testing.TB) engine.Config {
	return map[string]func(testing.TB) engine.Config{
		"embedded":    Embedded,
		"memory":      func(testing.TB) engine.Config { return engine.Config{Kind: engine.Memory} },
		"postgres":    Postgres,
		"cockroachdb": Cockroach,
		"remote":      Remote,
	}
}

// EachEngine runs the case on every engine, on several of them at once.
func EachEngine(t *testing.T, run func(*testing.T, *Server)) {
	t.Helper()
	for name, open := range Engines() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, Start(t, daemon.Config{Engine: open(t)}))
		})
	}
	if os.Getenv(allFollowed) != "" {
		for kind := range Copies() {
			copyAnswers(t, kind, run)
		}
	}
}

// Copies names the servers that the same cases run on and that decide from a copy of their own: of a database, and of the store of another Deputy. Each
// opens a fresh, empty authority, and returns a server that follows it.
func Copies() map[string]func(testing.TB) daemon.Config {
	return map[string]func(testing.TB) daemon.Config{"postgres-follow": Followed, "deputy-follow": FollowedDeputy}
}

// copyAnswers runs the case on a kind of Copies, and asserts that it is the copy that answers.
func copyAnswers(t *testing.T, kind string, run func(*testing.T, *Server)) {
	t.Helper()
	t.Run(kind, func(t *testing.T) {
		t.Parallel()
		s := StartCopy(t, Copies()[kind](t))
		run(t, s)
		s.AnsweredByCopy(t)
	})
}

// StartCopy starts a server that follows, and that tells States.
func StartCopy(t testing.TB, cfg daemon.Config) *Server {
	t.Helper()
	cfg.MetricsAddr = "127.0.0.1:0"
	s := Start(t, cfg)
	s.byCopy, s.byAuthority = s.States(t)
	return s
}

// States returns how many states were answered by the server's copy since StartCopy started it, and how many by the authority that it follows.
func (s *Server) States(t testing.TB) (byCopy, byAuthority float64) {
	t.Helper()
	return s.Figure(t, `deputy_follow_snapshots_total{by="copy"}`) - s.byCopy, s.Figure(t, `deputy_follow_snapshots_total{by="authority"}`) - s.byAuthority
}

// AnsweredByCopy fails the test where the copy answered no more of States than the authority: a case that the authority had answered would show nothing of
// the copy. Some cases ask for no state.
func (s *Server) AnsweredByCopy(t testing.TB) {
	t.Helper()
	if byCopy, byAuthority := s.States(t); byAuthority > 0 && byCopy <= byAuthority {
		t.Errorf("the copy answered %v states, and the authority %v", byCopy, byAuthority)
	}
}

// Embedded is a fresh store in a directory of the test's.
func Embedded(t testing.TB) engine.Config {
	t.Helper()
	return engine.Config{Kind: engine.Embedded, Dir: t.TempDir(), CacheBytes: 8 << 20}
}

// notShort skips a test of an engine that SpiceDB's own code answers, where -short asks for fewer of them.
func notShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: SpiceDB's own engines are left out, but for memory")
	}
}

// spicedbTables is a database with SpiceDB's tables. Each of its copies gets an id of its own, by which SpiceDB tells its tokens from others'.
var spicedbTables = pgtest.Prepared{
	Fill: func(uri string) error {
		return engine.Migrate(context.Background(), engine.Config{Kind: engine.Postgres, URI: uri}, "head")
	},
	Differs: "UPDATE metadata SET unique_id = gen_random_uuid()",
}

// Postgres is a fresh database of a private cluster, migrated. With -short the test is skipped.
func Postgres(t testing.TB) engine.Config {
	t.Helper()
	notShort(t)
	return engine.Config{Kind: engine.Postgres, URI: pgtest.PreparedDatabase(t, &spicedbTables)}
}

// Followed is a server over a fresh database of a private cluster, which it follows with a copy of its own. With -short the test is skipped.
func Followed(t testing.TB) daemon.Config {
	t.Helper()
	return daemon.Config{Engine: Postgres(t), Following: daemon.Following{On: true, Dir: t.TempDir(), Wait: followWait}}
}

// followWait is how long a test's server waits for its copy. It is longer than a real one's, so that it is the copy that answers on a busy machine too.
const followWait = 5 * time.Second

// FollowerKey is the key of the servers that follow a Deputy; see FollowedDeputy.
const FollowerKey = "key-of-the-follower"

// Followers are callers for servers that follow.
func Followers() []*caller.Caller {
	return []*caller.Caller{{
		Name: "follower", Roles: caller.RolesOf(deputyv1.Role_ROLE_FOLLOWER), Bounds: authz.Unbounded(), SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "key", Key: sha256.Sum256([]byte(FollowerKey))}},
	}}
}

// Following is a server that follows a Deputy with a copy of its own.
func Following(t testing.TB, primary string) daemon.Config {
	t.Helper()
	return daemon.Config{
		Engine:    engine.Config{Kind: engine.Remote, Endpoint: primary, PresharedKey: FollowerKey, Insecure: true},
		Following: daemon.Following{On: true, Dir: t.TempDir(), Wait: followWait},
	}
}

// FollowedDeputy is a server that follows a fresh Deputy on the engine embedded.
func FollowedDeputy(t testing.TB) daemon.Config {
	t.Helper()
	return Following(t, Start(t, daemon.Config{Engine: Embedded(t), Callers: Followers()}).Addr().String())
}

// EachEngineAndCopy is EachEngine, and runs the case on every kind of Copies too.
func EachEngineAndCopy(t *testing.T, run func(*testing.T, *Server)) {
	t.Helper()
	EachEngine(t, run)
	if os.Getenv(allFollowed) != "" {
		return // it has run the copies
	}
	for kind := range Copies() {
		copyAnswers(t, kind, run)
	}
}

// allFollowed is set in the environment where EachEngine runs every case on every kind of Copies too, as make soak does.
const allFollowed = "DEPUTY_TEST_FOLLOW"

// Cockroach is a fresh database of a private CockroachDB, migrated.
func Cockroach(t testing.TB) engine.Config {
	t.Helper()
	notShort(t)
	return migrated(t, engine.Config{Kind: engine.CockroachDB, URI: pgtest.Cockroach(t)})
}

func migrated(t testing.TB, cfg engine.Config) engine.Config {
	t.Helper()
	if err := engine.Migrate(t.Context(), cfg, "head"); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Remote is a SpiceDB server of its own over its memory datastore, as a user might run it: caches on.
// It listens on a Unix socket, because SpiceDB does not tell which port the system picked.
func Remote(t testing.TB) engine.Config {
	t.Helper()
	notShort(t)
	cfg, _ := RemoteOver(t, datastore.WithEngine(datastore.MemoryEngine))
	return cfg
}

// RemoteOver is Remote over another datastore. stop ends the server, which the end of the test does too.
func RemoteOver(t testing.TB, options ...datastore.ConfigOption) (_ engine.Config, stop func()) {
	t.Helper()
	ds, err := datastore.NewDatastore(context.Background(), append(options,
		datastore.WithGCWindow(24*time.Hour), datastore.WithEnableDatastoreMetrics(false))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ds.Close() })
	dir, err := os.MkdirTemp("", "spicedb-") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "grpc")
	cfg := server.NewConfigWithOptionsAndDefaults(
		server.WithDatastore(ds),
		server.WithPresharedSecureKey(remoteKey),
		server.WithGRPCServer(util.GRPCServerConfig{Address: socket, Network: "unix", Enabled: true, MaxConnAge: time.Hour}),
		server.WithMetricsAPI(util.HTTPServerConfig{HTTPEnabled: false}),
		server.WithHTTPGateway(util.HTTPServerConfig{HTTPEnabled: false}),
		server.WithDispatchServer(util.GRPCServerConfig{Enabled: false}),
		server.WithSilentlyDisableTelemetry(true),
	)
	life, end := context.WithCancel(context.Background())
	srv, err := cfg.Complete(life)
	if err != nil {
		end()
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Run(life)
	}()
	stop = func() {
		end()
		<-done
	}
	t.Cleanup(stop)
	return engine.Config{Kind: engine.Remote, Endpoint: "unix:" + socket, PresharedKey: remoteKey, Insecure: true}, stop
}

// Start opens a server and serves until the test ends. Keys and a token key are set unless cfg does.
func Start(t testing.TB, cfg daemon.Config) *Server {
	t.Helper()
	return StartLogging(t, cfg, zaptest.NewLogger(t, zaptest.Level(zapcore.WarnLevel)))
}

// StartLogging is Start with a log of the test's own.
func StartLogging(t testing.TB, cfg daemon.Config, log *zap.Logger) *Server {
	t.Helper()
	if len(cfg.PresharedKeys)+len(cfg.AdminPresharedKeys) == 0 { // the harness itself writes schema, and more, as an admin
		cfg.PresharedKeys, cfg.AdminPresharedKeys = []string{ServiceKey}, []string{AdminKey}
	}
	if len(cfg.TokenKey) == 0 {
		cfg.TokenKey = []byte("a token key of at least 32 bytes")
	}
	d, err := daemon.Open(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	life, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		if err := d.Serve(life); err != nil {
			t.Errorf("serving: %v", err)
		}
	}()
	dial := func(key string) *grpc.ClientConn {
		if cfg.TLSCertPath+cfg.SPIFFEWorkloadAPI == "" {
			return Dial(t, d.Addr().String(), key)
		}
		// Whose certificate the server has is for other connections to find out.
		conn, err := ConnectTLS(d.Addr().String(), key, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	s := &Server{
		Daemon: d, kind: cfg.Engine.Kind, follows: cfg.Following.On, Stop: stop, Stopped: stopped, Service: dial(ServiceKey), Admin: dial(AdminKey), Nobody: dial(""),
	}
	t.Cleanup(func() {
		stop()
		<-stopped
		if err := d.Close(); err != nil && !s.Failed {
			t.Errorf("closing: %v", err)
		}
	})
	if cfg.Following.On {
		Ready(t, s.Nobody)
	}
	return s
}

// Figure reads one of a server's metrics, by its name and labels as they stand in the text format. The server must have a port for them.
func (s *Server) Figure(t testing.TB, name string) float64 {
	t.Helper()
	// A connection that is kept holds up the end of the server.
	once := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := once.Get("http://" + s.MetricsAddr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	t.Fatalf("there is no figure %s: %v", name, lines.Err())
	return 0
}

// Ready waits until a server says that it is, and fails the test where it does not within a minute.
func Ready(t testing.TB, conn grpc.ClientConnInterface) {
	t.Helper()
	awaitHealth(t, conn, healthv1.HealthCheckResponse_SERVING)
}

// NotReady waits until a server says that it is not.
func NotReady(t testing.TB, conn grpc.ClientConnInterface) {
	t.Helper()
	awaitHealth(t, conn, healthv1.HealthCheckResponse_NOT_SERVING)
}

func awaitHealth(t testing.TB, conn grpc.ClientConnInterface, want healthv1.HealthCheckResponse_ServingStatus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watch, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		state, err := watch.Recv()
		if err != nil {
			t.Fatalf("waiting until the server is %s: %v", want, err)
		}
		if state.GetStatus() == want {
			return
		}
	}
}

// Dial connects to a server with a key, or without one.
func Dial(t testing.TB, addr, key string) *grpc.ClientConn {
	t.Helper()
	conn, err := Connect(addr, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Connect is Dial for what outlives a test or has none: the caller closes the connection.
func Connect(addr, key string) (*grpc.ClientConn, error) {
	opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if key != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(Bearer(key)))
	}
	return grpc.NewClient(addr, opts...)
}

// Bearer is a key that a connection's calls carry, without TLS.
type Bearer string

// GetRequestMetadata returns the key as gRPC metadata.
func (b Bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity reports that the key may be sent in the clear: it never leaves the machine.
func (Bearer) RequireTransportSecurity() bool { return false }

// SlowEngine reports whether the engine stands on a database, so that tests ask it less often.
func (s *Server) SlowEngine() bool {
	return s.kind == engine.Postgres || s.kind == engine.CockroachDB
}

// IsRemote reports whether the engine is a SpiceDB that runs elsewhere.
func (s *Server) IsRemote() bool { return s.kind == engine.Remote && !s.follows }

// Permissions asks as a service does.
func (s *Server) Permissions() deputyv1.PermissionsServiceClient {
	return deputyv1.NewPermissionsServiceClient(s.Service)
}

// Audit asks as an admin does.
func (s *Server) Audit() deputyv1.PermissionsServiceClient {
	return deputyv1.NewPermissionsServiceClient(s.Admin)
}

// Sessions starts and ends sessions.
func (s *Server) Sessions() deputyv1.SessionsServiceClient {
	return deputyv1.NewSessionsServiceClient(s.Service)
}

// Delegations creates and revokes delegations.
func (s *Server) Delegations() deputyv1.DelegationsServiceClient {
	return deputyv1.NewDelegationsServiceClient(s.Service)
}

// Agents registers and suspends agents, as an admin.
func (s *Server) Agents() deputyv1.AgentsServiceClient {
	return deputyv1.NewAgentsServiceClient(s.Admin)
}

// Principals suspends and resumes principals, as an admin.
func (s *Server) Principals() deputyv1.PrincipalsServiceClient {
	return deputyv1.NewPrincipalsServiceClient(s.Admin)
}

// WriteSchema writes a schema through the admin's door.
func (s *Server) WriteSchema(t testing.TB, text string) {
	t.Helper()
	if _, err := v1.NewSchemaServiceClient(s.Admin).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: text}); err != nil {
		t.Fatal(err)
	}
}

// Touch writes relationships through the admin's door.
func (s *Server) Touch(t testing.TB, relationships ...string) string {
	t.Helper()
	return s.update(t, v1.RelationshipUpdate_OPERATION_TOUCH, relationships)
}

// Delete deletes relationships through the admin's door.
func (s *Server) Delete(t testing.TB, relationships ...string) string {
	t.Helper()
	return s.update(t, v1.RelationshipUpdate_OPERATION_DELETE, relationships)
}

func (s *Server) update(t testing.TB, op v1.RelationshipUpdate_Operation, relationships []string) string {
	t.Helper()
	token, err := Update(t.Context(), s.Admin, op, relationships...)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Update writes relationships over a connection and returns SpiceDB's token.
func Update(ctx context.Context, conn grpc.ClientConnInterface, op v1.RelationshipUpdate_Operation, relationships ...string) (string, error) {
	req := &v1.WriteRelationshipsRequest{}
	for _, text := range relationships {
		rel, err := tuple.ParseV1Rel(text)
		if err != nil {
			return "", fmt.Errorf("%q: %w", text, err)
		}
		req.Updates = append(req.Updates, &v1.RelationshipUpdate{Operation: op, Relationship: rel})
	}
	if len(req.GetUpdates()) == 0 {
		return "", errors.New("no relationships")
	}
	resp, err := v1.NewPermissionsServiceClient(conn).WriteRelationships(ctx, req)
	return resp.GetWrittenAt().GetToken(), err
}

// Ref reads "type:id".
func Ref(text string) *deputyv1.ObjectReference {
	kind, id, ok := strings.Cut(text, ":")
	if !ok {
		return nil
	}
	return &deputyv1.ObjectReference{ObjectType: kind, ObjectId: id}
}
