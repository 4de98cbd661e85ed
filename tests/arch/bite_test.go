package arch

import (
	"strings"
	"testing"
)

// TestRulesBite shows for every rule of TestSource what it finds and what it leaves alone.
func TestRulesBite(t *testing.T) {
	long := func(lines int) string { return "package main\n" + strings.Repeat("\n", lines-1) }
	for _, test := range []struct {
		rule  func(*source) []string
		path  string
		text  string
		finds int
	}{
		{mainIsShort, "cmd/deputy/main.go", long(39), 0},
		{mainIsShort, "cmd/deputy/main.go", long(40), 1},
		{filesAreShort, "pkg/cli/serve.go", long(800), 0},
		{filesAreShort, "pkg/cli/serve.go", long(801), 1},
		{packageNames, "pkg/util/a.go", "package util", 1},
		{packageNames, "pkg/impl/a_test.go", "package impl_test", 1},
		{packageNames, "pkg/facts/a.go", "package facts", 0},
		{nothingLeftToDo, "a.go", "package a // TO" + "DO: more", 1},
		{nothingLeftToDo, "a.go", "package a\n/* FIX" + "ME */", 1},
		{nothingLeftToDo, "a.go", "package a // todos are a domain of their own\nconst s = `TO" + "DO`", 0},
		{exportedIsDocumented, "a.go", "package a\nfunc F() {}\ntype T int\nfunc (T) M() {}\nvar V = 1\nconst C = 1\n", 5},
		{exportedIsDocumented, "a.go", "package a\n// Both.\ntype (\nA int\nB int\n)\n", 2},
		{exportedIsDocumented, "a.go", "package a\ntype l[T any] []T\nfunc (l[T]) M() {}\ntype L[T any] []T // L.\nfunc (*L[T]) M() {}\n", 1},
		{exportedIsDocumented, "a.go", "package a\n// F.\nfunc F() {}\n// T.\ntype T int\n// The codes.\nconst (\nA = 1\nB = 2\n)\nfunc f() {}\n", 0},
		{exportedIsDocumented, "a_test.go", "package a\nfunc TestF() {}\n", 0},
		{testsDoNotSleep, "a_test.go", "package a\nimport \"time\"\nfunc f() { time.Sleep(1) }\n", 1},
		{testsDoNotSleep, "tests/x/a.go", "package a\nimport zeit \"time\"\nfunc f() { zeit.Sleep(1) }\n", 1},
		{testsDoNotSleep, "a_test.go", "package a\nimport \"time\"\nfunc f() { time.After(1); bed.Sleep(1) }\n", 0},
		{testsDoNotSleep, "a.go", "package a\nimport \"time\"\nfunc f() { time.Sleep(1) }\n", 0},
		{skipsAreSaid, "a_test.go", "package a\nimport \"testing\"\nfunc TestA(t *testing.T) { t.Skip(\"no\") }\n", 1},
		{skipsAreSaid, "a_test.go", "package a\nimport \"testing\"\nfunc f(tb testing.TB) { func() { tb.SkipNow() }() }\n", 1},
		{skipsAreSaid, "a_test.go", "package a\nimport \"testing\"\nfunc TestA(t *testing.T) { check(func(t *rapid.T) { t.Skip(\"drawn twice\") }) }\n", 0},
		{skipsAreSaid, "a_test.go", "package a\nimport \"testing\"\nfunc TestA(t *testing.T) { pgtest.Skip(t, \"no\") }\n", 0},
		{skipsAreSaid, "a_test.go", "package a\nimport \"testing\"\nfunc TestA(t *testing.T) {\nif testing.Short() { t.Skip(\"no\") }\n}\n", 0},
		{skipsAreSaid, "a_test.go", "package a\nimport \"testing\"\nfunc TestA(t *testing.T) {\nif a.Short() { t.Skip(\"no\") }\n}\n", 1},
		{skipsAreSaid, "tests/pgtest/a.go", "package pgtest\nimport \"testing\"\nfunc Skip(t testing.TB) { t.Skip(\"no\") }\n", 0},
		{theRuleIsPure, "pkg/decide/a.go", "package decide\nimport (\"context\"; \"os\")\n", 2},
		{theRuleIsPure, "pkg/facts/a.go", "package facts\nimport \"time\"\nvar now = time.Now\n", 1},
		{theRuleIsPure, "pkg/decide/a.go", "package decide\nimport \"time\"\nvar t time.Time\n", 0},
		{goroutinesRecover, "pkg/judge/a.go", "package judge\nfunc f() { go g()\ngo func() { g() }()\ngroup.Go(func() error { return g() })\nwait.Go(g) }\n", 4},
		{goroutinesRecover, "pkg/judge/a.go", "package judge\nfunc f() { go func() { func() { defer authz.Recover(op, &err) }() }() }\n", 1},
		{goroutinesRecover, "pkg/judge/a.go", "package judge\nfunc f() { group.Go(func() error { return authz.Safely(op, g) })\ngo func() { defer authz.Recover(op, &err)\ng() }() }\n", 0},
		{goroutinesRecover, "pkg/judge/a.go", "package judge\nfunc f() { go func() { done <- authz.Safely(op, g) }()\ngo func() { err := authz.Safely(op, g)\nend(err) }() }\n", 0},
		{goroutinesRecover, "pkg/turns/shared.go", "package turns\nfunc (h *Shared[T]) join() { go h.run() }\nfunc other() { go h.run() }\n", 1},
		{goroutinesRecover, "pkg/judge/a_test.go", "package judge\nfunc f() { go g() }\n", 0},
		{expressionsAreReadOnce, "pkg/engine/a.go", "package engine\nimport core \"" + coreProto + "\"\nvar _ core.UsersetRewrite\nvar _ core.SetOperation_Child\nvar _ core.AllowedRelation_PublicWildcard_\n", 3},
		{expressionsAreReadOnce, "pkg/schema/guard/a.go", "package guard\nfunc f() { r.GetUsersetRewrite().GetUnion() }\n", 1},
		{expressionsAreReadOnce, "pkg/schema/read.go", "package schema\nfunc f() { r.GetUsersetRewrite() }\n", 0},
		{expressionsAreReadOnce, "pkg/engine/a_test.go", "package engine\nfunc f() { r.GetUsersetRewrite() }\n", 0},
		{expressionsAreReadOnce, "pkg/engine/a.go", "package engine\nimport core \"" + coreProto + "\"\nvar _ core.AllowedRelation\nvar _ core.Relation\n", 0},
		{theRuleIsPure, "pkg/judge/a.go", "package judge\nimport \"context\"\n", 0},
		{connectionsAreTriedAgain, "pkg/x/a.go", "package x\nimport \"google.golang.org/grpc\"\nvar c, err = grpc.NewClient(\"a\")\n", 1},
		{connectionsAreTriedAgain, "pkg/x/a.go", "package x\nimport (\"google.golang.org/grpc\"; \"github.com/deputyauth/deputy/pkg/reconnect\")\nvar c, err = grpc.NewClient(\"a\", reconnect.Option())\n", 0},
	} {
		s, err := parse(test.path, test.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := test.rule(s); len(got) != test.finds {
			t.Errorf("%s with %.60q: %q, want %d complaints", test.path, test.text, got, test.finds)
		}
	}
}
