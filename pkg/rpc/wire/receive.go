package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/statuses"
)

// Limit bounds one message of a method.
type Limit struct {
	// Bytes is the longest encoding, compressed or not.
	Bytes int
	// Decoded is the most that the decoded message takes, in bytes.
	Decoded int
	// Items is the most elements of one list.
	Items int
}

// The limits. One decoded message must not take more than expansion times its encoding besides.
var (
	// Small is for what has few fields, and for what is held as long as a stream goes on: it never takes room (see Receiver).
	Small = Limit{Bytes: smallBytes, Decoded: smallDecoded, Items: 10_000}
	// Medium is for lists of some hundred elements.
	Medium = Limit{Bytes: 512 << 10, Decoded: 4 << 20, Items: 10_000}
	// Large is for imports, writes, schemas and bulk checks: what SpiceDB's server takes.
	Large = Limit{Bytes: 4 << 20, Decoded: 48 << 20, Items: 100_000}
)

// expansion is how many times its encoding a decoded message may take, beyond smallDecoded. Relationships with ids of
// some letters take about ten times, and what takes more than this has no content.
const expansion = 32

// Method is what a Receiver has to know of a method.
type Method struct {
	Type
	Limit
	// Streams says that the caller may send more than one message.
	Streams bool
	// Tolerant passes over fields that a message's type does not have: for services that are not Deputy's.
	Tolerant bool
}

// Receiver receives the messages of all calls of one server. Messages over 32 KiB, and those that take over 128 KiB once they are
// decoded, share 32 MiB of room for encodings and 40 MiB for what is decoded; who finds none waits for 5 s and is
// refused with RESOURCE_EXHAUSTED. It is safe for concurrent use.
type Receiver struct {
	wire, decoded *volume
	// arrival stands in for the constant, for tests.
	arrival time.Duration
	judge   func(ctx context.Context, method *Method) error
	admits  Admits
	late    func(ctx context.Context, st *status.Status) *status.Status
}

// NewReceiver returns a Receiver, of which a server needs one. judge is asked once a message has come, or the end of a caller's messages: its
// error is Receive's, and nothing is decoded then. nil lets everything through.
func NewReceiver(judge func(ctx context.Context, method *Method) error) *Receiver {
	if judge == nil {
		judge = func(context.Context, *Method) error { return nil }
	}
	return &Receiver{wire: newVolume(wireRoom), decoded: newVolume(decodedRoom), arrival: arrival, judge: judge}
}

// Admits is asked about the messages of callers, which have limits of their own. Both are needed.
type Admits struct {
	// Bytes is how long a message of the call's caller may be; 0 means as long as the method says.
	Bytes func(ctx context.Context) int
	// Turn waits until it is the call's turn to be worked on. It is asked once a message has come, with the number of elements that its lists
	// have, and before anything of it is decoded: so a call that waits holds no more than its encoding. Its error is Receive's.
	Turn func(ctx context.Context, elements int) error
}

// Admit has callers' messages be admitted. It is called before the first call.
func (r *Receiver) Admit(by Admits) { r.admits = by }

// Late has a function be told of the status with which a call is ended whose message does not come in time, before that leaves: what it returns
// is what leaves. It is called before the first call.
func (r *Receiver) Late(tell func(ctx context.Context, st *status.Status) *status.Status) {
	r.late = tell
}

// Room waits for room for bytes of an encoding that is longer than smallBytes, of a door that reads messages itself and reads no further before.
// Errors: Exhausted, ctx's.
func (r *Receiver) Room(ctx context.Context, bytes int) (giveBack func(), err error) {
	return r.wire.take(ctx, bytes)
}

// Message is a received message that was inspected. It holds its room until it is freed.
type Message struct {
	data  mem.BufferSlice
	bytes []byte
	// json says that it is written as JSON, and tolerant that fields are passed over which its type does not have.
	json, tolerant bool
	// wire and decoded give the room back; nil where there is none.
	wire, decoded func()
}

// Decode decodes into m, whose type is the method's, and frees the encoding; the room of what is decoded is held until Free.
// Errors: Invalid.
func (m *Message) Decode(into proto.Message) error {
	defer m.freeWire()
	if m.json {
		return m.decodeJSON(into)
	}
	// Nesting was inspected, and this counts groups too, which were refused.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: MaxDepth + 2}).Unmarshal(m.bytes, into); err != nil {
		return authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "the request is malformed: it is no protobuf message of its type, or a string is not UTF-8")
	}
	return nil
}

func (m *Message) freeWire() {
	m.data.Free()
	m.data, m.bytes = nil, nil
	if m.wire != nil {
		m.wire()
		m.wire = nil
	}
}

// Free gives back all that the message holds. It may be called twice, and on nil.
func (m *Message) Free() {
	if m == nil {
		return
	}
	m.freeWire()
	if m.decoded != nil {
		m.decoded()
		m.decoded = nil
	}
}

// source is gRPC's stream beneath a call, whose messages are read here and not by gRPC (see the package). The methods are
// those with which gRPC itself reads, and ends a call. A door that reads messages itself may be written too.
type source interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
	RecvCompress() string
	WriteStatus(st *status.Status) error
}

// written is a source that says how its messages are written.
type written interface {
	// JSON reports whether they are JSON, in the mapping of protobuf, and not protobuf's own encoding.
	JSON() bool
	// Held hands over the room that was taken to read the message whose header was read last; nil where that was none.
	Held() (giveBack func())
}

// Receive returns the next message of the call that ctx belongs to, inspected. It returns io.EOF after the last message of a
// caller that streams. Of any other caller it takes exactly one message. One goroutine at a time may call it for one call.
// Errors: judge's, Invalid, Exhausted, Internal where gRPC's stream cannot be read, and the stream's own.
func (r *Receiver) Receive(ctx context.Context, method *Method) (*Message, error) {
	from, ok := grpc.ServerTransportStreamFromContext(ctx).(source)
	if !ok {
		return nil, authz.Errorf(authz.Internal, "INTERNAL", "gRPC's stream cannot be read")
	}
	if !method.Streams {
		// Of a caller that streams, the first byte of a message is for others to wait for (rpc.StreamLimits).
		defer r.hurry(ctx, from).Stop()
	}
	var prefix [5]byte
	if err := from.ReadMessageHeader(prefix[:]); err != nil {
		if errors.Is(err, io.EOF) && !method.Streams {
			return nil, authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "the call brings no message")
		}
		if errors.Is(err, io.EOF) {
			if err := r.judge(ctx, method); err != nil {
				return nil, err // the end may be what has everything before it written
			}
			return nil, io.EOF
		}
		return nil, broken(err)
	}
	length := int64(binary.BigEndian.Uint32(prefix[1:]))
	if r.admits.Bytes != nil {
		if most := r.admits.Bytes(ctx); most > 0 && most < method.Bytes {
			own := *method
			own.Bytes = most
			method = &own
		}
	}
	if length > int64(method.Bytes) {
		return nil, tooLarge(fmt.Sprintf("the message has %d bytes", length), method.Bytes)
	}
	var unpack encoding.Compressor
	switch prefix[0] {
	case 0:
	case 1:
		if unpack = encoding.GetCompressor(from.RecvCompress()); unpack == nil {
			return nil, authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "the message is compressed in a way that the call does not name")
		}
	default:
		return nil, authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "the message's prefix is malformed")
	}
	m, err := r.read(ctx, from, method, int(length), unpack)
	if err == nil {
		err = r.inspect(ctx, m, method)
	}
	if err == nil {
		err = r.judge(ctx, method)
	}
	if err != nil {
		m.Free()
		return nil, err
	}
	return m, nil
}

// read reads a message whose prefix was read, decompressed.
func (r *Receiver) read(ctx context.Context, from source, method *Method, length int, unpack encoding.Compressor) (m *Message, err error) {
	m = &Message{tolerant: method.Tolerant}
	how, ok := from.(written)
	if ok {
		m.json, m.wire = how.JSON(), how.Held()
	}
	if length > smallBytes && m.wire == nil {
		room := length
		if unpack != nil {
			room += method.Bytes
		}
		if m.wire, err = r.wire.take(ctx, room); err != nil {
			return m, err
		}
	}
	if method.Streams && length > 0 {
		defer r.hurry(ctx, from).Stop()
	}
	m.data, err = readAll(from, method, length)
	if err != nil {
		return m, err
	}
	if unpack != nil {
		err = r.unpack(ctx, m, method, unpack)
	}
	if len(m.data) == 1 {
		m.bytes = m.data[0].ReadOnlyData()
	} else {
		m.bytes = m.data.Materialize()
	}
	return m, err
}

// hurry ends the call unless its message has come within arrival. It is stopped when the message has come.
func (r *Receiver) hurry(ctx context.Context, from source) *time.Timer {
	return time.AfterFunc(r.arrival, func() {
		st := statuses.New(codes.DeadlineExceeded, "STREAM_STALLED", "", fmt.Sprintf("the message has not come within %s", r.arrival))
		// The stream is over for gRPC with this, also for the handler that reads from it. Where it cannot be written, it is over already.
		_ = authz.Safely("wire.hurry", func() error {
			if r.late != nil {
				st = r.late(ctx, st)
			}
			return from.WriteStatus(st)
		})
	})
}

// readAll reads a message's bytes, and after them the end of a caller that sends one message.
func readAll(from source, method *Method, length int) (mem.BufferSlice, error) {
	data, err := from.Read(length)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, broken(err)
	}
	if method.Streams {
		return data, nil
	}
	var prefix [5]byte
	switch err := from.ReadMessageHeader(prefix[:]); {
	case errors.Is(err, io.EOF):
		return data, nil
	case err == nil:
		err = authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "the call brings more than one message")
		data.Free()
		return nil, err
	default:
		data.Free()
		return nil, broken(err)
	}
}

// broken returns the error of a stream that ended otherwise than it should.
func broken(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "the call ends in the middle of a message")
	}
	if _, ok := errors.AsType[*authz.Error](err); ok {
		return err // a door's, which says itself what is wrong
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return authz.Errorf(authz.Canceled, "", "the call broke off")
}

// unpack decompresses a message in its place. The first smallBytes are free; what has more takes room for as much as the method allows,
// unless it has it.
func (r *Receiver) unpack(ctx context.Context, m *Message, method *Method, unpack encoding.Compressor) error {
	packed := m.data.Reader()
	defer func() { _ = packed.Close() }()
	m.data = nil
	malformed := authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "the message cannot be decompressed")
	from, err := unpack.Decompress(packed)
	if err != nil {
		return malformed
	}
	if closer, ok := from.(io.Closer); ok {
		defer func() { _ = closer.Close() }()
	}
	data, err := mem.ReadAll(io.LimitReader(from, smallBytes+1), mem.DefaultBufferPool())
	m.data = data
	if err == nil && data.Len() > smallBytes && method.Bytes > smallBytes {
		if m.wire == nil {
			if m.wire, err = r.wire.take(ctx, method.Bytes); err != nil {
				return err
			}
		}
		data, err = mem.ReadAll(io.LimitReader(from, int64(method.Bytes)+1-int64(m.data.Len())), mem.DefaultBufferPool())
		m.data = append(m.data, data...)
	}
	if err != nil {
		return malformed
	}
	if m.data.Len() > method.Bytes {
		return tooLarge("the message has, decompressed, more", method.Bytes)
	}
	return nil
}

// inspect inspects a message that has come, waits for its turn, and takes the room that it will need once it is decoded.
func (r *Receiver) inspect(ctx context.Context, m *Message, method *Method) error {
	look := method.inspect
	if m.json {
		look = method.inspectJSON
	}
	decoded, elements, err := look(m.bytes, method.Items, method.Tolerant)
	if fault, ok := errors.AsType[*Fault](err); ok {
		return fault.refusal()
	}
	if most := min(method.Decoded, smallDecoded+expansion*len(m.bytes)); decoded > most {
		return authz.Errorf(authz.Exhausted, authz.ReasonTooLarge,
			"the message would take about %d bytes once it is decoded, more than %d for its length: send fewer items at once", decoded, most)
	}
	if r.admits.Turn != nil {
		if err := r.admits.Turn(ctx, elements); err != nil {
			return err
		}
	}
	if decoded > smallDecoded {
		m.decoded, err = r.decoded.take(ctx, copies*decoded+len(m.bytes))
	}
	return err
}

// refusal is the fault as callers see it.
func (f *Fault) refusal() *authz.Error {
	if f.Path == "" {
		return authz.Errorf(authz.Invalid, authz.ReasonInvalidField, "%s", f.Error())
	}
	return authz.FieldErrorf(f.Path, "%s", f.Message)
}

func tooLarge(what string, most int) error {
	return authz.Errorf(authz.Exhausted, authz.ReasonTooLarge, "%s, more than the %d that may be sent here", what, most)
}
