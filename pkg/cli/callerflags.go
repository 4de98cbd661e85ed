package cli

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/file"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// boundFlags are the flags of `deputy caller add` by the fields of the file that they fill.
var boundFlags = map[string]string{
	"roles": "role", "tenants": "tenant", "agents": "agent", "principals": "principal-type", "objects": "object-type",
	"id_prefixes": "id-prefix", "authzed_api": "authzed-api", "spiffe": "spiffe", "dns": "dns", "issuer": "issuer", "subject": "subject",
}

// noneIsAll refuses the word all among names: what a flag names are all unless it is given, but for the tenants.
func noneIsAll(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		list, ok := f.Value.(pflag.SliceValue)
		if err != nil || !ok || f.Name == "authzed-api" || f.Name == "role" || !slices.Contains(list.GetSlice(), "all") {
			return
		}
		instead := "leave --" + f.Name + " out, and all exist for the caller"
		if f.Name == "tenant" {
			instead = "give --all-tenants"
		}
		err = fmt.Errorf("--%s names one, and all is none: %s", f.Name, instead)
	})
	return err
}

// limitFlags are the flags of `deputy caller add` by the limits that they set.
var limitFlags = map[string]string{
	"rate": "rate", "burst": "burst", "concurrent": "concurrent", "streams": "streams", "message": "max-message", "weight": "weight",
}

// checkLimits refuses limits that are none, in the words of the command line. A limit of 0 is refused where it is said.
func checkLimits(cmd *cobra.Command, l file.Limits) error {
	for _, name := range []string{"rate", "burst", "concurrent", "streams", "weight"} {
		if f := cmd.Flags().Lookup(name); f.Changed && f.Value.String() == "0" {
			return fmt.Errorf("--%s must be 1 or more; leave it out for the server's default", name)
		}
	}
	limits := caller.Limits{Rate: l.Rate, Burst: l.Burst, Concurrent: l.Concurrent, Streams: l.Streams, Weight: l.Weight}
	var err error
	if l.Message != "" {
		if limits.Message, err = file.ParseSize(l.Message); err != nil {
			return fmt.Errorf("--max-message %w", err)
		}
	}
	if key, err := limits.Check(); err != nil {
		return errors.New("--" + limitFlags[key] + strings.TrimPrefix(err.Error(), key))
	}
	return nil
}

// bareMethods drops the services from names of methods of authzed.api.v1. What is no such method stays as it is.
func bareMethods(names []string) []string {
	bare := slices.Clone(names)
	for i, name := range names {
		name = strings.TrimPrefix(name, "/")
		for _, full := range slices.Sorted(maps.Keys(caller.Methods())) {
			m := caller.MethodOf(full)
			if m.SpiceDB && (full == "/"+name || strings.HasSuffix(full, "."+name)) {
				bare[i] = m.Name()
			}
		}
	}
	return bare
}

// aboutField finds the field of the file that a problem is about.
var aboutField = regexp.MustCompile(`^(an element of )?([a-z_]+)\b`)

// inFlags says what is wrong with what the command line would add in the words of the command line.
func inFlags(err error) error {
	problem, ok := errors.AsType[*file.Problem](err)
	if !ok || problem.Line != 0 {
		return err
	}
	at := aboutField.FindStringSubmatchIndex(problem.Message)
	if at == nil {
		return err
	}
	flag, known := boundFlags[problem.Message[at[4]:at[5]]]
	if !known {
		return err
	}
	return errors.New(problem.Message[:at[4]] + "--" + flag + problem.Message[at[5]:])
}

// warn says on standard error what a new caller was given and can do nothing with.
func (f *callersFile) warn(name string) error {
	content, err := f.read()
	if err != nil {
		return err
	}
	for _, c := range content.Callers {
		if c.Name != name {
			continue
		}
		for _, line := range useless(c) {
			if _, err := fmt.Fprintln(f.program.Err, "deputy: warning: "+line); err != nil {
				return fmt.Errorf("writing: %w", err)
			}
		}
	}
	return nil
}

// useless says which of a caller's roles and rights open nothing to it.
func useless(c *caller.Caller) (lines []string) {
	for _, role := range c.Roles.List() {
		if line := uselessRole(c, role); line != "" {
			lines = append(lines, line)
		}
	}
	for _, name := range c.SpiceDB.List() {
		var refused error
		for _, full := range slices.Sorted(maps.Keys(caller.Methods())) {
			if m := caller.MethodOf(full); m.SpiceDB && m.Name() == name {
				refused = c.May(m)
			}
		}
		if refused != nil {
			lines = append(lines, fmt.Sprintf("authzed.api.v1's %s stays closed to %s: %v", name, c.Name, refused))
		}
	}
	if c.Bounds.Vouch && !c.Roles.Has(deputyv1.Role_ROLE_DELEGATOR) {
		lines = append(lines, "--vouch lets "+c.Name+" do nothing: creating delegations takes the role delegator (or admin)")
	}
	return lines
}

// uselessRole says why a role lets a caller do nothing of what the role is for: the methods that it opens and an auditor's, which only reads,
// does not. It is empty where there is one.
func uselessRole(c *caller.Caller, role caller.Role) string {
	alone := &caller.Caller{Name: c.Name, Roles: caller.RolesOf(role), Bounds: c.Bounds, SpiceDB: authz.AllNames()}
	alone = anyone(alone)
	var within []string
	var refused error
	for _, full := range slices.Sorted(maps.Keys(caller.Methods())) {
		m := caller.MethodOf(full)
		if !alone.Roles.Any(m.Roles) || role != deputyv1.Role_ROLE_AUDITOR && role != deputyv1.Role_ROLE_SELF &&
			caller.RolesOf(deputyv1.Role_ROLE_AUDITOR).Any(m.Roles) {
			continue
		}
		switch err := alone.May(m); {
		case err != nil:
			refused = err
		case !m.SpiceDB || c.SpiceDB.Has(m.Name()):
			return ""
		default:
			within = append(within, m.Name())
		}
	}
	if len(within) == 0 {
		return fmt.Sprintf("the role %s lets %s do nothing: %v", caller.RoleName(role), c.Name, refused)
	}
	return fmt.Sprintf("the role %s lets %s do nothing before a method is open to it with --authzed-api: %s", caller.RoleName(role), c.Name, either(within))
}
