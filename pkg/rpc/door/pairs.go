package door

import (
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// pairs are the answers to a bulk check: each is an item, or the status with which it failed.
type pairs struct {
	answer        protoreflect.MessageType
	list, failure protoreflect.FieldDescriptor
	told          func(*status.Status) *status.Status
}

// pairsOf returns where the answers of a method hold statuses, nil for one whose answers hold none.
func (d *Door) pairsOf(m protoreflect.MethodDescriptor) *pairs {
	list := m.Output().Fields().ByName("pairs")
	if d.cfg.Told == nil || list == nil || list.Message() == nil || list.Message().Fields().ByName("error") == nil {
		return nil
	}
	return &pairs{messageType(m.Output()), list, list.Message().Fields().ByName("error"), d.cfg.Told}
}

// tell returns an answer with statuses that callers may read. One that cannot be decoded stays as it is: then a caller cannot
// read it either.
func (p *pairs) tell(answer []byte) []byte {
	if p == nil {
		return answer
	}
	message := p.answer.New()
	if proto.Unmarshal(answer, message.Interface()) != nil {
		return answer
	}
	changed := false
	list := message.Get(p.list).List()
	for i := range list.Len() {
		pair := list.Get(i).Message()
		if !pair.Has(p.failure) {
			continue
		}
		if failed, ok := pair.Get(p.failure).Message().Interface().(*rpcstatus.Status); ok {
			pair.Set(p.failure, protoreflect.ValueOfMessage(p.told(status.FromProto(failed)).Proto().ProtoReflect()))
			changed = true
		}
	}
	if !changed {
		return answer
	}
	told, err := proto.Marshal(message.Interface())
	if err != nil {
		return answer
	}
	return told
}
