package door

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Cursors are sealed on their way out and opened on their way in, everybody's. SpiceDB's own are unsigned, and are believed: a
// LookupResources cursor holds the index at which SpiceDB goes on in a list, which it does not compare with the list's
// length, in a goroutine that recovers from no panic. So one changed digit of a cursor could end the process. A cursor is good for
// the method that it came from.
//
//	sealed = base64url(HMAC-SHA256(key, method \x00 cursor)[:16]) "." cursor

// sealBytes is how much of the HMAC a cursor carries.
const sealBytes = 16

func seal(key []byte, method, cursor string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(method))
	mac.Write([]byte{0})
	mac.Write([]byte(cursor))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:sealBytes]) + "." + cursor
}

// unseal returns the cursor within a sealed one; ok is false for any other.
func unseal(key []byte, method, sealed string) (cursor string, ok bool) {
	_, cursor, found := strings.Cut(sealed, ".")
	return cursor, found && hmac.Equal([]byte(seal(key, method, cursor)), []byte(sealed))
}

// cursorType is the message that holds a cursor.
var cursorType = (&v1.Cursor{}).ProtoReflect().Descriptor().FullName()

// cursorIn returns the field of a message that holds a cursor, or nil.
func cursorIn(m protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); f.Message() != nil && f.Message().FullName() == cursorType && !f.IsList() {
			return f
		}
	}
	return nil
}

// openCursor opens the cursor of a request in its place.
func (d *Door) openCursor(r route, request proto.Message) error {
	if r.cursorIn == nil || !request.ProtoReflect().Has(r.cursorIn) {
		return nil
	}
	cursor, ok := request.ProtoReflect().Get(r.cursorIn).Message().Interface().(*v1.Cursor)
	if !ok || cursor.GetToken() == "" {
		return nil
	}
	opened, ok := unseal(d.cfg.CursorKey, r.path, cursor.GetToken())
	if !ok {
		return failure(codes.InvalidArgument, authz.ReasonInvalidToken, string(r.cursorIn.Name()),
			"the cursor is not one of this server's for this method; begin again without one")
	}
	cursor.Token = opened
	return nil
}

// sealCursor returns an answer with its cursor sealed.
func (a *answers) sealCursor(answer []byte) []byte {
	value := valueOf(answer, a.cursor)
	if value == nil {
		return answer
	}
	out := make([]byte, 0, len(answer)+64)
	for b := answer; len(b) > 0; {
		number, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return answer
		}
		if number != a.cursor {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return protowire.AppendBytes(protowire.AppendTag(out, a.cursor, protowire.BytesType), a.sealValue(value))
}

// sealValue seals the encoding of a cursor.
func (a *answers) sealValue(value []byte) []byte {
	token := valueOf(value, cursorToken)
	if len(token) == 0 {
		return value
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, cursorToken, protowire.BytesType), []byte(seal(a.key, a.method, string(token))))
}

// cursorToken is the number of the field of a Cursor that is all of it.
const cursorToken = 1
