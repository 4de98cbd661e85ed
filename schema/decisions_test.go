package schema_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/authzed/spicedb/pkg/tuple"
	"go.yaml.in/yaml/v3"
)

// decisions is decisions.yaml; the format stands at the top of that file.
type decisions struct {
	Schema        string  `yaml:"schema"`
	Relationships string  `yaml:"relationships"`
	Stories       []story `yaml:"stories"`
}

// story is one of its stories.
type story struct {
	Name  string `yaml:"name"`
	About string `yaml:"about"`
	Steps []step `yaml:"steps"`
}

// step is one step of a story: exactly one of its fields is set.
type step struct {
	Delegate *delegate `yaml:"delegate"`
	Start    *start    `yaml:"start"`
	End      string    `yaml:"end"`
	Revoke   string    `yaml:"revoke"`
	Suspend  string    `yaml:"suspend"`
	Resume   string    `yaml:"resume"`
	Write    []string  `yaml:"write"`
	Delete   []string  `yaml:"delete"`
	Check    *check    `yaml:"check"`
}

// delegate creates a delegation.
type delegate struct {
	Name        string   `yaml:"name"`
	Agent       string   `yaml:"agent"`
	Principal   string   `yaml:"principal"`
	Tenant      string   `yaml:"tenant"`
	GrantedBy   string   `yaml:"granted_by"`
	Parent      string   `yaml:"parent"`
	Scope       []string `yaml:"scope"`
	Unscoped    bool     `yaml:"unscoped"`
	AllowDirect bool     `yaml:"allow_direct"`
	TTL         string   `yaml:"ttl"`
}

// start starts a session.
type start struct {
	Name    string `yaml:"name"`
	Agent   string `yaml:"agent"`
	Targets []struct {
		Delegation string   `yaml:"delegation"`
		Principals []string `yaml:"principals"`
		Scope      []string `yaml:"scope"`
	} `yaml:"targets"`
	Frozen bool   `yaml:"frozen"`
	TTL    string `yaml:"ttl"`
}

// check asks for a decision.
type check struct {
	Agent      string         `yaml:"agent"`
	Session    string         `yaml:"session"`
	Delegation string         `yaml:"delegation"`
	For        string         `yaml:"for"`
	Tenant     string         `yaml:"tenant"`
	Do         string         `yaml:"do"`
	On         string         `yaml:"on"`
	Context    map[string]any `yaml:"context"`
	Expect     string         `yaml:"expect"`
	RefusedBy  string         `yaml:"refused_by"`
	Gate       string         `yaml:"gate"`
	Missing    []string       `yaml:"missing"`
}

// reader collects what the stories have named so far, and what is wrong with them.
type reader struct {
	t       *testing.T
	where   string
	members map[string]bool      // "type#relation or permission" of the schema
	known   map[string]bool      // "type:id" of the relationships, and "type"
	names   map[string]*delegate // delegations, leaves (without more) and sessions (nil)
	stopped map[string]bool      // what is suspended, and relationships taken away or added
}

// errorf reports a mistake with its place.
func (r *reader) errorf(format string, args ...any) {
	r.t.Helper()
	r.t.Errorf("%s: %s", r.where, fmt.Sprintf(format, args...))
}

// object asserts that an object is of a type that the schema has.
func (r *reader) object(s string) {
	r.t.Helper()
	if typ, id, ok := strings.Cut(s, ":"); !ok || id == "" || !r.known[typ] {
		r.errorf("%q is no object of the schema", s)
	}
}

// existing asserts that an object occurs in the relationships.
func (r *reader) existing(typ, id string) {
	r.t.Helper()
	if !r.known[typ+":"+id] {
		r.errorf("relationships.txt does not know %s:%s", typ, id)
	}
}

// grants asserts that each scope grant names a relation of its object's type.
func (r *reader) grants(scope []string) {
	r.t.Helper()
	for _, s := range scope {
		object, relation, _ := strings.Cut(s, "#")
		r.object(object)
		if typ, _, _ := strings.Cut(object, ":"); !r.members[typ+"#"+relation] {
			r.errorf("%q names no relation", s)
		}
	}
}

// ttl asserts that a duration is one.
func (r *reader) ttl(s string) {
	r.t.Helper()
	if _, err := time.ParseDuration(s); s != "" && err != nil {
		r.errorf("ttl: %v", err)
	}
}

// named asserts that an earlier step gave the name.
func (r *reader) named(name string) {
	r.t.Helper()
	if _, ok := r.names[name]; !ok {
		r.errorf("nothing is called %q yet", name)
	}
}

// name gives a name once.
func (r *reader) name(name string, d *delegate) {
	r.t.Helper()
	if _, taken := r.names[name]; name == "" || taken {
		r.errorf("the name %q is empty or taken", name)
	}
	r.names[name] = d
}

// step reads one step.
func (r *reader) step(s step) {
	set := 0
	if d := s.Delegate; d != nil {
		set++
		r.existing("agent", d.Agent)
		if d.Parent != "" {
			r.named(d.Parent)
		} else {
			r.existing("tenant", d.Tenant)
			r.object(strings.SplitN(d.Principal, "#", 2)[0])
		}
		if d.Unscoped == (len(d.Scope) > 0) {
			r.errorf("%s needs either a scope or unscoped", d.Name)
		}
		r.grants(d.Scope)
		r.ttl(d.TTL)
		r.name(d.Name, d)
	}
	if st := s.Start; st != nil {
		set++
		r.existing("agent", st.Agent)
		r.ttl(st.TTL)
		r.name(st.Name, nil)
		for _, target := range st.Targets {
			r.named(target.Delegation)
			r.grants(target.Scope)
			d := r.names[target.Delegation]
			if d == nil {
				r.errorf("a session is started under %q, which is no delegation with a principal", target.Delegation)
				continue
			}
			principals := target.Principals
			if len(principals) == 0 {
				principals = []string{d.Principal}
			}
			for _, p := range principals {
				r.name(st.Name+"/"+d.Tenant+"/"+p, nil)
			}
		}
	}
	for _, name := range []string{s.End, s.Revoke} {
		if name != "" {
			set++
			r.named(name)
		}
	}
	if s.Suspend != "" {
		set++
		r.object(s.Suspend)
		r.stopped[s.Suspend] = true
	}
	if s.Resume != "" {
		set++
		delete(r.stopped, s.Resume)
	}
	for i, rels := range [][]string{s.Write, s.Delete} {
		if len(rels) > 0 {
			set++
		}
		for _, text := range rels {
			// A delegation goes by its name, which is an id as well.
			if _, err := tuple.ParseV1Rel(text); err != nil {
				r.errorf("%v", err)
			}
			// The same relationship written and deleted cancel each other out.
			if done := []string{"written ", "deleted "}[1-i] + text; r.stopped[done] {
				delete(r.stopped, done)
			} else {
				r.stopped[[]string{"written ", "deleted "}[i]+text] = true
			}
		}
	}
	if s.Check != nil {
		set++
		r.check(*s.Check)
	}
	if set != 1 {
		r.errorf("%d kinds of step in one", set)
	}
}

// check reads one expectation.
func (r *reader) check(c check) {
	r.existing("agent", c.Agent)
	for _, via := range []string{c.Session, c.Delegation} {
		if via != "" {
			r.named(via)
		}
	}
	if c.Session == "" && c.Delegation == "" && (c.For == "" || c.Tenant == "") {
		r.errorf("acting by agent alone needs a principal and a tenant")
	}
	r.object(c.On)
	if typ, _, _ := strings.Cut(c.On, ":"); !r.members[typ+"#"+c.Do] {
		r.errorf("%s has no %s", typ, c.Do)
	}
	refused := c.RefusedBy != "" || c.Gate != ""
	switch c.Expect {
	case "HAS_PERMISSION":
		if refused || len(c.Missing) > 0 {
			r.errorf("more is expected than HAS_PERMISSION has")
		}
	case "CONDITIONAL_PERMISSION":
		if refused || len(c.Missing) == 0 || !slices.IsSorted(c.Missing) {
			r.errorf("a conditional answer names what is missing, sorted, and nothing else")
		}
	case "NO_PERMISSION":
		gates := []string{"session", "delegation", "agent", "principal", "tenant", "scope", "baseline"}
		if !slices.Contains([]string{"ACTOR", "OBJECT"}, c.RefusedBy) || !slices.Contains(gates, c.Gate) || len(c.Missing) > 0 {
			r.errorf("a refusal names its side and its gate, and nothing else")
		}
	default:
		r.errorf("expect %q", c.Expect)
	}
}

// TestSupportDeskDecisions reads decisions.yaml strictly: every name, object, relation and permission in
// it has to exist, every story undoes what it changed, and every kind of answer occurs.
func TestSupportDeskDecisions(t *testing.T) {
	decoder := yaml.NewDecoder(strings.NewReader(file(t, "decisions.yaml")))
	decoder.KnownFields(true)
	var all decisions
	if err := decoder.Decode(&all); err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, members: map[string]bool{}, known: map[string]bool{}, names: map[string]*delegate{}, stopped: map[string]bool{}}
	for _, def := range compile(t, file(t, all.Schema)).ObjectDefinitions {
		r.known[def.Name] = true
		for _, rel := range def.Relation {
			r.members[def.Name+"#"+rel.Name] = true
		}
	}
	if all.Relationships != "relationships.txt" {
		t.Errorf("relationships: %q", all.Relationships)
	}
	for _, rel := range relationships(t) {
		r.known[tuple.V1StringObjectRef(rel.Resource)] = true
	}
	answers := map[string]bool{}
	for _, s := range all.Stories {
		for i, step := range s.Steps {
			r.where = fmt.Sprintf("%s, step %d", s.Name, i+1)
			r.step(step)
			if c := step.Check; c != nil {
				answers[c.Expect+" "+c.RefusedBy+" "+c.Gate] = true
			}
		}
		r.where = s.Name
		for left := range r.stopped {
			r.errorf("leaves behind: %s", left)
		}
	}
	for _, want := range []string{
		"HAS_PERMISSION  ", "CONDITIONAL_PERMISSION  ",
		"NO_PERMISSION ACTOR session", "NO_PERMISSION ACTOR delegation", "NO_PERMISSION ACTOR agent",
		"NO_PERMISSION ACTOR principal", "NO_PERMISSION ACTOR tenant", "NO_PERMISSION OBJECT agent",
		"NO_PERMISSION OBJECT principal", "NO_PERMISSION OBJECT tenant", "NO_PERMISSION OBJECT scope",
		"NO_PERMISSION OBJECT baseline",
	} {
		if !answers[want] {
			t.Errorf("no story ends in %s", want)
		}
	}
}
