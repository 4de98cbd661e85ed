package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// source embeds the document.
const source = `// Package openapi is the OpenAPI document about the contract, which the server serves.
package openapi

import _ "embed" // has the document

// Document is the document, as JSON. It is not to be changed.
//
//go:embed openapi.json
var Document []byte
`

// generate writes the document, and what embeds it.
func generate(plugin *protogen.Plugin) error {
	plugin.SupportedFeatures = uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL)
	document, err := newDocument(plugin.Files)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(document, "", " ")
	if err != nil {
		return fmt.Errorf("writing the document: %w", err)
	}
	for name, content := range map[string]string{"openapi/openapi.json": string(text) + "\n", "openapi/openapi.go": source} {
		if _, err := plugin.NewGeneratedFile(name, "").Write([]byte(content)); err != nil {
			return err
		}
	}
	return nil
}

// object is an object of JSON, whose keys are written sorted.
type object = map[string]any

// about is what the document says of itself.
const about = `The contract deputy.v1 over HTTP, as the server serves it with --http-listen. Every method is called with POST, and its request and its ` +
	`answer are JSON in the mapping of Protocol Buffers. The rules are the Connect protocol's: methods with one answer are plain HTTP with ` +
	`application/json, and those that stream are framed, each message behind five bytes, with application/connect+json. Any Connect or gRPC-Web client ` +
	`generated from the contract can call the same paths. A request with a field that its message does not have is refused.`

// newDocument returns the document about the services of the files that are generated.
func newDocument(files []*protogen.File) (object, error) {
	access, err := accessOf(files)
	if err != nil {
		return nil, err
	}
	d := &schemas{all: object{}, sent: map[protoreflect.FullName]bool{}, answered: map[protoreflect.FullName]bool{}}
	paths, tags := object{}, []object{}
	for _, f := range files {
		if !f.Generate {
			continue
		}
		for _, s := range f.Services {
			tags = append(tags, object{"name": string(s.Desc.Name()), "description": text(s.Comments)})
			for _, m := range s.Methods {
				says, err := access(m)
				if err != nil {
					return nil, err
				}
				paths[fmt.Sprintf("/%s/%s", s.Desc.FullName(), m.Desc.Name())] = object{"post": d.operation(s, m, says)}
			}
		}
	}
	if len(paths) == 0 {
		return nil, errors.New("the files have no methods: give the plugin all files of the contract at once (strategy: all)")
	}
	slices.SortFunc(tags, func(a, b object) int { return strings.Compare(fmt.Sprint(a["name"]), fmt.Sprint(b["name"])) })
	d.close()
	d.all["Error"] = failure
	return object{
		"openapi":    "3.1.0",
		"info":       object{"title": "Deputy", "version": "v1", "description": about, "license": object{"name": "Apache 2.0", "identifier": "Apache-2.0"}},
		"servers":    []object{{"url": "/", "description": "The server that this document comes from."}},
		"security":   []object{{"bearer": []string{}}},
		"tags":       tags,
		"paths":      paths,
		"components": object{"schemas": d.all, "securitySchemes": object{"bearer": bearer}},
	}, nil
}

// bearer is how callers prove who they are.
var bearer = object{
	"type": "http", "scheme": "bearer",
	"description": "A caller's key, or a token of a configured issuer. Where the server asks for client certificates, one of those will do instead.",
}

// failure is what is answered instead of an answer: Connect's error.
var failure = object{
	"type": "object", "required": []string{"code"},
	"description": "Why a call has no answer. The code is that of gRPC in lower case.",
	"properties": object{
		"code": object{"type": "string", "enum": []string{
			"canceled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied", "resource_exhausted",
			"failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss", "unauthenticated",
		}},
		"message": object{"type": "string", "description": "What is wrong, and what to do. It is for people, and changes."},
		"details": object{"type": "array", "items": object{
			"type": "object", "required": []string{"type", "value"},
			"description": "A message that says more, such as google.rpc.ErrorInfo with the reason, or google.rpc.RetryInfo with the time to wait.",
			"properties": object{
				"type": object{"type": "string", "description": "The full name of the message's type."},
				"value": object{
					"type": "string", "contentEncoding": "base64",
					"description": "The message in the encoding of Protocol Buffers, in base64 without padding.",
				},
				"debug": object{"description": "The same message as JSON, for people."},
			},
		}},
	},
}

// permit is what a method's option says of who may call it.
type permit struct {
	roles  []string
	effect string
}

// accessOf returns what reads the option (deputy.v1.access), by the files themselves: the plugin does not need what it takes part in generating.
func accessOf(files []*protogen.File) (func(m *protogen.Method) (permit, error), error) {
	types := &protoregistry.Types{}
	var option protoreflect.ExtensionType
	for _, f := range files {
		for _, e := range f.Extensions {
			if e.Desc.FullName() == "deputy.v1.access" {
				option = dynamicpb.NewExtensionType(e.Desc)
				if err := types.RegisterExtension(option); err != nil {
					return nil, err
				}
			}
		}
	}
	if option == nil {
		return nil, errors.New("the files do not define the option deputy.v1.access, which says who may call a method")
	}
	return func(m *protogen.Method) (permit, error) {
		var says permit
		raw, err := proto.Marshal(m.Desc.Options())
		if err != nil {
			return says, err
		}
		options := &descriptorpb.MethodOptions{}
		if err := (proto.UnmarshalOptions{Resolver: types}).Unmarshal(raw, options); err != nil {
			return says, fmt.Errorf("the options of %s: %w", m.Desc.FullName(), err)
		}
		access, ok := proto.GetExtension(options, option).(*dynamicpb.Message)
		if !ok {
			return says, nil
		}
		named := func(field protoreflect.Name, v protoreflect.Value) string {
			e := access.Descriptor().Fields().ByName(field).Enum().Values().ByNumber(v.Enum())
			_, name, _ := strings.Cut(strings.ToLower(string(e.Name())), "_")
			return name
		}
		roles := access.Get(access.Descriptor().Fields().ByName("roles")).List()
		for i := range roles.Len() {
			says.roles = append(says.roles, named("roles", roles.Get(i)))
		}
		says.effect = named("effect", access.Get(access.Descriptor().Fields().ByName("effect")))
		return says, nil
	}, nil
}

// operation describes a method.
func (d *schemas) operation(s *protogen.Service, m *protogen.Method, says permit) object {
	kind, description := "application/json", text(m.Comments)
	answer := "The answer."
	if m.Desc.IsStreamingServer() {
		kind = "application/connect+json"
		answer = "A stream of such messages, each in a frame. The last frame, whose first byte is 2, says how the stream ended."
	}
	summary, _, _ := strings.Cut(description, ". ")
	return object{
		"operationId": string(s.Desc.Name()) + "_" + string(m.Desc.Name()), "tags": []string{string(s.Desc.Name())},
		"summary": strings.TrimSuffix(summary, "."), "description": description,
		"x-deputy-roles": says.roles, "x-deputy-effect": says.effect,
		"requestBody": object{"required": true, "content": object{kind: object{"schema": d.of(m.Input, d.sent)}}},
		"responses": object{
			"200":     object{"description": answer, "content": object{kind: object{"schema": d.of(m.Output, d.answered)}}},
			"default": object{"description": "Why there is no answer.", "content": object{"application/json": object{"schema": reference("Error")}}},
		},
	}
}

// schemas are those of the messages and enums that methods need.
type schemas struct {
	all object
	// sent and answered are the messages in requests, and in answers.
	sent, answered map[protoreflect.FullName]bool
}

func reference(name string) object { return object{"$ref": "#/components/schemas/" + name} }

// known are the types of Protocol Buffers that have a JSON of their own.
var known = map[protoreflect.FullName]object{
	"google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
	"google.protobuf.Duration":  {"type": "string", "pattern": `^-?[0-9]+(\.[0-9]{1,9})?s$`, "description": "Seconds, such as 3600s."},
	"google.protobuf.Struct":    {"type": "object", "additionalProperties": true},
	"google.protobuf.Value":     {"description": "Any JSON."},
	"google.protobuf.ListValue": {"type": "array", "items": object{}},
}

// of returns the schema of a message, and notes that it is in requests, or in answers.
func (d *schemas) of(m *protogen.Message, in map[protoreflect.FullName]bool) object {
	if is, ok := known[m.Desc.FullName()]; ok {
		return is
	}
	name := string(m.Desc.FullName())
	if in[m.Desc.FullName()] {
		return reference(name)
	}
	in[m.Desc.FullName()] = true
	properties, choices := object{}, map[string][]string{}
	for _, f := range m.Fields {
		properties[f.Desc.JSONName()] = d.field(f, in)
		if f.Oneof != nil && !f.Oneof.Desc.IsSynthetic() {
			choices[string(f.Oneof.Desc.Name())] = append(choices[string(f.Oneof.Desc.Name())], f.Desc.JSONName())
		}
	}
	description := text(m.Comments)
	for _, one := range m.Oneofs {
		if names := choices[string(one.Desc.Name())]; len(names) > 1 {
			description = strings.TrimSpace(description + " At most one of these can be set: " + strings.Join(names, ", ") + ".")
		}
	}
	d.all[name] = object{"type": "object", "description": description, "properties": properties}
	return reference(name)
}

// field returns the schema of a field.
func (d *schemas) field(f *protogen.Field, in map[protoreflect.FullName]bool) object {
	var is object
	switch {
	case f.Desc.IsMap():
		is = object{"type": "object", "additionalProperties": d.one(f.Message.Fields[1], in)}
	case f.Desc.IsList():
		is = object{"type": "array", "items": d.one(f, in)}
	default:
		is = d.one(f, in)
	}
	says := text(f.Comments)
	if says == "" {
		return is
	}
	described := object{"description": says}
	for key, value := range is {
		if key == "description" {
			described[key] = says + " " + fmt.Sprint(value)
			continue
		}
		described[key] = value
	}
	return described
}

// one returns the schema of one value of a field.
func (d *schemas) one(f *protogen.Field, in map[protoreflect.FullName]bool) object {
	switch kind := f.Desc.Kind(); kind {
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	case protoreflect.StringKind:
		return object{"type": "string"}
	case protoreflect.BytesKind:
		return object{"type": "string", "contentEncoding": "base64"}
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return object{"type": "number"}
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return object{"type": "integer", "format": "int32"}
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return object{"type": "integer", "minimum": 0}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return object{"type": []string{"string", "integer"}, "format": "int64", "description": "Answered as a string."}
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return object{"type": []string{"string", "integer"}, "description": "Not less than 0, answered as a string."}
	case protoreflect.EnumKind:
		return d.enum(f.Enum)
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return d.of(f.Message, in)
	default:
		panic("a field of the kind " + kind.String())
	}
}

// enum returns the schema of an enum, and what each of its values means.
func (d *schemas) enum(e *protogen.Enum) object {
	name := string(e.Desc.FullName())
	if d.all[name] == nil {
		var values []string
		says := []string{text(e.Comments)}
		for _, v := range e.Values {
			values = append(values, string(v.Desc.Name()))
			says = append(says, string(v.Desc.Name())+": "+text(v.Comments))
		}
		d.all[name] = object{"type": "string", "enum": values, "description": strings.TrimSpace(strings.Join(says, "\n"))}
	}
	return reference(name)
}

// close has messages that are only sent take no other fields: such a request is refused. Answers may get more fields.
func (d *schemas) close() {
	for name := range d.sent {
		if schema, ok := d.all[string(name)].(object); ok && !d.answered[name] {
			schema["additionalProperties"] = false
		}
	}
}

// text is a comment of the contract.
func text(c protogen.CommentSet) string {
	var lines []string
	for line := range strings.SplitSeq(string(c.Leading), "\n") {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "buf:lint") {
			lines = append(lines, line)
		}
	}
	return strings.TrimSpace(strings.Join(lines, " "))
}
