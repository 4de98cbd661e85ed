package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Where the value of a flag comes from, the first that there is:
//
//	the command line          --retention 1h
//	the environment           DEPUTY_RETENTION=1h
//	a configuration file      retention: 1h            (serve and migrate, with --config)
//	the default
//
// All of them end as pflag's Set on the same flag. So a value is parsed by the same code wherever it
// comes from, "who was first" is the flag's own Changed, and a command reads plain variables.

// envPrefix starts the names of all environment variables that Deputy reads.
const envPrefix = "DEPUTY_"

// envName returns the environment variable that stands for a flag: DEPUTY_TOKEN_KEY_FILE for
// token-key-file.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// envAnnotation marks the flags that the environment may set.
const envAnnotation = "deputy-env"

// allowEnv lets the environment set all flags of the set that there are so far, and says so in their
// help. Flags that hold a question (whose session, which tenant) are left out on purpose: a variable
// that somebody forgot must not change what is asked.
func allowEnv(flags *pflag.FlagSet) {
	flags.VisitAll(allowEnvOf)
}

// allowEnvOf is allowEnv for one flag.
func allowEnvOf(f *pflag.Flag) {
	if _, decided := f.Annotations[envAnnotation]; decided {
		return
	}
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	// An annotation travels with the flag to every subcommand that inherits it.
	f.Annotations[envAnnotation] = []string{envName(f.Name)}
	f.Usage += " [$" + envName(f.Name) + "]"
}

// neverEnv keeps the environment from setting a flag, if there is one.
func neverEnv(f *pflag.Flag) {
	if f == nil {
		return
	}
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[envAnnotation] = nil
}

// replaced is a flag that there was, and is not any more: its error says what there is instead.
type replaced struct{ by string }

// String is pflag.Value's.
func (r *replaced) String() string { return "" }

// Set is pflag.Value's.
func (r *replaced) Set(string) error { return errors.New("is no setting any more: " + r.by) }

// Type is pflag.Value's.
func (r *replaced) Type() string { return "" }

// fillFromEnv sets every flag that the command line left alone and the environment names. An empty
// variable counts as unset. The error names the variable, never its value.
func fillFromEnv(flags *pflag.FlagSet, env LookupEnv) error {
	// This is asked before anything is set: afterwards every flag that was set here looks said.
	said := saidSoFar(flags)
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		if said(f.Name) || f.Annotations[envAnnotation] == nil || failed != nil {
			return
		}
		value, found := env(envName(f.Name))
		if !found || value == "" {
			return
		}
		if err := set(flags, f, []string{value}); err != nil {
			failed = fmt.Errorf("%s %w", envName(f.Name), err)
		}
		f.Annotations[originAnnotation] = []string{"$" + envName(f.Name)}
	})
	return failed
}

// originAnnotation marks the flags that something else than the command line has set, with what that was.
const originAnnotation = "deputy-origin"

// origin names the setting that a flag's value comes from, for errors about it: "--ca", "$DEPUTY_CA", or "ca in deputy.yaml".
func origin(flags *pflag.FlagSet, name string) string {
	if f := flags.Lookup(name); f != nil && len(f.Annotations[originAnnotation]) == 1 {
		return f.Annotations[originAnnotation][0]
	}
	return "--" + name
}

// saidSoFar returns which settings are set by now. A key and the file that it stands in are one
// setting: --key on the command line beats $DEPUTY_KEY_FILE.
func saidSoFar(flags *pflag.FlagSet) func(name string) bool {
	set := map[string]bool{}
	flags.VisitAll(func(f *pflag.Flag) {
		set[strings.TrimSuffix(f.Name, "-file")] = set[strings.TrimSuffix(f.Name, "-file")] || f.Changed
	})
	return func(name string) bool { return set[strings.TrimSuffix(name, "-file")] }
}

// set gives a flag its values as text. pflag's own error quotes the value, which may be a secret, so
// it is replaced.
func set(flags *pflag.FlagSet, f *pflag.Flag, values []string) error {
	_, isList := f.Value.(pflag.SliceValue)
	if len(values) != 1 && !isList {
		return errors.New("wants one value")
	}
	for _, value := range values {
		if err := flags.Set(f.Name, value); err != nil {
			switch f.Value.(type) {
			case *choice, *replaced:
				return errors.Unwrap(err) // a word is no secret
			}
			if wants := wanted(f); wants != "" {
				return errors.New("must be " + wants)
			}
			return fmt.Errorf("is not a valid %s", f.Value.Type())
		}
	}
	return nil
}

// secrets is a flag whose values are never printed, neither by help nor by an error. It takes one or
// more values separated by commas, and may be repeated.
//
// It does not split at commas as pflag's own lists do, which read CSV: a quotation mark in a key would
// be an error there, and the error would quote the key.
type secrets struct {
	// values are the keys, in the order in which they were given.
	values []string
	// given tells that the values are not the default any more, so that further ones are added.
	given bool
}

// String hides the values: pflag prints it as the default.
func (s *secrets) String() string { return "" }

// Type is the placeholder that help shows.
func (s *secrets) Type() string { return "key" }

// Set adds the values of one occurrence.
func (s *secrets) Set(text string) error {
	if !s.given {
		s.values, s.given = nil, true
	}
	for value := range strings.SplitSeq(text, ",") {
		if value = strings.TrimSpace(value); value != "" {
			s.values = append(s.values, value)
		}
	}
	return nil
}

// Append is Set: with Replace and GetSlice it makes secrets a pflag.SliceValue, which is how a flag
// that takes several values is told from one that takes one.
func (s *secrets) Append(text string) error { return s.Set(text) }

// Replace drops all values for others.
func (s *secrets) Replace(values []string) error {
	s.values, s.given = slices.Clone(values), true
	return nil
}

// GetSlice returns nothing: code that may see the values reads the field.
func (s *secrets) GetSlice() []string { return nil }

// hiddenText is a flag with one value that may hold a password, and is never printed.
type hiddenText string

// String hides the value.
func (*hiddenText) String() string { return "" }

// Type is the placeholder that help shows.
func (*hiddenText) Type() string { return "string" }

// Set takes the value.
func (h *hiddenText) Set(text string) error {
	*h = hiddenText(text)
	return nil
}
