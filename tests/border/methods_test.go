//go:build linux

package border

import (
	"slices"
	"strings"

	_ "github.com/authzed/authzed-go/proto/authzed/api/v1" // registers its methods
	_ "google.golang.org/grpc/health/grpc_health_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1"
	_ "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// packages are the protobuf packages whose services the server serves. Those of openPackages need no key.
var (
	packages = append([]protoreflect.FullName{
		"authzed.api.v1", "deputy.v1", "grpc.reflection.v1", "grpc.reflection.v1alpha",
	}, openPackages...)
	openPackages = []protoreflect.FullName{"grpc.health.v1"}
)

// method is one that is fuzzed.
type method struct {
	protoreflect.MethodDescriptor
	path string
	// open needs no key, endless answers until its client leaves.
	open, endless bool
}

// methods returns all methods in order.
func methods() []method {
	var all []method
	for _, name := range packages {
		protoregistry.GlobalFiles.RangeFilesByPackage(name, func(file protoreflect.FileDescriptor) bool {
			for i := range file.Services().Len() {
				service := file.Services().Get(i)
				for k := range service.Methods().Len() {
					m := service.Methods().Get(k)
					all = append(all, method{
						MethodDescriptor: m, path: "/" + string(service.FullName()) + "/" + string(m.Name()),
						open:    slices.Contains(openPackages, name),
						endless: m.IsStreamingServer() && strings.HasPrefix(string(m.Name()), "Watch"),
					})
				}
			}
			return true
		})
	}
	slices.SortFunc(all, func(a, b method) int { return strings.Compare(a.path, b.path) })
	return all
}
