package http_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/statuses"
	"github.com/deputyauth/deputy/tests/harness"
)

// methods are those of deputy.v1 by their paths.
func methods() map[string]protoreflect.MethodDescriptor {
	all := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage("deputy.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				m := f.Services().Get(i).Methods().Get(j)
				all[fmt.Sprintf("/%s/%s", f.Services().Get(i).FullName(), m.Name())] = m
			}
		}
		return true
	})
	return all
}

// TestHostileBodies: whatever a method is sent, it is refused in words: nothing is the server's fault, and nobody gets an answer.
func TestHostileBodies(t *testing.T) {
	w := open(t)
	bodies := []string{
		"", "\x00", "{", "[]", "null", "7", `"x"`, `{"":""}`, `{"a":` + strings.Repeat("[", 5000), strings.Repeat("{}", 2000), "\xff\xfe{\x00}\x00", `{"agentId":"\ud800"}`,
		`{"context":{"a":1e400}}`, "\x0a\xff\xff\xff\xff\x0f", "\x00\x00\x00\x00\x01\x7f", "\x01\x00\x00\x00\x01\x7f", "\x02\x00\x00\x00\x02{}", strings.Repeat("\x0a\x00", 9000),
	}
	for path, m := range methods() {
		kinds := []string{"application/json", "application/proto"}
		if m.IsStreamingServer() {
			kinds = []string{"application/connect+json", "application/connect+proto"}
		}
		for i, body := range bodies {
			for _, kind := range append(kinds, "application/grpc-web+proto", "application/grpc-web+json") {
				if path == "/deputy.v1.StoreService/Compact" || path == "/deputy.v1.StoreService/Backup" {
					continue // they take no fields, and take long
				}
				nobody := w.send(http.MethodPost, path, strings.NewReader(body), "Content-Type", kind)
				if told := strings.ToLower(nobody.text + nobody.header.Get("Grpc-Status")); !strings.Contains(told, "unauthenticated") && !strings.Contains(told, "16") {
					t.Errorf("%s, %s, body %d: nobody is answered %d %v %.200s", path, kind, i, nobody.status, nobody.header, nobody.text)
				}
				got := w.send(http.MethodPost, path, strings.NewReader(body), "Content-Type", kind, "Authorization", "Bearer "+harness.AdminKey)
				told := got.text + " grpc-status: " + got.header.Get("Grpc-Status")
				for _, fault := range []string{`"internal"`, `"unknown"`, `"data_loss"`, "grpc-status: 13", "grpc-status: 2\r", "grpc-status: 15"} {
					if got.status == http.StatusInternalServerError || strings.Contains(strings.ToLower(told), fault) {
						t.Errorf("%s, %s, body %d: %d %v %.200s", path, kind, i, got.status, got.header, got.text)
						break
					}
				}
			}
		}
	}
	w.stillAnswers()
}

// TestDrawnCalls: messages that are drawn at random come to the same over HTTP, as JSON and not, as over gRPC.
func TestDrawnCalls(t *testing.T) {
	w := open(t)
	const seed, each = 18, 12
	r := rand.New(rand.NewPCG(seed, seed))
	asJSON := harness.DialHTTP(t, w.HTTPAddr().String(), harness.AdminKey, "Connect JSON", nil)
	web := harness.DialHTTP(t, w.HTTPAddr().String(), harness.AdminKey, "gRPC-Web", nil)
	came := map[codes.Code]int{}
	for path, m := range methods() {
		known := caller.MethodOf(path)
		if known.Effect != deputyv1.Effect_EFFECT_READS && known.Effect != deputyv1.Effect_EFFECT_DECIDES || strings.Contains(path, "Watch") || strings.Contains(path, "Query") {
			continue // what is written once is there the second time, and what goes on has no end
		}
		for range each {
			found, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
			w.must(err)
			request := found.New()
			draw(r, request, 3)
			ask := func(conn grpc.ClientConnInterface) *status.Status {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				answer, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
				w.must(err)
				if !m.IsStreamingServer() {
					return status.Convert(conn.Invoke(ctx, path, request.Interface(), answer.New().Interface()))
				}
				s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
				if err == nil {
					err = s.SendMsg(request.Interface())
				}
				if err == nil {
					err = s.CloseSend()
				}
				for err == nil {
					err = s.RecvMsg(answer.New().Interface())
				}
				if err.Error() == "EOF" {
					err = nil
				}
				return status.Convert(err)
			}
			want := ask(w.Admin)
			came[want.Code()]++
			for name, conn := range map[string]grpc.ClientConnInterface{"JSON": asJSON, "gRPC-Web": web} {
				got := ask(conn)
				if got.Code() != want.Code() || got.Message() != want.Message() || statuses.Info(got).GetReason() != statuses.Info(want).GetReason() {
					t.Errorf("%s, %s of %v: %v, and over gRPC %v", path, name, request.Interface(), got, want)
				}
			}
		}
	}
	if len(came) < 3 {
		t.Errorf("the calls came to %v alone: the test draws too alike", came)
	}
}

// draw sets some fields of a message.
func draw(r *rand.Rand, m protoreflect.Message, levels int) {
	if s, ok := m.Interface().(*structpb.Struct); ok {
		s.Fields = map[string]*structpb.Value{"amount": structpb.NewNumberValue(float64(r.IntN(9))), "at": structpb.NewNullValue()}
		return
	}
	if name := m.Descriptor().FullName(); name == "google.protobuf.Timestamp" || name == "google.protobuf.Duration" {
		m.Set(m.Descriptor().Fields().ByName("seconds"), protoreflect.ValueOfInt64(int64(r.IntN(1000))))
		return
	}
	words := []string{"bot", "alice", "acme", "document", "plan", "view", "user", "tenant", "a b", "*", "", "é", strings.Repeat("x", 1100), "\x00"}
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		one := func() protoreflect.Value {
			switch f.Kind() {
			case protoreflect.BoolKind:
				return protoreflect.ValueOfBool(r.IntN(2) == 0)
			case protoreflect.EnumKind:
				return protoreflect.ValueOfEnum(protoreflect.EnumNumber(r.IntN(f.Enum().Values().Len() + 2)))
			case protoreflect.StringKind:
				return protoreflect.ValueOfString(words[r.IntN(len(words))])
			case protoreflect.BytesKind:
				return protoreflect.ValueOfBytes([]byte(words[r.IntN(len(words))]))
			case protoreflect.Uint32Kind:
				return protoreflect.ValueOfUint32(r.Uint32() >> r.IntN(32))
			case protoreflect.Uint64Kind:
				return protoreflect.ValueOfUint64(r.Uint64() >> r.IntN(64))
			case protoreflect.Int32Kind:
				return protoreflect.ValueOfInt32(int32(r.IntN(9)))
			case protoreflect.Int64Kind:
				return protoreflect.ValueOfInt64(int64(r.IntN(9)))
			default:
				panic("the test draws no " + f.Kind().String())
			}
		}
		switch {
		case r.IntN(3) == 0 || f.IsMap() || f.Message() != nil && levels == 0:
		case f.IsList() && f.Message() != nil:
			for range r.IntN(3) {
				draw(r, m.Mutable(f).List().AppendMutable().Message(), levels-1)
			}
		case f.IsList():
			for range r.IntN(3) {
				m.Mutable(f).List().Append(one())
			}
		case f.Message() != nil:
			draw(r, m.Mutable(f).Message(), levels-1)
		default:
			m.Set(f, one())
		}
	}
}
