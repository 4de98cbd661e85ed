package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/file"
)

// callersFile is the file that the commands below `deputy caller` edit.
type callersFile struct {
	program *program
	path    string
	output  string
}

// newCaller builds `deputy caller`, which needs no server: it edits the file that serve reads.
func newCaller(p *program) *cobra.Command {
	cmd := group(groupServer, "caller", "Say who may call the server, and what each caller may do")
	cmd.Long = `Edit the file of callers that "deputy serve --callers FILE" reads, and reads again when it changes. Comments and
order stay as they are. The file has no keys, only their digests; anyone who can write it can let anybody in.`
	f := &callersFile{program: p}
	cmd.PersistentFlags().StringVar(&f.path, "callers", "", "the file of callers")
	allowEnvOf(cmd.PersistentFlags().Lookup("callers"))
	for _, sub := range []*cobra.Command{newCallerAdd(f), newCallerRotate(f), newCallerRevoke(f), newCallerList(f), newCallerCheck(f)} {
		outputVar(sub.Flags(), &f.output, "json")
		cmd.AddCommand(sub)
	}
	cmd.AddCommand(newCallerSchema(p))
	return cmd
}

// named refuses a command line that names no file, and ids of another type than theirs.
func (f *callersFile) named(cmd *cobra.Command, args []string) error {
	if f.path == "" {
		return errors.New("name the file of callers with --callers or $DEPUTY_CALLERS")
	}
	return checkIDs(cmd, args)
}

// newCallerAdd builds `deputy caller add`.
func newCallerAdd(f *callersFile) *cobra.Command { //nolint:gocognit // one flag after the other
	var (
		e                                                  file.Entry
		c                                                  file.Credential
		tenants, agents, types, objects, prefixes, methods []string
		allTenants, people                                 bool
		expires                                            time.Duration
		out                                                keyOut
	)
	cmd := &cobra.Command{
		Use:        "add NAME --role ROLE {--tenant TENANT | --all-tenants}",
		SuggestFor: []string{"create", "new", "register"},
		Short:      "Add a caller, and print its new key",
		Long: `Add a caller to the file, which is made if it is not there. Its new key, "deputy_" and 64 hex digits, is written to the
file that --out names, which only its owner can read, or else to standard output and nothing else with it. It is shown
this once, because the file of callers keeps only its SHA-256 digest. A caller that proves who it is with a client
certificate (--spiffe or --dns) or with a token (--issuer and --subject) has no key, and nothing is printed.

Objects outside of the caller's tenants, agents, types and ids do not exist for it. Of these four only the tenants have
to be named. Any other one that is left out means all. No method of authzed.api.v1 is open unless --authzed-api names it.`,
		Example: `  deputy caller add billing --role checker --tenant acme --agent triage-bot --out billing.key --callers callers.yaml
  deputy caller add runner --role delegator --tenant acme --spiffe spiffe://example.org/runner --callers callers.yaml
  deputy caller add ops --role responder --role auditor --all-tenants --expires 2160h --out ops.key --callers callers.yaml`,
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&e.Roles, "role", nil, strings.Join(caller.RoleNames(), ", ")+"; may be repeated, or a list with commas")
	flags.StringSliceVar(&tenants, "tenant", nil, "a tenant that exists for the caller; may be repeated, or a list with commas")
	flags.BoolVar(&allTenants, "all-tenants", false, "all tenants exist for it")
	flags.StringSliceVar(&agents, "agent", nil, "an agent that exists for it; may be repeated, or a list with commas")
	flags.StringSliceVar(&types, "principal-type", nil, "a type of the principals that agents act for, user or service; may be repeated, or a list with commas")
	flags.StringSliceVar(&objects, "object-type", nil, "a type of the objects that exist for it; may be repeated, or a list with commas")
	flags.StringSliceVar(&prefixes, "id-prefix", nil, "how the ids begin of the objects that exist for it; may be repeated, or a list with commas")
	flags.StringSliceVar(&methods, "authzed-api", nil, "a method of authzed.api.v1 that its roles may open to it, or all; may be repeated, or a list with commas")
	flags.BoolVar(&e.Vouch, "vouch", false, "let it create delegations in a person's name on its word alone")
	l := &e.Limits
	flags.IntVar(&l.Rate, "rate", 0, "calls, and items of calls that have more than one, that it may make in a second; the server's default if left out, "+
		"as of all limits")
	flags.IntVar(&l.Burst, "burst", 0, "how many of them at once; as many as --rate if left out")
	flags.IntVar(&l.Concurrent, "concurrent", 0, "calls that it may have under way at once")
	flags.IntVar(&l.Streams, "streams", 0, "streams that it may have open at once")
	flags.StringVar(&l.Message, "max-message", "", "the longest message that it may send, such as 64KiB or 1MiB")
	flags.IntVar(&l.Weight, "weight", 0, "its part of a busy server, beside the others' weights; 1 if left out")
	flags.StringVar(&c.SPIFFE, "spiffe", "", "the SPIFFE id of its client certificate, such as spiffe://example.org/billing")
	flags.StringVar(&c.DNS, "dns", "", "the DNS name of its client certificate")
	flags.StringVar(&c.Issuer, "issuer", "", "the issuer of its tokens, which is one of the file's issuers")
	flags.StringVar(&c.Subject, "subject", "", "the subject of its tokens")
	flags.BoolVar(&people, "people", false, "with --issuer and --role self: the caller is each person whose token is of that issuer")
	flags.DurationVar(&expires, "expires", 0, "how long the credential is good, such as 2160h; without an end if left out")
	flags.StringVar(&out.path, "out", "", "new file for the key, which its owner alone can read, instead of standard output")
	complete := func(name string, words []string) {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	complete("role", caller.RoleNames())
	complete("authzed-api", append(caller.SpiceDBMethods(), "all"))
	complete("principal-type", []string{"user", "service"})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.named(cmd, args); err != nil {
			return err
		}
		e.Name = args[0]
		if err := file.CheckName(e.Name); err != nil {
			return fmt.Errorf("NAME %w", err)
		}
		if len(e.Roles) == 0 {
			return fmt.Errorf("--role must say what the caller may do: %s", either(caller.RoleNames()))
		}
		for _, name := range e.Roles {
			if _, err := caller.ParseRole(name); err != nil {
				return fmt.Errorf("--role: %w", err)
			}
		}
		if (len(tenants) > 0) == allTenants {
			return errors.New("give the tenants that exist for the caller with --tenant, or else --all-tenants")
		}
		if err := noneIsAll(cmd); err != nil {
			return err
		}
		e.Tenants = file.Set{All: allTenants, Names: bareIDs("tenant", tenants)}
		e.Agents, e.Principals, e.Objects = setOf(bareIDs("agent", agents)), setOf(types), setOf(objects)
		e.IDPrefixes, e.AuthzedAPI = setOf(prefixes), setOf(bareMethods(methods))
		if slices.Contains(methods, "all") {
			if len(methods) > 1 {
				return errors.New("--authzed-api all stands for every method; leave the others out")
			}
			e.AuthzedAPI = file.Set{All: true}
		}
		if err := checkLimits(cmd, e.Limits); err != nil {
			return err
		}
		if people {
			c.People = file.AllPeople
		}
		made, err := newCredential(cmd, c, expires)
		if err != nil {
			return err
		}
		made.ID = file.FreeID(made.Credential, nil)
		e.Credentials = []file.Credential{made.Credential}
		if err := out.prepare(made.plain, f.path); err != nil {
			return err
		}
		defer out.discard()
		if err := file.Edit(f.path, true, func(d *file.Document) error { return d.Add(e) }); err != nil {
			return inFlags(err)
		}
		if err := f.show(made, &out, e.Name, nil); err != nil {
			return err
		}
		return f.warn(e.Name)
	}
	return cmd
}

func setOf(names []string) file.Set { return file.Set{Names: names} }

func bareIDs(objectType string, texts []string) []string {
	ids := make([]string, len(texts))
	for i, text := range texts {
		ids[i] = bareID(objectType, text)
	}
	return ids
}

// madeCredential is a new credential, with its key where it has one.
type madeCredential struct {
	file.Credential
	plain string
}

// newCredential completes a credential that the command line describes. Where it describes none, it is a new key.
func newCredential(cmd *cobra.Command, c file.Credential, lasts time.Duration) (made madeCredential, err error) {
	kinds := 0
	for _, given := range []bool{c.SPIFFE != "", c.DNS != "", c.Issuer != "" || c.Subject != "" || c.People != ""} {
		if given {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return made, errors.New("give one of --spiffe, --dns, and --issuer with --subject; more credentials are added with deputy caller rotate")
	case c.People != "" && (c.Issuer == "" || c.Subject != ""):
		return made, errors.New("--people stands for all people whose tokens are of one issuer: give --issuer with it, and no --subject")
	case c.People == "" && (c.Issuer == "") != (c.Subject == ""):
		return made, errors.New("--issuer and --subject are given together: a token is known by both")
	case lasts < 0 || cmd.Flags().Changed("expires") && lasts == 0:
		return made, errors.New("--expires must say how long the credential is good, such as 2160h")
	}
	c.Created = time.Now().UTC().Truncate(time.Second)
	if lasts > 0 {
		c.Expires = c.Created.Add(lasts)
	}
	made = madeCredential{Credential: c}
	if kinds == 0 {
		made.plain, made.Key = file.NewKey()
	}
	return made, nil
}

// credentialJSON is what add and rotate print for programs.
type credentialJSON struct {
	Caller     string     `json:"caller"`
	Credential string     `json:"credential"`
	Key        string     `json:"key,omitempty"`
	Created    time.Time  `json:"created"`
	Expires    *time.Time `json:"expires,omitempty"`
	// Expiring are the older keys that have got an end.
	Expiring []string `json:"expiring,omitempty"`
}

// show prints a new credential: its key, where it has one and --out names no file for it. Nobody can print it again.
func (f *callersFile) show(made madeCredential, out *keyOut, name string, expiring []string) error {
	lost := func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("the credential %s of %s is in %s, but its key was lost: %w; take it away with: deputy caller revoke %s %s",
			made.ID, name, f.path, err, name, made.ID)
	}
	if out.temporary != "" {
		if err := out.commit(); err != nil {
			return lost(err)
		}
		made.plain = ""
	}
	if f.output != "json" && made.plain == "" {
		return nil
	}
	answer := credentialJSON{Caller: name, Credential: made.ID, Key: made.plain, Created: made.Created, Expiring: expiring}
	if !made.Expires.IsZero() {
		answer.Expires = &made.Expires
	}
	return lost(say(f.program.Out, f.output, answer, made.plain))
}

// newCallerRotate builds `deputy caller rotate`.
func newCallerRotate(f *callersFile) *cobra.Command {
	var (
		c                  file.Credential
		expires, expireOld time.Duration
		out                = keyOut{mayReplace: true}
	)
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Add a credential to a caller, and print its new key",
		Long: `Add a credential to a caller: a new key, which is written to the file of --out or else to standard output, once and alone,
or what --spiffe, --dns, or --issuer and --subject name. The file of --out is replaced once the file of callers is
written, so that a command that fails leaves the key that was there.

The credentials that the caller has stay good, so that both are accepted while the caller changes over. --expire-old
gives the caller's older keys an end, and "deputy caller revoke NAME CREDENTIAL" takes one away at once.`,
		Example: `  deputy caller rotate billing --expire-old 24h --out billing.key --callers callers.yaml`,
		Args:    cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.DurationVar(&expires, "expires", 0, "how long the new credential is good, such as 2160h; without an end if left out")
	flags.DurationVar(&expireOld, "expire-old", 0, "how long the caller's older keys are still good, such as 24h; as before if left out")
	flags.StringVar(&c.SPIFFE, "spiffe", "", "the SPIFFE id of a client certificate")
	flags.StringVar(&c.DNS, "dns", "", "the DNS name of a client certificate")
	flags.StringVar(&c.Issuer, "issuer", "", "the issuer of tokens, which is one of the file's issuers")
	flags.StringVar(&c.Subject, "subject", "", "the subject of tokens")
	flags.StringVar(&out.path, "out", "", "file for the key, which its owner alone can read, instead of standard output; it is replaced if it is there")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.named(cmd, args); err != nil {
			return err
		}
		if expireOld < 0 {
			return errors.New("--expire-old must be 0s or more, such as 24h")
		}
		made, err := newCredential(cmd, c, expires)
		if err != nil {
			return err
		}
		if err := out.prepare(made.plain, f.path); err != nil {
			return err
		}
		defer out.discard()
		var expiring []string
		if err := file.Edit(f.path, false, func(d *file.Document) error {
			if cmd.Flags().Changed("expire-old") {
				if expiring, err = d.ExpireKeys(args[0], made.Created.Add(expireOld)); err != nil {
					return err
				}
			}
			made.ID, err = d.AddCredential(args[0], made.Credential)
			return err
		}); err != nil {
			return inFlags(err)
		}
		return f.show(made, &out, args[0], expiring)
	}
	return cmd
}

// newCallerRevoke builds `deputy caller revoke`.
func newCallerRevoke(f *callersFile) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "revoke NAME [CREDENTIAL]",
		SuggestFor: []string{"remove", "delete", "rm"},
		Short:      "Take a caller away, or one of its credentials",
		Long: `Take a caller out of the file, or one of its credentials, whose ids "deputy caller list" shows. A server that reads the
file refuses the next call within 2 seconds, and ends streams that are open.`,
		Args: cobra.RangeArgs(1, 2),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.named(cmd, args); err != nil {
			return err
		}
		credential, done := "", args[0]+" is removed"
		if len(args) == 2 {
			credential, done = args[1], args[1]+" of "+args[0]+" is revoked"
		}
		var revoked []string
		if err := file.Edit(f.path, false, func(d *file.Document) (err error) {
			revoked, err = d.Revoke(args[0], credential)
			return err
		}); err != nil {
			return err
		}
		return say(f.program.Out, f.output, map[string]any{"caller": args[0], "revoked": append([]string{}, revoked...)},
			done+"; servers take that up within 2 seconds, or at SIGHUP")
	}
	return cmd
}

// newCallerSchema builds `deputy caller schema`.
func newCallerSchema(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of the file of callers, for editors",
		Long: `Print the JSON schema of the file of callers. An editor with a YAML language server checks the file while it is written if
its first line is: # yaml-language-server: $schema=callers.schema.json`,
		Example: `  deputy caller schema > callers.schema.json`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(p.Out, file.Schema)
			if err != nil {
				err = fmt.Errorf("writing: %w", err)
			}
			return err
		},
	}
}
