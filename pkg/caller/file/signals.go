package file

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// signals reads which security events a caller may transmit; nil where it says nothing of them.
func (d *decoder) signals(n *yaml.Node) (*caller.Signals, error) {
	if n == nil {
		return nil, nil //nolint:nilnil // most callers transmit none
	}
	f, err := d.mapping(n, "signals", []string{"issuer", "audiences", "subjects"}, "kinds", "max_subjects")
	if err != nil {
		return nil, err
	}
	s := &caller.Signals{MaxSubjects: caller.DefaultMaxSubjects, Kinds: authz.AllNames(), Subjects: map[string]caller.SubjectName{}}
	if s.Issuer, err = d.text(f["issuer"], "issuer"); err != nil {
		return nil, err
	}
	if err := d.knownIssuer(f["issuer"], s.Issuer); err != nil {
		return nil, err
	}
	if s.Audiences, err = d.texts(f["audiences"], "audiences", nil); err != nil {
		return nil, err
	}
	if f["kinds"] != nil {
		kinds, all, err := d.set(f["kinds"], "kinds", func(name string) error {
			if !slices.Contains(caller.SignalKinds, name) {
				return fmt.Errorf("%s is no event that can take access away; these are %s", quoted(name), strings.Join(caller.SignalKinds, ", "))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		s.Kinds = namesOf(kinds, all)
	}
	if f["max_subjects"] != nil {
		if s.MaxSubjects, err = d.number(f["max_subjects"], "max_subjects"); err != nil {
			return nil, err
		}
		if s.MaxSubjects < 1 || s.MaxSubjects > caller.MostSubjects {
			return nil, d.problem(f["max_subjects"], "max_subjects has to be 1 to %d, not %d", caller.MostSubjects, s.MaxSubjects)
		}
	}
	return s, d.subjects(f["subjects"], s)
}

// member is a member of a subject, as transmitters name them.
var member = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// subjects reads what the members of a subject name. Their keys are the transmitter's, so they are not known here.
func (d *decoder) subjects(n *yaml.Node, s *caller.Signals) error {
	if err := d.plain(n, "subjects", "!!map"); err != nil {
		return err
	}
	if len(n.Content) == 0 || len(n.Content) > 2*caller.MaxSubjectMembers {
		return d.problem(n, "subjects has to be a mapping of 1 to %d members of a subject, such as user: user:{id}", caller.MaxSubjectMembers)
	}
	for i := 0; i < len(n.Content); i += 2 {
		name, err := d.text(n.Content[i], "a member of subjects")
		if err != nil {
			return err
		}
		if !member.MatchString(name) || name == "format" {
			return d.problem(n.Content[i], "%s is no member of a subject, such as user, application or tenant", quoted(name))
		}
		if _, twice := s.Subjects[name]; twice {
			return d.problem(n.Content[i], "%s is there twice; leave one of them out", name)
		}
		text, err := d.text(n.Content[i+1], name)
		if err != nil {
			return err
		}
		if s.Subjects[name], err = caller.ParseSubjectName(text); err != nil {
			return d.problem(n.Content[i+1], "%s %v", name, err)
		}
	}
	return nil
}
