package cli

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/file"
)

// read returns what the file says.
func (f *callersFile) read() (*file.Content, error) {
	text, err := file.Read(f.path)
	if err != nil {
		return nil, err
	}
	return file.Decode(f.path, text)
}

// callerJSON is a caller for programs, in the words of the file. A bound is a list, or the word all.
type callerJSON struct {
	Name        string           `json:"name"`
	Roles       []string         `json:"roles"`
	Tenants     any              `json:"tenants"`
	Agents      any              `json:"agents"`
	Principals  any              `json:"principals"`
	Objects     any              `json:"objects"`
	IDPrefixes  any              `json:"id_prefixes"`
	AuthzedAPI  any              `json:"authzed_api"`
	Vouch       bool             `json:"vouch"`
	Limits      limitsJSON       `json:"limits"`
	Credentials []listCredential `json:"credentials"`
}

// limitsJSON is a caller's limits for programs, in the words of the file. What the file leaves out is left out.
type limitsJSON struct {
	Rate       int    `json:"rate,omitempty"`
	Burst      int    `json:"burst,omitempty"`
	Concurrent int    `json:"concurrent,omitempty"`
	Streams    int    `json:"streams,omitempty"`
	Message    string `json:"message,omitempty"`
	Weight     int    `json:"weight,omitempty"`
}

// describeLimits returns limits for programs.
func describeLimits(l caller.Limits) limitsJSON {
	shown := limitsJSON{Rate: l.Rate, Burst: l.Burst, Concurrent: l.Concurrent, Streams: l.Streams, Weight: l.Weight}
	if l.Message != 0 {
		shown.Message = caller.SizeText(l.Message)
	}
	return shown
}

// listCredential is a credential for programs. The digest of a key is left out.
type listCredential struct {
	ID      string     `json:"id"`
	Kind    string     `json:"kind"`
	Proof   string     `json:"proof,omitempty"`
	Created *time.Time `json:"created,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Expired bool       `json:"expired"`
}

// newCallerList builds `deputy caller list`.
func newCallerList(f *callersFile) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the callers of the file with their credentials", Args: cobra.NoArgs,
		Long: `List the callers of the file, with a row for each credential.`,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.named(cmd, args); err != nil {
			return err
		}
		content, err := f.read()
		if err != nil {
			return err
		}
		now := time.Now()
		all := []callerJSON{}
		for _, c := range content.Callers {
			all = append(all, describeCaller(c, now))
		}
		if f.output == "json" {
			return say(f.program.Out, f.output, map[string]any{"callers": all}, "")
		}
		return writeTable(f.program.Out, func(w io.Writer) { callerTable(w, all) })
	}
	return cmd
}

// describeCaller returns a caller for programs.
func describeCaller(c *caller.Caller, now time.Time) callerJSON {
	b := c.Bounds
	one := callerJSON{
		Name: c.Name, Roles: strings.Split(c.Roles.String(), ", "), Vouch: b.Vouch, Credentials: []listCredential{},
		Tenants: listOr(b.Tenants.All(), outsideIDs(b.Tenants.List())), Agents: listOr(b.Agents.All(), outsideIDs(b.Agents.List())),
		Principals: listOr(b.Principals.All(), b.Principals.List()), Objects: listOr(b.Objects.All(), b.Objects.List()),
		IDPrefixes: listOr(b.IDs.All(), b.IDs.List()), AuthzedAPI: listOr(c.SpiceDB.All(), c.SpiceDB.List()),
		Limits: describeLimits(c.Limits),
	}
	for _, credential := range c.Credentials {
		shown := listCredential{
			ID: credential.ID, Expired: credential.Expired(now), Created: timeOr(credential.Created), Expires: timeOr(credential.Expires),
		}
		switch {
		case credential.SPIFFE != "":
			shown.Kind, shown.Proof = "spiffe", credential.SPIFFE
		case credential.DNS != "":
			shown.Kind, shown.Proof = "dns", credential.DNS
		case credential.Key != [sha256.Size]byte{}:
			shown.Kind = "key"
		case credential.People:
			shown.Kind, shown.Proof = "token", "all people of "+credential.Issuer
		default:
			shown.Kind, shown.Proof = "token", credential.Subject+" of "+credential.Issuer
		}
		one.Credentials = append(one.Credentials, shown)
	}
	return one
}

func outsideIDs(stored []string) []string {
	ids := make([]string, len(stored))
	for i, id := range stored {
		ids[i] = authz.DecodeID(id)
	}
	return ids
}

func listOr(all bool, list []string) any {
	if all {
		return "all"
	}
	return append([]string{}, list...)
}

func timeOr(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// callerTable writes a row for each credential of each caller.
func callerTable(w io.Writer, all []callerJSON) {
	row(w, "CALLER", "ROLES", "TENANTS", "AGENTS", "CREDENTIAL", "PROOF", "EXPIRES")
	for _, c := range all {
		credentials := c.Credentials
		if len(credentials) == 0 {
			credentials = []listCredential{{ID: "none"}}
		}
		for _, one := range credentials {
			expires := ""
			if one.Expires != nil {
				expires = one.Expires.UTC().Format(time.RFC3339)
			}
			if one.Expired {
				expires += " (over)"
			}
			row(w, c.Name, strings.Join(c.Roles, ", "), inTable(c.Tenants), inTable(c.Agents), one.ID, cmp.Or(one.Proof, one.Kind), expires)
		}
	}
}

func inTable(bound any) string {
	if list, ok := bound.([]string); ok {
		return authz.Words(list)
	}
	return fmt.Sprint(bound)
}

// newCallerCheck builds `deputy caller check`.
func newCallerCheck(f *callersFile) *cobra.Command {
	var tenant string
	cmd := &cobra.Command{
		Use:   "check NAME METHOD",
		Short: "Say whether a caller of the file may call a method",
		Long: `Say whether a caller of the file may call a method, as far as its credentials, its roles, its bounds and --tenant go. The
answer is the exit code, too: 0 for yes, 1 for no. METHOD is a method's name, such as CheckPermission, which means
Deputy's, or else authzed.api.v1's, where several have one of that name, or the name with its service's before it, such as
authzed.api.v1.PermissionsService/CheckPermission.

No server is asked. Whether an agent may act is asked with "deputy check".`,
		Example: `  deputy caller check billing CheckPermission --tenant acme --callers callers.yaml`,
		Args:    cobra.ExactArgs(2),
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "the tenant that the call is about")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.named(cmd, args); err != nil {
			return err
		}
		content, err := f.read()
		if err != nil {
			return err
		}
		c, err := callerNamed(content, f.path, args[0])
		if err != nil {
			return err
		}
		m, err := methodNamed(args[1])
		if err != nil {
			return err
		}
		why, err := whyNot(c, m, tenant, time.Now())
		if err != nil {
			return err
		}
		text := fmt.Sprintf("yes: %s may call %s", c.Name, strings.TrimPrefix(m.Full, "/"))
		if why != "" {
			text = "no: " + why
		}
		answer := map[string]any{"caller": c.Name, "method": strings.TrimPrefix(m.Full, "/"), "allowed": why == "", "reason": why}
		if err := say(f.program.Out, f.output, answer, text); err != nil {
			return err
		}
		if why != "" {
			return errDenied
		}
		return nil
	}
	return cmd
}

// whyNot says why a caller may not call a method; it is empty where the caller may.
func whyNot(c *caller.Caller, m *caller.Method, tenant string, now time.Time) (string, error) {
	if !slices.ContainsFunc(c.Credentials, func(one caller.Credential) bool { return !one.Expired(now) }) && !m.Open {
		return c.Name + " has no credential that is in force; add one with: deputy caller rotate " + c.Name, nil
	}
	if err := anyone(c).May(m); err != nil {
		return err.Error(), nil //nolint:nilerr // it is the answer
	}
	if tenant == "" {
		return "", nil
	}
	stored, err := authz.EncodeID(bareID("tenant", tenant))
	if err != nil {
		return "", fmt.Errorf("--tenant %w", err)
	}
	if !c.Bounds.HasTenant(authz.TenantID(stored)) {
		return fmt.Sprintf("the tenant %s does not exist for %s, which is bound to %s", bareID("tenant", tenant), c.Name,
			authz.Words(outsideIDs(c.Bounds.Tenants.List()))), nil
	}
	return "", nil
}

// anyone is the caller while somebody calls, where it stands for people: each may call what another may.
func anyone(c *caller.Caller) *caller.Caller {
	if !c.Personal() {
		return c
	}
	return c.For(authz.Principal{Object: authz.Object{Type: authz.TypeUser, ID: "anyone"}})
}

// callerNamed finds a caller.
func callerNamed(content *file.Content, path, name string) (*caller.Caller, error) {
	var names []string
	for _, c := range content.Callers {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	if name == caller.ServiceName || name == caller.AdminName {
		return nil, fmt.Errorf("%s is the caller that the server's setting with that preshared key stands for, and is in no file", name)
	}
	there := didYouMean(name, names)
	switch {
	case there == "" && len(names) == 0:
		there = "; there are none"
	case there == "":
		there = "; there are " + authz.Words(names)
	}
	return nil, fmt.Errorf("%s has no caller %q%s", path, name, there)
}

// methodNamed finds a method by its name, with or without its service's.
func methodNamed(name string) (*caller.Method, error) {
	name = strings.TrimPrefix(name, "/")
	if m := caller.MethodOf("/" + name); m != nil {
		return m, nil
	}
	var short []string
	var found []*caller.Method
	for _, full := range slices.Sorted(maps.Keys(caller.Methods())) {
		m := caller.MethodOf(full)
		short = append(short, m.Name())
		if strings.HasSuffix(full, "/"+name) || strings.HasSuffix(full, "."+name) {
			found = append(found, m)
		}
	}
	for _, api := range []string{"/deputy.v1.", "/authzed.api.v1."} {
		among := slices.DeleteFunc(slices.Clone(found), func(m *caller.Method) bool { return !strings.HasPrefix(m.Full, api) })
		if len(among) == 1 {
			return among[0], nil
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		var full []string
		for _, m := range found {
			full = append(full, strings.TrimPrefix(m.Full, "/"))
		}
		return nil, fmt.Errorf("METHOD %q is the name of several methods: %s", name, either(full))
	}
	if hint := didYouMean(name[strings.LastIndexByte(name, '/')+1:], short); hint != "" {
		return nil, fmt.Errorf("METHOD %q is no method of the server%s", name, hint)
	}
	return nil, errors.New("METHOD " + fmt.Sprintf("%q", name) + " is no method of the server; docs/api.md lists them")
}
