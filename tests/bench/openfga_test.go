package bench

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/deputyauth/deputy/tests/harness"
)

var openfgaBinary = flag.String("openfga", "", "the program that tests/bench/openfga builds; without it OpenFGA is left out")

// openfga asks an OpenFGA server. Its messages are written here by hand, so that nothing of OpenFGA is needed.
type openfga struct {
	conn         *grpc.ClientConn
	store, model string
}

// startOpenFGA starts a server over PostgreSQL, or over its memory datastore where uri is empty, with the
// graph loaded.
func startOpenFGA(t testing.TB, g graph, uri string) *openfga {
	t.Helper()
	words := strings.Fields(launch(t, exec.Command(*openfgaBinary, "-postgres="+uri), func(w io.Writer) error {
		out := bufio.NewWriter(w)
		for tenant := range g.tenants {
			_ = eachOf(tenant, func(r tuple.Relationship) error {
				subject := r.Subject.ObjectType + ":" + r.Subject.ObjectID
				if r.Subject.Relation != tuple.Ellipsis {
					subject += "#" + r.Subject.Relation
				}
				fmt.Fprintf(out, "%s %s %s:%s\n", subject, r.Resource.Relation, r.Resource.ObjectType, r.Resource.ObjectID)
				return nil
			})
		}
		fmt.Fprintln(out)
		return out.Flush()
	}))
	if len(words) != 3 {
		t.Fatalf("openfga printed %q", words)
	}
	return &openfga{conn: harness.Dial(t, words[0], harness.AdminKey), store: words[1], model: words[2]}
}

// raw sends and receives messages that are already bytes.
type raw struct{}

// Marshal implements encoding.Codec.
func (raw) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

// Unmarshal implements encoding.Codec.
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// Name implements encoding.Codec.
func (raw) Name() string { return "proto" }

func (o *openfga) call(ctx context.Context, method string, request []byte) (answer []byte, err error) {
	err = o.conn.Invoke(ctx, "/openfga.v1.OpenFGAService/"+method, request, &answer, grpc.ForceCodec(raw{}))
	return answer, err
}

// text appends a field of text, or of bytes that are a message.
func text[T string | []byte](to []byte, field protowire.Number, value T) []byte {
	return protowire.AppendString(protowire.AppendTag(to, field, protowire.BytesType), string(value))
}

// key is a CheckRequestTupleKey or a TupleKeyWithoutCondition.
func (l leg) key() []byte {
	b := text(nil, 1, l.subjectType+":"+l.subject)
	return text(text(b, 2, l.permission), 3, l.resourceType+":"+l.resource)
}

// check asks with Check.
func (o *openfga) check(ctx context.Context, l leg) (bool, error) {
	answer, err := o.call(ctx, "Check", text(text(text(nil, 1, o.store), 2, l.key()), 4, o.model))
	if err != nil {
		return false, err
	}
	allowed, err := field(answer, 1)
	return err == nil && len(allowed) == 1 && allowed[0][0] == 1, err
}

// all asks with one BatchCheck whether all hold.
func (o *openfga) all(ctx context.Context, legs ...leg) (bool, error) {
	request := text(nil, 1, o.store)
	for i, l := range legs {
		request = text(request, 2, text(text(nil, 1, l.key()), 4, strconv.Itoa(i)))
	}
	answer, err := o.call(ctx, "BatchCheck", text(request, 3, o.model))
	if err != nil {
		return false, err
	}
	entries, err := field(answer, 1)
	if err != nil {
		return false, err
	}
	if len(entries) != len(legs) {
		return false, fmt.Errorf("%d answers to %d checks", len(entries), len(legs))
	}
	yes := true
	for _, entry := range entries {
		one, err := result(entry)
		if err != nil {
			return false, err
		}
		yes = yes && one
	}
	return yes, nil
}

// result reads an entry of a BatchCheckResponse.
func result(entry []byte) (bool, error) {
	results, err := field(entry, 2)
	if err != nil || len(results) != 1 {
		return false, errors.Join(err, fmt.Errorf("an entry with %d results", len(results)))
	}
	if failed, err := field(results[0], 2); err != nil || len(failed) > 0 {
		return false, errors.Join(err, fmt.Errorf("a check failed: %q", failed))
	}
	allowed, err := field(results[0], 1)
	return err == nil && len(allowed) == 1 && allowed[0][0] == 1, err
}

// revoke deletes the relationship that a leg names.
func (o *openfga) revoke(ctx context.Context, l leg) error {
	_, err := o.call(ctx, "Write", text(text(text(nil, 1, o.store), 3, text(nil, 1, l.key())), 4, o.model))
	return err
}

// field returns the values of a field of a message: bytes, or a varint as it is encoded.
func field(message []byte, wanted protowire.Number) (values [][]byte, err error) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(number, kind, message)
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		value := message[:size]
		message = message[size:]
		if number != wanted {
			continue
		}
		if kind == protowire.BytesType {
			if value, n = protowire.ConsumeBytes(value); n < 0 {
				return nil, errors.New("a field that is cut off")
			}
		}
		values = append(values, value)
	}
	return values, nil
}
