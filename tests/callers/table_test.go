package callers_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/schema"
	"github.com/deputyauth/deputy/tests/harness"
)

// rewrite puts what the server answers into testdata/table.txt and docs/callers.md: read the difference before you commit it.
var rewrite = flag.Bool("rewrite", false, "write what the server answers into the table")

// roles are the columns, besides those of nobody and of a caller without a role.
var roles = []string{"checker", "delegator", "writer", "organizer", "schema-admin", "responder", "auditor", "admin", self, "transmitter", "follower"}

// self is the column of people, who prove with tokens of their own alone who they are: alice of acme.
const self = "self"

// columns are all of them.
var columns = append([]string{"nobody", "none"}, roles...)

// schemaJSON is the schema as the inside of a JSON string.
var schemaJSON = func() string {
	text, err := json.Marshal(schema.Core + domain)
	if err != nil {
		panic(err)
	}
	return strings.Trim(string(text), `"`)
}()

func digest(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }

// nameOf is the name of the caller of a column, "" of nobody.
func nameOf(column string, bounded bool) string {
	switch {
	case column == "nobody":
		return ""
	case bounded:
		return column + "-bound"
	default:
		return column + "-unbound"
	}
}

// configured are the callers of all columns, each twice: bound to acme and to bots, and bound to nothing.
func configured(t testing.TB) []*caller.Caller {
	t.Helper()
	var all []*caller.Caller
	for _, column := range columns[1:] {
		for _, bounded := range []bool{true, false} {
			name := nameOf(column, bounded)
			c := &caller.Caller{Name: name, Bounds: authz.Unbounded(), SpiceDB: authz.AllNames(), Credentials: []caller.Credential{{ID: "key", Key: digest(keyOf(name))}}}
			if bounded {
				c.Bounds = bound()
			}
			if column != "none" {
				role, err := caller.ParseRole(column)
				if err != nil {
					t.Fatal(err)
				}
				c.Roles = caller.RolesOf(role)
				if column == "transmitter" {
					c.Signals = transmits()
				}
			}
			if column == self {
				c.Credentials, c.Bounds.Vouch = nil, false
			}
			all = append(all, c)
		}
	}
	return all
}

// place is where a row of the table asks: in a tenant, for an agent, by callers that are bound or not.
type place struct {
	label, in, agent string
	bounded          bool
}

var places = []place{
	{"own tenant, own agent", acme, bot, true}, {"own tenant, other agent", acme, rival, true},
	{"other tenant, own agent", globex, bot, true}, {"other tenant, other agent", globex, rival, true},
	{"no tenant, own agent", nowhere, bot, true}, {"no tenant, other agent", nowhere, rival, true},
	{"callers without bounds", acme, bot, false},
}

// TestTable makes every call as every caller, proven in every way (people by tokens alone), prints what it came to, and compares it with testdata/table.txt, which
// knows no ways of proof: how a caller proves who it is makes no difference.
func TestTable(t *testing.T) {
	by := newProofs(t)
	cfg := by.server(t, daemon.Config{Engine: harness.Embedded(t), Callers: configured(t), SignalsDir: t.TempDir(), HTTPAddr: "127.0.0.1:0"})
	provider := newProvider(t)
	cfg.Issuers = append(cfg.Issuers, provider.known(t))
	w := newWorld(t, cfg)
	w.provider, w.transmitter = provider, by.dial(t, w.Addr().String(), kinds[0], nameOf("transmitter", false))
	w.follower = by.dial(t, w.Addr().String(), kinds[0], nameOf("follower", false))
	w.once("authzed.api.v1.ExperimentalService/ExperimentalRegisterRelationshipCounter",
		`{"name":"documents","relationship_filter":{"resource_type":"document"}}`)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			table, short := w.table(func(name string) grpc.ClientConnInterface { return by.dial(t, w.Addr().String(), kind, name) })
			if kind == kinds[0] {
				t.Log("\n" + table)
			}
			compare(t, "testdata/table.txt", table)
			comparePage(t, "../../docs/callers.md", short)
		})
	}
	// Over HTTP it is the same table, whichever protocol is spoken: all calls of deputy.v1 go there.
	for protocol, kind := range map[string]string{"Connect JSON": "key", "gRPC-Web": "certificate", "Connect": "JWT"} {
		t.Run(kind+" over "+protocol, func(t *testing.T) {
			table, _ := w.table(func(name string) grpc.ClientConnInterface {
				return harness.Beside{HTTP: by.dialHTTP(t, w.HTTPAddr().String(), protocol, kind, name), GRPC: by.dial(t, w.Addr().String(), kind, name)}
			})
			compare(t, "testdata/table.txt", table)
		})
	}
}

// table makes every call as every caller, and returns the whole table, and the short one for the page.
func (w *world) table(dial func(name string) grpc.ClientConnInterface) (whole, short string) {
	w.t.Helper()
	connections := map[string]grpc.ClientConnInterface{}
	for _, column := range columns {
		for _, bounded := range []bool{true, false} {
			name := nameOf(column, bounded)
			connections[name] = dial(name)
		}
	}
	var table strings.Builder
	table.WriteString(legend)
	page := newPage()
	for _, c := range calls {
		rows := make([][]string, len(places))
		for i, p := range places {
			for _, column := range columns {
				rows[i] = append(rows[i], w.cell(connections[nameOf(column, p.bounded)], c, p))
			}
		}
		writeRows(&table, c, rows)
		page.add(c, rows[0], rows[len(rows)-1])
	}
	return table.String(), page.String()
}

// once makes a call as the admin, which has to succeed.
func (w *world) once(method, request string) {
	w.t.Helper()
	if _, err := w.invoke(w.Admin, method, request); err != nil {
		w.t.Fatalf("%s %s: %v", method, request, err)
	}
}

// cell makes a call and says in a word what it came to.
func (w *world) cell(conn grpc.ClientConnInterface, c call, p place) string {
	w.t.Helper()
	w.n++
	answers, err := w.invoke(conn, c.method, w.fill(c.request, p.in, p.agent))
	word := wordFor(answers, err, w.fill(c.shows, p.in, p.agent))
	if word != "yes" {
		return word
	}
	agent := p.agent + "-" + p.in
	if strings.Contains(c.request, "$waiting") {
		delete(w.waits, p.in)
	}
	if c.undo != nil {
		w.once(c.undo.method, w.fill(c.undo.request, p.in, p.agent))
	}
	if c.spends == "delegation" {
		w.delegate(agent)
		w.start(agent) // the session stood on it
	}
	if c.spends == "session" {
		w.start(agent)
	}
	return word
}

// wordFor says what a call came to: its answers, or its error.
func wordFor(answers string, err error, shows string) string {
	st := status.Convert(err)
	reason := ""
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	switch code := st.Code(); {
	case code == codes.OK && strings.Contains(answers, "PERMISSIONSHIP_NO_PERMISSION"):
		return "no"
	case code == codes.OK && !strings.Contains(answers, shows):
		return "empty"
	case code == codes.OK:
		return "yes"
	case code == codes.Unauthenticated:
		return "who?"
	case code == codes.PermissionDenied && reason == "ROLE_REQUIRED":
		return "role"
	case code == codes.PermissionDenied && reason == "OUT_OF_BOUNDS":
		return "bounds"
	case code == codes.NotFound:
		return "unknown"
	case code == codes.InvalidArgument:
		return "invalid"
	case code == codes.FailedPrecondition:
		return "unmet"
	default:
		return fmt.Sprintf("%s/%s", code, reason)
	}
}

// legend begins the table.
const legend = `Every method of the server, asked for by every caller. The columns are callers by role; "nobody" shows no credential, and
"none" has no role. "self" is the person alice-acme, with a token of her own. Callers are bound to the tenant acme and to the agents bot-* and helper-*, but those of the last row of each call.
Rows that are alike are put together.

  yes      the call was made; where it asks something, the answer is yes, or shows what was asked for
  no       the answer is NO_PERMISSION
  empty    the answer does not show what was asked for
  unknown  NOT_FOUND
  unmet    FAILED_PRECONDITION
  invalid  INVALID_ARGUMENT
  bounds   PERMISSION_DENIED, OUT_OF_BOUNDS
  role     PERMISSION_DENIED, ROLE_REQUIRED
  who?     UNAUTHENTICATED
`

// writeRows writes the rows of a call, those that are alike together.
func writeRows(out *strings.Builder, c call, rows [][]string) {
	fmt.Fprintf(out, "\n%s\n", c.name())
	line := func(label string, row []string) {
		fmt.Fprintf(out, "  %-25s", label)
		for i, word := range row {
			fmt.Fprintf(out, "  %-*s", max(len(columns[i]), 7), word)
		}
		out.WriteString("\n")
	}
	line("", columns)
	same := func(from, to int) bool {
		for _, row := range rows[from:to] {
			if !slices.Equal(row, rows[from]) {
				return false
			}
		}
		return true
	}
	switch {
	case same(0, len(places)):
		line("wherever", rows[0])
		return
	case same(0, len(places)-1):
		line("any tenant, any agent", rows[0])
	default:
		for i := 0; i < len(places)-1; i += 2 {
			if same(i, i+2) {
				tenant, _, _ := strings.Cut(places[i].label, ",")
				line(tenant+", any agent", rows[i])
				continue
			}
			line(places[i].label, rows[i])
			line(places[i+1].label, rows[i+1])
		}
	}
	line(places[len(places)-1].label, rows[len(places)-1])
}

// compare compares a text with a file's, or writes it there.
func compare(t *testing.T, file, text string) {
	t.Helper()
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	text = strings.Join(lines, "\n")
	if *rewrite {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, wanted := blocks(text), blocks(string(want))
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if got[name] != wanted[name] {
			t.Errorf("%s: %s\ngot\n%s\nwant\n%s", file, name, got[name], wanted[name])
		}
		delete(wanted, name)
	}
	for name := range wanted {
		t.Errorf("%s: %s: there is no such call any more", file, name)
	}
}

// blocks are the parts of a table between empty lines, by their first line.
func blocks(text string) map[string]string {
	all := map[string]string{}
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		name, rest, _ := strings.Cut(block, "\n")
		all[name] = rest
	}
	return all
}

// invoke makes a call of any method, and returns all its answers as JSON. Of a stream without an end it is the first.
func (w *world) invoke(conn grpc.ClientConnInterface, method, request string) (string, error) {
	w.t.Helper()
	service, name, _ := strings.Cut(method, "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	w.must(err)
	described, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		w.t.Fatalf("%s is no method", method)
	}
	message := w.message(described.Input())
	w.must(protojson.Unmarshal([]byte(request), message))
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if !described.IsStreamingClient() && !described.IsStreamingServer() {
		answer := w.message(described.Output())
		err := conn.Invoke(ctx, "/"+method, message, answer)
		return text(answer), err
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: described.IsStreamingClient()}, "/"+method)
	if err != nil {
		return "", err
	}
	if err := stream.SendMsg(message); err != nil && !errors.Is(err, io.EOF) { // what the server said comes with the answer
		return "", err
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	if name == "Watch" && service == "authzed.api.v1.WatchService" {
		defer w.change(ctx)()
	}
	var answers strings.Builder
	for {
		answer := w.message(described.Output())
		err := stream.RecvMsg(answer)
		if errors.Is(err, io.EOF) {
			return answers.String(), nil
		}
		if err != nil {
			return answers.String(), err
		}
		answers.WriteString(text(answer))
		if strings.HasPrefix(name, "Watch") {
			return answers.String(), nil
		}
	}
}

// change writes and deletes relationships until it is stopped, so that a watch has something to tell.
func (w *world) change(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			op := v1.RelationshipUpdate_OPERATION_TOUCH
			if i%2 == 1 {
				op = v1.RelationshipUpdate_OPERATION_DELETE
			}
			_, _ = harness.Update(ctx, w.Admin, op, "document:watched#reader@user:alice-acme")
		}
	}()
	return func() { cancel(); <-done }
}

func (w *world) message(of protoreflect.MessageDescriptor) proto.Message {
	w.t.Helper()
	found, err := protoregistry.GlobalTypes.FindMessageByName(of.FullName())
	w.must(err)
	return found.New().Interface()
}

// text is a message as JSON without blanks, which protojson puts in at random.
func text(m proto.Message) string {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// TestTableIsWhole: there is a call of every method of the APIs that the server serves, and no other.
func TestTableIsWhole(t *testing.T) {
	var served []string
	for _, of := range []protoreflect.FullName{
		"deputy.v1", "authzed.api.v1", "grpc.health.v1", "grpc.reflection.v1", "grpc.reflection.v1alpha",
	} {
		protoregistry.GlobalFiles.RangeFilesByPackage(of, func(f protoreflect.FileDescriptor) bool {
			for i := range f.Services().Len() {
				s := f.Services().Get(i)
				for j := range s.Methods().Len() {
					served = append(served, string(s.FullName())+"/"+string(s.Methods().Get(j).Name()))
				}
			}
			return true
		})
	}
	var asked []string
	for _, c := range calls {
		asked = append(asked, c.method)
	}
	slices.Sort(served)
	slices.Sort(asked)
	if asked = slices.Compact(asked); !slices.Equal(served, asked) {
		t.Errorf("the table has\n%s\nand the server serves\n%s", strings.Join(asked, "\n"), strings.Join(served, "\n"))
	}
}
