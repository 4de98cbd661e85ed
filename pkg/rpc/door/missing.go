package door

import (
	"slices"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/deputyauth/deputy/pkg/authz"
)

// conditionType is the message that names the missing context of a conditional answer. SpiceDB names a parameter in it as often as
// caveats miss it, in no order. The native evaluator names each once, sorted; so does the door in SpiceDB's answers.
var conditionType = (&v1.PartialCaveatInfo{}).ProtoReflect().Descriptor().FullName()

// namesMissing returns the type of a method's answers if they can name missing context, or nil.
func namesMissing(answer protoreflect.MessageDescriptor) protoreflect.MessageType {
	seen := map[protoreflect.FullName]bool{}
	var holds func(protoreflect.MessageDescriptor) bool
	holds = func(m protoreflect.MessageDescriptor) bool {
		if m == nil || seen[m.FullName()] {
			return false
		}
		seen[m.FullName()] = true
		if m.FullName() == conditionType {
			return true
		}
		for i := range m.Fields().Len() {
			if holds(m.Fields().Get(i).Message()) {
				return true
			}
		}
		return false
	}
	if !holds(answer) {
		return nil
	}
	return messageType(answer)
}

// missingOnce returns an answer in which each missing parameter is named once.
func missingOnce(kind protoreflect.MessageType, answer []byte) []byte {
	m := kind.New()
	if err := proto.Unmarshal(answer, m.Interface()); err != nil || !nameOnce(m) {
		return answer
	}
	if once, err := proto.Marshal(m.Interface()); err == nil {
		return once
	}
	return answer
}

// nameOnce reports whether it has changed anything.
func nameOnce(m protoreflect.Message) (changed bool) {
	if info, ok := m.Interface().(*v1.PartialCaveatInfo); ok {
		names := authz.Distinct(info.GetMissingRequiredContext())
		changed = !slices.Equal(names, info.GetMissingRequiredContext())
		info.MissingRequiredContext = names
		return changed
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				changed = nameOnce(v.List().Get(i).Message()) || changed
			}
		default:
			changed = nameOnce(v.Message()) || changed
		}
		return true
	})
	return changed
}
