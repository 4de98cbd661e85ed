// Package export writes records and journals in others' formats: OCSF events, and C2SP tlog-tiles as a static web server serves them. It
// reads a journal and changes nothing of it.
package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// What OCSF calls what: version 1.9.0 of the schema, class API Activity with the profiles that it names.
const (
	ocsfVersion  = "1.9.0"
	categoryUID  = 6
	classUID     = 6003
	activityRead = 2
	activityMake = 1
	activityElse = 99
	sha256ID     = 3
)

var profiles = []string{"ai_operation", "record_integrity", "security_control"}

// OCSF returns a record as an event of the Open Cybersecurity Schema Framework, class API Activity (6003), in one line of canonical JSON. origin is
// the name of the record's journal. Its fingerprint is the SHA-256 digest of the event without that fingerprint; what proves the
// record itself is a proof of the journal, see `deputy journal prove`.
func OCSF(found *deputyv1.FoundRecord, origin string) ([]byte, error) {
	r := found.GetRecord()
	event, err := event(found, origin)
	if err != nil {
		return nil, err
	}
	attestation := map[string]any{
		"uid": uid(origin, r.GetSequence()), "authority_uid": origin, "chain_uid": origin,
	}
	if r.GetSequence() > 0 {
		attestation["prev_event"] = map[string]any{"uid": uid(origin, r.GetSequence()-1)}
	}
	event["attestation_list"] = []any{attestation}
	text, err := canonical(event)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	attestation["fingerprint"] = map[string]any{"algorithm_id": sha256ID, "algorithm": "SHA-256", "value": hex.EncodeToString(sum[:])}
	return canonical(event)
}

// uid is what an event is called: prev_event of the next one names it.
func uid(origin string, sequence uint64) string { return fmt.Sprintf("%s/%d", origin, sequence) }

// event is a record without its fingerprint.
func event(found *deputyv1.FoundRecord, origin string) (map[string]any, error) {
	r := found.GetRecord()
	activity, name := activityOf(r)
	milliseconds := r.GetTime() / 1_000_000
	service, operation, _ := strings.Cut(r.GetMethod(), "/")
	if operation == "" {
		service, operation = "deputy", strings.ToLower(strings.TrimPrefix(r.GetKind().String(), "RECORD_KIND_"))
	}
	whole, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("journal: cannot write a record as JSON: %w", err)
	}
	var record map[string]any
	decoder := json.NewDecoder(bytes.NewReader(whole))
	decoder.UseNumber()
	if err := decoder.Decode(&record); err != nil {
		return nil, fmt.Errorf("journal: cannot write a record as JSON: %w", err)
	}
	caller := r.GetCaller()
	if caller == "" {
		caller = "deputy"
	}
	actor := map[string]any{"app_name": caller}
	if r.GetPrincipalId() != "" {
		actor["user"] = map[string]any{"uid": r.GetPrincipalType() + ":" + r.GetPrincipalId(), "name": r.GetPrincipalId()}
	}
	api := map[string]any{"operation": operation, "service": map[string]any{"name": service}}
	if id := found.GetDecisionId(); id != "" {
		api["request"] = map[string]any{"uid": id}
	}
	e := map[string]any{
		"category_uid": categoryUID, "category_name": "Application Activity", "class_uid": classUID, "class_name": "API Activity",
		"activity_id": activity, "activity_name": name, "type_uid": classUID*100 + activity, "type_name": "API Activity: " + name,
		"time": milliseconds, "duration": r.GetLatency() / 1_000_000, "severity_id": 1, "severity": "Informational",
		"metadata": map[string]any{
			"version": ocsfVersion, "profiles": profiles, "uid": uid(origin, r.GetSequence()), "sequence": r.GetSequence(), "log_name": origin,
			"product": map[string]any{"name": "Deputy", "vendor_name": "Deputy"},
		},
		"actor":        actor,
		"api":          api,
		"src_endpoint": map[string]any{"name": caller, "svc_name": caller},
		"unmapped":     map[string]any{"deputy": record},
	}
	if r.GetMethod() == "" {
		e["src_endpoint"] = map[string]any{"name": "deputy"}
	}
	answers(e, actor, r)
	if r.GetAgentId() != "" {
		agent := map[string]any{"uid": r.GetAgentId(), "name": r.GetAgentId(), "type_id": 0, "type": "Unknown"}
		if r.GetSessionId() != "" {
			agent["instance_uid"] = r.GetSessionId()
		}
		e["ai_agent"] = agent
	}
	if r.GetResourceId() != "" {
		e["resources"] = []any{map[string]any{"uid": r.GetResourceType() + ":" + r.GetResourceId(), "name": r.GetResourceId(), "type": r.GetResourceType()}}
	}
	return e, nil
}

// answers says how a call was answered.
func answers(e, actor map[string]any, r *deputyv1.Record) {
	e["status_id"], e["status"] = 1, "Success"
	if r.GetCode() != 0 {
		e["status_id"], e["status"] = 2, "Failure"
		e["status_code"], e["status_detail"] = fmt.Sprint(r.GetCode()), r.GetReason()
	}
	refused := r.GetKind() == deputyv1.RecordKind_RECORD_KIND_REFUSED
	if r.GetAnswer() == 0 && !refused {
		e["action_id"], e["action"] = 0, "Unknown"
		return
	}
	answer := r.GetAnswer()
	if answer == deputyv1.Permissionship_PERMISSIONSHIP_UNSPECIFIED {
		answer = deputyv1.Permissionship_PERMISSIONSHIP_NO_PERMISSION
	}
	decision := strings.TrimPrefix(answer.String(), "PERMISSIONSHIP_")
	authorization := map[string]any{"decision": decision}
	switch {
	case r.GetRefusedBy() != 0:
		authorization["policy"] = map[string]any{"name": "gate " + strings.ToLower(strings.TrimPrefix(r.GetRefusedBy().String(), "GATE_"))}
	case r.GetPermission() != "":
		authorization["policy"] = map[string]any{"name": r.GetResourceType() + "#" + r.GetPermission()}
	}
	actor["authorizations"] = []any{authorization}
	if r.GetAnswer() == deputyv1.Permissionship_PERMISSIONSHIP_HAS_PERMISSION {
		e["action_id"], e["action"] = 1, "Allowed"
		return
	}
	e["action_id"], e["action"], e["disposition_id"], e["disposition"] = 2, "Denied", 2, "Blocked"
}

// activityOf is what OCSF calls what a record is about.
func activityOf(r *deputyv1.Record) (int, string) {
	switch r.GetKind() {
	case deputyv1.RecordKind_RECORD_KIND_DECISION, deputyv1.RecordKind_RECORD_KIND_EXPLANATION, deputyv1.RecordKind_RECORD_KIND_LOOKUP,
		deputyv1.RecordKind_RECORD_KIND_READ:
		return activityRead, "Read"
	case deputyv1.RecordKind_RECORD_KIND_LIFECYCLE, deputyv1.RecordKind_RECORD_KIND_SCHEMA, deputyv1.RecordKind_RECORD_KIND_WRITE:
		return activityMake, "Create"
	default:
		return activityElse, "Other"
	}
}

// canonical is JSON whose objects have their keys in order, without blanks: RFC 8785, for values without fractions.
func canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("journal: cannot write an event as JSON: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
