// Package caller knows who calls Deputy: the services, people and tools that send calls, which are not the agents that the calls are
// about. A caller proves who it is with a credential, has roles, which open methods, and bounds, which say what part of the graph exists
// for it.
//
// Which roles a method takes stands in the contract, in proto/deputy/v1 (deputy.v1.access), and for the methods of authzed.api.v1, of
// health and of reflection in methods.go. A method that stands nowhere is refused. Only the
// gate of pkg/rpc identifies calls: no service and no door does by itself. They ask Of for the caller that it found.
package caller
