// Command protoc-gen-openapi writes the OpenAPI document about the contract, as a plugin of buf and protoc: what the door over HTTP takes and answers
// as JSON, with the comments of the contract. `make generate` runs it.
package main

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/compiler/protogen"
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

func main() {
	protogen.Options{}.Run(func(plugin *protogen.Plugin) error {
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
	})
}
