package arch

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// arrows is the house: which rooms a room may import, in code that is not a test. What is not listed here
// may not be imported.
//
// Tests may import what they like: a room's example needs a running server.
var arrows = map[string][]string{
	"cmd/deputy": {"pkg/cli"},
	// A plugin of buf: the OpenAPI document about the contract.
	"cmd/protoc-gen-openapi": {},

	// Words, and the ports of the engine. Everybody may use them; they use nobody.
	"pkg/authz": {},
	// Small files of settings and secrets.
	"pkg/smallfile": {},
	// The gRPC statuses that Deputy answers with.
	"pkg/statuses": {"pkg/authz"},
	// How soon a gRPC connection is tried again.
	"pkg/reconnect": {},
	// Shares out, between callers, what a server does few of at a time.
	"pkg/turns": {"pkg/authz"},
	// The shapes of the core relationships, read and written as values.
	"pkg/facts": {"pkg/authz"},
	// The rule: pure.
	"pkg/decide": {"pkg/authz", "pkg/facts"},
	// One decision from end to end: reads the facts, has the rule plan, asks the checks, has it combine.
	"pkg/judge": {"pkg/authz", "pkg/facts", "pkg/decide", "pkg/journal"},
	// The record of every decision: written before the answer leaves, and sealed so that nobody changes it unseen.
	"pkg/journal": {"pkg/authz", "pkg/gen", "pkg/statuses", "pkg/journal/index", "pkg/journal/persons", "pkg/smallfile", "pkg/journal/tree"},
	// The Merkle tree over the records, as files.
	"pkg/journal/tree": {"pkg/authz"},
	// Whether a journal is as it was written, offline.
	"pkg/journal/verify": {"pkg/journal", "pkg/journal/tree"},
	// What records are found by.
	"pkg/journal/index": {},
	// Records and journals in others' formats.
	"pkg/journal/export": {"pkg/gen", "pkg/journal", "pkg/journal/tree", "pkg/journal/verify"},
	// A key for each person and tenant, which is destroyed to erase the person from the journal.
	"pkg/journal/persons": {},
	// The lifecycle of agents, principals, delegations and sessions.
	"pkg/delegate": {"pkg/authz", "pkg/facts", "pkg/turns"},

	// The one model of a schema: what relations admit, what permissions are computed from, what follows from it for all
	// relationships. Everybody who reads a definition stands on it, because it refuses what it does not know.
	"pkg/schema": {},
	// A schema's files: what they compile to, where its parts are written, how they are laid out.
	"pkg/schema/source": {"pkg/schema", "schema", "pkg/authz", "pkg/notation"},
	// What is wrong with a schema, whatever the relationships.
	"pkg/schema/lint": {"pkg/schema", "pkg/schema/source", "pkg/authz", "pkg/schema/guard"},
	// How two schemas differ in what they mean, whatever the relationships.
	"pkg/schema/diff": {"pkg/schema", "pkg/schema/source", "pkg/authz"},

	// What decisions and the door need to know of a schema. It compares the core of one with the core that it was built with.
	"pkg/schema/guard": {"pkg/schema", "pkg/authz", "schema"},

	// Relationships as text, in SpiceDB's notation.
	"pkg/notation": {"pkg/authz"},
	// The ports over SpiceDB.
	"pkg/engine": {"pkg/authz", "pkg/reconnect", "pkg/schema", "pkg/schema/guard", "pkg/statuses", "pkg/turns"},
	// SpiceDB's datastore interface on Pebble, durable. The room that opens one hands it to the engine.
	"pkg/store": {"pkg/authz", "pkg/statuses"},
	// Checks over rows that somebody else has, with SpiceDB's semantics and statuses.
	"pkg/evaluate": {"pkg/authz", "pkg/schema", "pkg/statuses", "pkg/turns"},
	// The graph over the store, and the verification of what is answered there.
	"pkg/evaluate/kept": {"pkg/authz", "pkg/evaluate", "pkg/store", "pkg/schema", "pkg/statuses", "pkg/turns"},

	// A copy of an authority, in a store of ours.
	"pkg/follow": {"pkg/authz", "pkg/store", "pkg/turns"},
	// SpiceDB's PostgreSQL datastore as an authority.
	"pkg/follow/postgres": {"pkg/follow"},
	// The store of another Deputy as an authority, and the side of that one.
	"pkg/follow/deputy": {"pkg/authz", "pkg/follow", "pkg/gen", "pkg/store", "pkg/turns"},

	// Who calls: credentials, roles, bounds.
	"pkg/caller": {"pkg/authz", "pkg/gen"},
	// The tokens of configured issuers.
	"pkg/caller/token": {"pkg/authz", "pkg/caller", "pkg/smallfile"},
	// The tokens with which agents prove that they act, and the ids that are made of their claims.
	"pkg/caller/actor": {"pkg/authz", "pkg/caller", "pkg/caller/token"},
	// People's own tokens: whose they are, and what people consent to by them.
	"pkg/caller/person": {"pkg/authz", "pkg/caller", "pkg/caller/actor", "pkg/caller/token"},
	// Which client certificates are believed now, and what they say.
	"pkg/caller/certificate": {"pkg/authz", "pkg/caller"},

	// The file of callers: read, checked, edited.
	"pkg/caller/file": {
		"pkg/authz", "pkg/caller", "pkg/caller/actor", "pkg/caller/person", "pkg/caller/token", "pkg/gen", "pkg/smallfile",
	},
	// What security events ask for, and which of them were received.
	"pkg/signal": {"pkg/authz", "pkg/caller"},

	"pkg/rpc": {
		"pkg/authz", "pkg/caller", "pkg/facts", "pkg/journal", "pkg/judge", "pkg/delegate", "pkg/gen", "pkg/rpc/admission", "pkg/rpc/wire",
		"pkg/signal", "pkg/statuses", "pkg/turns",
	},
	// Which calls may begin, and whose turn it is.
	"pkg/rpc/admission": {"pkg/authz", "pkg/caller"},
	// The guarded authzed.api.v1. What it has to know of the schema is handed to it.
	"pkg/door/spicedb": {"pkg/authz", "pkg/facts", "pkg/gen", "pkg/rpc/wire", "pkg/statuses"},
	// Security events over HTTP (RFC 8935). Who sends them, and what becomes of them, is handed to it.
	"pkg/door/signals": {"pkg/authz", "pkg/turns"},
	// deputy.v1 over HTTP. Calls are carried to the services, and who calls is handed to it.
	"pkg/door/http": {"pkg/authz", "pkg/door/signals", "pkg/rpc", "pkg/statuses"},
	// The guard in front of an MCP server.
	"pkg/door/mcp": {"pkg/authz", "pkg/client", "pkg/door/mcp/jsonrpc", "pkg/door/mcp/mapping"},
	// The guard over HTTP. Whose a token is, and what an agent may do, is handed to it.
	"pkg/door/mcp/proxy": {"pkg/authz", "pkg/door/mcp", "pkg/door/mcp/jsonrpc", "pkg/door/mcp/mapping"},
	// JSON-RPC messages, read so that every parser agrees on them.
	"pkg/door/mcp/jsonrpc": {},
	// The objects in the arguments and the answers of tools.
	"pkg/door/mcp/mapping": {"pkg/authz", "pkg/door/mcp/jsonrpc", "pkg/smallfile"},
	// The lists of a server, and the file of mappings that is proposed for it.
	"pkg/door/mcp/mapping/offer": {"pkg/authz", "pkg/door/mcp/jsonrpc", "pkg/door/mcp/mapping"},
	// Findings in a file of mappings.
	"pkg/door/mcp/mapping/lint": {"pkg/door/mcp/mapping", "pkg/door/mcp/mapping/offer"},
	// The cases of a file of mappings.
	"pkg/door/mcp/mapping/cases": {"pkg/door/mcp/jsonrpc", "pkg/door/mcp/mapping"},
	// How messages come in: bounded, looked at, decoded.
	"pkg/rpc/wire": {"pkg/authz", "pkg/statuses", "pkg/turns"},

	// Fixtures of a schema: the file, its actors, its cases, and what those exercise. They delegate, start sessions and decide as a
	// server does.
	"pkg/fixture": {
		"pkg/schema", "pkg/schema/source", "pkg/authz", "pkg/facts", "pkg/judge", "pkg/delegate", "pkg/evaluate",
		"pkg/fixture/world", "pkg/fixture/trace", "pkg/notation",
	},
	// A graph in memory, judged under any schema.
	"pkg/fixture/world": {"pkg/authz", "pkg/engine", "pkg/evaluate", "pkg/notation", "pkg/schema/guard", "pkg/schema"},
	// How a part of a schema came to its outcome, without short cuts.
	"pkg/fixture/trace": {"pkg/authz", "pkg/evaluate", "pkg/fixture/world", "pkg/schema", "pkg/schema/source"},
	// What an agent has for one principal thanks to another, under any schema.
	"pkg/fixture/isolate": {
		"pkg/fixture", "pkg/authz", "pkg/evaluate", "pkg/fixture/trace", "pkg/fixture/world", "pkg/judge", "pkg/schema",
		"pkg/schema/source",
	},
	// Schemas with one mistake, and the cases that notice it.
	"pkg/fixture/mutate": {
		"pkg/fixture", "pkg/authz", "pkg/evaluate", "pkg/fixture/trace", "pkg/fixture/world", "pkg/schema", "pkg/schema/source",
	},
	// Files that are run, and what is measured of their schemas.
	"pkg/fixture/run": {
		"pkg/fixture", "pkg/fixture/isolate", "pkg/fixture/mutate", "pkg/fixture/world", "pkg/schema", "pkg/schema/source",
	},
	// A fixture file against a server.
	"pkg/fixture/endpoint": {"pkg/authz", "pkg/evaluate", "pkg/fixture", "pkg/gen", "pkg/notation"},
	// What a new schema would do to the relationships that there are, and writing just that.
	"pkg/fixture/plan": {
		"pkg/fixture", "pkg/fixture/world", "pkg/schema", "pkg/schema/source", "pkg/schema/diff", "pkg/authz", "pkg/evaluate", "pkg/gen", "pkg/judge",
	},
	// What a run came to, for people and for programs.
	"pkg/fixture/report": {
		"pkg/fixture", "pkg/schema/source", "pkg/fixture/run", "pkg/fixture/mutate", "pkg/authz", "pkg/notation",
	},

	// A reach as people read it: added up, compared, as CSV, as a picture.
	"pkg/reach": {"pkg/gen", "pkg/notation"},

	"pkg/client": {"pkg/authz", "pkg/gen", "pkg/reconnect", "pkg/smallfile"},
	"pkg/cli": {
		"pkg/authz", "pkg/gen", "pkg/schema/source", "pkg/schema/lint", "pkg/schema/diff", "pkg/fixture", "pkg/fixture/plan",
		"pkg/fixture/report", "pkg/daemon", "pkg/engine", "schema", "pkg/fixture/endpoint", "pkg/fixture/run", "pkg/notation",
		"pkg/fixture/world", "pkg/schema", "pkg/caller", "pkg/caller/file", "pkg/client", "pkg/journal", "pkg/journal/export", "pkg/journal/persons",
		"pkg/smallfile", "pkg/journal/tree", "pkg/journal/verify", "pkg/reach", "pkg/door/mcp", "pkg/door/mcp/mapping",
		"pkg/door/mcp/proxy", "pkg/caller/token", "pkg/caller/actor",
		"pkg/door/mcp/mapping/cases", "pkg/door/mcp/mapping/lint", "pkg/door/mcp/mapping/offer",
	},
	// The one room that knows all the others.
	"pkg/daemon": {
		"pkg/authz", "pkg/facts", "pkg/judge", "pkg/delegate", "pkg/schema/guard", "pkg/engine", "pkg/evaluate/kept", "pkg/store",
		"pkg/rpc", "pkg/rpc/admission", "pkg/door/spicedb", "pkg/rpc/wire", "pkg/statuses", "pkg/caller", "pkg/caller/token", "pkg/caller/file",
		"pkg/caller/actor", "pkg/caller/person", "pkg/caller/certificate", "pkg/client", "pkg/smallfile", "pkg/journal", "pkg/gen", "pkg/journal/persons",
		"pkg/door/http", "pkg/door/signals", "pkg/signal", "pkg/follow", "pkg/follow/postgres", "pkg/follow/deputy",
	},

	"pkg/gen": {},
	"schema":  {},

	// Programs that a reader runs, and may copy: they know nothing of ours.
	"examples": {},

	// Black boxes may look at every room that they test. The oracle is what decisions are compared with:
	// it would prove nothing if it shared their code.
	"tests":        everyRoom,
	"tests/oracle": {"pkg/authz", "schema"},
}

// everyRoom stands for all rooms.
var everyRoom = []string{"*"}

// outside says which rooms may import what is not ours. A room that is not listed for a prefix may not.
// The work with SpiceDB is done in few rooms, so that an upgrade has few places to look at.
var outside = map[string][]string{
	"github.com/authzed/spicedb/": {
		"pkg/schema", "pkg/schema/source", "pkg/schema/lint", "pkg/schema/diff", "pkg/engine", "pkg/store", "pkg/evaluate",
		"pkg/evaluate/kept", "pkg/fixture", "pkg/fixture/world", "pkg/fixture/plan", "pkg/cli", "tests", "pkg/schema/guard",
		"pkg/fixture/endpoint", "pkg/fixture/isolate", "pkg/fixture/mutate", "pkg/fixture/trace", "pkg/notation", "pkg/follow",
		"pkg/follow/postgres", "pkg/follow/deputy",
	},
	"github.com/authzed/authzed-go/": {
		"pkg/engine", "pkg/store", "pkg/evaluate", "pkg/evaluate/kept", "pkg/fixture/plan", "pkg/door/spicedb", "pkg/daemon", "pkg/cli",
		"tests", "pkg/fixture/endpoint",
	},
	"google.golang.org/grpc": {
		"pkg/engine", "pkg/store", "pkg/evaluate", "pkg/evaluate/kept", "pkg/rpc", "pkg/door/spicedb", "pkg/door/http", "pkg/rpc/wire", "pkg/daemon",
		"pkg/client", "pkg/cli", "pkg/fixture/plan", "pkg/gen", "tests", "pkg/fixture/endpoint", "pkg/statuses", "pkg/caller", "pkg/follow/deputy",
		"pkg/reconnect",
	},
}

// onlyStdlib are the rooms that import nothing but the standard library and their arrows: the words and
// the rule.
var onlyStdlib = []string{"pkg/authz", "pkg/facts", "pkg/decide"}

// TestArrows asserts the house.
func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		for _, complaint := range complaints(p.room(), p.Imports) {
			t.Error(complaint)
		}
	}
}

// complaints returns what is wrong with a package's imports.
func complaints(at string, imports []string) []string {
	room := roomOf(at)
	if room == "" {
		return []string{fmt.Sprintf("%s is no room of the house. Give it a row in tests/arch/arrows_test.go that says what it "+
			"may import and what it is for, or move the code into the room whose work it is.", at)}
	}
	var found []string
	for _, imported := range imports {
		if ours, ok := strings.CutPrefix(imported, module); ok {
			if to := roomOf(ours); to != room && !mayImport(room, to) {
				found = append(found, fmt.Sprintf("%s imports %s; it may import %s. Declare the interface that %s needs in %s "+
					"and have pkg/daemon pass the other room in; or move the code to where its imports are allowed.",
					at, ours, list(arrows[room]), room, room))
			}
			continue
		}
		for prefix, rooms := range outside {
			if strings.HasPrefix(imported, prefix) && !slices.Contains(rooms, room) && !slices.Contains(onlyStdlib, room) {
				found = append(found, fmt.Sprintf("%s imports %s; only %s may. Use the words and the ports of pkg/authz, and "+
					"leave the work with it to one of those.", at, imported, list(rooms)))
			}
		}
		if slices.Contains(onlyStdlib, room) && strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") {
			found = append(found, fmt.Sprintf("%s imports %s; it is one of the rooms that use only the standard library (%s). "+
				"Take the value that you need as a parameter, in the words of pkg/authz.", at, imported, list(onlyStdlib)))
		}
	}
	return found
}

// arrow is an import that a table allows: of a room, or of what has a prefix and is not ours.
type arrow struct{ from, to string }

// TestArrowsAreUsed: a row names no import that nobody needs, because a reader of the table takes it for the way that work goes.
func TestArrowsAreUsed(t *testing.T) {
	imports := map[string][]string{}
	for _, p := range packages(t) {
		imports[roomOf(p.room())] = append(imports[roomOf(p.room())], p.Imports...)
	}
	for _, a := range unusedArrows(arrows, outside, imports) {
		t.Errorf("the table lets %s import %s, and no file of it does that is not a test. Take %s out of its row.", a.from, a.to, a.to)
	}
}

// unusedArrows returns the arrows of the tables that no import goes along, given those of each room. Black boxes look at what
// they test, so the rows of tests are left out.
func unusedArrows(rooms, outside, imports map[string][]string) (unused []arrow) {
	for from, row := range rooms {
		for _, to := range row {
			if to != "*" && !strings.HasPrefix(from, "tests") && !slices.ContainsFunc(imports[from], func(path string) bool {
				ours, ok := strings.CutPrefix(path, module)
				return ok && roomOf(ours) == to
			}) {
				unused = append(unused, arrow{from, to})
			}
		}
	}
	for prefix, row := range outside {
		for _, from := range row {
			if from != "tests" && !slices.ContainsFunc(imports[from], func(path string) bool { return strings.HasPrefix(path, prefix) }) {
				unused = append(unused, arrow{from, prefix})
			}
		}
	}
	return unused
}

// roomOf returns the row of arrows that a package belongs to: the longest that is its path or a parent of
// it. "" means that there is none.
func roomOf(at string) string {
	best := ""
	for room := range arrows {
		if (at == room || strings.HasPrefix(at, room+"/")) && len(room) > len(best) {
			best = room
		}
	}
	return best
}

// mayImport reports whether the row of one room names the other.
func mayImport(from, to string) bool {
	if strings.HasPrefix(to, "tests") && !strings.HasPrefix(from, "tests") {
		return false
	}
	return to != "" && (slices.Contains(arrows[from], to) || slices.Contains(arrows[from], "*"))
}

func list(rooms []string) string {
	if len(rooms) == 0 {
		return "no other room"
	}
	return strings.Join(rooms, ", ")
}

// The table is a statement about itself too: rows name rows, and nothing leads in a circle.
func TestArrowsLeadSomewhereAndNeverBack(t *testing.T) {
	for _, problem := range circles(arrows) {
		t.Error(problem)
	}
}

// circles returns what is wrong with a table of arrows.
func circles(table map[string][]string) []string {
	var problems []string
	var visit func(room string, path []string)
	visit = func(room string, path []string) {
		if slices.Contains(path, room) {
			problems = append(problems, fmt.Sprintf("a circle: %s -> %s. One of them needs an interface of its own.",
				strings.Join(path, " -> "), room))
			return
		}
		for _, to := range table[room] {
			if to == "*" {
				continue
			}
			if _, ok := table[to]; !ok {
				problems = append(problems, fmt.Sprintf("%s may import %s, which is no row of the table", room, to))
				continue
			}
			visit(to, append(slices.Clone(path), room))
		}
	}
	for _, room := range slices.Sorted(maps.Keys(table)) {
		visit(room, nil)
	}
	return slices.Compact(problems)
}

// TestArrowsBite shows that each kind of wrong import is found.
func TestArrowsBite(t *testing.T) {
	for _, test := range []struct{ from, imports, want string }{
		{"pkg/authz", "github.com/authzed/spicedb/pkg/tuple", "only the standard library"},
		{"pkg/authz", "google.golang.org/grpc/codes", "only the standard library"},
		{"pkg/authz", module + "pkg/facts", "may import no other room"},
		{"pkg/decide", module + "pkg/engine", "Declare the interface"},
		{"pkg/judge", "google.golang.org/grpc/status", "Use the words and the ports"},
		{"pkg/rpc", module + "pkg/engine", "Declare the interface"},
		{"pkg/rpc", "github.com/authzed/spicedb/pkg/tuple", "Use the words and the ports"},
		{"pkg/door/spicedb", module + "pkg/rpc", "Declare the interface"},
		{"pkg/client", module + "pkg/engine", "may import pkg/authz, pkg/gen"},
		{"pkg/engine", module + "tests/pgtest", "Declare the interface"},
		{"tests/oracle", module + "pkg/decide", "may import pkg/authz"},
		{"pkg/helpers", "fmt", "is no room"},
	} {
		got := complaints(test.from, []string{test.imports})
		if len(got) != 1 || !strings.Contains(got[0], test.want) {
			t.Errorf("%s importing %s: %q, want one complaint with %q", test.from, test.imports, got, test.want)
		}
	}
	for _, test := range []struct{ from, imports string }{
		{"pkg/authz", "strings"},
		{"pkg/rpc", module + "pkg/rpc/wire"},
		{"pkg/client", module + "pkg/gen/deputy/v1"},
		{"tests/conformance", module + "pkg/daemon"},
		{"tests/conformance", module + "tests/pgtest"},
		{"pkg/engine", "github.com/authzed/spicedb/pkg/tuple"},
	} {
		if got := complaints(test.from, []string{test.imports}); len(got) != 0 {
			t.Errorf("%s importing %s: %q, want no complaint", test.from, test.imports, got)
		}
	}
	if got := circles(map[string][]string{"a": {"b"}, "b": {"a"}}); len(got) != 2 {
		t.Errorf("a circle of two: %q", got)
	}
	if got := circles(map[string][]string{"a": {"b"}}); len(got) != 1 {
		t.Errorf("an arrow to nowhere: %q", got)
	}
	table, imports := map[string][]string{"pkg/rpc": {"pkg/authz", "pkg/judge"}, "tests": {"*"}}, map[string][]string{"pkg/rpc": {module + "pkg/authz"}}
	if got := unusedArrows(table, nil, imports); !slices.Equal(got, []arrow{{"pkg/rpc", "pkg/judge"}}) {
		t.Errorf("an arrow that nobody uses: %v", got)
	}
	imports["pkg/engine"] = []string{"github.com/authzed/spicedb/pkg/tuple"}
	table = map[string][]string{"github.com/authzed/spicedb/": {"pkg/engine", "pkg/rpc", "tests"}}
	if got := unusedArrows(nil, table, imports); !slices.Equal(got, []arrow{{"pkg/rpc", "github.com/authzed/spicedb/"}}) {
		t.Errorf("an import of what is not ours that nobody uses: %v", got)
	}
}
