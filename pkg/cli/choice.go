package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/deputyauth/deputy/pkg/authz"
)

// choice is a flag that takes one of a few words.
type choice struct {
	value *string
	among []string
}

// choiceVar adds a flag that takes one of a few words. shorthand may be empty.
func choiceVar(flags *pflag.FlagSet, value *string, name, shorthand, initial, usage string, among ...string) {
	*value = initial
	flags.VarP(&choice{value, among}, name, shorthand, usage)
}

// Set takes one of the words. The error names what was given and what there is.
func (c *choice) Set(text string) error {
	if !slices.Contains(c.among, text) {
		return fmt.Errorf("must be %s, not %q%s", either(c.among), text, didYouMean(text, c.among))
	}
	*c.value = text
	return nil
}

// String returns the word that is chosen.
func (c *choice) String() string { return *c.value }

// Type is the placeholder that help shows.
func (c *choice) Type() string { return strings.Join(c.among, "|") }

// completeChoices lets the shell complete every flag of a command whose placeholder lists its words: "auto|on|off".
func completeChoices(cmd *cobra.Command) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if words := strings.Split(f.Value.Type(), "|"); len(words) > 1 {
				_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
			}
		})
	}
}

// either lists words of which one is meant: "a, b or c".
func either(words []string) string { return list(words, "or") }

// every lists words that are all meant: "a, b and c".
func every(words []string) string { return list(words, "and") }

// list joins words with commas, and the last one with another word.
func list(words []string, last string) string {
	n := len(words) - 1
	if n < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:n], ", ") + " " + last + " " + words[n]
}

// didYouMean returns "; did you mean WORD?" with the word that a typo most likely meant, or "" if none is near.
func didYouMean(word string, words []string) string {
	if near := authz.Nearest(word, words); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}
