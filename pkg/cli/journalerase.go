package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/journal"
	"github.com/deputyauth/deputy/pkg/journal/persons"
)

// journalErase is what `deputy journal erase` is told.
type journalErase struct {
	output, keyDir, tenant string
	allTenants, yes        bool
}

// newJournalErase builds `deputy journal erase`.
func newJournalErase(p *program) *cobra.Command {
	var e journalErase
	cmd := &cobra.Command{
		Use:   "erase PERSON",
		Short: "Erase a person from the journal by destroying the person's key",
		Long: `Destroy the key of PERSON in a tenant, or in all. Everything that records of a server with --journal-erasable
hold of that person is sealed with it: the id, the ids of the objects that the person acted on (of personal
types), reasons, open fields of caveat contexts, relationships, and the entries of the index. None of it
can be read afterwards, in no copy of the journal or of the data. The records stay, and all proofs hold.

It is run where the directory of keys is, and beside a running server: it holds at once. Without --yes it
only says how many keys there are. Nodes with key directories of their own are erased from one by one.
tenant:ID is the key of data in that tenant that belong to no single user.

Out of its reach: records that were exported or logged before, copies and snapshots of the directory of keys
itself, file systems and disks that keep overwritten data, and the graph: its relationships still name
the user until they are deleted. Records of calls without a tenant, such as suspensions and checks through
authzed.api.v1, have keys of their own: only --all-tenants destroys those.`,
		Example: `  deputy journal erase user:alice --all-tenants --key-dir /var/lib/deputy.keys --yes`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(_ *cobra.Command, args []string) error { return e.run(p, args[0]) },
	}
	flags := cmd.Flags()
	outputVar(flags, &e.output, formatJSON)
	flags.StringVar(&e.keyDir, "key-dir", "", "the journal's directory of keys")
	flags.StringVar(&e.tenant, "tenant", "", "the tenant in which the person is erased")
	flags.BoolVar(&e.allTenants, "all-tenants", false, "erase the person in all tenants, and in records without a tenant")
	flags.BoolVar(&e.yes, "yes", false, "destroy the keys; there is no way back")
	return cmd
}

// erased is what was done, as -o json prints it.
type erased struct {
	Person string `json:"person"`
	// Tenant is empty for all.
	Tenant    string `json:"tenant,omitempty"`
	Destroyed int    `json:"keysDestroyed"`
	// Found is how many keys there were.
	Found int `json:"keysFound"`
}

func (e *journalErase) run(p *program, text string) error {
	who, err := parseObject("PERSON", text)
	if err != nil {
		return err
	}
	isTenant := who.GetObjectType() == authz.TypeTenant
	switch {
	case e.keyDir == "":
		return errors.New("--key-dir is required: the directory with secret.key and persons.keys")
	case isTenant && (e.tenant != "" || e.allTenants):
		return errors.New("--tenant and --all-tenants are for users: PERSON names a tenant already")
	case !isTenant && (e.tenant == "") == !e.allTenants:
		return errors.New("one of --tenant and --all-tenants is required: a person has a key in each tenant")
	}
	person := persons.Person{Tenant: bareID("tenant", e.tenant), Type: who.GetObjectType(), ID: who.GetObjectId()}
	if isTenant {
		person = persons.Person{Tenant: who.GetObjectId()}
	}
	keys, err := journal.OpenKeys(e.keyDir, false)
	if err != nil {
		return fmt.Errorf("--key-dir: %w", err)
	}
	cfg := persons.Config{Dir: e.keyDir, Secret: keys.Secret(), ReadOnly: true}
	out := erased{Person: text, Tenant: person.Tenant}
	if out.Found, err = countKeys(cfg, person, e.allTenants); err != nil {
		return err
	}
	if e.yes {
		// Also where none was found: one that an earlier run has destroyed is made sure of.
		if out.Destroyed, err = persons.Erase(cfg, person, e.allTenants); err != nil {
			return err
		}
	}
	if e.output == formatJSON {
		return json.NewEncoder(p.Out).Encode(out)
	}
	w := tabwriter.NewWriter(p.Out, 0, 0, 2, ' ', 0)
	out.print(w, e.yes)
	return w.Flush()
}

// countKeys is how many keys there are of a person.
func countKeys(cfg persons.Config, person persons.Person, allTenants bool) (n int, err error) {
	keys, err := persons.Open(cfg)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	if allTenants {
		tags, err := keys.Tenants(person)
		return len(tags), err
	}
	_, err = keys.Key(keys.Tag(person))
	if errors.Is(err, persons.ErrErased) {
		return 0, nil
	}
	return 1, err
}

// print says what was done, and what was not.
func (e *erased) print(w io.Writer, yes bool) {
	where := "in tenant " + e.Tenant
	if e.Tenant == "" {
		where = "in all tenants"
	}
	switch {
	case !yes && e.Found == 0:
		row(w, e.Person+" has no key "+where+": no record is sealed with one. Nothing was done. What a server without --journal-erasable "+
			"records of a person is not sealed, and stays.")
	case !yes:
		row(w, fmt.Sprintf("%s has %s %s. Nothing was destroyed: --yes destroys them, and there is no way back.", e.Person, plural(e.Found, "key"), where))
	case e.Destroyed == 0:
		row(w, e.Person+" has no key "+where+": nothing was there to be destroyed.")
	default:
		verb := "were"
		if e.Destroyed == 1 {
			verb = "was"
		}
		row(w, fmt.Sprintf("%s is erased %s: %s %s destroyed, and nothing opens what was sealed.", e.Person, where, plural(e.Destroyed, "key"), verb))
		row(w, "The records stay, and every proof holds: deputy journal verify DIR.")
		row(w, "Not reached: earlier exports and logs, copies of the directory of keys, and relationships in the graph.")
	}
}
