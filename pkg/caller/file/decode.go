package file

import (
	"crypto/sha256"
	_ "embed" // for the schema
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	"github.com/deputyauth/deputy/pkg/caller/actor"
	"github.com/deputyauth/deputy/pkg/caller/person"
	"github.com/deputyauth/deputy/pkg/caller/token"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/pkg/smallfile"
)

// Schema is the JSON schema of a callers file, for editors and checks of configuration. It says what a schema can; Decode has the last word.
//
//go:embed callers.schema.json
var Schema string

// What a file may hold.
const (
	// MaxBytes is the length of a file.
	MaxBytes = 4 << 20
	// MaxCallers is how many callers may be in it.
	MaxCallers = 10_000
	// MaxCredentials is how many credentials a caller may have.
	MaxCredentials = 100
)

// Content is what a file says. It is immutable and safe for concurrent use.
type Content struct {
	// Callers are in the order of the file.
	Callers []*caller.Caller
	// Issuers are those whose tokens are accepted, and Actors how those among them name agents whose tokens do.
	Issuers []token.Issuer
	Actors  []actor.Issuer
	// People say how tokens of issuers name people, and how people consent by them.
	People []person.Issuer
	// Agents act with a token only, by stored id, and Prefixes are those whose ids begin so, as callers know them.
	Agents   authz.Names
	Prefixes authz.Prefixes

	file  string
	lines map[*caller.Caller]lines
}

// lines are where a caller and its credentials stand.
type lines struct {
	caller      int
	credentials []int
}

// Read returns the text of a file: no more than MaxBytes of a regular file. Errors are *Problem.
func Read(path string) ([]byte, error) {
	text, err := smallfile.Read(path, MaxBytes)
	if err != nil {
		if failed, ok := errors.AsType[*fs.PathError](err); ok {
			err = failed.Err
		}
		return nil, &Problem{path, 0, "cannot be read: " + err.Error()}
	}
	return text, nil
}

// Decode reads the text of a file of callers. name is the file's name: errors name it, and a relative jwks_file is looked for in its folder.
// Errors are *Problem.
func Decode(name string, text []byte) (*Content, error) {
	if len(text) > MaxBytes {
		return nil, &Problem{name, 0, fmt.Sprintf("is longer than %d bytes", MaxBytes)}
	}
	document, err := parse(name, text)
	if err != nil {
		return nil, err
	}
	d := &decoder{
		reader: reader{name}, content: &Content{file: name, lines: map[*caller.Caller]lines{}},
		names: map[string]bool{}, issuers: map[string]bool{}, noCallers: map[string]bool{}, holders: map[string]string{}, methods: caller.SpiceDBMethods(),
	}
	if err := d.file(document.Content[0]); err != nil {
		return nil, err
	}
	return d.content, nil
}

// Conflict returns a *Problem where a caller of the file has the name, or a credential, of a caller of a book; nil where none has.
func (c *Content) Conflict(book *caller.Book) error {
	if book == nil {
		return nil
	}
	for _, one := range c.Callers {
		at := c.lines[one]
		if slices.ContainsFunc(book.Callers, func(other *caller.Caller) bool { return other.Name == one.Name }) {
			return &Problem{c.file, at.caller, fmt.Sprintf("the name %s is a caller's of the server's own; choose another one", one.Name)}
		}
		for i, credential := range one.Credentials {
			if holder := book.Holder(credential); holder != nil {
				return &Problem{c.file, at.credentials[i], fmt.Sprintf("%s; leave it out here, or there",
					taken(one.Name, credential.ID, holder.Name+", one of the server's own callers"))}
			}
		}
	}
	return nil
}

func taken(name, credential, by string) string {
	return fmt.Sprintf("the credential %s of %s already proves that a call is from %s, and it can prove that of one caller only", credential, name, by)
}

// decoder reads one file.
type decoder struct {
	reader

	content *Content
	names   map[string]bool
	issuers map[string]bool
	// noCallers are the issuers whose tokens prove nobody's calls.
	noCallers map[string]bool
	// mapped are the templates that were read.
	mapped []actor.Mapped
	// unnamed are the actors of an issuer at which this server has no name.
	unnamed *yaml.Node
	// holders are the callers' names by their credentials.
	holders map[string]string
	methods []string
}

func (d *decoder) file(n *yaml.Node) error {
	top, err := d.mapping(n, "the file", []string{"callers"}, "issuers", "agents")
	if err != nil {
		return err
	}
	if issuers := top["issuers"]; issuers != nil {
		list, err := d.elements(issuers, "issuers", token.MaxIssuers)
		if err != nil {
			return err
		}
		for _, one := range list {
			if err := d.issuer(one); err != nil {
				return err
			}
		}
	}
	if err := d.agents(top["agents"]); err != nil {
		return err
	}
	list, err := d.elements(top["callers"], "callers", MaxCallers)
	if err != nil {
		return err
	}
	for _, one := range list {
		if err := d.caller(one); err != nil {
			return err
		}
	}
	if d.unnamed != nil && !slices.ContainsFunc(d.content.Callers, func(c *caller.Caller) bool { return len(c.ActorToken.Audiences) > 0 }) {
		return d.problem(d.unnamed, "actors has no audiences, and no caller has actor_audiences, so that no agent's token would be accepted: "+
			"write the names that this server has at the issuer")
	}
	return nil
}

func (d *decoder) issuer(n *yaml.Node) error {
	f, err := d.mapping(n, "an issuer", []string{"issuer", "algorithms"}, "audiences", "types", "jwks_url", "jwks_file", "leeway", "stale", "actors", "people")
	if err != nil {
		return err
	}
	i := token.Issuer{OtherPurposes: f["actors"] != nil || f["people"] != nil}
	for key, to := range map[string]*string{"issuer": &i.Issuer, "jwks_url": &i.JWKSURL, "jwks_file": &i.JWKSFile} {
		if f[key] != nil {
			if *to, err = d.text(f[key], key); err != nil {
				return err
			}
		}
	}
	for key, to := range map[string]*[]string{"audiences": &i.Audiences, "algorithms": &i.Algorithms, "types": &i.Types} {
		if f[key] != nil {
			if *to, err = d.texts(f[key], key, nil); err != nil {
				return err
			}
		}
	}
	if i.Leeway, err = d.lasts(f["leeway"], "leeway"); err != nil {
		return err
	}
	if i.Stale, err = d.lasts(f["stale"], "stale"); err != nil {
		return err
	}
	if err := i.Check(); err != nil {
		return d.atKey(n, err, f)
	}
	if d.issuers[i.Issuer] {
		return d.problem(f["issuer"], "the issuer %s is there twice; leave one of them out", quoted(i.Issuer))
	}
	d.issuers[i.Issuer], d.noCallers[i.Issuer] = true, len(i.Audiences) == 0
	if i.JWKSFile != "" && !filepath.IsAbs(i.JWKSFile) {
		i.JWKSFile = filepath.Join(filepath.Dir(d.reader.file), i.JWKSFile)
	}
	d.content.Issuers = append(d.content.Issuers, i)
	if err := d.actors(f["actors"], i.Issuer); err != nil {
		return err
	}
	return d.people(f["people"], i.Issuer)
}

// atKey returns what is wrong with an issuer, where its key stands: in the last of the mappings that has the key, and at n where none has.
func (d *decoder) atKey(n *yaml.Node, err error, in ...fields) error {
	if wrong, ok := errors.AsType[*token.IssuerError](err); ok {
		for _, f := range in {
			if f[wrong.Key] != nil {
				n = f[wrong.Key]
			}
		}
	}
	return d.problem(n, "%v", err)
}

// word is what names of callers and ids of credentials are: they stand in logs, and in the labels of figures.
var word = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName refuses what no caller can be called in a file. The error goes on after the words that name it.
func CheckName(name string) error {
	switch {
	case name == caller.ServiceName || name == caller.AdminName:
		return fmt.Errorf("is %s, which is the caller that the setting with that preshared key stands for; choose another name", name)
	case name == caller.NobodyName || name == caller.OtherName:
		return fmt.Errorf("is %s, under which metrics count calls of others; choose another name", name)
	case !word.MatchString(name):
		return fmt.Errorf(`is %s; a name is 1 to 64 letters, digits, ".", "_" and "-", and begins with a letter or a digit`, quoted(name))
	}
	return nil
}

func (d *decoder) caller(n *yaml.Node) error {
	f, err := d.mapping(n, "a caller", []string{"name", "roles", "tenants", "credentials"},
		"agents", "principals", "objects", "id_prefixes", "authzed_api", "vouch", "limits", "actor_token", "actor_audiences", "signals")
	if err != nil {
		return err
	}
	c := &caller.Caller{}
	if c.Name, err = d.text(f["name"], "name"); err != nil {
		return err
	}
	if err := CheckName(c.Name); err != nil {
		return d.problem(f["name"], "the caller's name %v", err)
	}
	if d.names[c.Name] {
		return d.problem(f["name"], "two callers are named %s; choose another name for one of them", c.Name)
	}
	d.names[c.Name] = true
	if _, err = d.texts(f["roles"], "roles", func(name string) error {
		if word := quoted(name); word != strconv.Quote(name) {
			return fmt.Errorf("%s is no role; the roles are %s", word, strings.Join(caller.RoleNames(), ", "))
		}
		role, err := caller.ParseRole(name)
		c.Roles |= caller.RolesOf(role)
		return err
	}); err != nil {
		return err
	}
	if c.Bounds, err = d.bounds(f); err != nil {
		return err
	}
	if n := f["authzed_api"]; n != nil {
		methods, all, err := d.set(n, "authzed_api", d.method)
		if err != nil {
			return err
		}
		c.SpiceDB = namesOf(methods, all)
	}
	if c.Limits, err = d.limits(f["limits"]); err != nil {
		return err
	}
	if c.ActorToken, err = d.actorToken(f); err != nil {
		return err
	}
	if c.Signals, err = d.signals(f["signals"]); err != nil {
		return err
	}
	switch transmits := c.Roles&caller.RolesOf(deputyv1.Role_ROLE_TRANSMITTER) != 0; {
	case transmits && c.Signals == nil:
		return d.problem(f["roles"], "a transmitter needs signals, which says whose security events it may send, and whom they can be about; "+
			"write that into the file")
	case !transmits && c.Signals != nil:
		return d.problem(f["signals"], "signals is for callers with the role transmitter: add the role, or leave signals out")
	}
	list, err := d.elements(f["credentials"], "credentials", MaxCredentials)
	if err != nil {
		return err
	}
	at := lines{caller: f["name"].Line}
	ids := map[string]bool{}
	for _, one := range list {
		credential, err := d.credential(one, c.Name)
		if err != nil {
			return err
		}
		if ids[credential.ID] {
			return d.problem(one, "two credentials of %s have the id %s; give one of them another id", c.Name, credential.ID)
		}
		ids[credential.ID] = true
		c.Credentials = append(c.Credentials, credential)
		at.credentials = append(at.credentials, one.Line)
	}
	if err := d.personal(f, c); err != nil {
		return err
	}
	d.content.lines[c] = at
	d.content.Callers = append(d.content.Callers, c)
	return nil
}

func (d *decoder) method(name string) error {
	if slices.Contains(d.methods, name) {
		return nil
	}
	if near := authz.Nearest(name, d.methods); near != "" {
		return fmt.Errorf("%s is no method of authzed.api.v1; did you mean %s?", quoted(name), near)
	}
	return fmt.Errorf("%s is no method of authzed.api.v1; its methods are %s", quoted(name), strings.Join(d.methods, ", "))
}

func namesOf(list []string, all bool) authz.Names {
	if all {
		return authz.AllNames()
	}
	return authz.NamesOf(list...)
}

// bounds reads the part of the graph that exists for a caller.
func (d *decoder) bounds(f fields) (*authz.Bounds, error) {
	b := &authz.Bounds{}
	for _, one := range []struct {
		key  string
		to   *authz.Names
		each func(text string) (string, error)
	}{
		{"tenants", &b.Tenants, storedID(authz.TypeTenant)},
		{"agents", &b.Agents, storedID(authz.TypeAgent)},
		{"principals", &b.Principals, principalType},
		{"objects", &b.Objects, objectType},
	} {
		var stored []string
		_, all, err := d.set(f[one.key], one.key, func(text string) error {
			name, err := one.each(text)
			stored = append(stored, name)
			return err
		})
		if err != nil {
			return nil, err
		}
		*one.to = namesOf(stored, all)
	}
	prefixes, all, err := d.set(f["id_prefixes"], "id_prefixes", checkPrefix)
	if err != nil {
		return nil, err
	}
	b.IDs = authz.PrefixesOf(prefixes...)
	if all {
		b.IDs = authz.AllPrefixes()
	}
	b.Vouch, err = d.flag(f["vouch"], "vouch")
	return b, err
}

// limits reads how much of the server a caller may take. What is left out is left to the server.
func (d *decoder) limits(n *yaml.Node) (l caller.Limits, err error) {
	if n == nil {
		return l, nil
	}
	f, err := d.mapping(n, "limits", nil, "rate", "burst", "concurrent", "streams", "message", "weight")
	if err != nil {
		return l, err
	}
	for _, one := range []struct {
		key  string
		to   *int
		read func(n *yaml.Node, what string) (int, error)
	}{
		{"rate", &l.Rate, d.number}, {"burst", &l.Burst, d.number}, {"concurrent", &l.Concurrent, d.number}, {"streams", &l.Streams, d.number},
		{"message", &l.Message, d.size}, {"weight", &l.Weight, d.number},
	} {
		if f[one.key] == nil {
			continue
		}
		if *one.to, err = one.read(f[one.key], one.key); err != nil {
			return l, err
		}
	}
	if key, err := l.Check(); err != nil {
		return l, d.problem(f[key], "%v", err)
	}
	return l, nil
}

// storedID returns how an id of a type is stored that a person wrote.
func storedID(objectType string) func(outside string) (string, error) {
	return func(outside string) (string, error) {
		if id, typed := strings.CutPrefix(outside, objectType+":"); typed {
			return "", fmt.Errorf("write the %s's id without its type: %s", objectType, quoted(id))
		}
		stored, err := authz.EncodeID(outside)
		if err != nil {
			return "", fmt.Errorf("the id %s %w", quoted(outside), err)
		}
		return stored, nil
	}
}

func principalType(name string) (string, error) {
	if name != authz.TypeUser && name != authz.TypeService {
		return "", fmt.Errorf("%s is no type of principals; these are %s and %s", quoted(name), authz.TypeUser, authz.TypeService)
	}
	return name, nil
}

// typeName is what SpiceDB takes as a definition's name.
var typeName = regexp.MustCompile(`^([a-z][a-z0-9_]{1,61}[a-z0-9]/)*[a-z][a-z0-9_]{1,62}[a-z0-9]$`)

func objectType(name string) (string, error) {
	if authz.IsCore(name) {
		return "", fmt.Errorf("%s is a type of the core schema, which other bounds are about; name types of domain objects: document", quoted(name))
	}
	if !typeName.MatchString(name) {
		return "", fmt.Errorf("%s cannot be a type of objects; write it as the schema does: document", quoted(name))
	}
	return name, nil
}

func checkPrefix(prefix string) error {
	switch {
	case len(prefix) > authz.MaxOutsideIDBytes:
		return fmt.Errorf("%s is longer than any id, which has %d bytes at most", quoted(prefix), authz.MaxOutsideIDBytes)
	case !utf8.ValidString(prefix):
		return errors.New("an element is not valid UTF-8")
	case strings.HasSuffix(prefix, "*"):
		return fmt.Errorf("%s ends in *, and every id that begins with a prefix is within; leave the * out", quoted(prefix))
	}
	return nil
}

// proofs are the ways in which a credential proves something.
var proofs = []string{"key", "spiffe", "dns", "issuer", "subject", "people"}

func (d *decoder) credential(n *yaml.Node, of string) (c caller.Credential, err error) {
	f, err := d.mapping(n, "a credential", []string{"id"}, slices.Concat(proofs, []string{"created", "expires"})...)
	if err != nil {
		return c, err
	}
	if c.ID, err = d.text(f["id"], "id"); err != nil {
		return c, err
	}
	if !word.MatchString(c.ID) {
		return c, d.problem(f["id"], `the id of a credential is 1 to 64 letters, digits, ".", "_" and "-", and begins with a letter or a digit`)
	}
	switch has := f.names(proofs...); {
	case len(has) == 1 && has[0] == "key":
		c.Key, err = d.digest(f["key"])
	case len(has) == 1 && has[0] == "spiffe":
		c.SPIFFE, err = d.spiffe(f["spiffe"])
	case len(has) == 1 && has[0] == "dns":
		c.DNS, err = d.dns(f["dns"])
	case len(has) == 2 && has[0] == "issuer" && has[1] == "subject":
		c.Issuer, c.Subject, err = d.subject(f["issuer"], f["subject"])
	case len(has) == 2 && has[0] == "issuer" && has[1] == "people":
		c.Issuer, c.People, err = d.all(f["issuer"], f["people"])
	default:
		err = d.problem(n, "the credential %s has %s; it needs exactly one of key, spiffe, dns, and issuer with subject or people", c.ID, orNothing(has))
	}
	if err != nil {
		return c, err
	}
	if c.Created, err = d.moment(f["created"], "created"); err != nil {
		return c, err
	}
	if c.Expires, err = d.moment(f["expires"], "expires"); err != nil {
		return c, err
	}
	proof := fmt.Sprintf("%x %q %q %q %q %v", c.Key, c.SPIFFE, c.DNS, c.Issuer, c.Subject, c.People)
	if by, found := d.holders[proof]; found {
		return c, d.problem(n, "%s; leave it out in one place", taken(of, c.ID, by))
	}
	d.holders[proof] = of
	return c, nil
}

func orNothing(names []string) string {
	if len(names) == 0 {
		return "nothing that proves anything"
	}
	return strings.Join(names, ", ")
}

// digestPrefix says how the digest of a key was made.
const digestPrefix = "sha256:"

// digest reads the digest of a key. What is none may be the key itself, and is not shown.
func (d *decoder) digest(n *yaml.Node) (sum [sha256.Size]byte, err error) {
	if n.Kind != yaml.ScalarNode {
		return sum, d.plain(n, "key", "!!str")
	}
	digits, found := strings.CutPrefix(n.Value, digestPrefix)
	b, err := hex.DecodeString(digits)
	if !found || err != nil || len(b) != len(sum) || digits != strings.ToLower(digits) {
		return sum, d.problem(n, `key has to be the SHA-256 digest of a key: "sha256:" and 64 hex digits in lower case. `+
			"If it is a key itself, everybody who read the file has it: take it out, and add a new one with: deputy caller rotate NAME")
	}
	if copy(sum[:], b); sum == ([sha256.Size]byte{}) {
		return sum, d.problem(n, "key is a digest of zeros only, which no key has")
	}
	return sum, d.plain(n, "key", "!!str")
}

// spiffe reads a SPIFFE id, in the one form that certificates have it in.
func (d *decoder) spiffe(n *yaml.Node) (string, error) {
	text, err := d.text(n, "spiffe")
	if err != nil {
		return "", err
	}
	if id, err := spiffeid.FromString(text); err != nil || id.Path() == "" || id.String() != text {
		return "", d.problem(n, "spiffe has to be the SPIFFE id of a workload, such as spiffe://example.org/billing, not %s", quoted(text))
	}
	return text, nil
}

// dnsName is a name of a host, as certificates have it: without wildcards, in lower case.
var dnsName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

func (d *decoder) dns(n *yaml.Node) (string, error) {
	text, err := d.text(n, "dns")
	if err != nil {
		return "", err
	}
	if len(text) > 253 || !dnsName.MatchString(text) {
		return "", d.problem(n, "dns has to be the name of a host in lower case, such as billing.internal, without *, not %s", quoted(text))
	}
	return text, nil
}

// knownIssuer refuses an issuer that is none of the file's.
func (d *decoder) knownIssuer(at *yaml.Node, name string) error {
	if d.issuers[name] {
		return nil
	}
	there := "there are none"
	if len(d.content.Issuers) > 0 {
		there = "they are "
		for i, one := range d.content.Issuers {
			if i > 0 {
				there += ", "
			}
			there += one.Issuer
		}
	}
	return d.problem(at, "issuer %s is none of the file's issuers; %s. Add it under issuers", quoted(name), there)
}

// maxSubject is the length of a token's subject.
const maxSubject = 1024

func (d *decoder) subject(issuer, subject *yaml.Node) (string, string, error) {
	from, err := d.from(issuer)
	if err != nil {
		return "", "", err
	}
	name, err := d.text(subject, "subject")
	if err == nil && len(name) > maxSubject {
		err = d.problem(subject, "subject is longer than %d bytes", maxSubject)
	}
	return from, name, err
}

// from reads the issuer of a credential.
func (d *decoder) from(issuer *yaml.Node) (string, error) {
	from, err := d.text(issuer, "issuer")
	if err != nil {
		return "", err
	}
	if err := d.knownIssuer(issuer, from); err != nil {
		return "", err
	}
	if d.noCallers[from] {
		return "", d.problem(issuer, "issuer %s has no audiences, so that no token of it proves who calls; "+
			"add the names that this server has there", quoted(from))
	}
	return from, nil
}
