// Package cli is Deputy's command line. Each subcommand has a file of its own. What they share:
//
//	help.go          which flags a command's help lists
//	interrupt.go     input that a signal interrupts
//	usage.go         errors about commands, flags and arguments that there are not
//	choice.go        flags that take one of a few words, and the word that a typo meant
//	settings.go      where a flag's value comes from: command line, environment, configuration file
//	configfile.go    the configuration file: YAML, TOML or JSON
//	connection.go    the client's flags, and the connection that they describe
//	unreachable.go   why no connection came about
//	complete.go      what the shell completes with what a server has
//	question.go      the flags of the commands that ask for a decision
//	list.go          pages of a list
//	reach.go         a reach, as one stream; its text is in reachtable.go, and what differs between two in reachdiff.go
//	reference.go     text to objects, subjects, scopes, caveat context, consistency
//	output.go        tables for people, JSON for programs
//	failure.go       errors, as one line in the words of the command line
//	keyfile.go       files with keys
//
// Some rules hold for all of them:
//
//   - The exit code is one of those below, and an error is one line on standard error, with -o json a line of JSON. A
//     program never has to read a text to know what happened.
//   - A command prints JSON with -o json, or has no flag -o.
//   - An argument is what the command asks about, reads, changes or ends. Everything else is a flag: what a list is
//     narrowed to, and what something new is made of.
//   - A key is never printed: not in help, not in an error, not in a log. What could hold one is not
//     quoted, even where that makes a message poorer.
//   - What a newer server answers and this program does not know is a refusal.
//   - The command line asks and shows; it decides nothing. Whether an id is well-formed, a name is
//     known or a caller may do something is the server's to say, so that there is one place that says
//     it. What is checked here is only what cannot be sent.
//
// Nothing in here exits the process or keeps global state, so a command line runs in a test as it does
// in a terminal.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/schema"
)

// The exit codes. A program that asks `deputy check` needs no more than these; `deputy help` and docs/operations.md list them.
const (
	// ExitOK: the command did what it was asked; for check, the agent may act.
	ExitOK = 0
	// ExitDenied: check was answered with a refusal, journal verify or collect found a journal that is not as it was written, or what demo, test,
	// lint, diff, plan, fmt --check or a comparing reach looked for was found.
	ExitDenied = 1
	// ExitError: the command failed. Standard error has one line that says why.
	ExitError = 2
	// ExitInterrupted: a signal ended the command before it was done. Standard error has one line that says which.
	ExitInterrupted = 130
)

// exitCodes ends the program's help.
const exitCodes = `Exit codes:
  0    the command is done; for check: the agent may act
  1    the answer is no: check, caller check; something was found: demo, test, schema lint, diff, plan and fmt --check,
       mcp lint and test;
       something differs: reach --diff, reach --schema;
       a journal is not as it was written: journal verify, journal collect
  2    the command failed, and standard error says why; for check: there is no answer
  130  a signal such as Ctrl-C ended the command, and standard error says which command`

// Streams are a command's standard streams. The command does not close them.
type Streams struct {
	// In is read by the commands whose FILE is "-".
	In io.Reader
	// Out gets what was asked for, and nothing else.
	Out io.Writer
	// Err gets errors, logs, and where it is a terminal a bar that shows progress.
	Err io.Writer
}

// LookupEnv finds an environment variable, like os.LookupEnv.
type LookupEnv func(name string) (value string, found bool)

// Run runs one command line (without the program's name) and returns its exit code. It returns when
// the command is done or, in an orderly way, soon after ctx ends. It is safe for concurrent use as
// long as the streams are.
func Run(ctx context.Context, args []string, streams Streams, env LookupEnv) int {
	streams.In = untilDone(ctx, streams.In)
	root := newRoot(&program{Streams: streams, env: env}) //nolint:contextcheck // each command gets ctx when it is executed
	root.SetArgs(args)
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	cmd, err := root.ExecuteContextC(ctx)
	// cobra is told to print no errors, so that each is printed once, here, in one form.
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, errDenied):
		return ExitDenied
	}
	code, f := ExitError, describe(cmd, err)
	if ctx.Err() != nil {
		code = ExitInterrupted
		f.interrupt(cmd, err)
	}
	f.write(streams.Err, wantsJSON(args, env))
	return code
}

// errDenied ends a command whose answer was printed and is no: exit code 1, and nothing more to say.
var errDenied = errors.New("denied")

// program is what every subcommand is built with.
type program struct {
	Streams
	env LookupEnv
}

// The headings under which `deputy help` lists the subcommands.
const (
	groupServer = "server"
	groupAsk    = "ask"
	groupGovern = "govern"
	groupGraph  = "graph"
)

// newRoot builds the whole command tree. It is built anew for each run: cobra and pflag keep what was
// parsed in the commands and flags themselves.
func newRoot(p *program) *cobra.Command {
	root := &cobra.Command{
		Use:   "deputy",
		Short: "Decide whether an AI agent may act, for whom, and where",
		Long: `Deputy answers one question before an AI agent acts: may this agent, acting for this principal,
in this tenant, do this to this object, now?

A flag whose help names a variable can be set in the environment too: --some-flag as
$DEPUTY_SOME_FLAG. A flag beats the environment, the environment beats a configuration file, and that
beats the default.

` + exitCodes,
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		// Without arguments there is nothing to do but to say what there is.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		// cobra runs the nearest one of these only, so no other command may have one.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fillFromEnv(cmd.Flags(), p.env)
		},
	}
	root.AddGroup(
		&cobra.Group{ID: groupAsk, Title: "Ask:"},
		&cobra.Group{ID: groupGovern, Title: "Govern:"},
		&cobra.Group{ID: groupGraph, Title: "Schema and relationships:"},
		&cobra.Group{ID: groupServer, Title: "Server:"},
	)
	root.AddCommand(
		newCheck(p), newExplain(p), newFilter(p), newLookup(p), newReach(p),
		newAgent(p), newPrincipal(p), newAdopt(p), newDelegation(p), newSession(p), newBrake(p), newSignal(p),
		newJournal(p),
		newSchema(p), newRelationship(p), newTest(p), newInit(p),
		newServe(p), newCaller(p), newMCP(p), newMigrate(p), newDemo(p, schema.SupportDesk, "supportdesk/decisions.yaml"),
		newStore(p), newFollow(p), newPurge(p), newBackup(p), newRestore(p), newPromote(p),
		newVersion(p), newOptions(p),
	)
	root.SetVersionTemplate("{{.Version}}\n")
	root.InitDefaultCompletionCmd()
	completion, _, _ := root.Find([]string{"completion"}) // it is there now
	completion.RunE = needsSubcommand
	shortenHelp(root)
	root.SetFlagErrorFunc(flagError)
	root.SetGlobalNormalizationFunc(formatIsOutput)
	eachCommand(root, func(cmd *cobra.Command) {
		nameArguments(cmd)
		completeChoices(cmd)
	})
	refuseHelpOnNothing(root)
	return root
}

// group returns a command that only holds subcommands. Called alone it fails, so that a script that
// forgot the subcommand notices.
func group(id, use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, GroupID: id,
		Args: cobra.NoArgs,
		RunE: needsSubcommand,
	}
}

// needsSubcommand is what a command does that only holds subcommands.
func needsSubcommand(cmd *cobra.Command, _ []string) error {
	return fmt.Errorf("%s needs a subcommand; see: %s --help", cmd.CommandPath(), cmd.CommandPath())
}
