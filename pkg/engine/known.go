package engine

import (
	"fmt"

	nspkg "github.com/authzed/spicedb/pkg/namespace"
	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	iv1 "github.com/authzed/spicedb/pkg/proto/impl/v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// CheckKnown refuses definitions that hold anything of a kind that this Deputy does not know: an operand, a set
// operation, the function of an arrow, an allowed type, or a field of a newer SpiceDB. Whoever would leave such a
// part out would take it for nobody, and be wrong about who has access. Definitions that SpiceDB's compiler of this
// version made are always known; those that another program stored may not be.
func CheckKnown(namespaces []*core.NamespaceDefinition) error {
	for _, ns := range namespaces {
		if path := unknownField(ns.ProtoReflect()); path != "" {
			return fmt.Errorf("definition %s: %s has a field that this version of Deputy does not know", ns.GetName(), path)
		}
		for _, m := range ns.GetRelation() {
			if err := checkMember(m); err != nil {
				return fmt.Errorf("definition %s: %s: %w", ns.GetName(), m.GetName(), err)
			}
		}
	}
	return nil
}

func checkMember(m *core.Relation) error {
	kind := nspkg.GetRelationKind(m)
	switch rewrite := m.GetUsersetRewrite(); {
	case rewrite != nil:
		// Without the kind it would be taken for a relation that admits nobody.
		if kind != iv1.RelationMetadata_PERMISSION {
			return fmt.Errorf("has an expression, but is of the kind %s", kind)
		}
		if err := eachChild(rewrite, func(c child) error {
			if c.relation == "" && !c.self {
				return fmt.Errorf("an operand names no relation")
			}
			return nil
		}); err != nil {
			return err
		}
	case kind == iv1.RelationMetadata_PERMISSION:
		return fmt.Errorf("is a permission without an expression")
	}
	for _, a := range m.GetTypeInformation().GetAllowedDirectRelations() {
		switch of := a.GetRelationOrWildcard().(type) {
		case *core.AllowedRelation_Relation:
			if of.Relation == "" {
				return fmt.Errorf("admits %s with an empty relation", a.GetNamespace())
			}
		case *core.AllowedRelation_PublicWildcard_:
		default:
			return fmt.Errorf("admits %s in a way of an unknown kind: %T", a.GetNamespace(), of)
		}
	}
	return nil
}

// unknownField names the first message, by its field, that has a field which its type does not know; "" if none has.
func unknownField(m protoreflect.Message) string {
	if len(m.GetUnknown()) > 0 {
		return string(m.Descriptor().Name())
	}
	found := ""
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := 0; i < value.List().Len() && found == ""; i++ {
				found = unknownField(value.List().Get(i).Message())
			}
		default:
			found = unknownField(value.Message())
		}
		return found == ""
	})
	return found
}
