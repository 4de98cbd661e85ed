package file

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"
	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// KeyPrefix begins every key that NewKey makes.
const KeyPrefix = "deputy_"

// NewKey returns a new preshared key, and what stands for it in a file. The key is "deputy_" and 64 hex digits (256 random bits), a shape by
// which scanners for secrets find keys that were left somewhere.
func NewKey() (key, digest string) {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	key = KeyPrefix + hex.EncodeToString(random)
	sum := sha256.Sum256([]byte(key))
	return key, digestPrefix + hex.EncodeToString(sum[:])
}

// Entry is a caller as it is written to a file. The zero value of a field is left out, but for those that are required.
type Entry struct {
	Name        string       `yaml:"name"`
	Roles       []string     `yaml:"roles,flow"`
	Tenants     Set          `yaml:"tenants"`
	Agents      Set          `yaml:"agents,omitempty"`
	Principals  Set          `yaml:"principals,omitempty"`
	Objects     Set          `yaml:"objects,omitempty"`
	IDPrefixes  Set          `yaml:"id_prefixes,omitempty"`
	AuthzedAPI  Set          `yaml:"authzed_api,omitempty"`
	Vouch       bool         `yaml:"vouch,omitempty"`
	Limits      Limits       `yaml:"limits,omitempty,flow"`
	Credentials []Credential `yaml:"credentials"`
}

// Limits are a caller's limits as they are written to a file. The zero value of a field is left out. Message is a size, such as 1MiB.
type Limits struct {
	Rate       int    `yaml:"rate,omitempty"`
	Burst      int    `yaml:"burst,omitempty"`
	Concurrent int    `yaml:"concurrent,omitempty"`
	Streams    int    `yaml:"streams,omitempty"`
	Message    string `yaml:"message,omitempty"`
	Weight     int    `yaml:"weight,omitempty"`
}

// Set is a list of names, or all of them.
type Set struct {
	All   bool
	Names []string
}

// IsZero reports whether it is neither; then a field is left out.
func (s Set) IsZero() bool { return !s.All && len(s.Names) == 0 }

// MarshalYAML is yaml.Marshaler's.
func (s Set) MarshalYAML() (any, error) {
	if s.All {
		return everything, nil
	}
	list := &yaml.Node{}
	err := list.Encode(s.Names)
	list.Style = yaml.FlowStyle
	return list, err
}

// AllPeople is what people says in a credential that stands for all people whose tokens are of an issuer.
const AllPeople = "all"

// Credential is a credential as it is written to a file. The zero value of a field is left out.
type Credential struct {
	ID      string `yaml:"id"`
	Key     string `yaml:"key,omitempty"`
	SPIFFE  string `yaml:"spiffe,omitempty"`
	DNS     string `yaml:"dns,omitempty"`
	Issuer  string `yaml:"issuer,omitempty"`
	Subject string `yaml:"subject,omitempty"`
	// People is AllPeople for a credential that stands for all people whose tokens are of the issuer.
	People  string    `yaml:"people,omitempty"`
	Created time.Time `yaml:"created,omitempty"`
	Expires time.Time `yaml:"expires,omitempty"`
}

// Document is a file that is being edited. What is not edited keeps its comments and its order; layout is normalized.
type Document struct {
	// Content is what the file says, without the edits.
	Content *Content

	name    string
	root    *yaml.Node
	callers *yaml.Node
}

// begin is what a file begins with that Edit makes.
const begin = `# Who may call the server, and what each caller may do: deputy caller --help, and docs/callers.md.
# Keys are here as digests only. Anyone who can write this file can let anybody in.
callers: []
`

// Edit changes a file of callers. A file that is not there is made, readable by its owner alone, if it may be. The file is replaced in one
// step, so that no server reads half of it, it keeps its permissions, and one that change refuses, or makes wrong, stays as it is. Others that
// edit it wait meanwhile: the lock is a file beside it, .NAME.lock. Where the path is a symbolic link, the file that it leads to is replaced.
func Edit(path string, mayMake bool, change func(*Document) error) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) && mayMake {
		target, err = path, nil
	}
	if err != nil {
		return &Problem{path, 0, "cannot be read: " + cause(err)}
	}
	unlock, err := lockedfile.MutexAt(filepath.Join(filepath.Dir(target), "."+filepath.Base(target)+".lock")).Lock()
	if err != nil {
		return &Problem{path, 0, "cannot be locked: " + cause(err)}
	}
	defer unlock()
	text, err := Read(target)
	if _, statErr := os.Lstat(target); errors.Is(statErr, fs.ErrNotExist) && mayMake {
		text, err = []byte(begin), nil
	}
	if err != nil {
		return err
	}
	d, err := document(path, text)
	if err != nil {
		return err
	}
	if err := change(d); err != nil {
		return err
	}
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(d.root), encoder.Close()); err != nil {
		return &Problem{path, 0, "cannot be encoded: " + err.Error()}
	}
	edited, err := Decode(path, b.Bytes())
	if wrong, ok := errors.AsType[*Problem](err); ok {
		return &Problem{path, 0, wrong.Message} // its line is one of the text that is not written
	}
	if err != nil {
		return err
	}
	if n := differing(d.Content, edited); n > 1 {
		return &Problem{path, 0, fmt.Sprintf("would have %d callers changed by an edit of one: it is written in a way that cannot be kept; edit it by hand", n)}
	}
	if err := replace(target, b.Bytes()); err != nil {
		return &Problem{path, 0, "cannot be written: " + cause(err)}
	}
	return nil
}

// differing counts the callers of one of two files that are not, or not the same, in the other one. Issuers that differ count, too.
func differing(was, is *Content) (n int) {
	all := map[string]*caller.Caller{}
	for _, c := range was.Callers {
		all[c.Name] = c
	}
	for _, c := range is.Callers {
		if !reflect.DeepEqual(all[c.Name], c) {
			n++
		}
		delete(all, c.Name)
	}
	if n += len(all); !reflect.DeepEqual(was.Issuers, is.Issuers) {
		n += 2
	}
	return n
}

// cause is an error without the path, which is named before it.
func cause(err error) string {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err
	}
	return err.Error()
}

// document reads a file that is right.
func document(name string, text []byte) (*Document, error) {
	content, err := Decode(name, text)
	if err != nil {
		return nil, err
	}
	root, err := parse(name, text)
	if err != nil {
		return nil, err
	}
	return &Document{Content: content, name: name, root: root, callers: valueOf(root.Content[0], "callers")}, nil
}

// replace writes a file beside another one, and puts it in its place.
func replace(path string, text []byte) error {
	was, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if was != nil {
		err = errors.Join(keepOwner(f, was), f.Chmod(was.Mode().Perm()))
	}
	if err == nil {
		_, err = f.Write(text)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// So that a revocation outlives a crash.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	_ = dir.Sync() // not every file system does that
	return dir.Close()
}

// valueOf returns a mapping's value, or nil.
func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// setValue sets a mapping's value, which is put at the end if it is new.
func setValue(mapping *yaml.Node, key string, value *yaml.Node) {
	if was := valueOf(mapping, key); was != nil {
		value.LineComment = was.LineComment
		*was = *value
		return
	}
	mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, value)
}

// add puts a value at the end of a list.
func add(list *yaml.Node, value any) error {
	one := &yaml.Node{}
	if err := one.Encode(value); err != nil {
		return err
	}
	if len(list.Content) == 0 {
		list.Style &^= yaml.FlowStyle
	}
	list.Content = append(list.Content, one)
	return nil
}

// find returns a caller of the file and its node. The error names the callers that there are.
func (d *Document) find(name string) (int, *yaml.Node, error) {
	var names []string
	for i, c := range d.Content.Callers {
		if c.Name == name {
			return i, d.callers.Content[i], nil
		}
		names = append(names, c.Name)
	}
	return 0, nil, &Problem{d.name, 0, fmt.Sprintf("has no caller %s%s", quoted(name), near(name, names))}
}

// near says which of the names was probably meant, or which there are.
func near(name string, names []string) string {
	if meant := authz.Nearest(name, names); meant != "" {
		return fmt.Sprintf("; did you mean %s?", meant)
	}
	if len(names) == 0 {
		return "; there are none"
	}
	return "; there are " + authz.Words(names)
}

// Add adds a caller at the end. Whether it is right is found out when the file is written.
func (d *Document) Add(e Entry) error {
	for _, c := range d.Content.Callers {
		if c.Name == e.Name {
			return &Problem{d.name, d.Content.lines[c].caller, fmt.Sprintf("there is a caller %s already; give it a new key with: deputy caller rotate %s, "+
				"or take it out first with: deputy caller revoke %s", e.Name, e.Name, e.Name)}
		}
	}
	return add(d.callers, e)
}

// AddCredential adds a credential to a caller. Without an id it is called by the kind and the first number that is free: key-1. It returns the
// id.
func (d *Document) AddCredential(name string, c Credential) (id string, err error) {
	i, node, err := d.find(name)
	if err != nil {
		return "", err
	}
	if c.ID == "" {
		c.ID = FreeID(c, d.Content.Callers[i].Credentials)
	}
	return c.ID, add(valueOf(node, "credentials"), c)
}

// ExpireKeys has the preshared keys of a caller end at a time, but for those that end sooner. It returns their ids.
func (d *Document) ExpireKeys(name string, at time.Time) (ids []string, err error) {
	i, node, err := d.find(name)
	if err != nil {
		return nil, err
	}
	for j, c := range d.Content.Callers[i].Credentials {
		if c.Key == [sha256.Size]byte{} || !c.Expires.IsZero() && c.Expires.Before(at) {
			continue
		}
		value := &yaml.Node{}
		if err := value.Encode(at); err != nil {
			return nil, err
		}
		setValue(valueOf(node, "credentials").Content[j], "expires", value)
		ids = append(ids, c.ID)
	}
	return ids, nil
}

// Revoke takes a credential out, or without one the caller. It returns the ids of the credentials that prove nothing any more.
func (d *Document) Revoke(name, credential string) (ids []string, err error) {
	i, node, err := d.find(name)
	if err != nil {
		return nil, err
	}
	for _, c := range d.Content.Callers[i].Credentials {
		ids = append(ids, c.ID)
	}
	if credential == "" {
		d.callers.Content = slices.Delete(d.callers.Content, i, i+1)
		return ids, nil
	}
	j := slices.Index(ids, credential)
	if j < 0 {
		return nil, &Problem{d.name, 0, fmt.Sprintf("the caller %s has no credential %s%s", name, quoted(credential), near(credential, ids))}
	}
	list := valueOf(node, "credentials")
	list.Content = slices.Delete(list.Content, j, j+1)
	return []string{credential}, nil
}

// FreeID returns the first id by the kind of a credential, key-1, that none of the others has, nor had if they were numbered in order.
func FreeID(c Credential, others []caller.Credential) string {
	kind := "key"
	switch {
	case c.SPIFFE != "":
		kind = "spiffe"
	case c.DNS != "":
		kind = "dns"
	case c.Issuer != "":
		kind = "token"
	}
	highest := 0
	for _, other := range others {
		if number, found := strings.CutPrefix(other.ID, kind+"-"); found {
			if n, err := strconv.Atoi(number); err == nil {
				highest = max(highest, n)
			}
		}
	}
	return fmt.Sprintf("%s-%d", kind, highest+1)
}
