package docs

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// TestJournalPageHasEveryField: a verifier can be written from docs/journal.md, so every field and every kind of record stands there by its number.
func TestJournalPageHasEveryField(t *testing.T) {
	page, err := os.ReadFile("../../docs/journal.md")
	if err != nil {
		t.Fatal(err)
	}
	has := func(number int32, name string) {
		t.Helper()
		if row := fmt.Sprintf("| %d | `%s` |", number, name); !strings.Contains(string(page), row) {
			t.Errorf("docs/journal.md has no row that begins with %s: add it, with the field's comment in journal.proto", row)
		}
	}
	for _, m := range []protoreflect.ProtoMessage{&deputyv1.Record{}, &deputyv1.PersonalRecord{}, &deputyv1.Summary{}} {
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			has(int32(fields.Get(i).Number()), string(fields.Get(i).Name()))
		}
	}
	for prefix, values := range map[string]protoreflect.EnumValueDescriptors{
		"RECORD_KIND_": deputyv1.RecordKind(0).Descriptor().Values(), "RECORD_STAGE_": deputyv1.RecordStage(0).Descriptor().Values(),
	} {
		for i := 1; i < values.Len(); i++ { // 0 is not known
			has(int32(values.Get(i).Number()), strings.TrimPrefix(string(values.Get(i).Name()), prefix))
		}
	}
}
