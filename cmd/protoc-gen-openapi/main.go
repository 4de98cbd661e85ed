// Command protoc-gen-openapi writes the OpenAPI document about the contract, as a plugin of buf and protoc: what the door over HTTP takes and answers
// as JSON, with the comments of the contract. `make generate` runs it.
package main

import "google.golang.org/protobuf/compiler/protogen"

func main() { protogen.Options{}.Run(generate) }
