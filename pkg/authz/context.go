package authz

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// maxExact is the first whole number whose neighbours a number in a context, a double, cannot tell apart.
const maxExact = 1 << 53

// ExactNumbers returns an error for a number in a caveat's context that may not be the one that was meant, and names it by its
// path ("order.amounts[2]"): JSON and Protobuf hold numbers as doubles, so that 9007199254740993 arrives as 9007199254740992
// without a trace. Whole numbers are exact below 2^53. Larger ones are written as texts, which parameters of the types int,
// uint and double take. Infinity and not-a-number, which JSON does not have, are refused too.
func ExactNumbers(context map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(context)) {
		if err := exactNumbers(name, context[name]); err != nil {
			return err
		}
	}
	return nil
}

func exactNumbers(path string, value any) error {
	switch v := value.(type) {
	case map[string]any:
		if err := ExactNumbers(v); err != nil {
			return fmt.Errorf("%s.%w", path, err)
		}
	case []any:
		for i, item := range v {
			if err := exactNumbers(fmt.Sprintf("%s[%d]", path, i), item); err != nil {
				return err
			}
		}
	case float64:
		if !(math.Abs(v) < maxExact) {
			return fmt.Errorf("%s is a number of 2^53 (9007199254740992) or more, which may have been rounded on its way; send it as a text, in quotes", path)
		}
	}
	return nil
}
