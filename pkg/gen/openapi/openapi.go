// Package openapi is the OpenAPI document about the contract, which the server serves.
package openapi

import _ "embed" // has the document

// Document is the document, as JSON. It is not to be changed.
//
//go:embed openapi.json
var Document []byte
