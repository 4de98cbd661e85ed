package spicedb

import (
	"context"
	"slices"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// maxAnswer is the length, in bytes, beyond which an answer is split: some way below the 4 MiB that a client takes unless it is told
// otherwise. One transaction is one answer of SpiceDB's Watch, of whatever length.
const maxAnswer = 3 << 20

// parts says how a method's answers can be split: into several, each with some of the items.
//
// The last part is the answer with its token, and with the last items. The parts before it carry the token of the answer before, or
// the one that the call began with: a client that resumes from any of them gets the whole answer again, so it may see
// items twice, and misses none. All of Watch's parts carry the transaction's metadata.
type parts struct {
	// items and token name fields of the answer, from one of the request: the token that it begins with.
	items, token, from protoreflect.Name
}

// splits lists the methods whose answers can be split. Others stream one object at a time, or are not a list.
var splits = map[string]parts{
	"WatchService/Watch":                          {"updates", "changes_through", "optional_start_cursor"},
	"PermissionsService/ExportBulkRelationships":  {"relationships", "after_result_cursor", "optional_cursor"},
	"ExperimentalService/BulkExportRelationships": {"relationships", "after_result_cursor", "optional_cursor"},
}

// split is parts by number.
type split struct{ items, token, from protowire.Number }

// splitOf returns how a method's answers are split, or nil.
func splitOf(key string, m protoreflect.MethodDescriptor) *split {
	p, ok := splits[key]
	if !ok {
		return nil
	}
	items, token := m.Output().Fields().ByName(p.items), m.Output().Fields().ByName(p.token)
	from := m.Input().Fields().ByName(p.from)
	if items == nil || token == nil || from == nil {
		return nil
	}
	return &split{items.Number(), token.Number(), from.Number()}
}

// begin notes, for answers that are split, the token that a request begins with. Its encoding is sound.
func (c *call) begin(request []byte) {
	if c.route.split == nil {
		return
	}
	if from := valueOf(request, c.route.split.from); from != nil {
		c.last = c.edits(deputyv1.Evaluator_EVALUATOR_SPICEDB).at(c.route.split.token).apply(c, from)
	}
}

// pass sends an answer, or the next message of one, down.
func (c *call) pass(answer *frame, down grpc.ServerStream, by deputyv1.Evaluator) error {
	e := c.edits(by)
	if e == nil && c.route.split == nil && !c.bound && c.recording == nil {
		return down.SendMsg(answer)
	}
	raw := answer.data.Materialize()
	whole, more := e.apply(c, raw), true
	if c.bound {
		var err error
		if whole, more, err = c.within(down.Context(), whole); whole == nil {
			return err
		}
	}
	c.records(raw, whole, by)
	send := func(part []byte) error {
		return down.SendMsg(&frame{data: mem.BufferSlice{mem.SliceBuffer(part)}})
	}
	var err error
	if c.route.split == nil {
		err = send(whole)
	} else {
		err = c.parts(whole, send)
	}
	if err == nil && !more {
		return errEnough
	}
	return err
}

// valueOf returns the last value of a field that holds a message; nil without. The encoding is sound, up to where it is not.
func valueOf(encoding []byte, field protowire.Number) (value []byte) {
	for len(encoding) > 0 {
		number, wire, tag := protowire.ConsumeTag(encoding)
		if tag < 0 {
			return value
		}
		n := protowire.ConsumeFieldValue(number, wire, encoding[tag:])
		if n < 0 {
			return value
		}
		if number == field && wire == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(encoding[tag:])
		}
		encoding = encoding[tag+n:]
	}
	return value
}

// parts sends an answer, in parts if it is too long.
func (c *call) parts(answer []byte, send func([]byte) error) error {
	s := c.route.split
	token := slices.Clone(valueOf(answer, s.token))
	defer func() {
		if len(token) > 0 {
			c.last = token
		}
	}()
	if len(answer) <= maxAnswer {
		return send(answer)
	}
	// The records of items, and those of all else but the token, as they are.
	var items [][]byte
	var rest []byte
	for b := answer; len(b) > 0; {
		number, wire, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return send(answer)
		}
		n := protowire.ConsumeFieldValue(number, wire, b[tag:])
		if n < 0 {
			return send(answer)
		}
		switch record := b[:tag+n]; number {
		case s.items:
			items = append(items, record)
		case s.token:
		default:
			rest = append(rest, record...)
		}
		b = b[tag+n:]
	}
	for len(items) > 0 {
		part := slices.Clone(rest)
		for len(items) > 0 && (len(part) == len(rest) || len(part)+len(items[0]) < maxAnswer) {
			part = append(part, items[0]...)
			items = items[1:]
		}
		with := c.last
		if len(items) == 0 {
			with = token
		}
		if with != nil {
			part = protowire.AppendBytes(protowire.AppendTag(part, s.token, protowire.BytesType), with)
		}
		if err := send(part); err != nil {
			return err
		}
	}
	return nil
}

// exportBatch is how many relationships one message of an export has at most.
const exportBatch = 1000

// batched bounds how many relationships an export has in one message. SpiceDB makes room for as many before it reads the
// first, some 450 bytes for each, and takes up to 100,000 from the caller.
func batched(request proto.Message) {
	switch r := request.(type) {
	case *v1.ExportBulkRelationshipsRequest:
		r.OptionalLimit = batchOf(r.GetOptionalLimit())
	case *v1.BulkExportRelationshipsRequest:
		r.OptionalLimit = batchOf(r.GetOptionalLimit())
	}
}

func batchOf(asked uint32) uint32 {
	if asked == 0 {
		return exportBatch
	}
	return min(asked, exportBatch)
}

// anchored gives a Watch without a start the head as one: SpiceDB would begin about there too, but the parts of the first
// answer would have no token to carry, and a client that then resumes without one begins anew, and misses the rest. Where the head
// cannot be read, as without a schema, the request stays as it is.
func (d *Door) anchored(ctx context.Context, request proto.Message) {
	watch, ok := request.(*v1.WatchRequest)
	if !ok || watch.GetOptionalStartCursor().GetToken() != "" {
		return
	}
	head := &v1.ReadSchemaResponse{}
	if err := d.cfg.Upstream.Invoke(ctx, v1.SchemaService_ReadSchema_FullMethodName, &v1.ReadSchemaRequest{}, head); err == nil {
		watch.OptionalStartCursor = head.GetReadAt()
	}
}
