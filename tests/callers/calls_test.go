package callers_test

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// call is a call that is made for every cell of a row. The request is JSON, with words that are replaced:
//
//	$agent, $user, $doc, $folder, $archive, $tenant: the agent, alice, the document, its folder, another folder and the id of the tenant (or of
//	none, "")
//	$helper: an agent in that tenant to which the agent can pass something on
//	$actor, $person, $in: who acts, for whom, and in which tenant; of acme where the document is in none
//	$delegation, $session: of the agent; an id that nothing has, where the agent is in no tenant
//	$event: a security event that waits, of a user in that tenant; $waiting: the id of one
//	$position: where the store is, for who follows it
//	$n: a number that no other call has
type call struct {
	method string
	// about tells calls of one method apart.
	about   string
	request string
	// shows is what an answer has to contain to be a yes; without, each answer is one unless it is a refusal.
	shows string
	// undo is called by an admin after a yes.
	undo *call
	// spends is what a yes uses up: "session" or "delegation".
	spends string
}

const (
	check = `"agent_id":"$actor","on_behalf_of":{"object_type":"user","object_id":"$person"},"tenant_id":"$in",` +
		`"resource":{"object_type":"document","object_id":"$doc"},"permission":"view"`
	spiceCheck = `"resource":{"object_type":"document","object_id":"$doc"},"permission":"view",` +
		`"subject":{"object":{"object_type":"agent","object_id":"$agent"}}`
	placing = `{"resource":{"object_type":"document","object_id":"new-$n"},"relation":"folder",` +
		`"subject":{"object":{"object_type":"folder","object_id":"$folder"}}}`
	grant = `{"resource":{"object_type":"document","object_id":"$doc"},"relation":"reader",` +
		`"subject":{"object":{"object_type":"agent","object_id":"$agent"}}}`
	person = `{"resource":{"object_type":"document","object_id":"$doc"},"relation":"reader",` +
		`"subject":{"object":{"object_type":"user","object_id":"$user"}}}`
	imported = `{"resource":{"object_type":"document","object_id":"$doc"},"relation":"reader",` +
		`"subject":{"object":{"object_type":"user","object_id":"imported-$n"}}}`
	core = `{"resource":{"object_type":"agent","object_id":"$agent"},"relation":"owner",` +
		`"subject":{"object":{"object_type":"user","object_id":"$user"}}}`
	move = `{"resource":{"object_type":"document","object_id":"$doc"},"relation":"folder",` +
		`"subject":{"object":{"object_type":"folder","object_id":"$archive"}}}`
)

func write(relationship string) string {
	return `{"updates":[{"operation":"OPERATION_TOUCH","relationship":` + relationship + `}]}`
}

// calls are all methods that the server serves, some with more than one request.
var calls = []call{
	{method: "deputy.v1.PermissionsService/CheckPermission", request: "{" + check + "}"},
	{
		method: "deputy.v1.PermissionsService/CheckPermission", about: "in a session",
		request: `{"agent_id":"$agent","session_id":"$session","resource":{"object_type":"document","object_id":"$doc"},"permission":"view"}`,
	},
	{method: "deputy.v1.PermissionsService/CheckBulkPermissions", request: `{"items":[{` + check + `}]}`},
	{method: "deputy.v1.PermissionsService/WatchPermission", request: `{"check":{` + check + `}}`},
	{method: "deputy.v1.PermissionsService/ExplainPermission", request: `{"check":{` + check + `}}`},
	{
		method: "deputy.v1.PermissionsService/LookupResources", shows: `"$doc"`,
		request: `{"agent_id":"$actor","on_behalf_of":{"object_type":"user","object_id":"$person"},"tenant_id":"$in",` +
			`"resource_object_type":"document","permission":"view"}`,
	},
	{
		method: "deputy.v1.PermissionsService/FilterResources", shows: `"$doc"`,
		request: `{"agent_id":"$actor","on_behalf_of":{"object_type":"user","object_id":"$person"},"tenant_id":"$in",` +
			`"resource_object_type":"document","resource_object_ids":["none","$doc"],"permission":"view"}`,
	},
	{
		method:  "deputy.v1.PermissionsService/RecordToolRefusal",
		request: `{"agent_id":"$actor","tenant_id":"$in","tool_call":{"server":"files","method":"tools/call","name":"delete"},"refusal":"TOOL_REFUSAL_UNMAPPED"}`,
	},
	{
		method: "deputy.v1.PermissionsService/LookupAgents", shows: `"$agent"`,
		request: `{"resource":{"object_type":"document","object_id":"$doc"},"permission":"view"}`,
	},
	{
		method: "deputy.v1.ReachService/ReadReach", shows: `"$doc"`,
		request: `{"agent_id":"$agent","resource_object_types":["document"],"permissions":["view"],"with_objects":true}`,
	},

	{
		method:  "deputy.v1.SessionsService/StartSession",
		request: `{"agent_id":"$agent","targets":[{"delegation_id":"$delegation"}],"ttl":"60s"}`,
	},
	{method: "deputy.v1.SessionsService/GetSession", request: `{"session_id":"$session"}`},
	{method: "deputy.v1.SessionsService/ListSessions", request: `{"agent_id":"$agent"}`, shows: `"$session"`},
	{method: "deputy.v1.SessionsService/RenewSession", request: `{"session_id":"$session","ttl":"3600s"}`},
	{method: "deputy.v1.SessionsService/EndSession", request: `{"session_id":"$session"}`, spends: "session"},

	{
		method: "deputy.v1.DelegationsService/CreateDelegation",
		request: `{"agent_id":"$agent","principal":{"object":{"object_type":"user","object_id":"$user"}},"tenant_id":"$tenant",` +
			`"unscoped":true,"ttl":"60s"}`,
	},
	{
		method: "deputy.v1.DelegationsService/CreateDelegation", about: "a part of one",
		request: `{"agent_id":"$helper","parent_delegation_id":"$delegation","unscoped":true}`,
	},
	{method: "deputy.v1.DelegationsService/GetDelegation", request: `{"delegation_id":"$delegation"}`},
	{method: "deputy.v1.DelegationsService/ListDelegations", request: `{"agent_id":"$agent"}`, shows: `"$delegation"`},
	{method: "deputy.v1.DelegationsService/RevokeDelegation", request: `{"delegation_id":"$delegation"}`, spends: "delegation"},

	{method: "deputy.v1.AgentsService/RegisterAgent", request: `{"agent_id":"new-$n","owner_ids":["carol-acme"]}`},
	{method: "deputy.v1.AgentsService/GetAgent", request: `{"agent_id":"$agent"}`},
	{method: "deputy.v1.AgentsService/ListAgents", request: `{}`, shows: `"$agent"`},
	{
		method: "deputy.v1.AgentsService/SuspendAgent", request: `{"agent_id":"$agent"}`,
		undo: &call{method: "deputy.v1.AgentsService/ResumeAgent", request: `{"agent_id":"$agent"}`},
	},
	{method: "deputy.v1.AgentsService/ResumeAgent", request: `{"agent_id":"$agent"}`},

	{
		method: "deputy.v1.PrincipalsService/Suspend", about: "a user",
		request: `{"principal":{"object_type":"user","object_id":"$user"}}`,
		undo: &call{
			method: "deputy.v1.PrincipalsService/Resume", request: `{"principal":{"object_type":"user","object_id":"$user"}}`,
		},
	},
	{
		method: "deputy.v1.PrincipalsService/Suspend", about: "a tenant",
		request: `{"principal":{"object_type":"tenant","object_id":"$tenant"}}`,
		undo: &call{
			method: "deputy.v1.PrincipalsService/Resume", request: `{"principal":{"object_type":"tenant","object_id":"$tenant"}}`,
		},
	},
	{
		method: "deputy.v1.PrincipalsService/Resume", about: "a user",
		request: `{"principal":{"object_type":"user","object_id":"$user"}}`,
	},
	{
		method: "deputy.v1.PrincipalsService/Resume", about: "a tenant",
		request: `{"principal":{"object_type":"tenant","object_id":"$tenant"}}`,
	},

	{
		method: "deputy.v1.BrakeService/Brake", about: "an agent, as a dry run",
		request: `{"agent_id":"$agent","reason":"the table","dry_run":true}`,
	},
	{
		method: "deputy.v1.BrakeService/Brake", about: "a tenant, as a dry run",
		request: `{"tenant_id":"$tenant","reason":"the table","dry_run":true}`,
	},
	{method: "deputy.v1.BrakeService/Brake", about: "a session", request: `{"session_id":"$session","reason":"the table"}`, spends: "session"},
	{
		method: "deputy.v1.BrakeService/Brake", about: "a delegation", request: `{"delegation_id":"$delegation","reason":"the table"}`,
		spends: "delegation",
	},

	{method: "deputy.v1.SignalsService/ReceiveSignal", request: `{"token":"$event"}`},
	{method: "deputy.v1.SignalsService/ListSignals", request: `{}`},
	{method: "deputy.v1.SignalsService/ApplySignal", request: `{"signal_id":"$waiting","reason":"the table"}`},
	{method: "deputy.v1.SignalsService/DropSignal", request: `{"signal_id":"$waiting","reason":"the table"}`},

	{method: "deputy.v1.AdoptionService/ReviewAdoption", request: `{"objects":[{"object_type":"user","object_id":"$user"}]}`},
	{
		method:  "deputy.v1.AdoptionService/ConfirmAdoption",
		request: `{"adoptions":[{"object":{"object_type":"user","object_id":"$user"},"digest":"none"}]}`,
	},
	{method: "deputy.v1.StoreService/GetStatistics", request: `{}`},
	{method: "deputy.v1.StoreService/Compact", request: `{}`},
	{method: "deputy.v1.StoreService/Backup", request: `{}`},
	{method: "deputy.v1.CopyService/GetCopy", request: `{}`},
	{method: "deputy.v1.CopyService/VerifyCopy", request: `{}`},
	{method: "deputy.v1.FollowService/GetHead", request: `{}`},
	{method: "deputy.v1.FollowService/ReadChanges", request: `{"from":$position,"limit":1}`},
	{method: "deputy.v1.FollowService/ReadDefinitions", request: `{"at":$position}`},
	{method: "deputy.v1.FollowService/ReadPage", request: `{"at":$position,"limit":50000}`, shows: `"$doc"`},
	{method: "deputy.v1.FollowService/ReadDigests", request: `{"at":$position,"moment":"2040-01-01T00:00:00Z"}`},
	{
		method:  "deputy.v1.FollowService/ReadRows",
		request: `{"at":$position,"relationships":[{"resource_type":"document","resource_id":"$doc","relation":"reader","subject_type":"user","subject_id":"$user"}]}`,
	},
	{
		method:  "deputy.v1.FollowService/ReadBucket",
		request: `{"at":$position,"moment":"2040-01-01T00:00:00Z","bucket":{"resource_type":"document","number":7}}`,
	},
	{method: "deputy.v1.JournalService/QueryRecords", request: `{"agent_id":"$agent","kinds":["RECORD_KIND_DECISION"],"limit":1}`},
	{method: "deputy.v1.JournalService/GetRecord", request: `{"decision_id":"00000000000000000000000000000000"}`},
	{method: "deputy.v1.JournalService/GetCheckpoint", request: `{}`},
	{method: "deputy.v1.JournalService/ProveRecord", request: `{"decision_id":"00000000000000000000000000000000"}`},
	{method: "deputy.v1.RetentionService/Purge", request: `{"older_than":"2592000s"}`},

	{method: "authzed.api.v1.PermissionsService/CheckPermission", request: "{" + spiceCheck + "}"},
	{method: "authzed.api.v1.PermissionsService/CheckBulkPermissions", request: `{"items":[{` + spiceCheck + `}]}`},
	{
		method: "authzed.api.v1.PermissionsService/ReadRelationships", about: "of one object", shows: `"folder"`,
		request: `{"relationship_filter":{"resource_type":"document","optional_resource_id":"$doc"}}`,
	},
	{
		method: "authzed.api.v1.PermissionsService/ReadRelationships", about: "of a type", shows: `"$doc"`,
		request: `{"relationship_filter":{"resource_type":"document"}}`,
	},
	{
		method:  "authzed.api.v1.PermissionsService/ExpandPermissionTree",
		request: `{"resource":{"object_type":"document","object_id":"$doc"},"permission":"view"}`,
	},
	{
		method: "authzed.api.v1.PermissionsService/LookupResources", shows: `"$doc"`,
		request: `{"resource_object_type":"document","permission":"view","subject":{"object":{"object_type":"agent","object_id":"$agent"}}}`,
	},
	{
		method: "authzed.api.v1.PermissionsService/LookupSubjects", shows: `"$agent"`,
		request: `{"resource":{"object_type":"document","object_id":"$doc"},"permission":"view","subject_object_type":"agent"}`,
	},
	{method: "authzed.api.v1.PermissionsService/ExportBulkRelationships", request: `{}`},
	{method: "authzed.api.v1.PermissionsService/WriteRelationships", about: "a new object", request: write(placing)},
	{method: "authzed.api.v1.PermissionsService/WriteRelationships", about: "an object's reader", request: write(person)},
	{
		method: "authzed.api.v1.PermissionsService/WriteRelationships", about: "an object's place", request: write(move),
		undo: &call{
			method:  "authzed.api.v1.PermissionsService/WriteRelationships",
			request: strings.Replace(write(move), "TOUCH", "DELETE", 1),
		},
	},
	{method: "authzed.api.v1.PermissionsService/WriteRelationships", about: "an agent's grant", request: write(grant)},
	{method: "authzed.api.v1.PermissionsService/WriteRelationships", about: "an agent's owner", request: write(core)},
	{
		method: "authzed.api.v1.PermissionsService/DeleteRelationships",
		request: `{"relationship_filter":{"resource_type":"document","optional_resource_id":"$doc","optional_relation":"reader",` +
			`"optional_subject_filter":{"subject_type":"user","optional_subject_id":"gone-$n"}}}`,
	},
	{method: "authzed.api.v1.PermissionsService/ImportBulkRelationships", request: `{"relationships":[` + imported + `]}`},

	{method: "authzed.api.v1.SchemaService/ReadSchema", request: `{}`},
	{method: "authzed.api.v1.SchemaService/ReflectSchema", request: `{}`},
	{
		method:  "authzed.api.v1.SchemaService/ComputablePermissions",
		request: `{"definition_name":"document","relation_name":"reader"}`,
	},
	{method: "authzed.api.v1.SchemaService/DependentRelations", request: `{"definition_name":"document","permission_name":"view"}`},
	{method: "authzed.api.v1.SchemaService/DiffSchema", request: `{"comparison_schema":"definition user {}"}`},
	{method: "authzed.api.v1.SchemaService/WriteSchema", request: `{"schema":"$schema"}`},
	{method: "authzed.api.v1.WatchService/Watch", request: `{}`},

	{method: "authzed.api.v1.ExperimentalService/BulkCheckPermission", request: `{"items":[{` + spiceCheck + `}]}`},
	{method: "authzed.api.v1.ExperimentalService/BulkExportRelationships", request: `{}`},
	{method: "authzed.api.v1.ExperimentalService/BulkImportRelationships", request: `{"relationships":[` + imported + `]}`},
	{method: "authzed.api.v1.ExperimentalService/ExperimentalReflectSchema", request: `{}`},
	{
		method:  "authzed.api.v1.ExperimentalService/ExperimentalComputablePermissions",
		request: `{"definition_name":"document","relation_name":"reader"}`,
	},
	{
		method:  "authzed.api.v1.ExperimentalService/ExperimentalDependentRelations",
		request: `{"definition_name":"document","permission_name":"view"}`,
	},
	{
		method:  "authzed.api.v1.ExperimentalService/ExperimentalDiffSchema",
		request: `{"comparison_schema":"definition user {}"}`,
	},
	{
		method:  "authzed.api.v1.ExperimentalService/ExperimentalRegisterRelationshipCounter",
		request: `{"name":"documents_$n","relationship_filter":{"resource_type":"document"}}`,
		undo: &call{
			method: "authzed.api.v1.ExperimentalService/ExperimentalUnregisterRelationshipCounter", request: `{"name":"documents_$n"}`,
		},
	},
	{method: "authzed.api.v1.ExperimentalService/ExperimentalCountRelationships", request: `{"name":"documents"}`},
	{method: "authzed.api.v1.ExperimentalService/ExperimentalUnregisterRelationshipCounter", request: `{"name":"none_$n"}`},

	{method: "grpc.health.v1.Health/Check", request: `{}`},
	{method: "grpc.health.v1.Health/List", request: `{}`},
	{method: "grpc.health.v1.Health/Watch", request: `{}`},
	{method: "grpc.reflection.v1.ServerReflection/ServerReflectionInfo", request: `{"list_services":""}`},
	{method: "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", request: `{"list_services":""}`},
}

// name is how the table names a call.
func (c call) name() string {
	if c.about == "" {
		return c.method
	}
	return fmt.Sprintf("%s: %s", c.method, c.about)
}

// fill puts the words of one cell into a text.
func (w *world) fill(text, in, agent string) string {
	id, actsIn := in, in
	if in == nowhere {
		id, actsIn = "", acme
	}
	known := func(ids map[string]string) string {
		if id := ids[agent+"-"+in]; id != "" {
			return id
		}
		return strings.Repeat("0", 32)
	}
	if strings.Contains(text, "$event") {
		text = strings.ReplaceAll(text, "$event", w.event("carol-"+in, in))
	}
	if strings.Contains(text, "$position") {
		text = strings.ReplaceAll(text, "$position", w.position())
	}
	if strings.Contains(text, "$waiting") {
		text = strings.ReplaceAll(text, "$waiting", w.waiting(in))
	}
	return strings.NewReplacer(
		"$agent", agent+"-"+in, "$helper", helper+"-"+in, "$user", "alice-"+in, "$doc", "plan-"+in, "$folder", "inbox-"+in, "$archive", "archive-"+in, "$tenant", id,
		"$actor", agent+"-"+actsIn, "$person", "alice-"+actsIn, "$in", actsIn,
		"$delegation", known(w.delegations), "$session", known(w.sessions), "$n", fmt.Sprint(w.n), "$schema", schemaJSON,
	).Replace(text)
}

// position is the store's, as a server that follows sends it.
func (w *world) position() string {
	w.t.Helper()
	got, err := deputyv1.NewFollowServiceClient(w.follower).GetHead(w.t.Context(), &deputyv1.GetHeadRequest{})
	w.must(err)
	text, err := protojson.Marshal(got.GetHead())
	w.must(err)
	return string(text)
}
