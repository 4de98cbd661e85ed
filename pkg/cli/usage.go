package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// listed is how many names an error lists at most; beyond, it refers to the help.
const listed = 12

// unknownCommand returns the error for a word that is not a subcommand: with the command that was probably meant, also one
// that is below another ("lint" is "schema lint"), or else with those that there are.
func unknownCommand(cmd *cobra.Command, word string) error {
	var own, below, alike []string
	isMeant := func(sub *cobra.Command) bool {
		return strings.EqualFold(sub.Name(), word) || slices.Contains(sub.SuggestFor, strings.ToLower(word))
	}
	for _, sub := range cmd.Commands() {
		if !sub.IsAvailableCommand() {
			continue
		}
		own = append(own, sub.Name())
		if isMeant(sub) || strings.EqualFold(sub.Name()+"s", word) {
			alike = append(alike, sub.Name())
		}
		for _, deeper := range sub.Commands() {
			if isMeant(deeper) {
				below = append(below, sub.Name()+" "+deeper.Name())
			}
		}
	}
	hint := didYouMean(word, own)
	ofType, _, _ := strings.Cut(word, ":")
	switch {
	case slices.Contains(own, typeCommands[ofType]) && ofType != word:
		hint = fmt.Sprintf("; did you mean %s %s %s?", cmd.CommandPath(), typeCommands[ofType], word)
	case len(alike) > 0:
		hint = "; did you mean " + either(alike) + "?"
	case len(below) > 0:
		hint = "; did you mean " + either(below) + "?"
	case hint != "":
	case len(own) <= listed:
		hint = "; it has " + strings.Join(own, ", ")
	default:
		hint = "; see: " + cmd.CommandPath() + " --help"
	}
	return fmt.Errorf("unknown command %q for %q%s", word, cmd.CommandPath(), hint)
}

// typeCommands are the subcommands, of commands that have one for each kind of object, by the types of the objects.
var typeCommands = map[string]string{
	"agent": "agent", "user": "principal", "service": "principal", "tenant": "tenant", "session": "session", "delegation": "delegation",
}

// eachCommand calls do for a command and for all below it.
func eachCommand(cmd *cobra.Command, do func(*cobra.Command)) {
	do(cmd)
	for _, sub := range cmd.Commands() {
		eachCommand(sub, do)
	}
}

// flagError puts what pflag says of a flag into words. It names the flag, and of a misspelt one the flag that was
// probably meant, or else those that there are.
func flagError(cmd *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		if word := cmd.Flags().Arg(0); word != "" && cmd.HasSubCommands() {
			return unknownCommand(cmd, word) // its flags would be the subcommand's
		}
		if unknown.GetSpecifiedShortnames() != "" {
			return fmt.Errorf("%s has no flag -%s%s", cmd.CommandPath(), unknown.GetSpecifiedName(), flagHint(cmd, ""))
		}
		given := "--" + unknown.GetSpecifiedName()
		return fmt.Errorf("%s has no flag %s%s", cmd.CommandPath(), given, flagHint(cmd, given))
	}
	if missing, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return fmt.Errorf("--%s needs a value", missing.GetFlag().Name)
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		f, value := invalid.GetFlag(), invalid.GetValue()
		err := fmt.Errorf("--%s %w", f.Name, wrongValue(f, value, invalid.Unwrap()))
		if f.Name == "output" && cmd.Flags().Lookup("out") != nil && strings.ContainsAny(value, "./") {
			return fmt.Errorf("%w; a file is named with --out", err)
		}
		return err
	}
	return err
}

// flagHint names the flag that a misspelt one probably meant, or else the flags that there are besides those of the connection.
func flagHint(cmd *cobra.Command, given string) string {
	var all, own []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		all = append(all, "--"+f.Name)
		if f.Name != "help" && !isConnectionFlag(f) {
			own = append(own, "--"+f.Name)
		}
	})
	switch hint := didYouMean(given, all); {
	case hint != "":
		return hint
	case len(own) == 0 || len(own) > listed:
		return "; see: " + cmd.CommandPath() + " --help"
	default:
		return "; its flags are " + strings.Join(own, ", ")
	}
}

// wrongValue says, behind the name of a flag, what is wrong with the value that it was given. Flags that may hold a secret
// take any text, so that nothing secret is quoted.
func wrongValue(f *pflag.Flag, value string, cause error) error {
	wants := wanted(f)
	if wants == "" {
		return cause
	}
	return fmt.Errorf("must be %s, not %q", wants, value)
}

// wanted says what value a flag takes; empty for a flag that takes any text, or words of its own.
func wanted(f *pflag.Flag) string {
	return map[string]string{
		"int": "a whole number", "int64": "a whole number", "uint32": "a whole number from 0 to 4294967295", "uint64": "a whole number from 0 on",
		"float64": "a number", "bool": "true or false", "duration": "a duration such as 90s, 30m or 8h",
	}[f.Value.Type()]
}

// argumentNames returns the names of a command's arguments as its usage line has them: [AGENT RESOURCE PERMISSION]. An optional
// one is in brackets, and one that may be repeated ends in dots.
func argumentNames(cmd *cobra.Command) []string {
	words := strings.Fields(cmd.Use)[1:]
	if i := slices.IndexFunc(words, func(word string) bool {
		return word == "[flags]" || strings.HasPrefix(strings.TrimPrefix(word, "["), "-")
	}); i >= 0 {
		words = words[:i]
	}
	return words
}

// requiredNames are the names of the arguments that are not in brackets. Those that share brackets are given together, or not at all.
func requiredNames(names []string) (required []string) {
	optional := false
	for _, name := range names {
		optional = optional || strings.HasPrefix(name, "[")
		if !optional {
			required = append(required, name)
		}
		optional = optional && !strings.Contains(name, "]")
	}
	return required
}

// nameArguments makes the errors about a command's arguments name those that are missing or too many, and misspelt subcommands.
func nameArguments(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		return
	}
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		err := check(cmd, given)
		if err == nil {
			return nil
		}
		names := argumentNames(cmd)
		required := requiredNames(names)
		switch {
		case len(given) > len(names) && cmd.HasSubCommands():
			return unknownCommand(cmd, given[len(names)])
		case len(given) < len(required):
			return fmt.Errorf("missing %s; usage: %s %s", every(required[len(given):]), cmd.CommandPath(), strings.Join(names, " "))
		case len(given) > len(names) && len(names) == 0:
			return fmt.Errorf("%s takes no argument, and %q is one%s", cmd.CommandPath(), given[0], flagHint(cmd, ""))
		case len(given) > len(names):
			return fmt.Errorf("%q is one argument too many; usage: %s %s", given[len(names)], cmd.CommandPath(), strings.Join(names, " "))
		case len(given) < len(names) && len(required) == 0: // all of what is in the brackets
			bare := strings.Fields(strings.Trim(strings.Join(names, " "), "[]"))
			return fmt.Errorf("missing %s; usage: %s %s", every(bare[len(given):]), cmd.CommandPath(), strings.Join(names, " "))
		}
		return err
	}
}
