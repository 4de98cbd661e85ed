package cli

import (
	"github.com/spf13/pflag"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// maxPage is the most that the server returns in one page of a list.
const maxPage = 1000

// paging holds the flags of the commands that list.
type paging struct {
	// limit is the most to list; 0 is all.
	limit uint32
	// from is the cursor of an earlier list, or empty.
	from string
}

// register adds the flags.
func (p *paging) register(flags *pflag.FlagSet) {
	flags.Uint32Var(&p.limit, "limit", 0, "stop after this many; 0 lists all")
	flags.StringVar(&p.from, "cursor", "", "go on where an earlier list stopped")
}

// page is what the pages of all lists have in common.
type page interface {
	GetComplete() bool
	GetNext() *deputy.Cursor
}

// all asks page after page until the list is complete or the limit is reached, and returns the last
// page with the items of all: so its cursor and its "complete" are those of the whole. items points at
// a page's items. The pages of a list are of one revision, which the cursor pins.
func all[T any, P page](p paging, ask func(limit uint32, at *deputy.Cursor) (P, error), items func(P) *[]T) (P, error) {
	var collected []T
	at := cursor(p.from)
	for {
		size := uint32(maxPage)
		if p.limit != 0 {
			size = min(size, p.limit-uint32(len(collected))) //nolint:gosec // fewer than the limit
		}
		answer, err := ask(size, at)
		if err != nil {
			var none P
			return none, err
		}
		collected = append(collected, *items(answer)...)
		at = answer.GetNext()
		if answer.GetComplete() || p.limit != 0 && uint64(len(collected)) >= uint64(p.limit) {
			*items(answer) = collected
			return answer, nil
		}
	}
}
