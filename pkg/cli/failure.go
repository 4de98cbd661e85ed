package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/notation"
)

// failure is why a command failed, as -o json prints it.
type failure struct {
	// Code is a gRPC code as its specification writes it, INVALID_ARGUMENT, or empty where no server was asked.
	Code string `json:"code"`
	// Reason is the server's google.rpc.ErrorInfo, which programs go by, or empty.
	Reason string `json:"reason"`
	// Message is one line for a person.
	Message string `json:"message"`
	// line is the message with code and reason.
	line string
}

// describe returns an error as one line. A gRPC status reads "CODE (REASON): message", where the server
// gave a reason (google.rpc.ErrorInfo):
//
//	INVALID_ARGUMENT (INVALID_FIELD): the id of RESOURCE is empty
//
// A field of the request is called what it is called in the command line of cmd. Without a cmd it keeps its name.
func describe(cmd *cobra.Command, err error) failure {
	var f failure
	// A program that embeds Deputy reads the name of the package in front of its errors. To an operator it says nothing.
	text := strings.TrimPrefix(err.Error(), "daemon: ")
	f.Message, f.line = text, text
	// A wrapped status keeps what was put around it, such as which line of a file it is about.
	if wrapped, ok := errors.AsType[grpcError](err); ok {
		s := wrapped.GRPCStatus()
		info := errorInfo(s)
		f.Code, f.Reason = codeName(s.Code()), info.GetReason()
		message := inTheirWords(cmd, s.Message(), info)
		switch {
		case s.Code() == codes.Unauthenticated && callsServer(cmd):
			message += ": " + checkProof(cmd)
		case info.GetReason() == authz.ReasonJournalUnavailable:
			message += ": " + mendJournal
		case info.GetReason() == authz.ReasonRoleRequired && callsServer(cmd):
			message += "; use the key of a caller that has the role (deputy caller add makes one)"
		}
		prefix := f.Code + ": "
		if f.Reason != "" {
			prefix = f.Code + " (" + f.Reason + "): "
		}
		f.Message = strings.Replace(text, wrapped.Error(), message, 1)
		f.line = strings.Replace(text, wrapped.Error(), prefix+message, 1)
	} else if errors.Is(err, context.DeadlineExceeded) {
		f.Message = strings.Replace(text, context.DeadlineExceeded.Error(), "did not answer within --timeout", 1)
		f.line = f.Message
	}
	f.Message, f.line = strings.Join(strings.Fields(f.Message), " "), strings.Join(strings.Fields(f.line), " ")
	return f
}

// mendJournal says what an operator does about a server whose journal takes no records.
const mendJournal = "the cause is in the server's log; make room on the journal's disk, raise --journal-quota-mib, or shorten " +
	"--journal-retention; once there is room on the disk, the server goes on by itself"

// callsServer reports whether a command is a client, which has a key of its own for the server that it calls. The settings of others are not those of one.
func callsServer(cmd *cobra.Command) bool { return cmd == nil || cmd.Flag("key") != nil }

// checkProof says what to look at where the server does not know the caller. A key decides where there is a client certificate, too.
func checkProof(cmd *cobra.Command) string {
	given := func(name string) bool {
		f := cmd.Flags().Lookup(name)
		return f != nil && f.Changed
	}
	if cmd != nil && given("cert") && !given("key") && !given("key-file") {
		return "check whose client certificate is in --cert or $DEPUTY_CERT; deputy caller list shows the names of callers' certificates"
	}
	return "check the key in --key, --key-file, $DEPUTY_KEY or $DEPUTY_KEY_FILE"
}

// interrupt makes of a failure the one that says that a signal ended the command. What the error says beyond that stays: how far
// an import got.
func (f *failure) interrupt(cmd *cobra.Command, err error) {
	text := cmd.CommandPath() + " was interrupted"
	switch bare := errors.Unwrap(err) == nil; {
	case bare && f.Code == codeName(codes.Canceled):
		text += "; the server may have done what it was asked to"
	case !bare || !errors.Is(err, context.Canceled):
		text += ": " + strings.ReplaceAll(f.line, ": "+context.Canceled.Error(), "")
	}
	f.Message, f.line = text, text
}

// write prints the failure as a line for people, or one of JSON.
func (f *failure) write(w io.Writer, asJSON bool) {
	line := "deputy: " + notation.Line(f.line)
	if asJSON {
		if text, err := json.Marshal(map[string]*failure{"error": f}); err == nil {
			line = string(text)
		}
	}
	_, _ = fmt.Fprintln(w, line)
}

// wantsJSON reports whether a command line, or the environment, asks for JSON. Errors are printed in that form even where the
// command line is what is wrong, so it is read here with whatever flags it has.
func wantsJSON(args []string, env LookupEnv) bool {
	output, _ := env(envName("output"))
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.SetNormalizeFunc(formatIsOutput)
	flags.StringVarP(&output, "output", "o", output, "")
	_ = flags.Parse(args)
	return output == "json"
}

// fieldFlags are the fields whose flag or argument is not called as they are.
var fieldFlags = map[string]string{
	"actor_token":          "actor_token_file",
	"consent_token":        "consent_token_file",
	"resource_object_type": "type", "parent_delegation_id": "parent", "targets": "target", "objects": "name",
	"resource_object_types": "type", "permissions": "permission",
}

// fieldParts say what the last part of a field's name is of the whole.
var fieldParts = map[string]string{"object_type": "the type of ", "object_id": "the id of ", "relation": "the relation of "}

// fieldName finds the name of a field in a message: resource.object_id, targets[1].delegation_id, tenant_id.
var fieldName = regexp.MustCompile(`\b[a-z]+(_[a-z]+)+(\[\d+\])?(\.[a-z_]+)*`)

// inTheirWords calls the fields that a server's message names what they are called in the command line of cmd: the one that the
// message is about and begins with, if any, and all whose names have an underscore.
func inTheirWords(cmd *cobra.Command, message string, info *errdetails.ErrorInfo) string {
	if cmd == nil {
		return message
	}
	field := info.GetMetadata()["field"]
	rest, about := strings.CutPrefix(message, field+" ")
	if field == "" || !about {
		field, rest = "", message
	} else {
		field = flagOf(cmd, field) + " "
	}
	if strings.HasPrefix(info.GetReason(), "UNKNOWN_") {
		return field + rest // it lists names of the schema, which may be called like fields
	}
	return field + fieldName.ReplaceAllStringFunc(rest, func(name string) string { return flagOf(cmd, name) })
}

// flagOf returns the flag or the argument that a field of a request comes from, or the field where there is none.
func flagOf(cmd *cobra.Command, field string) string {
	head, tail, _ := strings.Cut(field, ".")
	head, index, repeated := strings.Cut(head, "[")
	if head == "adoptions" { // of a line of the list that --confirm names
		column, _, _ := strings.Cut(tail[strings.LastIndex(tail, ".")+1:], "[")
		return cmp.Or(map[string]string{"owner_ids": "OWNERS", "digest": "DIGEST"}[column], fieldParts[column]+"NAME")
	}
	if other, ok := fieldFlags[head]; ok {
		head = other
	}
	if head == "on_behalf_of" && cmd.Flags().Lookup("for") != nil {
		head = "for"
	}
	if diff := cmd.Flags().Lookup("diff"); head == "consistency" && diff != nil && diff.Changed && !cmd.Flags().Changed("consistency") {
		head = "diff"
	}
	head = strings.ReplaceAll(head, "_", "-")
	short := strings.TrimSuffix(strings.TrimSuffix(head, "-ids"), "-id")
	said := ""
	for _, name := range []string{head, short} {
		if f := cmd.Flags().Lookup(name); said == "" && f != nil && !isConnectionFlag(f) {
			said = "--" + name
		}
		if argument := strings.ToUpper(name); said == "" && hasArgument(cmd, argument) {
			said = argument
		}
	}
	last := tail[strings.LastIndex(tail, ".")+1:]
	switch {
	case said == "" && last == "object_type" && hasArgument(cmd, "TYPE"):
		return "TYPE" // of the objects that are looked for
	case said == "":
		return field
	case head == "context" && tail != "":
		return tail + " in " + said
	}
	if n, err := strconv.Atoi(strings.TrimSuffix(index, "]")); repeated && err == nil && n > 0 {
		said = fmt.Sprintf("%s number %d", said, n+1)
	}
	return fieldParts[last] + said
}

// hasArgument reports whether a command takes an argument of a name, which may be optional or repeated.
func hasArgument(cmd *cobra.Command, name string) bool {
	return slices.ContainsFunc(argumentNames(cmd), func(one string) bool { return strings.Trim(one, "[].…") == name })
}

// grpcError is how gRPC's errors give their status.
type grpcError interface {
	error
	GRPCStatus() *status.Status
}

// errorInfo returns what a status says to programs, or nil.
func errorInfo(s *status.Status) *errdetails.ErrorInfo {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// codeName returns a code as the gRPC specification writes it: INVALID_ARGUMENT. Go's gRPC has names of
// its own.
func codeName(c codes.Code) string {
	if name, ok := code.Code_name[int32(c)]; ok { //nolint:gosec // what does not fit has no name
		return name
	}
	return fmt.Sprintf("CODE_%d", c)
}
