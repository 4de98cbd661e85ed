package http_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/deputyauth/deputy/tests/harness"
)

// document is the document that a server serves, found sound by a library that has no part in making it.
func (w *world) document() *openapi3.T {
	w.t.Helper()
	got := w.send(http.MethodGet, "/openapi.json", nil)
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "application/json" {
		w.t.Fatalf("got %d %v", got.status, got.header)
	}
	doc, err := openapi3.NewLoader().LoadFromData([]byte(got.text))
	w.must(err)
	w.must(doc.Validate(w.t.Context()))
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		w.t.Errorf("it is of OpenAPI %s", doc.OpenAPI)
	}
	return doc
}

// TestOpenAPIIsWhole: the document describes each method that the door serves, and no other, with the fields of its messages.
func TestOpenAPIIsWhole(t *testing.T) {
	w := open(t)
	doc := w.document()
	paths := doc.Paths.Map()
	protoregistry.GlobalFiles.RangeFilesByPackage("deputy.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				path := fmt.Sprintf("/%s/%s", s.FullName(), m.Name())
				of := paths[path]
				delete(paths, path)
				if of == nil || of.Post == nil || of.Post.Summary == "" || of.Post.Extensions["x-deputy-effect"] == nil {
					t.Errorf("%s is not described", path)
					continue
				}
				kind := "application/json"
				if m.IsStreamingServer() {
					kind = "application/connect+json"
				}
				body := of.Post.RequestBody.Value.Content[kind]
				if body == nil {
					t.Errorf("%s is described as something else than %s", path, kind)
					continue
				}
				fields := m.Input().Fields()
				if got := body.Schema.Value.Properties; len(got) != fields.Len() {
					t.Errorf("%s has %d fields in the document and %d in the contract", path, len(got), fields.Len())
				}
				for k := range fields.Len() {
					if body.Schema.Value.Properties[fields.Get(k).JSONName()] == nil {
						t.Errorf("%s: the field %s is not described", path, fields.Get(k).JSONName())
					}
				}
			}
		}
		return true
	})
	for path := range paths {
		t.Errorf("%s is described, and there is no such method", path)
	}
	if got := w.send(http.MethodPost, "/openapi.json", nil); got.status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", got.status)
	}
}

// TestOpenAPIIsTrue: what is answered is as the document says, and what the server refuses for its shape the document refuses too.
func TestOpenAPIIsTrue(t *testing.T) {
	w := open(t)
	doc := w.document()
	fits := func(schema *openapi3.SchemaRef, text string) error {
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return err
		}
		return schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020())
	}
	for _, call := range []struct{ method, body string }{
		{"PermissionsService/CheckPermission", check}, {"PermissionsService/ExplainPermission", `{"check":` + check + "}"},
		{"PermissionsService/CheckBulkPermissions", `{"items":[` + check + "," + strings.Replace(check, "view", "none", 1) + "]}"},
		{"AgentsService/ListAgents", "{}"}, {"DelegationsService/ListDelegations", `{"agentId":"bot"}`},
		{"StoreService/GetStatistics", "{}"}, {"AgentsService/SuspendAgent", `{"agentId":"bot","reason":"the test"}`},
	} {
		path := "/deputy.v1." + call.method
		of := doc.Paths.Value(path)
		if of == nil {
			t.Fatalf("%s is not described", path)
		}
		if err := fits(of.Post.RequestBody.Value.Content["application/json"].Schema, call.body); err != nil {
			t.Errorf("%s: the document refuses %s: %v", path, call.body, err)
		}
		got := w.send(http.MethodPost, path, strings.NewReader(call.body), "Content-Type", "application/json", "Authorization", "Bearer "+harness.AdminKey)
		if got.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, got.status, got.text)
			continue
		}
		if err := fits(of.Post.Responses.Value("200").Value.Content["application/json"].Schema, got.text); err != nil {
			t.Errorf("%s: the answer %s is not as the document says: %v", path, got.text, err)
		}
	}
	checks := doc.Paths.Value(checkPath).Post
	refused := w.json(checkPath, "{}")
	if err := fits(checks.Responses.Default().Value.Content["application/json"].Schema, refused.text); err != nil || refused.status != http.StatusBadRequest {
		t.Errorf("a refusal is %d %s: %v", refused.status, refused.text, err)
	}
	for _, wrong := range []string{strings.Replace(check, "tenantId", "tennantId", 1), strings.Replace(check, `"bot"`, "7", 1), "[]"} {
		if err := fits(checks.RequestBody.Value.Content["application/json"].Schema, wrong); err == nil {
			t.Errorf("the document takes %s, which the server refuses", wrong)
		}
	}
}

// TestOpenAPIIsKept: a client that has the document is not sent it again.
func TestOpenAPIIsKept(t *testing.T) {
	w := open(t)
	first := w.send(http.MethodGet, "/openapi.json", nil)
	file, err := os.ReadFile("../../pkg/gen/openapi/openapi.json")
	w.must(err)
	if first.text != string(file) {
		t.Error("it is not the one that is generated")
	}
	if plain := w.send(http.MethodGet, "/openapi.json", nil, "Accept-Encoding", "identity"); plain.text != string(file) {
		t.Error("without compression it is another one")
	}
	again := w.send(http.MethodGet, "/openapi.json", nil, "If-None-Match", first.header.Get("ETag"))
	if again.status != http.StatusNotModified || again.text != "" {
		t.Errorf("a client that has it is sent %d, %d bytes", again.status, len(again.text))
	}
}
