package cli

import (
	"fmt"
	"strconv"

	"github.com/deputyauth/deputy/pkg/fixture/run"
)

// when is a flag that says when something is done.
type when struct {
	value run.When
	given bool
}

var whens = map[string]run.When{"auto": run.Auto, "on": run.Always, "off": run.Never}

// Set implements pflag.Value.
func (w *when) Set(text string) error {
	value, ok := whens[text]
	if !ok {
		return fmt.Errorf("must be auto, on or off, not %q", text)
	}
	*w = when{value, true}
	return nil
}

// String implements pflag.Value.
func (w *when) String() string {
	for name, value := range whens {
		if value == w.value {
			return name
		}
	}
	return ""
}

// Type implements pflag.Value.
func (w *when) Type() string { return "auto|on|off" }

// or is what the flag says; where it leaves the choice, what other flags need is done, and what they make useless
// is not.
func (w *when) or(useless, needed bool) run.When {
	switch {
	case w.value != run.Auto:
		return w.value
	case needed:
		return run.Always
	case useless && !w.given:
		return run.Never
	default:
		return run.Auto
	}
}

// share is a flag from 0 to 1.
type share float64

// Set implements pflag.Value.
func (s *share) Set(text string) error {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || !(value >= 0 && value <= 1) {
		return fmt.Errorf("must be a number from 0 to 1, not %q", text)
	}
	*s = share(value)
	return nil
}

// String implements pflag.Value.
func (s *share) String() string { return strconv.FormatFloat(float64(*s), 'f', -1, 64) }

// Type implements pflag.Value.
func (s *share) Type() string { return "share" }
