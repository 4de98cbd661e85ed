package journal_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

const domain = `
caveat office_hours(hour int) {
	hour >= 9 && hour < 17
}

definition document {
	relation tenant: tenant
	relation reader: user | agent | delegation | user with office_hours
	permission view = reader
}
`

// world is a server with a tenant, a user, an agent, a delegation and a session, and the ledger of its journal.
type world struct {
	*harness.Server
	t                   *testing.T
	ledger              *ledger
	delegation, session string
	decision            string
	n                   int
}

func newWorld(t *testing.T, cfg daemon.Config) *world {
	t.Helper()
	return newWorldOn(t, cfg, func(*engine.Config) {})
}

// newWorldOn is newWorld with an engine that is set up in some way.
func newWorldOn(t *testing.T, cfg daemon.Config, set func(*engine.Config)) *world {
	t.Helper()
	cfg.Engine, cfg.SignalsDir = harness.Embedded(t), t.TempDir()
	cfg.Callers = append(cfg.Callers, &caller.Caller{
		Name: "follower", Roles: caller.RolesOf(deputyv1.Role_ROLE_FOLLOWER), Bounds: authz.Unbounded(), SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "key", Key: digest(followerKey)}},
	})
	set(&cfg.Engine)
	w := &world{Server: harness.Start(t, cfg), t: t, ledger: &ledger{t: t, dir: daemon.JournalDir(cfg.Engine.Dir)}}
	w.WriteSchema(t, schema.Core+domain)
	for _, who := range []string{"user:alice", "user:carol", "tenant:acme"} {
		_, err := w.Principals().Resume(t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
		w.must(err)
	}
	_, err := w.Agents().RegisterAgent(t.Context(), &deputyv1.RegisterAgentRequest{AgentId: "bot", OwnerIds: []string{"carol"}})
	w.must(err)
	w.Touch(t,
		"tenant:acme#member@user:alice", "tenant:acme#admin@user:carol", "tenant:acme#agent@agent:bot",
		"document:plan#tenant@tenant:acme", "document:plan#reader@user:alice", "document:plan#reader@agent:bot",
		"document:daily#tenant@tenant:acme", "document:daily#reader@user:alice[office_hours]", "document:daily#reader@agent:bot",
	)
	w.renew()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// renew makes a delegation and a session.
func (w *world) renew() {
	w.t.Helper()
	made, err := w.Delegations().CreateDelegation(w.t.Context(), &deputyv1.CreateDelegationRequest{
		AgentId: "bot", TenantId: "acme", Unscoped: true, AllowDirect: true, Ttl: durationpb.New(time.Hour),
		Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:alice")},
	})
	w.must(err)
	w.delegation = made.GetDelegation().GetDelegationId()
	started, err := w.Sessions().StartSession(w.t.Context(), &deputyv1.StartSessionRequest{
		AgentId: "bot", Targets: []*deputyv1.SessionTarget{{DelegationId: w.delegation}}, Ttl: durationpb.New(time.Hour),
	})
	w.must(err)
	w.session = started.GetSession().GetSessionId()
	checked, err := w.Permissions().CheckPermission(w.t.Context(), &deputyv1.CheckPermissionRequest{
		AgentId: "bot", Via: &deputyv1.CheckPermissionRequest_SessionId{SessionId: w.session}, Resource: harness.Ref("document:plan"), Permission: "view",
	})
	w.must(err)
	w.decision = checked.GetDecisionId()
}

func digest(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }

// head is the revision that the store is at.
func (w *world) head() string {
	w.t.Helper()
	got, err := v1.NewSchemaServiceClient(w.Engine()).ReadSchema(w.t.Context(), &v1.ReadSchemaRequest{})
	w.must(err)
	return got.GetReadAt().GetToken()
}

// settle waits until the server has noted that it has listed what is live, which it does by itself once there is a schema: then only calls change
// the store.
func (w *world) settle() {
	w.t.Helper()
	filter := &v1.RelationshipFilter{ResourceType: "delegation", OptionalRelation: "indexed"}
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); <-time.After(20 * time.Millisecond) {
		stream, err := v1.NewPermissionsServiceClient(w.Engine()).ReadRelationships(w.t.Context(), &v1.ReadRelationshipsRequest{
			Consistency: &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}, RelationshipFilter: filter,
		})
		w.must(err)
		if _, err := stream.Recv(); err == nil {
			return
		}
	}
	w.t.Fatal("the server has not listed what is live")
}

var schemaJSON = func() string {
	text, err := json.Marshal(schema.Core + domain + "\ndefinition other {}\n")
	if err != nil {
		panic(err)
	}
	return string(text)
}()

const followerKey = "the-key-of-follower"

// position is the store's, as a server that follows sends it.
func (w *world) position() string {
	w.t.Helper()
	got, err := deputyv1.NewFollowServiceClient(harness.Dial(w.t, w.Addr().String(), followerKey)).GetHead(w.t.Context(), &deputyv1.GetHeadRequest{})
	w.must(err)
	text, err := protojson.Marshal(got.GetHead())
	w.must(err)
	return string(text)
}

// fill puts the words of the world into a request.
func (w *world) fill(request string) string {
	w.n++
	if strings.Contains(request, "$position") {
		request = strings.ReplaceAll(request, "$position", w.position())
	}
	return strings.NewReplacer(
		"$acting", `"agent_id":"bot","on_behalf_of":{"object_type":"user","object_id":"alice"},"tenant_id":"acme"`,
		"$delegation", w.delegation, "$session", w.session, "$decision", w.decision, "$n", fmt.Sprint(w.n), "$schema", schemaJSON,
		"$plan", `{"object_type":"document","object_id":"plan"}`, "$daily", `{"object_type":"document","object_id":"daily"}`,
		"$alice", `{"object_type":"user","object_id":"alice"}`,
		"$row", fmt.Sprintf(`{"resource":{"object_type":"document","object_id":"row-%d"},"relation":"reader","subject":{"object":{"object_type":"user",`+
			`"object_id":"alice"}}}`, w.n),
	).Replace(request)
}

const (
	spiceCheck = `{"resource":$plan,"permission":"view","subject":{"object":{"object_type":"agent","object_id":"bot"}}}`
	spiceDaily = `{"resource":$daily,"permission":"view","subject":{"object":$alice}}`
	spiceWrong = `{"resource":{"object_type":"missing","object_id":"x"},"permission":"view","subject":{"object":$alice}}`
)

// plainDigest is a digest of arguments, as a caller sends it.
const plainDigest = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// good are requests that are answered, by method: of each method that there is at least one.
var good = map[string][]string{
	"deputy.v1.PermissionsService/CheckPermission": {
		`{$acting,"resource":$plan,"permission":"view"}`, `{$acting,"resource":$daily,"permission":"view"}`,
		`{"agent_id":"bot","session_id":"$session","resource":$plan,"permission":"view"}`,
		`{$acting,"resource":$plan,"permission":"view","tool_call":{"server":"files","method":"tools/call","name":"read","arguments_hash":"` + plainDigest + `"}}`,
		`{$acting,"resource":{"object_type":"document","object_id":"none"},"permission":"view","context":{"hour":9}}`,
	},
	"deputy.v1.PermissionsService/CheckBulkPermissions": {
		`{"items":[{$acting,"resource":$plan,"permission":"view"},{$acting,"resource":$daily,"permission":"view"},` +
			`{$acting,"resource":{"object_type":"missing","object_id":"x"},"permission":"view"},{}]}`,
		`{"items":[{}]}`,
		`{"items":[{$acting,"resource":$plan,"permission":"view"},{}],"tool_call":{"server":"files","method":"resources/read"}}`,
	},
	// A watch of what is refused ends by itself; TestWatchIsRecorded has one that does not.
	"deputy.v1.PermissionsService/WatchPermission": {
		`{"check":{$acting,"resource":$daily,"permission":"view"}}`,
		`{"check":{$acting,"resource":{"object_type":"document","object_id":"none"},"permission":"view"},"interval":"60s"}`,
	},
	"deputy.v1.PermissionsService/ExplainPermission": {`{"check":{$acting,"resource":$plan,"permission":"view"}}`},
	"deputy.v1.PermissionsService/LookupResources":   {`{$acting,"resource_object_type":"document","permission":"view"}`},
	"deputy.v1.PermissionsService/FilterResources": {
		`{$acting,"resource_object_type":"document","resource_object_ids":["plan","daily","none","*","plan"],"permission":"view"}`,
		`{$acting,"resource_object_type":"document","resource_object_ids":["plan","daily"],"permission":"view","omit_conditional":true}`,
	},
	"deputy.v1.PermissionsService/RecordToolRefusal": {
		`{$acting,"tool_call":{"server":"files","method":"tools/call","name":"delete"},"refusal":"TOOL_REFUSAL_UNMAPPED"}`,
		`{"agent_id":"bot","session_id":"$session","tool_call":{"server":"files","method":"tools/call","name":"read","arguments_hash":"` + plainDigest +
			`"},"refusal":"TOOL_REFUSAL_ARGUMENTS"}`,
	},
	"deputy.v1.PermissionsService/LookupAgents": {`{"resource":$plan,"permission":"view"}`},
	"deputy.v1.ReachService/ReadReach": {
		`{"agent_id":"bot"}`, `{"session_id":"$session","with_objects":true}`, `{"delegation_id":"$delegation","resource_object_types":["document"]}`,
	},
	"deputy.v1.SessionsService/StartSession": {`{"agent_id":"bot","targets":[{"delegation_id":"$delegation"}],"ttl":"60s"}`},
	"deputy.v1.SessionsService/GetSession":   {`{"session_id":"$session"}`},
	"deputy.v1.SessionsService/ListSessions": {`{"agent_id":"bot"}`},
	"deputy.v1.SessionsService/RenewSession": {`{"session_id":"$session","ttl":"7200s"}`},
	"deputy.v1.SessionsService/EndSession":   {`{"session_id":"$session"}`},
	"deputy.v1.DelegationsService/CreateDelegation": {
		`{"agent_id":"bot","principal":{"object":$alice},"tenant_id":"acme","unscoped":true,"ttl":"60s"}`,
	},
	"deputy.v1.DelegationsService/GetDelegation":    {`{"delegation_id":"$delegation"}`},
	"deputy.v1.DelegationsService/ListDelegations":  {`{"agent_id":"bot"}`},
	"deputy.v1.DelegationsService/RevokeDelegation": {`{"delegation_id":"$delegation"}`},
	"deputy.v1.AgentsService/RegisterAgent":         {`{"agent_id":"new-$n","owner_ids":["carol"]}`},
	"deputy.v1.AgentsService/GetAgent":              {`{"agent_id":"bot"}`},
	"deputy.v1.AgentsService/ListAgents":            {`{}`},
	"deputy.v1.AgentsService/SuspendAgent":          {`{"agent_id":"bot"}`},
	"deputy.v1.AgentsService/ResumeAgent":           {`{"agent_id":"bot"}`},
	"deputy.v1.PrincipalsService/Suspend":           {`{"principal":$alice}`, `{"principal":{"object_type":"tenant","object_id":"acme"}}`},
	"deputy.v1.PrincipalsService/Resume":            {`{"principal":$alice}`, `{"principal":{"object_type":"tenant","object_id":"acme"}}`},
	"deputy.v1.BrakeService/Brake": {
		`{"agent_id":"bot","reason":"it deletes tickets","dry_run":true}`, `{"agent_id":"bot","reason":"it deletes tickets"}`,
		`{"principal":$alice,"reason":"her laptop is lost"}`, `{"tenant_id":"acme","reason":"it is attacked"}`,
		`{"session_id":"$session","reason":"it runs away"}`, `{"delegation_id":"$delegation","reason":"it was a mistake"}`,
	},
	"deputy.v1.SignalsService/ListSignals":     {`{}`},
	"deputy.v1.RetentionService/Purge":         {`{"older_than":"0s","dry_run":true}`, `{"older_than":"0s"}`},
	"deputy.v1.AdoptionService/ReviewAdoption": {`{"objects":[$alice]}`},
	"deputy.v1.StoreService/GetStatistics":     {`{}`},
	"deputy.v1.FollowService/GetHead":          {`{}`},
	"deputy.v1.FollowService/ReadChanges":      {`{"from":$position,"limit":1}`},
	"deputy.v1.FollowService/ReadDefinitions":  {`{"at":$position}`},
	"deputy.v1.FollowService/ReadPage":         {`{"at":$position,"limit":1}`, `{"at":$position,"limit":1000}`},
	"deputy.v1.FollowService/ReadDigests":      {`{"at":$position,"moment":"2040-01-01T00:00:00Z"}`},
	"deputy.v1.FollowService/ReadRows": {
		`{"at":$position,"relationships":[{"resource_type":"document","resource_id":"plan","relation":"reader","subject_type":"user","subject_id":"alice"}]}`,
	},
	"deputy.v1.FollowService/ReadBucket": {
		`{"at":$position,"moment":"2040-01-01T00:00:00Z","bucket":{"resource_type":"document","number":7}}`,
	},
	"deputy.v1.JournalService/QueryRecords":  {`{"agent_id":"bot"}`},
	"deputy.v1.JournalService/GetRecord":     {`{"decision_id":"$decision"}`},
	"deputy.v1.JournalService/GetCheckpoint": {`{}`},
	"deputy.v1.JournalService/ProveRecord":   {`{"decision_id":"$decision"}`},
	"deputy.v1.StoreService/Compact":         {`{}`},
	"deputy.v1.StoreService/Backup":          {`{}`},

	"authzed.api.v1.PermissionsService/CheckPermission":      {spiceCheck, spiceDaily},
	"authzed.api.v1.PermissionsService/CheckBulkPermissions": {`{"items":[` + spiceCheck + `,` + spiceDaily + `,` + spiceWrong + `]}`},
	"authzed.api.v1.PermissionsService/ReadRelationships": {
		`{"relationship_filter":{"resource_type":"document"}}`, `{"relationship_filter":{"resource_type":"document","optional_resource_id":"none"}}`,
	},
	"authzed.api.v1.PermissionsService/ExpandPermissionTree": {`{"resource":$plan,"permission":"view"}`},
	"authzed.api.v1.PermissionsService/LookupResources": {
		`{"resource_object_type":"document","permission":"view","subject":{"object":{"object_type":"agent","object_id":"bot"}}}`,
	},
	"authzed.api.v1.PermissionsService/LookupSubjects":          {`{"resource":$plan,"permission":"view","subject_object_type":"user"}`},
	"authzed.api.v1.PermissionsService/ExportBulkRelationships": {`{}`},
	"authzed.api.v1.PermissionsService/WriteRelationships":      {`{"updates":[{"operation":"OPERATION_TOUCH","relationship":$row}]}`},
	"authzed.api.v1.PermissionsService/DeleteRelationships": {
		`{"relationship_filter":{"resource_type":"document","optional_resource_id":"row-$n"}}`, `{"relationship_filter":{"resource_type":"document","optional_resource_id":"spare"}}`,
	},
	"authzed.api.v1.PermissionsService/ImportBulkRelationships": {`{"relationships":[$row]}`},
	"authzed.api.v1.SchemaService/ReadSchema":                   {`{}`},
	"authzed.api.v1.SchemaService/ReflectSchema":                {`{}`},
	"authzed.api.v1.SchemaService/ComputablePermissions":        {`{"definition_name":"document","relation_name":"reader"}`},
	"authzed.api.v1.SchemaService/DependentRelations":           {`{"definition_name":"document","permission_name":"view"}`},
	"authzed.api.v1.SchemaService/DiffSchema":                   {`{"comparison_schema":"definition user {}"}`},
	"authzed.api.v1.SchemaService/WriteSchema":                  {`{"schema":$schema}`},
	"authzed.api.v1.WatchService/Watch":                         {`{}`},

	"authzed.api.v1.ExperimentalService/BulkCheckPermission":               {`{"items":[` + spiceCheck + `,` + spiceDaily + `,` + spiceWrong + `]}`},
	"authzed.api.v1.ExperimentalService/BulkExportRelationships":           {`{}`},
	"authzed.api.v1.ExperimentalService/BulkImportRelationships":           {`{"relationships":[$row]}`},
	"authzed.api.v1.ExperimentalService/ExperimentalReflectSchema":         {`{}`},
	"authzed.api.v1.ExperimentalService/ExperimentalComputablePermissions": {`{"definition_name":"document","relation_name":"reader"}`},
	"authzed.api.v1.ExperimentalService/ExperimentalDependentRelations":    {`{"definition_name":"document","permission_name":"view"}`},
	"authzed.api.v1.ExperimentalService/ExperimentalDiffSchema":            {`{"comparison_schema":"definition user {}"}`},
	"authzed.api.v1.ExperimentalService/ExperimentalRegisterRelationshipCounter": {
		`{"name":"documents","relationship_filter":{"resource_type":"document"}}`,
	},
	"authzed.api.v1.ExperimentalService/ExperimentalCountRelationships":            {`{"name":"documents"}`},
	"authzed.api.v1.ExperimentalService/ExperimentalUnregisterRelationshipCounter": {`{"name":"documents"}`},
	"grpc.health.v1.Health/Check":                                                  {`{}`},
	"grpc.health.v1.Health/List":                                                   {`{}`},
	"grpc.health.v1.Health/Watch":                                                  {`{}`},
	"grpc.reflection.v1.ServerReflection/ServerReflectionInfo":                     {`{"list_services":""}`},
	"grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo":                {`{"list_services":""}`},
}

// bad are requests that are not: what no request of the method may be, or of no use to it.
var bad = map[string][]string{
	"deputy.v1.AdoptionService/ConfirmAdoption": {`{"adoptions":[{"object":$alice,"digest":"none"}]}`},
	"deputy.v1.PermissionsService/CheckPermission": {
		`{"agent_id":"bot","session_id":"` + strings.Repeat("0", 32) + `","resource":$plan,"permission":"view"}`,
		`{$acting,"resource":{"object_type":"missing","object_id":"x"},"permission":"view"}`,
		`{"agent_id":"` + strings.Repeat("x", 20_000) + `"}`,
	},
	"deputy.v1.PermissionsService/CheckBulkPermissions": {
		`{"items":[{}],"tool_call":{}}`, `{"items":[{}],"tool_call":{"server":"files","method":"` + strings.Repeat("x", 129) + `"}}`,
		`{"items":[{}],"tool_call":{"server":"two\nlines","method":"tools/call"}}`,
		`{"items":[{}],"tool_call":{"server":"files","method":"tools/call","name":"` + strings.Repeat("x", 20_000) + `","arguments_hash":"` +
			strings.Repeat("A", 40_000) + `"}}`,
	},
	"deputy.v1.PermissionsService/RecordToolRefusal": {
		`{$acting,"refusal":"TOOL_REFUSAL_UNMAPPED"}`, `{$acting,"tool_call":{"server":"files","method":"tools/call"}}`,
		`{$acting,"tool_call":{"server":"files","method":"tools/call"},"refusal":77}`,
		`{"tool_call":{"server":"files","method":"tools/call"},"refusal":"TOOL_REFUSAL_UNMAPPED"}`,
		`{$acting,"tool_call":{"server":"files","method":"tools/call","arguments_hash":"AAAA"},"refusal":"TOOL_REFUSAL_UNMAPPED"}`,
	},
	"deputy.v1.BrakeService/Brake": {
		`{"agent_id":"bot"}`, `{"reason":"no target"}`, `{"session_id":"` + strings.Repeat("0", 32) + `","reason":"nothing has this id"}`,
		`{"agent_id":"bot","reason":"two\nlines"}`, `{"agent_id":"bot","reason":"it is late","cursor":{"token":"made up"}}`,
	},
	"deputy.v1.FollowService/ReadChanges": {
		`{"from":{"store_id":"another","revision":"17"},"limit":1}`, `{"from":$position}`,
	},
	"deputy.v1.FollowService/ReadPage":       {`{"at":$position,"limit":1,"after":"nowhere"}`},
	"deputy.v1.SignalsService/ReceiveSignal": {`{"token":"no token"}`},
	"deputy.v1.SignalsService/ListSignals":   {`{"limit":5000}`, `{"cursor":{"token":"made up"}}`},
	"deputy.v1.SignalsService/ApplySignal": {
		`{"signal_id":"` + strings.Repeat("0", 32) + `","reason":"nothing has this id"}`, `{"signal_id":"x","reason":"this is none"}`,
	},
	"deputy.v1.SignalsService/DropSignal":                    {`{"signal_id":"` + strings.Repeat("0", 32) + `","reason":"nothing has this id"}`},
	"deputy.v1.RetentionService/Purge":                       {`{"older_than":"-1s"}`, `{"older_than":"0s","cursor":{"token":"made up"}}`},
	"deputy.v1.SessionsService/EndSession":                   {`{"session_id":"` + strings.Repeat("0", 32) + `"}`},
	"deputy.v1.AgentsService/RegisterAgent":                  {`{"agent_id":"bot","owner_ids":["carol"]}`},
	"authzed.api.v1.PermissionsService/CheckPermission":      {spiceWrong},
	"authzed.api.v1.SchemaService/WriteSchema":               {`{"schema":"definition user {}"}`, `{"schema":"no schema"}`},
	"authzed.api.v1.PermissionsService/LookupResources":      {`{"resource_object_type":"missing","permission":"view","subject":{"object":$alice}}`},
	"authzed.api.v1.PermissionsService/WriteRelationships":   {`{"updates":[{"operation":"OPERATION_CREATE","relationship":` + strings.Replace(`$row`, "reader", "none", 1) + `}]}`},
	"authzed.api.v1.PermissionsService/ExpandPermissionTree": {`{"resource":$plan,"permission":"none"}`},
}

// mended is called after calls that change what the others need.
var mended = map[string]func(*world){
	"deputy.v1.SessionsService/EndSession":          (*world).renew,
	"deputy.v1.DelegationsService/RevokeDelegation": (*world).renew,
	"deputy.v1.AgentsService/SuspendAgent":          (*world).resume,
	"deputy.v1.PrincipalsService/Suspend":           (*world).resume,
	"deputy.v1.BrakeService/Brake": func(w *world) {
		w.resume()
		w.renew()
	},
	"authzed.api.v1.PermissionsService/DeleteRelationships": func(w *world) { w.Touch(w.t, "document:spare#reader@user:alice") },
}

// resume takes back every suspension.
func (w *world) resume() {
	_, err := w.Agents().ResumeAgent(w.t.Context(), &deputyv1.ResumeAgentRequest{AgentId: "bot"})
	w.must(err)
	for _, who := range []string{"user:alice", "tenant:acme"} {
		_, err := w.Principals().Resume(w.t.Context(), &deputyv1.ResumeRequest{Principal: harness.Ref(who)})
		w.must(err)
	}
}

// shownElsewhere are methods of which no good request is made here.
var shownElsewhere = map[string]string{
	"deputy.v1.AdoptionService/ConfirmAdoption": "tests/decision adopts; here it is refused",
	"deputy.v1.SignalsService/ReceiveSignal":    "tests/signals has a transmitter; here nobody is one",
	"deputy.v1.SignalsService/ApplySignal":      "tests/signals has signals that wait",
	"deputy.v1.SignalsService/DropSignal":       "tests/signals has signals that wait",
	"deputy.v1.CopyService/GetCopy":             "tests/follow asks a server that follows; here there is no copy",
	"deputy.v1.CopyService/VerifyCopy":          "tests/follow asks a server that follows; here there is no copy",
	"deputy.v1.RetentionService/Purge":          "pkg/delegate purges; here nothing is old enough",
}

// methods are the names of those that the server serves, in an order in which counters are there when they are counted.
func methods() []string {
	names := slices.Collect(maps.Keys(good))
	for full := range caller.Methods() {
		if name := strings.TrimPrefix(full, "/"); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		rank := func(s string) int {
			return slices.IndexFunc([]string{"", "RegisterRelationshipCounter", "CountRelationships", "UnregisterRelationshipCounter"}, func(part string) bool {
				return part != "" && strings.HasSuffix(s, "Experimental"+part)
			})
		}
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return names
}

// TestEveryAnswerHasItsRecord is the sentence: every answer that a client received has exactly one record of equal content, which was written
// before the answer left. Calls are made one after the other, and the records are read as soon as the answer is there: those of each call are
// the ones that are new, and no others.
func TestEveryAnswerHasItsRecord(t *testing.T) {
	w := newWorld(t, daemon.Config{Callers: []*caller.Caller{{
		Name: "nothing", Bounds: authz.Unbounded(), SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "key", Key: digest("the-key-of-nothing")}},
	}, {
		Name: "auditor", Roles: caller.RolesOf(deputyv1.Role_ROLE_AUDITOR), Bounds: authz.Unbounded(), SpiceDB: authz.AllNames(),
		Credentials: []caller.Credential{{ID: "key", Key: digest("the-key-of-auditor")}},
	}}})
	w.settle()
	w.Touch(t, "document:spare#reader@user:alice")
	for _, as := range []struct {
		name string
		conn grpc.ClientConnInterface
	}{
		{"admin", w.Admin},
		{"service", w.Service},
		{"auditor", harness.Dial(t, w.Addr().String(), "the-key-of-auditor")},
		{"follower", harness.Dial(t, w.Addr().String(), followerKey)},
		{"nothing", harness.Dial(t, w.Addr().String(), "the-key-of-nothing")},
		{"in process", w.InProcess().Client().Conn()},
	} {
		t.Run(as.name, func(t *testing.T) {
			answered, refused := 0, 0
			for _, method := range methods() {
				if as.name == "in process" && strings.HasPrefix(method, "grpc.") {
					continue // it serves neither
				}
				for _, request := range slices.Concat(good[method], bad[method], []string{`{}`}) {
					request = w.fill(request)
					w.ledger.fresh()
					before := w.head()
					a := invoke(t, as.conn, as.name, method, request, w.change)
					records := w.ledger.fresh()
					if strings.HasSuffix(method, "/Watch") {
						records = slices.DeleteFunc(records, func(r *deputyv1.Record) bool { return r.GetMethod() != method })
						if len(records) == 1 && a.stopped { // the end is recorded after the client has gone
							records = append(records, w.awaitEnd(method))
						}
					} else if changed := w.head() != before; changed && !w.mayWrite(method) {
						t.Errorf("%s %s: the store has changed, and its effect is %s", method, request, caller.MethodOf("/"+method).Effect)
					}
					if a.err == nil {
						answered++
					} else {
						refused++
					}
					for _, problem := range a.judge(records) {
						t.Errorf("%s %.300s: %v: %s", method, request, a.err, problem)
					}
					if mend := mended[method]; mend != nil && a.err == nil {
						mend(w)
					}
				}
			}
			t.Logf("%d calls were answered and %d refused", answered, refused)
			if as.name == "nothing" && answered > 10 || as.name == "admin" && answered < 60 {
				t.Errorf("%d calls were answered", answered)
			}
		})
	}
}

// mayWrite reports whether the contract says that a method changes the graph.
func (w *world) mayWrite(method string) bool {
	switch caller.MethodOf("/" + method).Effect {
	case deputyv1.Effect_EFFECT_WRITES, deputyv1.Effect_EFFECT_NARROWS:
		return true
	}
	return false
}

// awaitEnd waits for the record of the end of a call that its client left.
func (w *world) awaitEnd(method string) *deputyv1.Record {
	w.t.Helper()
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); {
		for _, r := range w.ledger.fresh() {
			if r.GetMethod() == method && r.GetStage() == deputyv1.RecordStage_RECORD_STAGE_ENDED {
				return r
			}
		}
	}
	w.t.Fatalf("the end of %s is not recorded", method)
	return nil
}

// TestEffectsAreTrue: each method says what it does to the graph, and each that says that it changes it was seen to.
func TestEffectsAreTrue(t *testing.T) {
	w := newWorld(t, daemon.Config{})
	w.settle()
	w.Touch(t, "document:spare#reader@user:alice")
	for _, method := range methods() {
		if caller.MethodOf("/"+method).Effect == deputyv1.Effect_EFFECT_UNSPECIFIED {
			t.Errorf("%s does not say what it does", method)
		}
		if _, there := good[method]; !there && shownElsewhere[method] == "" {
			t.Errorf("%s has no request here: add one to good", method)
		}
		changed := false
		for _, request := range good[method] {
			before := w.head()
			a := invoke(t, w.Admin, "admin", method, w.fill(request), w.change)
			if a.err != nil && status.Code(a.err) != codes.PermissionDenied { // some are an auditor's alone
				t.Errorf("%s: %v", method, a.err)
			}
			if !strings.HasSuffix(method, "/Watch") {
				changed = changed || w.head() != before
			}
			if mend := mended[method]; mend != nil {
				mend(w)
			}
		}
		if w.mayWrite(method) != changed && shownElsewhere[method] == "" {
			t.Errorf("%s has the effect %s, and whether it changed the store is %t", method, caller.MethodOf("/"+method).Effect, changed)
		}
	}
}

// change changes the graph, for one who watches it.
func (w *world) change() {
	w.n++
	w.Touch(w.t, fmt.Sprintf("document:watched-%d#reader@user:alice", w.n))
}

// TestWatchIsRecorded: a watch has a record of its first decision, and one of the decision by which it ended, which names the first, both written
// before they are told. Decisions in between have none. Where the client leaves, that is recorded too.
func TestWatchIsRecorded(t *testing.T) {
	w := newWorld(t, daemon.Config{Callers: auditors()})
	w.settle()
	const method = "deputy.v1.PermissionsService/WatchPermission"
	request := &deputyv1.WatchPermissionRequest{}
	if err := protojson.Unmarshal([]byte(w.fill(`{"check":{$acting,"resource":$plan,"permission":"view"},"interval":"0.25s","heartbeat":"1s"}`)), request); err != nil {
		t.Fatal(err)
	}
	begin := func(ctx context.Context) (grpc.ServerStreamingClient[deputyv1.WatchPermissionResponse], string) {
		t.Helper()
		w.ledger.fresh()
		stream, err := w.Permissions().WatchPermission(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		first, err := stream.Recv()
		if err != nil || first.GetDecision().GetPermissionship() != deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
			t.Fatal(first, err)
		}
		id := first.GetDecision().GetDecisionId()
		records := w.ledger.fresh()
		if len(records) != 1 || records[0].GetMethod() != method || records[0].GetStage() != deputyv1.RecordStage_RECORD_STAGE_WHOLE {
			t.Fatalf("once the watch had begun there were the records %v", records)
		}
		return stream, id
	}
	stream, first := begin(t.Context())
	for range 3 { // each stands for decisions that are not recorded
		w.change()
		if got, err := stream.Recv(); err != nil || got.GetHolds() == nil {
			t.Fatal(got, err)
		}
	}
	for _, r := range w.ledger.fresh() {
		if r.GetMethod() == method {
			t.Errorf("while the permission holds there is a record: %v", r)
		}
	}
	w.Delete(t, "document:plan#reader@user:alice")
	var ended *deputyv1.CheckPermissionResponse
	for ended == nil {
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		ended = got.GetEnded()
	}
	var records []*deputyv1.Record
	for _, r := range w.ledger.fresh() {
		if r.GetMethod() == method {
			records = append(records, r)
		}
	}
	if len(records) != 1 || records[0].GetAboutDecision() != first || records[0].GetAnswer() != ended.GetPermissionship() ||
		records[0].GetKind() != deputyv1.RecordKind_RECORD_KIND_DECISION || records[0].GetRefusedBy() == 0 || records[0].GetLatency() > int64(time.Minute) {
		t.Fatalf("the end has the records %v", records)
	}
	found, err := deputyv1.NewJournalServiceClient(harness.Dial(t, w.Addr().String(), "the-key-of-auditor")).GetRecord(t.Context(), &deputyv1.GetRecordRequest{DecisionId: ended.GetDecisionId()})
	if err != nil || found.GetRecord().GetRecord().GetAboutDecision() != first {
		t.Errorf("by the id of the end, %v, %v", found, err)
	}

	w.Touch(t, "document:plan#reader@user:alice")
	ctx, cancel := context.WithCancel(t.Context())
	stream, _ = begin(ctx)
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	for until := time.Now().Add(30 * time.Second); ; {
		left := slices.ContainsFunc(w.ledger.fresh(), func(r *deputyv1.Record) bool {
			return r.GetMethod() == method && codes.Code(r.GetCode()) == codes.Canceled && r.GetResourceId() == "plan"
		})
		if left {
			return
		}
		if time.Now().After(until) {
			t.Fatal("that the client left is not recorded")
		}
	}
}
