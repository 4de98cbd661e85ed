//go:build linux

package border

import (
	"slices"
	"strconv"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// seed returns a request that the server answers with OK, as far as it depends on the message; nil for a method that has none
// here. Half of what a method is sent begins as this, so that fuzzing goes deeper than the checks of fields.
func (d *draw) seed(m method) proto.Message {
	number := strconv.Itoa(d.IntN(4))
	session, delegation := d.world.value("session"+number), d.world.value("delegation"+number)
	agent := "bot"
	if number == "3" {
		agent = "sub"
	}
	document, user := pick(d, []string{"plan", "bobs", "deep", "daily", "listed"}), pick(d, []string{"alice", "bob", "dave"})
	context, _ := structpb.NewStruct(map[string]any{"hour": d.IntN(24)})
	resource := harness.Ref("document:" + document)
	check := &deputyv1.CheckPermissionRequest{AgentId: agent, Resource: resource, Permission: "view", Context: context}
	if d.oneIn(2) {
		check.Via = &deputyv1.CheckPermissionRequest_SessionId{SessionId: session}
	} else {
		check.Via = &deputyv1.CheckPermissionRequest_DelegationId{DelegationId: delegation}
	}
	object := &v1.ObjectReference{ObjectType: "document", ObjectId: document}
	subject := &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: user}}
	filter := &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: document}
	head := &v1.Consistency{Requirement: &v1.Consistency_FullyConsistent{FullyConsistent: true}}
	relationship := &v1.Relationship{
		Resource: &v1.ObjectReference{ObjectType: "document", ObjectId: "x" + strconv.Itoa(d.IntN(500))}, Relation: "reader", Subject: subject,
	}
	item := &v1.CheckBulkPermissionsRequestItem{Resource: object, Permission: "view", Subject: subject, Context: context}

	switch m.Input().FullName() {
	case "deputy.v1.CheckPermissionRequest":
		return check
	case "deputy.v1.CheckBulkPermissionsRequest":
		return &deputyv1.CheckBulkPermissionsRequest{Items: []*deputyv1.CheckBulkPermissionsRequestItem{
			{AgentId: agent, Via: &deputyv1.CheckBulkPermissionsRequestItem_SessionId{SessionId: session}, Resource: resource, Permission: "view"},
			{AgentId: agent, Via: &deputyv1.CheckBulkPermissionsRequestItem_DelegationId{DelegationId: delegation}, Resource: resource, Permission: "edit"},
		}}
	case "deputy.v1.WatchPermissionRequest":
		return &deputyv1.WatchPermissionRequest{Check: check, Interval: durationpb.New(time.Duration(250+d.IntN(2000)) * time.Millisecond)}
	case "deputy.v1.ExplainPermissionRequest":
		return &deputyv1.ExplainPermissionRequest{Check: check}
	case "deputy.v1.LookupResourcesRequest":
		return &deputyv1.LookupResourcesRequest{
			AgentId: agent, Via: &deputyv1.LookupResourcesRequest_SessionId{SessionId: session},
			ResourceObjectType: pick(d, []string{"document", "folder"}), Permission: "view", Limit: uint32(d.IntN(5)),
		}
	case "deputy.v1.FilterResourcesRequest":
		return &deputyv1.FilterResourcesRequest{
			AgentId: agent, Via: &deputyv1.FilterResourcesRequest_SessionId{SessionId: session}, ResourceObjectType: "document",
			ResourceObjectIds: slices.Repeat([]string{document, "none", document}, 1+d.IntN(200)), Permission: "view", OmitConditional: d.oneIn(2),
		}
	case "deputy.v1.LookupAgentsRequest":
		return &deputyv1.LookupAgentsRequest{Resource: resource, Permission: "view", Limit: uint32(d.IntN(5))}
	case "deputy.v1.ReadReachRequest":
		return &deputyv1.ReadReachRequest{
			Of: pick(d, []*deputyv1.ReadReachRequest{
				{Of: &deputyv1.ReadReachRequest_AgentId{AgentId: agent}}, {Of: &deputyv1.ReadReachRequest_DelegationId{DelegationId: delegation}},
				{Of: &deputyv1.ReadReachRequest_SessionId{SessionId: session}},
			}).GetOf(),
			ResourceObjectTypes: []string{"document"}, Permissions: []string{"view"}, WithObjects: d.oneIn(2), WithGrants: d.oneIn(2),
		}
	case "deputy.v1.StartSessionRequest":
		return &deputyv1.StartSessionRequest{
			AgentId: agent, Targets: []*deputyv1.SessionTarget{{DelegationId: delegation}}, Ttl: durationpb.New(time.Minute), Frozen: d.oneIn(2),
		}
	case "deputy.v1.RenewSessionRequest":
		return &deputyv1.RenewSessionRequest{SessionId: session, Ttl: durationpb.New(time.Hour)}
	case "deputy.v1.ListSessionsRequest":
		return &deputyv1.ListSessionsRequest{AgentId: agent, Limit: uint32(d.IntN(5)), IncludeInactive: d.oneIn(2)}
	case "deputy.v1.CreateDelegationRequest":
		return &deputyv1.CreateDelegationRequest{
			AgentId: "bot", Principal: &deputyv1.SubjectReference{Object: harness.Ref("user:" + pick(d, []string{"alice", "bob"}))}, TenantId: "acme",
			Scope: []*deputyv1.ScopeGrant{{Resource: resource, Relation: "reader"}}, AllowDirect: d.oneIn(2), Ttl: durationpb.New(time.Minute),
		}
	case "deputy.v1.ListDelegationsRequest":
		return &deputyv1.ListDelegationsRequest{AgentId: agent, Limit: uint32(d.IntN(5)), IncludeInactive: d.oneIn(2), IncludeLeaves: d.oneIn(2)}
	case "deputy.v1.RegisterAgentRequest":
		return &deputyv1.RegisterAgentRequest{AgentId: "new" + strconv.Itoa(d.IntN(1e6)), OwnerIds: []string{"carol"}}

	case "authzed.api.v1.CheckPermissionRequest":
		return &v1.CheckPermissionRequest{Resource: object, Permission: "view", Subject: subject, Context: context, WithTracing: d.oneIn(3)}
	case "authzed.api.v1.CheckBulkPermissionsRequest":
		return &v1.CheckBulkPermissionsRequest{Items: []*v1.CheckBulkPermissionsRequestItem{item, item}, WithTracing: d.oneIn(3)}
	case "authzed.api.v1.BulkCheckPermissionRequest":
		//nolint:staticcheck // SpiceDB serves it still
		return &v1.BulkCheckPermissionRequest{Items: []*v1.BulkCheckPermissionRequestItem{
			{Resource: object, Permission: "view", Subject: subject, Context: context},
		}}
	case "authzed.api.v1.ExpandPermissionTreeRequest":
		return &v1.ExpandPermissionTreeRequest{Resource: object, Permission: "view", Consistency: head}
	case "authzed.api.v1.LookupResourcesRequest":
		return &v1.LookupResourcesRequest{ResourceObjectType: "document", Permission: "view", Subject: subject, Context: context, OptionalLimit: uint32(d.IntN(3))}
	case "authzed.api.v1.LookupSubjectsRequest":
		return &v1.LookupSubjectsRequest{Resource: object, Permission: "view", SubjectObjectType: "user", Context: context, Consistency: head}
	case "authzed.api.v1.ReadRelationshipsRequest":
		return &v1.ReadRelationshipsRequest{RelationshipFilter: filter, Consistency: head, OptionalLimit: uint32(d.IntN(3))}
	case "authzed.api.v1.WriteRelationshipsRequest":
		return &v1.WriteRelationshipsRequest{Updates: []*v1.RelationshipUpdate{{
			Operation: pick(d, []v1.RelationshipUpdate_Operation{1, 2, 3}), Relationship: relationship,
		}}}
	case "authzed.api.v1.DeleteRelationshipsRequest":
		return &v1.DeleteRelationshipsRequest{
			RelationshipFilter: &v1.RelationshipFilter{ResourceType: "document", OptionalResourceId: relationship.GetResource().GetObjectId()},
		}
	case "authzed.api.v1.ImportBulkRelationshipsRequest":
		return &v1.ImportBulkRelationshipsRequest{Relationships: []*v1.Relationship{relationship}}
	case "authzed.api.v1.BulkImportRelationshipsRequest":
		return &v1.BulkImportRelationshipsRequest{Relationships: []*v1.Relationship{relationship}}
	case "authzed.api.v1.ExportBulkRelationshipsRequest":
		return &v1.ExportBulkRelationshipsRequest{OptionalLimit: uint32(1 + d.IntN(30)), OptionalRelationshipFilter: filter}
	case "authzed.api.v1.BulkExportRelationshipsRequest":
		return &v1.BulkExportRelationshipsRequest{OptionalLimit: uint32(1 + d.IntN(30))}
	case "authzed.api.v1.WatchRequest":
		return &v1.WatchRequest{OptionalObjectTypes: []string{"document"}}
	case "authzed.api.v1.WriteSchemaRequest":
		return &v1.WriteSchemaRequest{Schema: schema.Core + domain + pick(d, []string{"", "\ndefinition extra {}\n"})}
	case "authzed.api.v1.DiffSchemaRequest":
		return &v1.DiffSchemaRequest{ComparisonSchema: pick(d, words["schema"][:2])}
	case "authzed.api.v1.ExperimentalDiffSchemaRequest":
		return &v1.ExperimentalDiffSchemaRequest{ComparisonSchema: pick(d, words["schema"][:2])}
	case "authzed.api.v1.ComputablePermissionsRequest":
		return &v1.ComputablePermissionsRequest{DefinitionName: "document", RelationName: "reader"}
	case "authzed.api.v1.ExperimentalComputablePermissionsRequest":
		return &v1.ExperimentalComputablePermissionsRequest{DefinitionName: "document", RelationName: "reader"}
	case "authzed.api.v1.DependentRelationsRequest":
		return &v1.DependentRelationsRequest{DefinitionName: "document", PermissionName: "view"}
	case "authzed.api.v1.ExperimentalDependentRelationsRequest":
		return &v1.ExperimentalDependentRelationsRequest{DefinitionName: "document", PermissionName: "view"}
	case "authzed.api.v1.ExperimentalRegisterRelationshipCounterRequest":
		return &v1.ExperimentalRegisterRelationshipCounterRequest{Name: "counter1", RelationshipFilter: filter}
	case "authzed.api.v1.ExperimentalUnregisterRelationshipCounterRequest":
		return &v1.ExperimentalUnregisterRelationshipCounterRequest{Name: "counter1"}
	case "authzed.api.v1.ExperimentalCountRelationshipsRequest":
		return &v1.ExperimentalCountRelationshipsRequest{Name: "counter1"}
	case "grpc.health.v1.HealthCheckRequest":
		return &healthv1.HealthCheckRequest{}
	}
	return nil
}

// redraw draws some fields of a message anew, here or in a message within.
func (d *draw) redraw(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	if fields.Len() == 0 {
		return
	}
	f := fields.Get(d.IntN(fields.Len()))
	if f.Message() != nil && !f.IsList() && !f.IsMap() && m.Has(f) && !d.oneIn(3) {
		d.redraw(m.Mutable(f).Message())
		return
	}
	if f.IsList() {
		list := m.Mutable(f).List()
		if n := list.Len(); n > 0 && f.Message() != nil && !d.oneIn(3) {
			d.redraw(list.Get(d.IntN(n)).Message())
			return
		}
		list.Append(d.value(f, 3))
		return
	}
	if !f.IsMap() {
		m.Set(f, d.value(f, 3))
	}
}
