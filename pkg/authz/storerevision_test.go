package authz_test

import (
	"math"
	"testing"

	"github.com/deputyauth/deputy/pkg/authz"
)

// TestStoreRevision: a revision of a store is read as it was written, and a text that lacks the number or the id is none.
func TestStoreRevision(t *testing.T) {
	for _, r := range []authz.StoreRevision{{0, "a"}, {17, "0f6f1e3c-5a0b"}, {math.MaxUint64, "x"}} {
		if got, ok := authz.ParseStoreRevision(r.String()); !ok || got != r {
			t.Errorf("%+v is written %q, and read as %+v, %v", r, r, got, ok)
		}
	}
	if got := (authz.StoreRevision{Number: 17, Store: "a-b"}).String(); got != "17@a-b" {
		t.Errorf("it is written %q", got)
	}
	for _, none := range []string{"", "17", "17@", "@x", "x@y", "-1@x", "1 @x", "18446744073709551616@x"} {
		if got, ok := authz.ParseStoreRevision(none); ok {
			t.Errorf("%q is taken for %+v", none, got)
		}
	}
}
