//go:build linux

package border

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// nowhere is a world without a server.
func nowhere() *world {
	return &world{minted: map[string]string{"session0": strings.Repeat("s", 26), "token0": strings.Repeat("T", 40)}}
}

// drawn returns the inputs of a seed.
func drawn(w *world, seed uint64) (all []*input) {
	d := &draw{world: w, now: time.Unix(1e9, 0), learned: map[string][]string{}}
	for n := range uint64(400) {
		d.Rand = rand.New(rand.NewPCG(seed, n))
		in, _ := d.input(methods(), []string{"nobody", "service", "admin"})
		all = append(all, in)
	}
	return all
}

// TestTextsMeanTheirInputs writes inputs down and reads them again: it is the same on the wire.
func TestTextsMeanTheirInputs(t *testing.T) {
	w := nowhere()
	seen := false
	for _, in := range drawn(w, 1) {
		text := in.text(w)
		again, err := parseInput(text)
		if err != nil {
			t.Fatalf("%v\n%.2000s", err, text)
		}
		seen = seen || strings.Contains(text, "$session0")
		if got := again.text(w); got != text {
			t.Fatalf("read again\n%.2000s\nit is\n%.2000s", text, got)
		}
		if !slices.Equal(headersOf(in), headersOf(again)) || len(in.parts) != len(again.parts) {
			t.Fatalf("other headers or parts:\n%.2000s", text)
		}
		for i := range in.parts {
			if !bytes.Equal(w.body(in.parts[i]), w.body(again.parts[i])) {
				t.Fatalf("part %d is another:\n%.2000s", i, text)
			}
		}
	}
	if !seen {
		t.Error("no text names a value that the server minted")
	}
	for _, wrong := range []string{"", "as nobody", "as somebody\ncall /x", "as nobody\ncall /x\nmessage zz", "as nobody\ncall /x\nheader x", "as nobody\ncall /x\nsomething"} {
		if _, err := parseInput(wrong); err == nil {
			t.Errorf("%q is read as an input", wrong)
		}
	}
}

// TestSeedsDrawTheSame draws twice.
func TestSeedsDrawTheSame(t *testing.T) {
	w := nowhere()
	texts := func(seed uint64) (all []string) {
		for _, in := range drawn(w, seed) {
			all = append(all, in.text(w))
		}
		return all
	}
	first, again, other := texts(1), texts(1), texts(2)
	for i := range first {
		if first[i] != again[i] {
			t.Fatalf("input %d is once\n%.2000s\nand once\n%.2000s", i, first[i], again[i])
		}
	}
	if slices.Equal(first, other) {
		t.Error("another seed draws the same")
	}
}

// TestJudgeBites shows that each kind of wrong answer is found, and that right ones are not.
func TestJudgeBites(t *testing.T) {
	all := methods()
	unary := all[slices.IndexFunc(all, func(m method) bool { return m.path == "/deputy.v1.PermissionsService/CheckPermission" })]
	health := all[slices.IndexFunc(all, func(m method) bool { return m.path == "/grpc.health.v1.Health/Check" })]
	internal := http2.ErrCodeInternal
	for _, test := range []struct {
		name string
		in   *input
		m    method
		got  reply
		want string
	}{
		{"a refusal", &input{role: "nobody"}, unary, reply{http: "200", code: "16"}, ""},
		{"an answer", &input{role: "service"}, unary, reply{http: "200", code: "0", got: 10}, ""},
		{"health", &input{role: "nobody"}, health, reply{http: "200", code: "0", got: 10}, ""},
		{"gRPC's own", &input{role: "nobody"}, unary, reply{http: "400", code: "13", message: "malformed grpc-timeout: x"}, ""},
		{"INTERNAL", &input{role: "service"}, unary, reply{http: "200", code: "13", message: "internal error"}, "status"},
		{"UNKNOWN", &input{role: "service"}, unary, reply{http: "200", code: "2"}, "status"},
		{"no code", &input{role: "service"}, unary, reply{http: "200", code: "17"}, "status"},
		{"no status", &input{role: "service"}, unary, reply{http: "200"}, "status"},
		{"HTTP 500", &input{role: "service"}, unary, reply{http: "500", code: "0"}, "status"},
		{"an internal reset", &input{role: "service"}, unary, reply{reset: &internal}, "status"},
		{"nothing", &input{role: "service"}, unary, reply{cut: true}, "no answer"},
		{"data without a key", &input{role: "wrong"}, unary, reply{http: "200", code: "16", got: 1}, "key"},
		{"OK without a key", &input{role: "nobody"}, unary, reply{http: "200", code: "0"}, "key"},
		{"a stack", &input{role: "service"}, unary, reply{http: "200", code: "3", message: "goroutine 1 [running]"}, "telling"},
		{"a file in the data", &input{role: "service"}, unary, reply{http: "200", code: "0", data: []byte("judge.go:98"), got: 11}, "telling"},
	} {
		wrong, _ := judge(test.in, test.m, test.got)
		classes := []string{}
		for _, f := range wrong {
			classes = append(classes, f.class)
		}
		if got := strings.Join(classes, " "); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
