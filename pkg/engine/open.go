// Package engine holds the ports of pkg/authz over SpiceDB: SpiceDB's server in this process over one
// of its own datastores, or a SpiceDB that runs elsewhere. Either way everything goes over one gRPC
// connection; in process, the head revision and the schema at a revision are taken from the datastore
// itself, because SpiceDB shares one head look-up between callers and would answer with what was the
// head before they asked.
package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/authzed/grpcutil"
	dscfg "github.com/authzed/spicedb/pkg/cmd/datastore"
	"github.com/authzed/spicedb/pkg/cmd/server"
	"github.com/authzed/spicedb/pkg/cmd/util"
	"github.com/authzed/spicedb/pkg/datastore"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/reconnect"
	"github.com/deputyauth/deputy/pkg/turns"
)

// defaultRetention is SpiceDB's own default for its garbage-collection window.
const defaultRetention = 24 * time.Hour

// cockroachOffset is CockroachDB's own default for the most by which its nodes' clocks differ.
const cockroachOffset = 500 * time.Millisecond

// maxMessage is the largest message that crosses the connection to the engine, in bytes.
const maxMessage = 64 << 20

// silence is how long a connection to another Deputy may be silent while calls are under way before that is asked whether it is there, and askingTime
// how long it may take to say so. Without it a server that has gone is waited for as long as TCP does, a quarter of an hour.
const silence, askingTime = 30 * time.Second, 20 * time.Second

// Engine is an opened SpiceDB. It implements authz.Graph and is safe for concurrent use.
type Engine struct {
	conn      *grpc.ClientConn
	teller    *teller
	retention time.Duration
	offset    time.Duration
	staleness time.Duration
	models    models
	// strays finds what a schema that somebody else wrote would let count although it has expired.
	strays strays
	// heads shares the takings of Remote's head.
	heads turns.Shared[head]

	// readsWhole says that the datastore returns caveats and expirations whatever SpiceDB says that it can
	// do without, so that no shape of a relation is evaluated wrongly.
	readsWhole bool
	// ds is the datastore of an in-process engine; nil for Remote.
	ds datastore.Datastore
	// own is what marks the lookups that decisions are made of; see ownHeader. It is empty for Remote.
	own string
	// trusted is Config.TrustSchema.
	trusted bool
	// followed is the store of the Deputy behind Remote, where this server follows it; else nil.
	followed *followedStore
	// stop ends the in-process server and waits for it; nil for Remote.
	stop func() error

	closing sync.Once
	closed  error
}

var _ authz.Graph = (*Engine)(nil)

// Open opens the engine that cfg names and waits until it answers. ctx bounds the opening, not the
// engine's life; Close releases it.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Retention < 0 {
		return nil, fmt.Errorf("engine: the retention is negative: %s", cfg.Retention)
	}
	if cfg.Retention == 0 {
		cfg.Retention = defaultRetention
	}
	if cfg.ClockOffset == 0 && cfg.Kind == CockroachDB {
		cfg.ClockOffset = cockroachOffset
	}
	switch cfg.Kind {
	case "":
		cfg.Kind = Embedded
	case Remote:
		return dialRemote(ctx, cfg)
	}
	ds, err := openDatastore(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return Over(ctx, cfg, ds)
}

// Over opens an engine in this process over a datastore that somebody has opened, Embedded's above all: of
// the configuration only what is not about the datastore counts. The engine closes it, also if it cannot
// be opened.
func Over(ctx context.Context, cfg Config, ds datastore.Datastore) (*Engine, error) {
	return over(ctx, cfg, ds, usual)
}

func over(ctx context.Context, cfg Config, ds datastore.Datastore, limits bounds) (*Engine, error) {
	if cfg.Retention == 0 {
		cfg.Retention = defaultRetention
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	within := &bounded{Datastore: expecting{ds}, bounds: &limits, loading: new(load), complaints: new(authz.Seldom), log: cfg.Log}
	if databases[cfg.Kind] {
		within.patience = newPatience(limits.answer, limits.questions)
	}
	e, err := serve(ctx, within)
	if err != nil {
		return nil, errors.Join(err, ds.Close())
	}
	e.retention, e.offset = cfg.Retention, cfg.ClockOffset
	e.readsWhole = cfg.Kind == Embedded || cfg.Kind == ""
	if !e.readsWhole {
		e.staleness = spicedbStaleness(cfg.Kind)
	}
	return e, nil
}

// spicedbStaleness is how far behind the head a revision may be that SpiceDB chooses with its defaults: it gives out one for an interval, and a part of
// that longer. What it takes from the past besides, so that any node can read there, it does for CockroachDB and Spanner, and maybe elsewhere.
func spicedbStaleness(kind string) time.Duration {
	defaults := dscfg.DefaultDatastoreConfig()
	staleness := defaults.RevisionQuantization + time.Duration(float64(defaults.RevisionQuantization)*defaults.MaxRevisionStalenessPercent)
	switch kind {
	case CockroachDB, Spanner, Remote:
		staleness += defaults.FollowerReadDelay
	}
	return staleness
}

// databases are the kinds whose datastore is elsewhere, and may stop answering.
var databases = map[string]bool{Postgres: true, CockroachDB: true, Spanner: true, MySQL: true}

// datastoreKind maps the kinds of this package to SpiceDB's names.
var datastoreKind = map[string]string{
	Memory:      dscfg.MemoryEngine,
	Postgres:    dscfg.PostgresEngine,
	CockroachDB: dscfg.CockroachEngine,
	Spanner:     dscfg.SpannerEngine,
	MySQL:       dscfg.MySQLEngine,
}

func openDatastore(ctx context.Context, cfg Config) (datastore.Datastore, error) {
	if cfg.Kind == Embedded {
		return nil, fmt.Errorf("engine: %s is opened over its store", cfg.Kind)
	}
	uri, err := cfg.connection()
	if err != nil {
		return nil, err
	}
	options, err := cfg.pools()
	if err != nil {
		return nil, err
	}
	var watch *pgx.Conn
	if cfg.Kind == Postgres {
		if watch, err = cfg.examinePostgres(ctx, uri); err != nil {
			return nil, err
		}
	}
	fail := func(err error) (datastore.Datastore, error) {
		if watch != nil {
			hangUp(ctx, watch)
		}
		return nil, err
	}
	options = append(options,
		dscfg.WithEngine(datastoreKind[cfg.Kind]),
		dscfg.WithURI(uri),
		dscfg.WithGCWindow(cfg.Retention),
		dscfg.WithEnableDatastoreMetrics(false),
		dscfg.WithEnableRevisionHeartbeat(true),
	)
	open := func(ctx context.Context) (datastore.Datastore, error) {
		// The datastore keeps the context it is opened with: it must outlive the opening.
		opened, err := dscfg.NewDatastore(context.WithoutCancel(ctx), options...)
		if err != nil {
			return nil, fmt.Errorf("engine: cannot open %s: %w", cfg.Kind, cfg.readable(err, uri))
		}
		state, err := opened.ReadyState(ctx)
		switch {
		case err != nil:
			err = cfg.readable(err, uri)
		case !state.IsReady:
			err = cfg.readable(errors.New(state.Message), uri)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("engine: %s is not ready: %w", cfg.Kind, err), opened.Close())
		}
		return opened, nil
	}
	opened, err := open(ctx)
	if err != nil {
		return fail(err)
	}
	return cfg.guarded(opened, open, uri, watch), nil //nolint:contextcheck // it outlives the opening
}

// serve starts SpiceDB's server over the datastore, on a listener in memory.
//
// The dispatch caches are off: they are keyed by revision and renewed on access, so that on an idle
// engine a grant that is polled outlives its expiration. Streams get no time limit, because lookups
// that Deputy pages bring their own.
func serve(ctx context.Context, ds *bounded) (*Engine, error) {
	entrance := newGate(ds.bounds, ds.log)
	off := server.CacheConfig{Enabled: false}
	cfg := server.NewConfigWithOptionsAndDefaults(
		server.WithDatastore(ds),
		server.WithGRPCServer(util.GRPCServerConfig{
			Network:    util.BufferedNetwork,
			Enabled:    true,
			MaxConnAge: math.MaxInt64,
			BufferSize: 1 << 20,
		}),
		server.WithGRPCAuthFunc(func(ctx context.Context) (context.Context, error) { return ctx, nil }),
		server.WithDispatchServer(util.GRPCServerConfig{Enabled: false}),
		server.WithMetricsAPI(util.HTTPServerConfig{HTTPEnabled: false}),
		server.WithHTTPGateway(util.HTTPServerConfig{HTTPEnabled: false}),
		server.WithDispatchCacheConfig(off),
		server.WithClusterDispatchCacheConfig(off),
		server.WithDispatchClientMetricsEnabled(false),
		server.WithDispatchClusterMetricsEnabled(false),
		server.WithExperimentalSchemaMode("read-legacy-write-legacy"),
		// This is SpiceDB's limit for silence. The end of every call is the gate's.
		server.WithStreamingAPITimeout(quiet),
		server.WithEnableMemoryProtectionMiddleware(false),
		server.WithSilentlyDisableTelemetry(true),
		// Deputy's own server has waited for its calls before it closes the engine.
		server.WithShutdownGracePeriod(time.Second),
		entrance.middleware(),
	)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	srv, err := cfg.Complete(life)
	if err != nil {
		end()
		return nil, fmt.Errorf("engine: cannot build the SpiceDB server: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- authz.Safely("engine.Run", func() error { return srv.Run(life) }) }()
	tells := &teller{bounds: ds.bounds, log: ds.log, own: entrance.own}
	conn, err := srv.NewClient(append(tells.options(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)...)
	if err != nil {
		end()
		return nil, errors.Join(fmt.Errorf("engine: cannot connect to the SpiceDB server: %w", err), <-done)
	}
	stop := func() error {
		errs := conn.Close()
		end()
		closed := make(chan error, 1)
		go func() {
			closed <- authz.Safely("engine.Close", func() error {
				// A server that is stopped before it began to serve says so.
				err := <-done
				if errors.Is(err, context.Canceled) || errors.Is(err, grpc.ErrServerStopped) {
					err = nil
				}
				return errors.Join(err, ds.Close())
			})
		}()
		limit := time.NewTimer(ds.bounds.stop)
		defer limit.Stop()
		select {
		case err := <-closed:
			return errors.Join(errs, err)
		case <-limit.C:
			return errors.Join(errs, fmt.Errorf("engine: SpiceDB or its datastore still works after %s, and is left to itself", ds.bounds.stop))
		}
	}
	return &Engine{conn: conn, teller: tells, ds: ds, own: entrance.own, stop: stop}, nil
}

// Conn is the connection to SpiceDB, past every guard. Its failures may be told to callers. It is closed with the engine.
func (e *Engine) Conn() *grpc.ClientConn { return e.conn }

// Retention is how far back a revision can be read.
func (e *Engine) Retention() time.Duration { return e.retention }

// Staleness is how far a revision may lie behind the head that a Snapshot chooses for an authz.Freshness with Stale.
func (e *Engine) Staleness() time.Duration { return e.staleness }

// ClockOffset is how long after a write a head revision may still lie before it.
func (e *Engine) ClockOffset() time.Duration { return e.offset }

// DatastoreID is the id of the datastore, the same on every server over it; "" for Remote, which does not tell, unless that is a Deputy that this
// server follows.
func (e *Engine) DatastoreID(ctx context.Context) (string, error) {
	if e.followed != nil {
		return e.followed.storeID(), nil
	}
	if e.ds == nil {
		return "", nil
	}
	id, err := e.ds.UniqueID(ctx)
	return id, Failure("engine.DatastoreID", err)
}

// InProcess reports whether SpiceDB runs in this process.
func (e *Engine) InProcess() bool { return e.ds != nil }

// ComparesSchema reports whether the engine compares the schema in force with the one that a write expects (authz.MetadataExpectSchema), within the write's
// transaction: SpiceDB in this process does, and so does another Deputy that is followed.
func (e *Engine) ComparesSchema() bool { return e.ds != nil || e.followed != nil }

// Ready asks the engine whether it can answer. Errors: Unavailable.
func (e *Engine) Ready(ctx context.Context) error {
	if e.ds != nil {
		state, err := e.ds.ReadyState(ctx)
		if err == nil && !state.IsReady {
			err = errors.New(state.Message)
		}
		if err != nil {
			return &authz.Error{
				Op: "engine.Ready", Kind: authz.Unavailable, Reason: authz.ReasonEngineUnavailable, Message: "the engine is not ready", Err: err,
			}
		}
		return nil
	}
	_, _, err := e.remoteSchema(ctx)
	return err
}

// Close stops an in-process server and closes the connection. It is safe to call twice.
func (e *Engine) Close() error {
	e.closing.Do(func() {
		e.strays.close()
		if e.stop == nil {
			e.closed = e.conn.Close()
			return
		}
		e.closed = e.stop()
	})
	return e.closed
}

func dialRemote(ctx context.Context, cfg Config) (*Engine, error) {
	tells := &teller{remote: true, bounds: &usual, log: cfg.Log}
	opts := append(tells.options(), reconnect.Option(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if cfg.Deputy {
		opts = append(opts, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: silence, Timeout: askingTime}))
	}
	switch {
	case cfg.Insecure:
		opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpcutil.WithInsecureBearerToken(cfg.PresharedKey))
	case cfg.CAPath != "":
		ca, err := cfg.authorities()
		if err != nil {
			return nil, err
		}
		opts = append(opts, ca, grpcutil.WithBearerToken(cfg.PresharedKey))
	default:
		ca, err := grpcutil.WithSystemCerts(grpcutil.VerifyCA)
		if err != nil {
			return nil, fmt.Errorf("engine: cannot read the system's certificate authorities: %w", err)
		}
		opts = append(opts, ca, grpcutil.WithBearerToken(cfg.PresharedKey))
	}
	conn, err := grpc.NewClient(cfg.Endpoint, opts...)
	if err != nil {
		return nil, fmt.Errorf("engine: cannot dial %s: %w", cfg.Endpoint, err)
	}
	e := &Engine{conn: conn, teller: tells, retention: cfg.Retention, offset: cfg.ClockOffset, staleness: spicedbStaleness(Remote), trusted: cfg.TrustSchema}
	if _, _, err := e.remoteSchema(ctx); err != nil {
		return nil, errors.Join(cfg.unreached(err), conn.Close())
	}
	return e, nil
}

// authorities are those of CAPath, which the certificate of what is behind Remote is verified by.
func (c Config) authorities() (grpc.DialOption, error) {
	ca, err := grpcutil.WithCustomCerts(grpcutil.VerifyCA, c.CAPath)
	if err != nil {
		return nil, fmt.Errorf("engine: cannot read %s: %w", c.CAPath, err)
	}
	return ca, nil
}
