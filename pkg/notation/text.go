package notation

import (
	"fmt"
	"strings"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
)

// Text writes a relationship as Parse reads it. The same relationship is always the same text, so that two exports can be
// compared: SpiceDB's own function takes its JSON from protojson, which varies blanks from build to build. Errors: a number in
// a caveat's context that JSON does not have.
func Text(r tuple.Relationship) (string, error) {
	var b strings.Builder
	b.WriteString(tuple.StringWithoutCaveatOrExpiration(r))
	if c := r.OptionalCaveat; c.GetCaveatName() != "" {
		b.WriteString("[" + c.GetCaveatName())
		if len(c.GetContext().GetFields()) > 0 {
			context, err := encode(c.GetContext())
			if err != nil {
				return "", fmt.Errorf("the caveat context of %s: %w", tuple.StringWithoutCaveatOrExpiration(r), err)
			}
			b.WriteString(":" + context)
		}
		b.WriteString("]")
	}
	if r.OptionalExpiration != nil {
		b.WriteString("[expiration:" + r.OptionalExpiration.UTC().Format(time.RFC3339Nano) + "]")
	}
	return b.String(), nil
}
