// Package daemon opens, serves and closes a Deputy server: the one room that knows all the others.
package daemon

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/delegate"
	"github.com/deputyauth/deputy/pkg/door/spicedb"
	"github.com/deputyauth/deputy/pkg/engine"
	"github.com/deputyauth/deputy/pkg/evaluate/kept"
	"github.com/deputyauth/deputy/pkg/follow/deputy"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/judge"
	"github.com/deputyauth/deputy/pkg/rpc"
	"github.com/deputyauth/deputy/pkg/rpc/admission"
	"github.com/deputyauth/deputy/pkg/rpc/wire"
	"github.com/deputyauth/deputy/pkg/schema/guard"
	"github.com/deputyauth/deputy/pkg/signal"
	"github.com/deputyauth/deputy/pkg/store"
)

// Defaults for what Config leaves out.
const (
	defaultAddr           = "127.0.0.1:0"
	defaultSnapshotMaxAge = 30 * time.Second
	defaultMaxSessionTTL  = 24 * time.Hour
	defaultShutdownGrace  = 10 * time.Second
)

// callWorkers is how many goroutines for each processor stay, to take calls. When all are busy a call gets a new
// one.
const callWorkers = 16

// HealthEvaluator is the name under which grpc.health.v1 says how the native evaluator is: NOT_SERVING once it
// has answered otherwise than SpiceDB. The server itself goes on, with the stricter of both answers.
const HealthEvaluator = "deputy.evaluator"

// HealthCalls is the name under which grpc.health.v1 says whether a client is to send its calls here: NOT_SERVING while the engine does not
// answer, and once the server is about to stop. A server whose journal takes no records is SERVING here, because what takes access away goes
// through: a client that balances its calls by their health must not hold back a brake.
const HealthCalls = "deputy.calls"

// healthEvery is how often the engine is asked whether it answers.
const healthEvery = 5 * time.Second

// Daemon is an opened server. It is safe for concurrent use.
type Daemon struct {
	cfg    Config
	log    *zap.Logger
	engine *engine.Engine
	// graph is what decisions are made over: the engine, or evaluator over it, which is nil without.
	graph     authz.Graph
	evaluator *kept.Graph
	// authority is what is followed, and follower has a copy of it, and is the graph then; nil without.
	authority authority
	follower  *follower
	judge     *judge.Judge
	// delegate is nobody's.
	delegate *delegate.Delegate
	// journal records what is asked; nil records nothing.
	journal   *journal.Journal
	transport *transport
	listener  *listener
	server    *grpc.Server
	// local is the server to this process, and program what it is to a program that says nothing of who calls.
	local   *rpc.Local
	program *InProcess
	health  *openHealth
	metrics *metricsServer
	// http is the door over HTTP, and ledger keeps the security events that come in there; nil without.
	http    *httpServer
	ledger  *signal.Ledger
	callers *callers
	gate    *rpc.Gate

	stopping  stopping
	condition condition
}

// Open checks the configuration, opens the engine and then the listener, and builds the server. ctx bounds
// the opening only. Close releases what Open took. A configuration that is refused leaves nothing on the disk, unless it takes the database, another
// server or the port to find out.
func Open(ctx context.Context, cfg Config, log *zap.Logger) (*Daemon, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	connections, files, err := descriptors(maxDescriptors(), cfg.MaxConnections)
	if err != nil {
		return nil, fmt.Errorf("daemon: %w", err)
	}
	cfg.Engine.Log = log
	d := &Daemon{cfg: cfg, log: log, health: newHealth()}
	// What was opened by the time of an error is closed again, the last first.
	var opened []io.Closer
	fail := func(err error) (*Daemon, error) {
		for _, o := range slices.Backward(opened) {
			err = errors.Join(err, o.Close())
		}
		return nil, fmt.Errorf("daemon: %w", err)
	}
	if d.transport, err = openTransport(ctx, cfg, log); err != nil {
		return fail(err)
	}
	opened = append(opened, closer(func() { _ = d.transport.close() }))
	if d.callers, err = cfg.openCallers(ctx, log, d.health); err != nil {
		return fail(err)
	}
	opened = append(opened, closer(d.callers.close))
	graph, err := cfg.openStore(files, log) //nolint:contextcheck // it outlives the opening
	if err != nil {
		return fail(err)
	}
	var (
		figures []prometheus.Collector
		keeps   rpc.Keeper
	)
	if graph != nil {
		keeps, figures = keeper{graph}, []prometheus.Collector{graph.Collector()}
	}
	engines, follows, err := d.openEngine(ctx, graph)
	if opened = append(opened, engines...); err != nil {
		return fail(err)
	}
	datastore, err := d.engine.DatastoreID(ctx)
	if err != nil {
		return fail(err)
	}
	if d.journal, err = cfg.openJournal(datastore, log); err != nil { //nolint:contextcheck // what it does later is no call's
		return fail(err)
	}
	var records *journal.Reader
	if d.journal != nil {
		opened = append(opened, d.journal)
		figures = append(figures, journalFigures{d.journal, cfg.Journal.QuotaBytes})
		if records, err = d.journal.Reader(d.journal.Persons()); err != nil {
			return fail(err)
		}
	}
	if d.ledger, err = cfg.openLedger(); err != nil {
		return fail(err)
	}
	if d.ledger != nil {
		opened = append(opened, d.ledger)
		figures = append(figures, signalFigures(d.ledger)...)
	}
	sealer, err := rpc.NewSealer(cfg.TokenKey, datastore)
	if err != nil {
		return fail(err)
	}
	decides, of, err := d.openGraph(graph, files) //nolint:contextcheck // it outlives the opening
	if err != nil {
		return fail(err)
	}
	opened, figures = append(opened, decides), append(figures, of...)
	// Nobody can connect, and wait, before the store and the engine are found to answer.
	port, err := cfg.listen(ctx)
	if err != nil {
		return fail(fmt.Errorf("cannot listen: %w", err))
	}
	connections, overHTTP := cfg.httpConnections(connections)
	d.listener = newListener(port, connections)
	opened = append(opened, d.listener)
	figures = append(figures, d.listener.collectors("deputy_connections", "Connections")...)
	httpPort, err := cfg.listenHTTP(ctx, overHTTP)
	if err != nil {
		return fail(err)
	}
	if httpPort != nil {
		opened = append(opened, httpPort)
		figures = append(figures, httpPort.collectors("deputy_http_connections", "Connections over HTTP")...)
	}
	var calls *rpc.Figures
	if cfg.MetricsAddr != "" { // where nobody looks, nothing is counted
		calls = rpc.NewFigures()
		figures = append(figures, calls)
	}
	admits := admission.New(admission.Settings{Turns: cfg.turns(), Callers: cfg.CallerLimits})
	figures = append(figures, admissionFigures(admits)...)
	figures = append(figures, d.transport.collectors()...)
	figures = append(figures, d.callers.collectors()...)
	if d.metrics, err = cfg.listenMetrics(ctx, log, figures...); err != nil {
		return fail(err)
	}
	if d.metrics != nil {
		opened = append(opened, d.metrics.listener)
	}
	d.gate = rpc.NewGate(&d.callers.Callers, admits, calls, d.journal, log)
	d.delegate = delegate.New(d.graph, cfg.TokenKey, cfg.MaxSessionTTL, time.Now)
	gateway, err := d.door(d.gate.Receiver(), datastore) //nolint:contextcheck // every call through it brings its own
	if err != nil {
		return fail(err)
	}
	if err := d.noteStart(datastore); err != nil { //nolint:contextcheck // the note belongs to no call
		return fail(err)
	}
	// The one way of every call from outside, by gRPC or through another door.
	chain := d.gate.Chain(rpc.StreamLimits{Bulk: cfg.MaxStreamTime, Stopping: d.health.stopping}).And(keeping()) //nolint:contextcheck // every call has its own
	options := append(d.gate.Options(chain), cfg.limits()...)
	if d.transport != nil {
		d.transport.onHealth = d.tellTLS
		options = append(options, grpc.Creds(d.transport.credentials()))
	}
	options = append(options, grpc.ForceServerCodecV2(spicedb.Codec()),
		// A decision walks deep: the stack that it grew is used again by the next one on the same worker.
		grpc.NumStreamWorkers(uint32(callWorkers*runtime.GOMAXPROCS(0)))) //nolint:gosec // small
	d.server = grpc.NewServer(options...)
	guarded := d.gate.Guard(d.server)
	judged := d.graph
	if cfg.JudgeOver != nil {
		judged = cfg.JudgeOver(judged)
	}
	d.judge = judge.New(judged, cfg.GlobalTypes, time.Now)
	d.judge.Recorded(d.journal)
	services := rpc.Config{
		Judge:          d.judge,
		Delegate:       d.delegate,
		Callers:        &d.callers.Callers,
		Sealer:         sealer,
		Log:            log,
		Figures:        calls,
		Now:            time.Now,
		SnapshotMaxAge: cfg.SnapshotMaxAge,
		Staleness:      d.engine.Staleness(),
		Store:          keeps,
		Follow:         follows,
		Journal:        records,
		Signals:        d.ledger,
		Events: func(ctx context.Context, issuer, token string) (caller.EventToken, error) {
			return d.callers.Book().VerifyEvents(ctx, issuer, token)
		},
	}
	if d.follower != nil {
		services.Copies = copier{d.follower.graph}
	}
	d.local = d.gate.Local(spicedb.Codec())
	carried := d.gate.Carried(chain)
	d.gate.Register(services, guarded, d.local, carried)
	spicedb.Register(d.server, gateway) // it receives by itself
	spicedb.Register(d.local, gateway)
	d.program = d.As(caller.InProcess())
	d.health.register(guarded)
	reflection.Register(guarded)
	if d.http, err = d.openHTTP(httpPort, carried); err != nil {
		return fail(err)
	}
	d.warnPersonalTypes(ctx)
	d.condition.Lock()
	d.condition.open = true
	d.condition.Unlock()
	d.tellHealth(true) // the engine has just answered
	return d, nil
}

// openEngine opens the engine, what is followed, and what answers those that follow this server's store, if there is any of them. What was opened is
// returned with an error too.
func (d *Daemon) openEngine(ctx context.Context, graph *store.Store) (opened []io.Closer, follows deputyv1.FollowServiceServer, err error) {
	if d.engine, err = d.cfg.openEngine(ctx, graph); err != nil {
		return nil, nil, err
	}
	opened = append(opened, d.engine)
	if err := d.openAuthority(ctx); err != nil {
		return opened, nil, err
	}
	if d.authority != nil {
		opened = append(opened, d.authority)
	}
	if graph == nil {
		return opened, nil, nil
	}
	served, err := deputy.NewServer(ctx, graph)
	if err != nil {
		return opened, nil, err
	}
	served.Keyed(d.cfg.Engine.KeyMark)
	return opened, served, nil
}

// openGraph opens what decisions are made over: the engine, the evaluator over the store if there is one, or a copy of the engine's database.
func (d *Daemon) openGraph(kept *store.Store, files int) (io.Closer, []prometheus.Collector, error) {
	d.graph = d.engine
	switch {
	case kept != nil && d.cfg.Evaluator == EvaluatorNative:
		d.openEvaluator(kept)
		return closer(d.evaluator.Close), d.evaluator.Collectors(), nil
	case d.cfg.Following.On:
		var err error
		if d.follower, err = d.openFollower(files); err != nil {
			return nil, nil, err
		}
		d.graph = d.follower.graph
		return d.follower, d.follower.graph.Collectors(), nil
	}
	return closer(func() {}), nil, nil
}

// door builds the guarded authzed.api.v1.
func (d *Daemon) door(receiver *wire.Receiver, datastore string) (*spicedb.Door, error) {
	version := ""
	if d.engine.InProcess() || d.cfg.followsDeputy() { // behind another Deputy there is a SpiceDB of the same kind, and no call gets there that is refused here
		version = engine.SpiceDBVersion + "+deputy" // a build, which zed does not compare with SpiceDB's releases
	}
	return spicedb.New(spicedb.Config{
		Version:  version,
		Upstream: d.engine.Conn(),
		Receiver: receiver,
		// Derived, so that no seal of one kind can pass for one of another, nor a place in one datastore for one in another.
		CursorKey: hmac256(d.cfg.TokenKey, "the cursors of authzed.api.v1"+datastore),
		Schema: func(ctx context.Context) (*authz.Schema, error) {
			snap, err := d.graph.Snapshot(ctx, authz.Freshness{})
			if err != nil {
				return nil, err
			}
			return snap.Schema(ctx)
		},
		Snapshot:       d.graph.Snapshot,
		Histories:      d.histories(),
		SnapshotMaxAge: d.cfg.SnapshotMaxAge,
		Staleness:      d.engine.Staleness(),
		Told:           d.engine.Told,
		Model:          guard.Requested,
		Answers:        d.answers(),
		ComparesSchema: d.engine.ComparesSchema(),
		Rights:         rights,
		Recording: func(ctx context.Context) spicedb.Recording {
			if r := rpc.RecordingOf(ctx); r != nil {
				return r
			}
			return nil
		},
		NotIndexed: d.delegate.NotIndexed,
	})
}

// rights is what the caller of a call may do through authzed.api.v1.
func rights(ctx context.Context) spicedb.Rights {
	c := caller.Of(ctx)
	return spicedb.Rights{
		// A server that follows this one passes on what its own callers may do, which it has judged.
		Name: c.Name, Core: c.Administers() || c.Follows(), Feeds: c.Organizes() || c.Follows(), Lists: c.Follows(), Relays: c.Follows(), Bounds: c.Bounds,
		// An admin's tokens are SpiceDB's, for migrations, and so are those of the caller that the services' preshared keys stand for. A server that
		// follows this one seals them itself.
		Seals: c.Bounds.Confined() || !c.Administers() && !c.Services() && !c.Follows(),
	}
}

// Check refuses what cannot be served, as Open does, and makes nothing. The token key may still be missing.
func (c Config) Check() error {
	if len(c.TokenKey) == 0 {
		c.TokenKey = make([]byte, 32)
	}
	c, err := c.checked()
	if err != nil {
		return err
	}
	if c.SPIFFEWorkloadAPI == "" { // that one is asked once the server opens
		if _, err := openTransport(context.Background(), c, zap.NewNop()); err != nil {
			return fmt.Errorf("daemon: %w", err)
		}
	}
	_, err = c.readCallers()
	return err
}

// checked fills in defaults and refuses what cannot be served, as far as the settings tell it, with the files that they name and what is in the directories
// that they name. It makes nothing and asks nobody. Whatever a server can be refused for without that is refused here, before anything is made. What TLS
// and the callers are read from is checked beside it, where it is opened, which makes nothing either.
func (c Config) checked() (Config, error) {
	c, err := c.complete()
	if err != nil {
		return c, err
	}
	for _, check := range []func() error{c.checkDescriptors, c.Engine.CheckConnection, c.checkDirectories, c.checkJournal} {
		if err := check(); err != nil {
			return c, fmt.Errorf("daemon: %w", err)
		}
	}
	return c, nil
}

// completeEvaluator fills in what evaluates checks, and refuses what the engine cannot be evaluated with.
func (c Config) completeEvaluator() (Config, error) {
	embedded := c.Engine.Kind == engine.Embedded || c.Engine.Kind == ""
	if c.Evaluator == "" {
		c.Evaluator = EvaluatorSpiceDB
		if embedded || c.Following.On {
			c.Evaluator = EvaluatorNative
		}
	}
	switch {
	case c.Following.On && c.Evaluator == EvaluatorSpiceDB:
		return c, fmt.Errorf("--evaluator %s and --follow exclude each other: a copy is evaluated by the evaluator %s; leave one of them out",
			EvaluatorSpiceDB, EvaluatorNative)
	case !slices.Contains(Evaluators, c.Evaluator):
		return c, fmt.Errorf("--evaluator must be one of %s, not %q", strings.Join(Evaluators, ", "), c.Evaluator)
	case c.Evaluator == EvaluatorNative && !embedded && !c.Following.On:
		return c, fmt.Errorf("--evaluator %s is for the engine %s: leave it out, because on the engine %s SpiceDB answers checks",
			EvaluatorNative, engine.Embedded, c.Engine.Kind)
	case !(c.VerifySample >= 0 && c.VerifySample <= 1): // NaN is neither
		return c, errors.New("--verify-sample is not a share, 0 to 1")
	case c.VerifySample != 0 && c.Following.On:
		return c, errors.New("--verify-sample and --follow exclude each other: --follow-sample compares the copy with what it is of; leave --verify-sample out")
	case c.VerifySample != 0 && c.Evaluator != EvaluatorNative:
		return c, fmt.Errorf("--verify-sample is for the evaluator %s, which does not run here: leave it out", EvaluatorNative)
	}
	return c, nil
}

// complete fills in defaults and refuses what cannot be served.
func (c Config) complete() (Config, error) {
	if c.NoListener {
		if err := c.checkNoListener(); err != nil {
			return c, fmt.Errorf("daemon: %w", err)
		}
	}
	if c.Addr == "" {
		c.Addr = defaultAddr
	}
	if err := c.checkTransport(); err != nil {
		return c, fmt.Errorf("daemon: %w", err)
	}
	if err := c.Engine.Check(); err != nil {
		return c, fmt.Errorf("daemon: %w", err)
	}
	if err := c.checkKeys(); err != nil {
		return c, fmt.Errorf("daemon: %w", err)
	}
	var err error
	if c, err = c.completeEvaluator(); err != nil {
		return c, fmt.Errorf("daemon: %w", err)
	}
	if c.Following, err = c.Following.complete(c.Engine); err != nil {
		return c, fmt.Errorf("daemon: %w", err)
	}
	if c.Journal, err = c.Journal.complete(c.Engine); err != nil {
		return c, fmt.Errorf("daemon: %w", err)
	}
	if c, err = c.checkHTTP(); err != nil {
		return c, fmt.Errorf("daemon: %w", err)
	}
	for _, one := range []struct {
		flag  string
		value time.Duration
	}{
		{"--snapshot-max-age", c.SnapshotMaxAge}, {"--max-session-ttl", c.MaxSessionTTL}, {"--shutdown-grace", c.ShutdownGrace},
		{"--shutdown-delay", c.ShutdownDelay}, {"--max-stream-time", c.MaxStreamTime}, {"--purge-after", c.PurgeAfter},
		{"--retention", c.Engine.Retention}, {"--max-connection-age", c.MaxConnectionAge},
	} {
		if one.value < 0 {
			return c, fmt.Errorf("daemon: %s is %s, and must not be negative: set a duration such as 720h, or leave it out", one.flag, one.value)
		}
	}
	if c.MaxConnections < 0 {
		return c, fmt.Errorf("daemon: the number of connections is %d, must be 1 or more, or 0 for as many as fit", c.MaxConnections)
	}
	if c.MaxActiveCalls < 0 {
		return c, fmt.Errorf("daemon: --max-active-calls is %d, must be 1 or more, or 0 for the default", c.MaxActiveCalls)
	}
	if key, err := c.CallerLimits.Check(); err != nil {
		flag := "--caller-" + key
		if key == "message" {
			flag = "--caller-max-message"
		}
		return c, fmt.Errorf("daemon: %s %s", flag, strings.TrimPrefix(err.Error(), key+" "))
	}
	c.SnapshotMaxAge = orDefault(c.SnapshotMaxAge, defaultSnapshotMaxAge)
	c.MaxSessionTTL = orDefault(c.MaxSessionTTL, defaultMaxSessionTTL)
	c.ShutdownGrace = orDefault(c.ShutdownGrace, defaultShutdownGrace)
	if len(c.TokenKey) == 0 {
		if engine.Shared(c.Engine.Kind) {
			return c, fmt.Errorf("daemon: engine %s can be shared by several servers, which must all have the same token key: with keys of "+
				"their own they refuse each other's tokens, and make two delegations of one that is asked for again. Set --token-key-file, and give every "+
				"server the same file; if the file is not there, it is made", c.Engine.Kind)
		}
		c.TokenKey = make([]byte, 32)
		_, _ = rand.Read(c.TokenKey) // never fails, see crypto/rand
	}
	if err := rpc.CheckSecret(c.TokenKey); err != nil {
		return c, fmt.Errorf("daemon: %w", err)
	}
	c.Engine.KeyMark = keyMark(c.TokenKey)
	return c, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// Addr is the address that the server listens on; nil if it opens no port.
func (d *Daemon) Addr() net.Addr {
	if d.cfg.NoListener {
		return nil
	}
	return d.listener.Addr()
}

// Engine returns the connection to the engine behind the server, past every guard: for tests, and for writing the core
// schema of a new graph.
func (d *Daemon) Engine() grpc.ClientConnInterface { return d.engine.Conn() }

// Serve answers calls until ctx ends. Then it says that it is not ready, and after ShutdownDelay takes no new calls, waits up to
// ShutdownGrace for those under way, cuts off the rest, and returns nil, soon even if calls do not heed that. Where Close ends it,
// it returns nil, too. It is called at most once.
func (d *Daemon) Serve(ctx context.Context) error {
	d.warnInsecure()
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(d.listener) }()
	go d.metrics.serve()
	go d.http.serve()
	watch, stop := context.WithCancel(ctx)
	defer stop()
	go d.watchEngine(watch)
	go d.watchJournal(watch)
	judging, judged := context.WithCancel(context.WithoutCancel(ctx)) // also while the server drains
	defer judged()
	go d.gate.RejudgeStreams(judging)
	go d.gate.SummarizeStrangers(judging)
	go d.callers.watch(judging)
	go d.keepIndexed(watch)
	go d.purge(watch)
	go d.transport.watch(judging)
	// gRPC ends without an error if Close told it to.
	outcome := func(err error) error {
		if err != nil {
			err = fmt.Errorf("daemon: cannot serve: %w", err)
		}
		return err
	}
	select {
	case err := <-served:
		return outcome(err)
	case <-ctx.Done():
	}
	d.log.Info("the server stops: it takes calls for some more time, and lets those under way finish", zap.Duration("takes calls for", d.cfg.ShutdownDelay),
		zap.Duration("lets them finish for", d.cfg.ShutdownGrace))
	d.health.unready()
	delay := time.NewTimer(d.cfg.ShutdownDelay)
	defer delay.Stop()
	select {
	case err := <-served:
		return outcome(err)
	case <-delay.C:
	}
	d.health.Shutdown()
	d.drain() //nolint:contextcheck // what is under way has time of its own
	return nil
}

// warnInsecure says once where a server can be overheard: few people read settings, and operators who look for a fault read the log.
func (d *Daemon) warnInsecure() {
	if reachable, err := isReachable("--addr", d.cfg.Addr); d.transport == nil && (reachable || err != nil) {
		d.log.Warn("other machines can reach this server without TLS: anyone who can read the network can read the keys of its callers",
			zap.Stringer("addr", d.Addr()))
	}
}

// watchEngine keeps the health service truthful about the engine until ctx ends.
func (d *Daemon) watchEngine(ctx context.Context) {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	well := d.follower == nil // a copy has to be brought up to date first
	for {
		bounded, cancel := context.WithTimeout(ctx, healthEvery)
		err := d.decides(bounded)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if (err == nil) != well {
			well = err == nil
			if well {
				d.log.Info("this server can decide")
			} else {
				d.log.Warn("this server cannot decide", zap.Error(err))
			}
		}
		d.tellHealth(err == nil)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tellHealth has the health service say how the engine is, and the journal, under every name that it knows.
func (d *Daemon) tellHealth(well bool) {
	d.condition.Lock()
	defer d.condition.Unlock()
	if d.follower != nil {
		serves, reloads := d.follower.graph.Stands() // either may have begun, or ended, since it was asked
		well = serves || well && reloads
	}
	d.condition.engineWell = well
	d.tellLocked()
}

// condition is what the health service was told last.
type condition struct {
	sync.Mutex
	// open says that the server has been opened, so that there is somebody to be told.
	open       bool
	engineWell bool
	journal    journalHealth
}

// tellLocked tells it. d.condition is held, so that nobody tells what has changed since.
func (d *Daemon) tellLocked() {
	state := stateOf(d.condition.engineWell && !d.condition.journal.refuses) // without a record nothing is decided
	if d.evaluator != nil {
		d.health.SetServingStatus(HealthEvaluator, stateOf(d.condition.engineWell && !d.evaluator.Degraded()))
	}
	if d.journal != nil {
		d.health.SetServingStatus(HealthJournal, stateOf(d.condition.journal.wrong == ""))
	}
	d.tellTLS()
	d.health.SetServingStatus(HealthCalls, stateOf(d.condition.engineWell))
	d.health.SetServingStatus("", state)
	for name := range d.server.GetServiceInfo() {
		d.health.SetServingStatus(name, state)
	}
}

// stateOf is how the health service says that something is well, or is not.
func stateOf(well bool) healthv1.HealthCheckResponse_ServingStatus {
	if well {
		return healthv1.HealthCheckResponse_SERVING
	}
	return healthv1.HealthCheckResponse_NOT_SERVING
}

// tellTLS has the health service say how the server's certificate is, whatever the engine does.
func (d *Daemon) tellTLS() {
	if d.transport == nil {
		return
	}
	d.health.SetServingStatus(HealthTLS, stateOf(d.transport.well(time.Now())))
}

// ReloadTLS has the server use what the files of TLS say now, without waiting until it looks by itself. Where they cannot be used it returns
// why, and what was in force stays. Calls that begin afterwards are judged by what is in force then. It does nothing without TLS.
func (d *Daemon) ReloadTLS() error {
	if d.transport == nil {
		return nil
	}
	return d.transport.reload()
}

func hmac256(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
