package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lithammer/fuzzysearch/fuzzy"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// choice is a flag that takes one of a few words, and completes to them.
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

// completeChoices lets the shell complete every choice of a command.
func completeChoices(cmd *cobra.Command) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if c, ok := f.Value.(*choice); ok {
				_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(c.among, cobra.ShellCompDirectiveNoFileComp))
			}
		})
	}
}

// either lists words of which one is meant: "a, b or c".
func either(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// didYouMean returns "; did you mean WORD?" with the nearest of the words, or "" if none is near.
func didYouMean(word string, words []string) string {
	if near := nearest(word, words); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// nearest returns the word that a typo most likely meant, or "" if none is near: a third of the characters may differ, and of a
// word of four or more always two, which is what it takes to exchange them.
func nearest(word string, words []string) string {
	best, least := "", max(len(word)/3, min(2, len(word)-2))+1
	for _, known := range words {
		if n := fuzzy.LevenshteinDistance(strings.ToLower(word), strings.ToLower(known)); n < min(least, len(known)) {
			best, least = known, n
		}
	}
	return best
}
