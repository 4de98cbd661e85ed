package spicedb

import (
	"maps"
	"slices"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/deputyauth/deputy/pkg/authz"
)

// An answer is edited on its way down in one pass over its encoding: messages of a few types are replaced, wherever they stand in it,
// and all else is copied as it is. Which fields lead to such messages is found in the descriptor of a method's answer, once.
//
// An encoding that cannot be read stays as it is: then a caller cannot read it either.

// edit returns what is sent instead of the encoding of a message, which it must not change.
type edit func(c *call, encoded []byte) []byte

// edits says what is edited in an answer, or in a message within it. nil edits nothing.
type edits struct {
	fields map[protowire.Number]*edits
	// edit edits the message as a whole, after what is within it.
	edit edit
}

// The types whose messages are edited or opened.
const (
	cursorType      protoreflect.FullName = "authzed.api.v1.Cursor"
	tokenType       protoreflect.FullName = "authzed.api.v1.ZedToken" //nolint:gosec // the name of a type
	consistencyType protoreflect.FullName = "authzed.api.v1.Consistency"
	conditionType   protoreflect.FullName = "authzed.api.v1.PartialCaveatInfo"
	statusType      protoreflect.FullName = "google.rpc.Status"
	objectType      protoreflect.FullName = "authzed.api.v1.ObjectReference"
	pairType        protoreflect.FullName = "authzed.api.v1.CheckBulkPermissionsPair"
	oldPairType     protoreflect.FullName = "authzed.api.v1.BulkCheckPermissionPair"
)

var (
	// upstreamEdits are made in everybody's answers, of SpiceDB.
	upstreamEdits = map[protoreflect.FullName]edit{
		cursorType: sealsCursor, statusType: tells, conditionType: namesOnce,
	}
	// ownEdits are made in everybody's answers, of the native evaluator.
	ownEdits = map[protoreflect.FullName]edit{cursorType: sealsCursor}
	// callerEdits are made for a caller whose tokens are sealed, or for whom something does not exist, in answers of the native evaluator
	// too.
	callerEdits = map[protoreflect.FullName]edit{
		tokenType: sealsToken, objectType: namesAgain, pairType: answersPair, oldPairType: answersPair,
	}
)

// editsOf returns what of the tables is to be done in messages of a type; nil for nothing.
func editsOf(m protoreflect.MessageDescriptor, tables ...map[protoreflect.FullName]edit) *edits {
	all := map[protoreflect.FullName]edit{}
	for _, table := range tables {
		maps.Copy(all, table)
	}
	return planned(m, all, map[protoreflect.FullName]*edits{})
}

// planned is editsOf, once for each type: types contain themselves.
func planned(m protoreflect.MessageDescriptor, table map[protoreflect.FullName]edit, known map[protoreflect.FullName]*edits) *edits {
	if e, seen := known[m.FullName()]; seen {
		return e
	}
	if !leads(m, table, map[protoreflect.FullName]bool{}) {
		return nil
	}
	e := &edits{fields: map[protowire.Number]*edits{}, edit: table[m.FullName()]}
	known[m.FullName()] = e
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); f.Message() != nil {
			if within := planned(f.Message(), table, known); within != nil {
				e.fields[f.Number()] = within
			}
		}
	}
	return e
}

// leads reports whether a message is of a type of the table, or can hold one that is.
func leads(m protoreflect.MessageDescriptor, table map[protoreflect.FullName]edit, seen map[protoreflect.FullName]bool) bool {
	if table[m.FullName()] != nil {
		return true
	}
	seen[m.FullName()] = true
	for i := range m.Fields().Len() {
		if within := m.Fields().Get(i).Message(); within != nil && !seen[within.FullName()] && leads(within, table, seen) {
			return true
		}
	}
	return false
}

// at returns what is edited in a field.
func (e *edits) at(field protowire.Number) *edits {
	if e == nil {
		return nil
	}
	return e.fields[field]
}

// apply returns the encoding of an edited message. It is the one that it was given where nothing changes.
func (e *edits) apply(c *call, encoded []byte) []byte {
	if e == nil {
		return encoded
	}
	// out has what comes before copied, once something has changed.
	var out []byte
	copied := 0
	for at := 0; len(e.fields) > 0 && at < len(encoded); {
		number, wire, tag := protowire.ConsumeTag(encoded[at:])
		if tag < 0 {
			return encoded
		}
		n := protowire.ConsumeFieldValue(number, wire, encoded[at+tag:])
		if n < 0 {
			return encoded
		}
		if within := e.fields[number]; within != nil && wire == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(encoded[at+tag:])
			if edited := within.apply(c, value); !same(edited, value) {
				out = append(append(out, encoded[copied:at]...), encoded[at:at+tag]...)
				out = protowire.AppendBytes(out, edited)
				copied = at + tag + n
			}
		}
		at += tag + n
	}
	if copied > 0 {
		encoded = append(out, encoded[copied:]...)
	}
	if e.edit != nil {
		return e.edit(c, encoded)
	}
	return encoded
}

// same reports whether two slices are one.
func same(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// textOf is the number of the one field that Cursor and ZedToken have.
const textOf = 1

func withText(text string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, textOf, protowire.BytesType), text)
}

func sealsCursor(c *call, encoded []byte) []byte {
	if cursor := valueOf(encoded, textOf); len(cursor) > 0 {
		return withText(c.seals.seal(c.cursors(), c.inHistory(string(cursor))))
	}
	return encoded
}

func sealsToken(c *call, encoded []byte) []byte {
	if token := valueOf(encoded, textOf); c.rights.Seals && len(token) > 0 {
		return withText(c.seals.sealToken(c.inHistory(string(token)), c.stamp))
	}
	return encoded
}

// tells replaces a status, of an item of a bulk check, by what callers may read of it.
func tells(c *call, encoded []byte) []byte {
	var failed rpcstatus.Status
	if c.cfg.Told == nil || proto.Unmarshal(encoded, &failed) != nil {
		return encoded
	}
	return encodingOf(c.cfg.Told(status.FromProto(&failed)).Proto(), encoded)
}

// namesOnce names each missing parameter once, and sorted, as the native evaluator does. SpiceDB names one as often as caveats miss it, in
// no order.
func namesOnce(_ *call, encoded []byte) []byte {
	var info v1.PartialCaveatInfo
	if proto.Unmarshal(encoded, &info) != nil {
		return encoded
	}
	names := authz.Distinct(info.GetMissingRequiredContext())
	if slices.Equal(names, info.GetMissingRequiredContext()) {
		return encoded
	}
	info.MissingRequiredContext = names
	return encodingOf(&info, encoded)
}

// namesAgain gives an object the id again under which the caller asked for it; see hide.
func namesAgain(c *call, encoded []byte) []byte {
	var o v1.ObjectReference
	if len(c.hidden) == 0 || proto.Unmarshal(encoded, &o) != nil {
		return encoded
	}
	if id, hidden := c.hidden[o.GetObjectId()]; hidden {
		o.ObjectId = id
		return encodingOf(&o, encoded)
	}
	return encoded
}

// answersPair replaces the pairs that the door answers itself. A bulk check has as many pairs as items, in order.
func answersPair(c *call, encoded []byte) []byte {
	c.pair++
	if own := c.pairs[c.pair-1]; own != nil {
		return encodingOf(own, encoded)
	}
	return encoded
}

func encodingOf(m proto.Message, otherwise []byte) []byte {
	if encoded, err := proto.Marshal(m); err == nil {
		return encoded
	}
	return otherwise
}
