package proxy

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/deputyauth/deputy/pkg/door/mcp"
	"github.com/deputyauth/deputy/pkg/door/mcp/jsonrpc"
)

// The headers of the protocol.
const (
	versionHeader = "Mcp-Protocol-Version"
	sessionHeader = "Mcp-Session-Id"
	methodHeader  = "Mcp-Method"
	nameHeader    = "Mcp-Name"
	eventHeader   = "Last-Event-ID"
)

// newVersion is the wire without sessions, and oldVersions are those with them. An agent that names none speaks one of these.
const newVersion = "2026-07-28"

var oldVersions = []string{"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"}

// metaVersion is where each request of the wire 2026-07-28 names its version.
const metaVersion = "io.modelcontextprotocol/protocolVersion"

// The media types of messages.
const (
	jsonType   = "application/json"
	streamType = "text/event-stream"
)

// codeVersion is the code of the error of a request in a version that is not spoken.
const codeVersion = -32022

// checkPost refuses a request with a message that is none for this door.
func checkPost(r *http.Request) error {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil || kind != jsonType || len(r.Header.Values("Content-Type")) > 1:
		return bad(http.StatusUnsupportedMediaType, "The Content-Type has to be %s.", jsonType)
	case params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8"):
		return bad(http.StatusUnsupportedMediaType, "A message is in UTF-8.")
	}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return bad(http.StatusUnsupportedMediaType, "A message is sent as it is, without a Content-Encoding.")
	}
	if !accepts(r.Header, jsonType) || !accepts(r.Header, streamType) {
		return bad(http.StatusNotAcceptable, "The Accept header has to have both %s and %s.", jsonType, streamType)
	}
	return nil
}

// accepts reports whether an agent takes answers of a media type.
func accepts(header http.Header, kind string) bool {
	group, _, _ := strings.Cut(kind, "/")
	for _, value := range header.Values("Accept") {
		for one := range strings.SplitSeq(value, ",") {
			one, _, _ = strings.Cut(one, ";")
			switch strings.ToLower(strings.TrimSpace(one)) {
			case kind, group + "/*", "*/*":
				return true
			}
		}
	}
	return false
}

// only returns the value of a header that is there at most once.
func only(header http.Header, name string) (string, error) {
	values := header.Values(name)
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", bad(http.StatusBadRequest, "The header %s is there %d times.", name, len(values))
}

// versionOf returns the version that a request's header names, "" for none.
func versionOf(header http.Header, id jsonrpc.ID) (string, error) {
	version, err := only(header, versionHeader)
	if err != nil || version == "" || version == newVersion || slices.Contains(oldVersions, version) {
		return version, err
	}
	return "", &wrong{
		status: http.StatusBadRequest, id: id, code: codeVersion, says: "The guard does not know this version of the protocol.",
		data: supported(append(slices.Clone(oldVersions), newVersion), version),
	}
}

// supported is what an error says that refuses a version.
func supported(versions []string, requested string) jsonrpc.Value {
	list := make([]jsonrpc.Value, len(versions))
	for i, one := range versions {
		list[i] = jsonrpc.Text(one)
	}
	return jsonrpc.ObjectOf(jsonrpc.Member{Name: "supported", Value: jsonrpc.List(list)}, jsonrpc.Member{Name: "requested", Value: jsonrpc.Text(requested)})
}

// wireOf says whether a message is of the wire without sessions. It refuses one whose headers say something else than its body.
func wireOf(header http.Header, m *jsonrpc.Message) (isNew bool, err error) {
	mismatch := func(format string, args ...any) error {
		says := fmt.Sprintf("The headers and the body disagree: "+format+".", args...)
		return &wrong{status: http.StatusBadRequest, id: m.ID, code: mcp.CodeHeaderMismatch, says: says}
	}
	version, err := versionOf(header, m.ID)
	if err != nil {
		return false, err
	}
	meta, said := m.Params.At("_meta").Get(metaVersion)
	inBody, _ := meta.Text()
	switch {
	case version != newVersion && !said:
		return false, nil
	case m.IsAnswer():
		return true, &wrong{status: http.StatusBadRequest, id: m.ID, code: jsonrpc.CodeInvalidRequest, says: "On this wire an agent sends no answers."}
	case version == "":
		return true, mismatch("%s is missing, and _meta names a version", versionHeader)
	case !said && m.IsRequest():
		return true, &wrong{status: http.StatusBadRequest, id: m.ID, code: jsonrpc.CodeInvalidParams, says: "params lacks _meta with " + metaVersion + "."}
	case said && inBody != version:
		return true, mismatch("%s is not what _meta names", versionHeader)
	}
	method, err := only(header, methodHeader)
	switch {
	case err != nil:
		return true, mismatch("%s is there more than once", methodHeader)
	case method != m.Method:
		return true, mismatch("%s is not the method", methodHeader)
	}
	want, named := nameOf(m)
	if !named {
		return true, nil
	}
	name, err := only(header, nameHeader)
	if err != nil {
		return true, mismatch("%s is there more than once", nameHeader)
	}
	if got, err := mcp.ReadHeaderValue(name); err != nil || got != want {
		return true, mismatch("%s is not the name in params", nameHeader)
	}
	return true, nil
}

// nameOf returns what a message is about by the header that mirrors it, and whether it has one.
func nameOf(m *jsonrpc.Message) (string, bool) {
	member := map[string]string{"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}[m.Method]
	if member == "" {
		return "", false
	}
	name, _ := m.Params.At(member).Text()
	return name, true
}

// spoken refuses a request whose method is one of the other wire. What is a method of neither is the guard's to refuse.
func spoken(m *jsonrpc.Message, isNew bool) error {
	status := http.StatusOK
	if isNew {
		status = http.StatusNotFound
	}
	for _, row := range mcp.Methods {
		here := row.Old
		if isNew {
			here = row.New
		}
		if row.From == mcp.Client && row.Name == m.Method && !row.Notification && m.IsRequest() && !here {
			return &wrong{status: status, id: m.ID, code: jsonrpc.CodeNoMethod, says: "There is no such method in this version of the protocol."}
		}
	}
	return nil
}
