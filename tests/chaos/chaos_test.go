//go:build unix

package chaos

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
	"github.com/deputyauth/deputy/tests/pgtest"
	"github.com/deputyauth/deputy/tests/process"
)

// timeVariable is how long the events are repeated, a duration. Without it they happen once, and no table is printed.
const timeVariable = "DEPUTY_CHAOS_TIME"

const (
	// calm is how long nothing happens, down how long something is away, and hang how long the database hangs.
	calm, down, hang = 2 * time.Second, time.Second, 3 * time.Second
	// recovery is how long the servers may take until all of them answer again.
	recovery = 20 * time.Second
	// lag is how many acknowledged writes at least the replica does not have when it takes over.
	lag = 20
	// spent is how many transactions of others are lost with them, so that the database does not soon come back to the number that it had.
	spent = 5000
)

const database = "deputy"

const domain = `
definition document {
	relation tenant: tenant
	relation reader: user | agent
	permission view = reader
}

definition mark {
	relation left: user
}
`

func TestMain(m *testing.M) { process.Main(func() int { return pgtest.Run(m) }) }

// row is what happened in the time of one event.
type row struct {
	event                                                   string
	took, longest                                           time.Duration
	checks, failed, unavailable, byCopy, byDatabase, writes int
	stale, lost, loads, refusedTokens                       int
	// wrong says what is not as it has to be.
	wrong []string
}

func (r *row) wrongf(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// run is a run under way.
type run struct {
	*clients
	primary, standby placed
	rows             []*row
	// table says that the rows are printed.
	table bool
}

// placed is a database server with the address that it is at: that of another one, which is gone, where it took its place.
type placed struct {
	*pgtest.Cluster

	at *pgtest.Cluster
}

// event is one row of the table.
type event struct {
	name string
	do   func(r *run, t *testing.T, now *row)
	// answered says that no check may fail, and losing that writes may be lost, so that every server loads a copy of the history that is true now. No
	// other event costs a load.
	answered, losing bool
}

var events = []event{
	{"nothing happens", (*run).nothing, true, false},
	{"a server is killed, and started again", (*run).serverKilled, true, false},
	{"the database is killed, and started again", (*run).databaseKilled, false, false},
	{"the database hangs for " + hang.String(), (*run).databaseHangs, false, false},
	{"failover to a replica that lags", (*run).failover, false, true},
	{"rolling restart of all servers", (*run).rollingRestart, true, false},
}

// TestChaos has everything happen, and looks whether an answer was stale, a write was lost, or a check failed that must not.
func TestChaos(t *testing.T) {
	var lasts time.Duration
	text := os.Getenv(timeVariable)
	if text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s is %q, want a duration", timeVariable, text)
		}
	}
	r := begin(t)
	if r.table = text != ""; r.table {
		defer func() { table(r.rows) }()
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.run(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	for began := time.Now(); ; {
		for _, e := range events {
			r.happens(t, e)
		}
		if time.Since(began) >= lasts {
			break
		}
		r.anotherStandby(t)
	}
	for _, row := range r.rows {
		for _, wrong := range row.wrong {
			t.Errorf("%s: %s", row.event, wrong)
		}
	}
}

// begin starts the database, its replica and the servers, and furnishes them.
func begin(t *testing.T) *run {
	t.Helper()
	primary := pgtest.NewCluster(t)
	e := engine.Config{Kind: engine.Postgres, URI: primary.Create(t, database)}
	if err := engine.Migrate(t.Context(), e, "head"); err != nil {
		t.Fatal(err)
	}
	standby := primary.Standby(t)
	r := &run{primary: placed{primary, primary}, standby: placed{standby, standby}}
	uri, err := url.Parse(pgtest.URI(database, primary, standby))
	if err != nil {
		t.Fatal(err)
	}
	query := uri.Query()
	query.Set("target_session_attrs", "read-write")
	uri.RawQuery = query.Encode()
	dir := t.TempDir()
	var nodes []*node
	for _, name := range []string{"A", "B", "C"} {
		n := &node{name: name, dir: filepath.Join(dir, name), uri: uri.String(), ended: map[string]float64{}}
		if err := os.Mkdir(n.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		n.start(t)
		nodes = append(nodes, n)
	}
	r.clients = connect(t, nodes)
	r.furnish(t)
	return r
}

// furnish writes the schema, people and a delegation, and starts the session that all ask in.
func (r *run) furnish(t *testing.T) {
	t.Helper()
	admin := harness.Dial(t, r.nodes[0].addr, harness.AdminKey)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := v1.NewSchemaServiceClient(admin).WriteSchema(t.Context(), &v1.WriteSchemaRequest{Schema: schema.Core + domain})
	must(err)
	for _, principal := range []string{"user:alice", "user:carol", "tenant:acme"} {
		_, err = deputyv1.NewPrincipalsServiceClient(admin).Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(principal)})
		must(err)
	}
	_, err = deputyv1.NewAgentsServiceClient(admin).RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: agentID, OwnerIds: []string{"carol"}})
	must(err)
	_, err = harness.Update(t.Context(), admin, v1.RelationshipUpdate_OPERATION_TOUCH, "tenant:acme#member@user:alice", "tenant:acme#agent@agent:"+agentID)
	must(err)
	service := r.nodes[1].direct
	delegation, err := service.Delegations.CreateDelegation(t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: agentID, Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")}, TenantId: "acme",
		Ttl: durationpb.New(time.Hour), Unscoped: true,
	})
	must(err)
	session, err := r.nodes[2].direct.Sessions.StartSession(t.Context(), &deputyv1.StartSessionRequest{
		AgentId: agentID, Ttl: durationpb.New(time.Hour),
		Targets: []*deputyv1.SessionTarget{{DelegationId: delegation.GetDelegation().GetDelegationId()}},
	})
	must(err)
	r.session = session.GetSession().GetSessionId()
}

// happens has an event happen, and makes its row.
func (r *run) happens(t *testing.T, e event) {
	t.Helper()
	now := &row{event: e.name}
	began, before := time.Now(), r.counted(t)
	r.without()
	e.do(r, t, now)
	now.longest, now.took = r.without(), time.Since(began)
	r.still(func() { now.lost += len(r.model.lost(r.marks(t))) })
	after := r.counted(t)
	for i, into := range []*int{&now.checks, &now.failed, &now.unavailable, &now.writes, &now.stale, &now.refusedTokens, &now.byCopy, &now.byDatabase, &now.loads} {
		*into += after[i] - before[i]
	}
	switch {
	case now.stale > 0:
		now.wrongf("%d answers were stale", now.stale)
	case now.checks == 0 || now.writes == 0:
		now.wrongf("%d checks were answered, and %d writes acknowledged", now.checks, now.writes)
	}
	if now.byCopy == 0 || e.answered && now.byCopy <= now.byDatabase {
		now.wrongf("%d states were answered by a copy, and %d by the database", now.byCopy, now.byDatabase)
	}
	if want := len(r.nodes); e.losing && now.loads < want || !e.losing && now.loads > 0 {
		now.wrongf("copies were loaded %d times; after a loss each of the %d servers loads one, and else none does", now.loads, want)
	}
	if now.failed > 0 && e.answered {
		now.wrongf("%d checks failed", now.failed)
	}
	if now.lost > 0 && !e.losing {
		now.wrongf("%d writes that were acknowledged are lost", now.lost)
	}
	if now.refusedTokens > 0 && !e.losing {
		now.wrongf("%d tokens were refused", now.refusedTokens)
	}
	notes := r.noted()
	for _, note := range notes {
		if strings.HasPrefix(note, "STALE") || strings.HasPrefix(note, "a check failed") && e.answered {
			now.wrong = append(now.wrong, note)
		}
	}
	r.rows = append(r.rows, now)
	if !r.table {
		t.Logf("%s: %d checks, %d states by a copy and %d by the database, %d loads, %d stale, %d lost; %q",
			now.event, now.checks, now.byCopy, now.byDatabase, now.loads, now.stale, now.lost, notes)
	}
}

// counted is what has been counted so far, in the order of happens.
func (r *run) counted(t *testing.T) (all []int) {
	t.Helper()
	all = []int{
		int(r.checks.Load()), int(r.failed.Load()), int(r.unavailable.Load()), int(r.writes.Load()), int(r.stale.Load()), int(r.refusedTokens.Load()),
	}
	for _, name := range []string{byCopy, byDatabase, loads} {
		sum := 0
		for _, n := range r.nodes {
			n.look(t.Context())
			sum += n.counted(name)
		}
		all = append(all, sum)
	}
	return all
}

// still does something while no write is under way.
func (r *run) still(do func()) {
	r.writing.Lock()
	defer r.writing.Unlock()
	do()
}

// passes waits for a time in which the clients go on.
func passes(d time.Duration) { <-time.After(d) }

// recovers waits until every server answers at the head, by itself, and returns those that do not in time.
func (r *run) recovers(t *testing.T) (silent []*node, last error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), recovery)
	defer cancel()
	silent = slices.Clone(r.nodes)
	every(ctx, 50*time.Millisecond, func(int) {
		silent = slices.DeleteFunc(silent, func(n *node) bool {
			_, err := r.ask(ctx, n.direct, r.model.any(), nil)
			if err != nil && status.Code(err) != codes.DeadlineExceeded {
				last = err
			}
			return err == nil
		})
		if len(silent) == 0 {
			cancel()
		}
	})
	return silent, last
}

// settles waits until all servers answer, which they have to.
func (r *run) settles(t *testing.T, now *row) {
	t.Helper()
	silent, err := r.recovers(t)
	for _, n := range silent {
		now.wrongf("server %s does not answer %s afterwards, until it is started again: %v", n.name, recovery, err)
		n.stop(t)
		n.start(t)
	}
	if len(silent) > 0 {
		r.settles(t, now)
	}
	passes(down)
}

func (r *run) nothing(*testing.T, *row) { passes(calm) }

func (r *run) serverKilled(t *testing.T, now *row) {
	t.Helper()
	n := r.nodes[len(r.rows)%len(r.nodes)]
	n.kill(t)
	passes(down)
	n.start(t)
	r.settles(t, now)
}

func (r *run) databaseKilled(t *testing.T, now *row) {
	t.Helper()
	r.primary.Crash(t)
	passes(down)
	r.primary.StartAt(t, r.primary.at)
	r.settles(t, now)
}

func (r *run) databaseHangs(t *testing.T, now *row) {
	t.Helper()
	r.primary.Pause(t)
	passes(hang)
	r.primary.Resume(t)
	r.settles(t, now)
}

// failover has the replica take over that has not received the last writes. What they said is not so any more, and their tokens are refused.
func (r *run) failover(t *testing.T, now *row) {
	t.Helper()
	r.standby.CatchUp(t, r.primary.Cluster)
	r.standby.Detach(t)
	r.primary.SpendTransactions(t, spent)
	wrote := r.writes.Load()
	until(t, "more was written", func() bool { return r.writes.Load() >= wrote+lag })
	var newest *seen
	var lost []string
	r.still(func() {
		newest = r.newest.Load()
		r.model.darken()
		r.primary.Crash(t)
		passes(down)
		r.standby.Promote(t)
		r.primary, r.standby = r.standby, r.primary
		lost = r.model.lost(r.marks(t))
		r.stale.Add(int64(r.model.begins(r.granted(t))))
	})
	now.lost += len(lost)
	if !slices.Contains(lost, newest.mark) {
		now.wrongf("the newest write is not lost: the replica did not lag")
	}
	r.settles(t, now)
	// The numbers of the transactions that are lost are used again, for other writes.
	r.primary.SpendTransactions(t, 2*spent)
	wrote = r.writes.Load()
	until(t, "more was written", func() bool { return r.writes.Load() >= wrote+lag })
	for _, n := range r.nodes {
		if _, err := r.ask(t.Context(), n.direct, r.model.any(), newest.token); status.Code(err) != codes.OutOfRange {
			now.wrongf("server %s does not refuse the token of a write that is lost with OUT_OF_RANGE: %v", n.name, err)
		}
	}
}

// rollingRestart stops and starts one server after the other, each once the one before is ready.
func (r *run) rollingRestart(t *testing.T, now *row) {
	t.Helper()
	for _, n := range r.nodes {
		n.stop(t)
		n.start(t)
	}
	r.settles(t, now)
}

// anotherStandby makes a replica of the server that took over, at the address of the one that is gone.
func (r *run) anotherStandby(t *testing.T) {
	t.Helper()
	standby := placed{r.primary.Standby(t), r.standby.at}
	standby.Stop(t)
	standby.StartAt(t, standby.at)
	r.standby = standby
}

// until waits until something is so.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	so := false
	every(ctx, 20*time.Millisecond, func(int) {
		if so = so || is(); so {
			cancel()
		}
	})
	if !so {
		t.Fatalf("it did not come about that %s", what)
	}
}

// marks are the names of the writes that the database has, by its own tables.
func (r *run) marks(t *testing.T) []string {
	t.Helper()
	return r.objects(t, "namespace = 'mark'")
}

// granted are the documents that Alice may view, by the database's own tables.
func (r *run) granted(t *testing.T) []string {
	t.Helper()
	return r.objects(t, "namespace = 'document' AND relation = 'reader' AND userset_namespace = 'user'")
}

func (r *run) objects(t *testing.T, where string) []string {
	t.Helper()
	return strings.Fields(r.primary.Query(t, database,
		"SELECT coalesce(string_agg(object_id, ' '), '') FROM relation_tuple WHERE deleted_xid = '9223372036854775807'::xid8 AND "+where))
}

// table prints the rows.
func table(rows []*row) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "seconds\tchecks\tfailed\tby copy\tby database\tUNAVAILABLE\twrites\tstale\twithout an answer\tlost\tloads\t  event")
	for _, r := range rows {
		fmt.Fprintf(w, "%.1f\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.2f s\t%d\t%d\t  %s\n", r.took.Seconds(), r.checks, r.failed, r.byCopy, r.byDatabase,
			r.unavailable, r.writes, r.stale, r.longest.Seconds(), r.lost, r.loads, r.event)
	}
	_ = w.Flush()
}
