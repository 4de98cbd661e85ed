package authz

import (
	"strconv"
	"strings"
)

// StoreRevision is a revision of a Deputy store. Numbers grow within one store. A store that was promoted, or restored from a backup, has another id, and
// uses numbers again.
type StoreRevision struct {
	// Number is the revision, and Store the id of the store.
	Number uint64
	Store  string
}

// ofStore stands between the number and the id.
const ofStore = "@"

// String writes the revision as servers that follow the store print it: "1764030000000000000@0f6f1e3c-…".
func (r StoreRevision) String() string { return strconv.FormatUint(r.Number, 10) + ofStore + r.Store }

// ParseStoreRevision reads what String writes. ok is false for a text that lacks the number or the id.
func ParseStoreRevision(printed string) (_ StoreRevision, ok bool) {
	number, id, _ := strings.Cut(printed, ofStore)
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || id == "" {
		return StoreRevision{}, false
	}
	return StoreRevision{n, id}, true
}
