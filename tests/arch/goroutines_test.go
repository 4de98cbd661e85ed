package arch

import (
	"go/ast"
	"slices"
	"testing"
)

// bareGoroutines are the functions that start a goroutine without recovery, each with the reason why a panic in it
// may end the process: that it serves no call, or that it recovers further down.
var bareGoroutines = map[string]string{
	"pkg/caller/token/verifier.go: Reopen":       "serves no call: each question to an issuer recovers",
	"pkg/cli/demo.go: start":                     "the demo's own server: the daemon recovers its calls",
	"pkg/cli/interrupt.go: untilDone":            "a command's own input",
	"pkg/cli/schemadiff.go: newSchemaDiff":       "a command's own files",
	"pkg/cli/serve.go: reloadOnSignal":           "daemon.Reload recovers",
	"pkg/cli/import.go: stored":                  "a command's own reads",
	"pkg/daemon/daemon.go: Serve":                "serves no call itself: the interceptors recover each",
	"pkg/daemon/stop.go: closeBy":                "closes the server",
	"pkg/daemon/stop.go: drain":                  "stops the server",
	"pkg/daemon/heap.go: KeepHeadroom":           "serves no call",
	"pkg/journal/indexer.go: Reader":             "indexer.run recovers",
	"pkg/journal/open.go: Open":                  "keepUp recovers each round",
	"pkg/journal/seal.go: start":                 "serves no call: each sealing, and each call of the witness, recovers",
	"pkg/journal/verify/bundles.go: readBundles": "a command's own files",
	"pkg/turns/shared.go: join":                  "taking.run recovers each taking",
	"pkg/follow/postgres/authority.go: Close":    "closes the connections",
	"pkg/engine/primary.go: ReadyState":          "pooled.ask recovers",
	"pkg/engine/primary.go: guardPrimary":        "serves no call",
	"pkg/engine/stray.go: join":                  "look.run recovers",
	"pkg/evaluate/kept/verify.go: newVerifier":   "verifier.run recovers each verification",
	"pkg/rpc/openstreams.go: RejudgeStreams":     "rejudge recovers",
	"pkg/rpc/watch.go: add":                      "renew recovers each renewal",
	"pkg/rpc/watch.go: goRound":                  "renew recovers",
	"pkg/rpc/streams.go: run":                    "what a worker runs recovers: a stream's panic is handed to its call",
}

// bareRooms are the rooms all of whose goroutines may be without recovery.
var bareRooms = map[string]string{
	// Fixtures run within a command, and so do the tools for schemas.
	"pkg/fixture":       "no call is served there",
	"pkg/schema/source": "no call is served there",
	// The store's goroutines are its own business: what panics in the middle of a commit must not go on.
	"pkg/store": "recovers in its own way, see its package comment",
}

// goroutinesRecover finds goroutines that a panic would end the process in. A goroutine that works for a call runs its
// work through authz.Safely, or defers authz.Recover.
func goroutinesRecover(s *source) []string {
	if s.isTest() || bareRooms[bareRoomOf(s.path)] != "" {
		return nil
	}
	var found []string
	for _, decl := range s.file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil || bareGoroutines[s.path+": "+fn.Name.Name] != "" {
			continue
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			work, starts := startedBy(n)
			if starts && !recovers(work) {
				found = append(found, s.at(n.Pos(), "%s starts a goroutine in which a panic ends the process, and with it every call. Have its "+
					"work return an error through authz.Safely, or defer authz.Recover; or, where it serves no call, give it a row with "+
					"a reason in bareGoroutines.", fn.Name.Name))
			}
			return true
		})
	}
	return found
}

func bareRoomOf(path string) string {
	for room := range bareRooms {
		if len(path) > len(room) && path[:len(room)+1] == room+"/" {
			return room
		}
	}
	return ""
}

// startedBy returns what a statement or a call has a goroutine do: "go f(…)", and Go of an errgroup or a WaitGroup.
func startedBy(n ast.Node) (work ast.Expr, starts bool) {
	switch n := n.(type) {
	case *ast.GoStmt:
		return n.Call.Fun, true
	case *ast.CallExpr:
		sel, ok := n.Fun.(*ast.SelectorExpr)
		if ok && (sel.Sel.Name == "Go" || sel.Sel.Name == "TryGo") && len(n.Args) == 1 {
			return n.Args[0], true
		}
	}
	return nil, false
}

// recovers reports whether a function literal hands its work to authz.Safely, or defers authz.Recover: as a statement
// of its own body, not somewhere within.
func recovers(work ast.Expr) bool {
	fn, ok := work.(*ast.FuncLit)
	if !ok {
		return false
	}
	return slices.ContainsFunc(fn.Body.List, func(s ast.Stmt) bool {
		switch s := s.(type) {
		case *ast.DeferStmt:
			return isOf(s.Call, "Recover")
		case *ast.ReturnStmt:
			return len(s.Results) == 1 && isOf(s.Results[0], "Safely")
		case *ast.SendStmt:
			return isOf(s.Value, "Safely")
		case *ast.AssignStmt:
			return len(s.Rhs) == 1 && isOf(s.Rhs[0], "Safely")
		case *ast.IfStmt:
			assign, ok := s.Init.(*ast.AssignStmt)
			return ok && len(assign.Rhs) == 1 && isOf(assign.Rhs[0], "Safely")
		}
		return false
	})
}

// isOf reports whether an expression is a call of authz.name.
func isOf(e ast.Expr, name string) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != name {
		return false
	}
	x, ok := sel.X.(*ast.Ident)
	return ok && x.Name == "authz"
}

// TestBareGoroutinesAreThere: a row whose function is gone, or starts no goroutine, is struck out.
func TestBareGoroutinesAreThere(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		for _, decl := range s.file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if work, starts := startedBy(n); starts && !recovers(work) {
					seen[s.path+": "+fn.Name.Name] = true
				}
				return true
			})
		}
	}
	for row := range bareGoroutines {
		if !seen[row] {
			t.Errorf("%s starts no goroutine without recovery: strike out its row in bareGoroutines", row)
		}
	}
}
