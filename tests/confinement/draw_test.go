package confinement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// drawing draws requests. Fields are filled by their names, so that a new method is asked by itself.
type drawing struct {
	*rand.Rand
	// grants are what agents act under, those of the other tenant and those that requests made among them.
	grants []grant
	// tokens and cursors are those that the first server gave in answers to both.
	tokens, cursors map[protoreflect.FullName][]string
	// fresh counts the ids that were made up, and keys the idempotency keys.
	fresh, keys int
	// head lets requests read the head alone: what is staler depends, on a database, on when it was written.
	head bool
	// began is when the first request was made.
	began time.Time
	// apart lets delegations and sessions be made without a key, which have other ids on each server.
	apart bool
}

func (d *drawing) pick(of ...string) string { return of[d.IntN(len(of))] }

func (d *drawing) chance(percent int) bool { return d.IntN(100) < percent }

// place is the beginning of an id: mostly of the own tenant's.
func (d *drawing) place() string { return d.pick(own, own, own, own, other, other, "nowhere") }

func (d *drawing) agent() string {
	if d.chance(6) {
		return d.pick("", "*", "a b", d.place()+"-none")
	}
	return d.pick("both-bot", "both-bot", d.place()+"-bot", d.place()+"-bot", d.place()+"-sub")
}

func (d *drawing) user() string {
	return d.pick("both-dan", "both-dan", "both-eve", d.place()+"-ann", d.place()+"-ben", d.place()+"-cat", d.place()+"-gone", d.place()+"-none")
}

func (d *drawing) principal() (kind, id string) {
	switch {
	case d.chance(80):
		return "user", d.user()
	case d.chance(79):
		return "service", d.place() + "-svc"
	case d.chance(60):
		return "tenant", d.place()
	default:
		return d.pick("agent", "user", "document", ""), d.pick("*", "acme-bot", "")
	}
}

func (d *drawing) objectType() string {
	switch {
	case d.chance(75):
		return d.pick("document", "document", "folder")
	case d.chance(80):
		return d.pick("group", "tool", "note", "agent", "tenant", "user", "delegation", "session")
	default:
		return d.pick("documnt", "nothing", "")
	}
}

// object draws a domain object mostly.
func (d *drawing) object() (kind, id string) {
	kind = d.objectType()
	switch kind {
	case "document", "documnt", "nothing", "":
		if d.chance(10) {
			d.fresh++
			return kind, fmt.Sprintf("%s-n%d", d.place(), d.fresh/2)
		}
		if d.chance(6) {
			return kind, d.pick("globex-two", "*", "")
		}
		return kind, fmt.Sprintf("%s-d%d", d.place(), 1+d.IntN(14))
	case "folder":
		return kind, fmt.Sprintf("%s-f%d", d.place(), 1+d.IntN(4))
	case "group":
		return kind, d.place() + "-g1"
	case "agent":
		return kind, d.agent()
	case "user":
		return kind, d.user()
	case "tenant":
		return kind, d.place()
	case "delegation":
		return kind, d.delegation()
	case "session":
		return kind, d.session()
	default:
		return kind, d.place() + "-" + kind[:1] + "1"
	}
}

func (d *drawing) of(id func(grant) string) string {
	for range 50 {
		if found := id(d.grant()); found != "" && d.chance(95) {
			return found
		}
	}
	return d.pick("", "malformed id", fmt.Sprintf("%016x%016x", d.Uint64(), d.Uint64()))
}

// grant draws what an agent acts under, mostly in the own tenant.
func (d *drawing) grant() grant {
	for {
		if g := d.grants[d.IntN(len(d.grants))]; g.tenant == own || d.chance(25) {
			return g
		}
	}
}

func (d *drawing) delegation() string { return d.of(func(g grant) string { return g.delegation }) }
func (d *drawing) session() string    { return d.of(func(g grant) string { return g.session }) }

func (d *drawing) relation() string {
	if d.chance(10) {
		return d.pick("use", "folder", "member", "holder", "vew", "nothing", "access", "")
	}
	return d.pick("view", "view", "view", "edit", "tenant", "reader")
}

// key is an idempotency key that nobody has used here. Callers of the other tenant use the same ones.
func (d *drawing) key() string {
	d.keys++
	return fmt.Sprintf("key-%d", d.keys)
}

// text draws a string field.
func (d *drawing) text(field protoreflect.FieldDescriptor) string {
	switch name := string(field.Name()); {
	case name == "agent_id":
		return d.agent()
	case strings.HasSuffix(name, "session_id"):
		return d.session()
	case strings.HasSuffix(name, "delegation_id"):
		return d.delegation()
	case name == "tenant_id":
		return d.pick(own, own, own, other, "nowhere", "")
	case strings.HasSuffix(name, "owner_ids"):
		return d.user()
	case name == "idempotency_key":
		return d.pick("", "", d.key(), d.key(), fmt.Sprintf("key-%d", d.IntN(1+d.keys)))
	case strings.HasSuffix(name, "object_type"), name == "resource_type", name == "optional_resource_type", name == "subject_type":
		return d.objectType()
	case strings.HasSuffix(name, "permission"), strings.HasSuffix(name, "relation"):
		return d.relation()
	case strings.HasSuffix(name, "resource_id"), strings.HasSuffix(name, "subject_id"), strings.HasSuffix(name, "object_id"):
		_, id := d.object()
		return id
	case strings.HasSuffix(name, "name"), strings.HasSuffix(name, "name_filter"):
		return d.pick("document", "folder", "view", "office", "nothing")
	case name == "optional_resource_id_prefix":
		return d.pick("", "", own, other+"-d", "nowhere")
	default:
		return d.pick("", "a text", "acme-d1", "globex-d1")
	}
}

// message draws the fields of a message.
func (d *drawing) message(m protoreflect.Message, field string, depth int) {
	switch of := m.Interface().(type) {
	case *durationpb.Duration:
		of.Seconds = []int64{1800, 3600, 7200, 36000, 1800, 3600, 7200, 36000, 90000, 0, -60, 600}[d.IntN(12)]
		return
	case *timestamppb.Timestamp:
		of.Seconds = []int64{1_500_000_000, 4_000_000_000, 4_070_908_800}[d.IntN(3)]
		return
	case *structpb.Struct:
		of.Fields = map[string]*structpb.Value{}
		for _, name := range []string{"hour", "part", "closes", "of"} {
			if d.chance(40) {
				of.Fields[name] = structpb.NewNumberValue(float64(d.IntN(24)))
			}
		}
		if d.chance(5) {
			of.Fields["hour"] = structpb.NewStringValue("noon")
		}
		return
	}
	set := func(name, value string) {
		if f := m.Descriptor().Fields().ByName(protoreflect.Name(name)); f != nil && f.Kind() == protoreflect.StringKind && !f.IsList() {
			m.Set(f, protoreflect.ValueOfString(value))
		}
	}
	switch m.Descriptor().Name() {
	case "ObjectReference":
		kind, id := d.object()
		switch field {
		case "on_behalf_of", "principal", "granted_by", "principals", "subject":
			kind, id = d.principal()
		}
		set("object_type", kind)
		set("object_id", id)
		return
	case "SubjectReference":
		object := m.Mutable(m.Descriptor().Fields().ByName("object")).Message()
		d.message(object, "subject", depth+1)
		kind := object.Get(object.Descriptor().Fields().ByName("object_type")).String()
		if kind == "tenant" || kind == "group" || d.chance(3) {
			set("optional_relation", d.pick("member", "member", "admin", ""))
		}
		return
	case "ZedToken":
		set("token", d.one(d.tokens[m.Descriptor().ParentFile().Package()]))
		return
	case "Cursor":
		set("token", d.one(d.cursors[m.Descriptor().ParentFile().Package()]))
		return
	}
	fields := m.Descriptor().Fields()
	chosen := map[protoreflect.OneofDescriptor]bool{}
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if chosen[o] {
				continue
			}
			chosen[o] = true
			f = o.Fields().Get(d.IntN(o.Fields().Len()))
		}
		if d.chance(d.missing(f, depth)) {
			continue
		}
		switch {
		case f.IsMap():
		case f.IsList():
			list := m.Mutable(f).List()
			for range 1 + max(0, d.IntN(6)-3) {
				if f.Message() == nil {
					list.Append(d.scalar(f))
					continue
				}
				item := list.NewElement()
				d.message(item.Message(), string(f.Name()), depth+1)
				list.Append(item)
			}
		case f.Message() != nil:
			if depth < 6 {
				d.message(m.Mutable(f).Message(), string(f.Name()), depth+1)
			}
		default:
			m.Set(f, d.scalar(f))
		}
	}
	d.agree(m)
}

// missing is how often a field is left out, in percent.
func (d *drawing) missing(f protoreflect.FieldDescriptor, depth int) int {
	switch name := string(f.Name()); {
	case strings.Contains(name, "cursor"):
		return 97
	case name == "consistency", name == "session_token":
		return 85
	case strings.Contains(name, "expires"), name == "optional_caveat":
		return 90
	case strings.Contains(name, "debug"), strings.Contains(name, "tracing"):
		return 70
	case name == "optional_preconditions":
		return 90
	case name == "on_behalf_of", name == "tenant_id", name == "context", name == "via", strings.HasPrefix(name, "optional"), name == "parent_delegation_id":
		return 45
	case depth == 0:
		return 4
	default:
		return 2
	}
}

func (d *drawing) one(of []string) string {
	if len(of) == 0 || d.chance(10) {
		return "bm9uZSBvZiBvdXJz"
	}
	return of[d.IntN(len(of))]
}

func (d *drawing) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(d.text(f))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(d.chance(map[bool]int{true: 95, false: 50}[f.ContainingOneof() != nil]))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(d.IntN(f.Enum().Values().Len())))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32([]uint32{0, 2, 3, 7, 7, 1000, 1000, 1}[d.IntN(8)])
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(d.Uint64N(100))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(d.Int32N(100))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("bytes"))
	default:
		return f.Default()
	}
}

// agree makes the fields of a message name what belongs together, most of the time.
func (d *drawing) agree(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	text := func(name, value string) {
		if f := fields.ByName(protoreflect.Name(name)); f != nil && f.Kind() == protoreflect.StringKind {
			m.Set(f, protoreflect.ValueOfString(value))
		}
	}
	ref := func(name, kind, id, relation string) {
		f := fields.ByName(protoreflect.Name(name))
		if f == nil || f.Message() == nil || f.IsList() {
			return
		}
		o := m.Mutable(f).Message()
		if inner := o.Descriptor().Fields().ByName("object"); inner != nil {
			o.Set(o.Descriptor().Fields().ByName("optional_relation"), protoreflect.ValueOfString(relation))
			o = o.Mutable(inner).Message()
		}
		o.Set(o.Descriptor().Fields().ByName("object_type"), protoreflect.ValueOfString(kind))
		o.Set(o.Descriptor().Fields().ByName("object_id"), protoreflect.ValueOfString(id))
	}
	switch m.Descriptor().FullName() {
	case "authzed.api.v1.Relationship":
		if !d.chance(85) {
			return
		}
		x := d.place()
		doc := fmt.Sprintf("%s-d%d", x, 1+d.IntN(13))
		if d.chance(20) {
			d.fresh++
			doc = fmt.Sprintf("%s-n%d", x, d.fresh/2)
		}
		// No grant crosses tenants, no matter which tenant writes it: who holds what is then the object's tenant's affair.
		type row struct{ resource, id, relation, subject, of, rel string }
		rows := []row{
			{"document", doc, "folder", "folder", fmt.Sprintf("%s-f%d", d.place(), 1+d.IntN(3)), ""},
			{"document", doc, "folder", "folder", fmt.Sprintf("%s-f%d", x, 1+d.IntN(3)), ""},
			{"document", doc, "reader", "user", d.user(), ""},
			{"document", doc, "reader", "user", "*", ""},
			{"document", doc, "reader", "agent", d.agent(), ""},
			{"document", doc, "reader", "group", d.place() + "-g1", "member"},
			{"document", doc, "banned", "user", d.user(), ""},
			{"document", doc, "reader", "delegation", d.delegation(), ""},
			{"folder", fmt.Sprintf("%s-f%d", x, 1+d.IntN(4)), "reader", "user", d.user(), ""},
			{"folder", fmt.Sprintf("%s-f%d", x, 1+d.IntN(4)), "tenant", "tenant", d.place(), ""},
			{"group", x + "-g1", "member", "user", d.user(), ""},
			{"tool", own + "-t1", "holder", "user", d.user(), ""},
			{"note", x + "-n1", "reader", "user", d.user(), ""},
			{"tenant", x, "member", "user", d.user(), ""},
			{"user", d.user(), "active", "user", d.user(), ""},
			{"delegation", d.delegation(), "revoked", "delegation", d.delegation(), ""},
		}
		r := rows[d.IntN(len(rows))]
		if d.chance(60) {
			r = rows[d.IntN(10)]
		}
		ref("resource", r.resource, r.id, "")
		text("relation", r.relation)
		ref("subject", r.subject, r.of, r.rel)
		return
	case "authzed.api.v1.RelationshipFilter":
		if d.chance(70) {
			kind, id := d.object()
			text("resource_type", kind)
			text("optional_resource_id", id)
			text("optional_resource_id_prefix", "")
		}
		if d.chance(50) { // all rows of an object
			m.Clear(fields.ByName("optional_relation"))
			m.Clear(fields.ByName("optional_subject_filter"))
		}
		return
	case "authzed.api.v1.CheckPermissionRequest", "authzed.api.v1.CheckBulkPermissionsRequestItem":
		if d.chance(80) {
			ref("resource", "document", fmt.Sprintf("%s-d%d", d.place(), 1+d.IntN(13)), "")
			text("permission", d.pick("view", "edit", "tenant", "reader"))
		}
		return
	}
	if !strings.HasPrefix(string(m.Descriptor().FullName()), "deputy.v1.") || !d.chance(88) {
		return
	}
	g := d.grant()
	for name := m.Descriptor().Name(); g.delegation == "" && (name == "CreateDelegationRequest" || name == "SessionTarget"); {
		g = d.grant()
	}
	kind, id, _ := strings.Cut(g.principal, ":")
	text("agent_id", g.agent)
	if f := fields.ByName("session_id"); f != nil && f.ContainingOneof() != nil {
		m.Clear(fields.ByName("delegation_id"))
		m.Clear(f)
		switch {
		case g.session != "":
			text("session_id", g.session)
		case d.chance(60):
			text("delegation_id", g.delegation)
		}
	}
	if f := fields.ByName("on_behalf_of"); f != nil && (m.Has(f) || g.session == "") {
		if g.relation != "" {
			kind, id = "user", d.user()
		}
		ref("on_behalf_of", kind, id, "")
	}
	if f := fields.ByName("tenant_id"); f != nil && (m.Has(f) || g.session == "") {
		text("tenant_id", g.tenant)
	}
	if fields.ByName("resource") != nil && fields.ByName("relation") == nil && d.chance(92) {
		ref("resource", "document", fmt.Sprintf("%s-d%d", d.pick(g.tenant, g.tenant, g.tenant, d.place()), 1+d.IntN(13)), "")
		text("permission", d.pick("view", "view", "view", "edit"))
	}
	if fields.ByName("resource_object_type") != nil && d.chance(90) {
		text("resource_object_type", d.pick("document", "document", "folder"))
		text("permission", "view")
	}
	switch m.Descriptor().Name() {
	case "ReadReachRequest":
		m.Clear(fields.ByName("resource_object_types"))
		m.Clear(fields.ByName("permissions"))
		for _, narrower := range []protoreflect.Name{"on_behalf_of", "tenant_id"} {
			if d.chance(80) {
				m.Clear(fields.ByName(narrower))
			}
		}
	case "FilterResourcesRequest":
		text("resource_object_type", "document")
		list := m.Mutable(fields.ByName("resource_object_ids")).List()
		for range 1 + d.IntN(20) {
			list.Append(protoreflect.ValueOfString(fmt.Sprintf("%s-d%d", d.pick(g.tenant, d.place()), 1+d.IntN(13))))
		}
	case "CreateDelegationRequest":
		ref("principal", kind, id, g.relation)
		granter := id
		if kind != "user" {
			granter = g.tenant + "-ann"
		}
		ref("granted_by", "user", granter, "")
		m.Clear(fields.ByName("parent_delegation_id"))
		if d.chance(40) && g.delegation != "" {
			text("parent_delegation_id", g.delegation)
			ref("granted_by", "agent", g.agent, "")
			text("agent_id", d.pick(g.tenant+"-sub", "both-bot", d.agent()))
		}
		if d.chance(75) {
			m.Clear(fields.ByName("scope"))
			m.Set(fields.ByName("unscoped"), protoreflect.ValueOfBool(true))
		} else {
			m.Set(fields.ByName("unscoped"), protoreflect.ValueOfBool(false))
		}
	case "SessionTarget":
		text("delegation_id", g.delegation)
		m.Clear(fields.ByName("principals"))
		if g.relation != "" || d.chance(20) {
			list := m.Mutable(fields.ByName("principals")).List()
			item := list.NewElement()
			item.Message().Set(item.Message().Descriptor().Fields().ByName("object_type"), protoreflect.ValueOfString("user"))
			item.Message().Set(item.Message().Descriptor().Fields().ByName("object_id"), protoreflect.ValueOfString(d.user()))
			list.Append(item)
		}
		m.Clear(fields.ByName("scope"))
	case "ScopeGrant":
		ref("resource", "document", fmt.Sprintf("%s-d%d", d.place(), 1+d.IntN(13)), "")
		text("relation", "reader")
	case "StartSessionRequest":
		// One agent's delegations: those of its targets are drawn apart.
		targets := m.Get(fields.ByName("targets")).List()
		for i := range targets.Len() {
			id := targets.Get(i).Message()
			named := id.Get(id.Descriptor().Fields().ByName("delegation_id")).String()
			if j := slices.IndexFunc(d.grants, func(g grant) bool { return g.delegation == named && named != "" }); j >= 0 {
				text("agent_id", d.grants[j].agent)
			}
		}
	}
}

// usually is how often, in percent, a request of some methods is one that callers send who know what there is: drawn field by field, few
// checks, writes and starts of sessions are granted. The delegations of sessions are the most often revoked by then.
var usually = map[protoreflect.Name]int{"CheckPermissionRequest": 33, "WriteRelationshipsRequest": 33, "StartSessionRequest": 50}

// usual makes a request of such a method one that is granted, unless something that it needs was taken away.
func (d *drawing) usual(m proto.Message) {
	document := func() *v1.ObjectReference {
		return &v1.ObjectReference{ObjectType: "document", ObjectId: fmt.Sprintf("%s-d%d", own, 1+d.IntN(12))}
	}
	switch r := m.(type) {
	case *deputyv1.CheckPermissionRequest:
		// Both are readers of every folder.
		r.AgentId, r.TenantId, r.OnBehalfOf = "both-bot", own, &deputyv1.ObjectReference{ObjectType: "user", ObjectId: "both-dan"}
		r.Resource, r.Permission = &deputyv1.ObjectReference{ObjectType: "document", ObjectId: document().GetObjectId()}, "view"
		r.Via, r.Consistency, r.Context = nil, nil, nil
	case *deputyv1.StartSessionRequest:
		for range 50 {
			g := d.grant()
			if g.delegation == "" || g.tenant != own {
				continue
			}
			target := &deputyv1.SessionTarget{DelegationId: g.delegation}
			if g.relation != "" {
				target.Principals = []*deputyv1.ObjectReference{{ObjectType: "user", ObjectId: own + "-ann"}}
			}
			r.AgentId, r.Targets, r.Ttl = g.agent, []*deputyv1.SessionTarget{target}, durationpb.New(30*time.Minute)
			r.IdempotencyKey, r.Frozen = d.key(), false
			break
		}
	case *v1.WriteRelationshipsRequest:
		r.OptionalPreconditions, r.OptionalTransactionMetadata, r.Updates = nil, nil, nil
		for range 1 + d.IntN(2) {
			r.Updates = append(r.Updates, &v1.RelationshipUpdate{Operation: v1.RelationshipUpdate_OPERATION_TOUCH, Relationship: &v1.Relationship{
				Resource: document(), Relation: "reader",
				Subject: &v1.SubjectReference{Object: &v1.ObjectReference{ObjectType: "user", ObjectId: own + d.pick("-ann", "-ben", "-cat")}},
			}})
		}
	}
}

// request draws a request of a method.
func (d *drawing) request(of protoreflect.MessageType) proto.Message {
	m := of.New()
	d.message(m, "", 0)
	if d.chance(usually[m.Descriptor().Name()]) {
		d.usual(m.Interface())
	}
	if f := m.Descriptor().Fields().ByName("consistency"); f != nil && d.head {
		c := m.Mutable(f).Message()
		full := c.Descriptor().Fields().ByName("fully_consistent")
		c.Set(full, protoreflect.ValueOfBool(true))
	}
	// Which one of several delegations decides, and what a page of a list holds, is a matter of the order of their ids. Those that are made
	// with a key have the same id on both servers. Others are made only late, and only so that none of them is one of several.
	switch r := m.Interface().(type) {
	case *deputyv1.CreateDelegationRequest:
		if r.GetIdempotencyKey() == "" && !d.apart {
			r.IdempotencyKey = d.key()
		}
		r.AllowDirect = r.GetAllowDirect() && r.GetIdempotencyKey() != ""
	case *deputyv1.StartSessionRequest:
		if r.GetIdempotencyKey() == "" && !d.apart {
			r.IdempotencyKey = d.key()
		}
		if r.GetIdempotencyKey() == "" && len(r.GetTargets()) > 1 {
			r.Targets = r.GetTargets()[:1]
		}
	case *deputyv1.QueryRecordsRequest:
		// What was asked of one server alone, before, is not the other's affair. A query that follows has no end.
		r.From, r.Follow = timestamppb.New(d.began), false
		for _, empty := range []func(){
			func() { r.AgentId = "" }, func() { r.Principal = nil }, func() { r.TenantId = "" }, func() { r.Resource = nil },
			func() { r.Permission = "" }, func() { r.Caller = "" }, func() { r.Answer = 0 }, func() { r.RefusedBy = 0 },
			func() { r.SessionId = "" }, func() { r.DelegationId = "" }, func() { r.Kinds = nil }, func() { r.Until = nil },
		} {
			if d.chance(85) {
				empty()
			}
		}
	}
	return m.Interface()
}
