package notation

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Error says what is wrong with a text, and where.
type Error struct {
	// Column is where in the text the wrong part begins, in characters from 1.
	Column  int
	Message string
}

// Error returns the message, which names the wrong part.
func (e *Error) Error() string { return e.Message }

// What SpiceDB's API takes for names.
var (
	typeName     = regexp.MustCompile(`^([a-z][a-z0-9_]{1,61}[a-z0-9]/)*[a-z][a-z0-9_]{1,62}[a-z0-9]$`)
	relationName = regexp.MustCompile(`^[a-z][a-z0-9_]{1,62}[a-z0-9]$`)
	caveatName   = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9/_|-]{0,127}$`)
)

const (
	shape    = "TYPE:ID#RELATION@TYPE:ID"
	nameHint = "a name has 3 to 64 lower-case letters, digits and underscores, and begins with a letter"
)

// Parse reads one relationship. The subject's relation may be left out or be "...", which is the same. Errors are *Error.
func Parse(text string) (tuple.Relationship, error) {
	p := &parser{text: text}
	var r tuple.Relationship
	for _, step := range []func(*tuple.Relationship) error{p.resource, p.subject, p.caveat, p.expiration, p.end} {
		if err := step(&r); err != nil {
			if found := second.FindStringSubmatchIndex(text); found != nil {
				err = p.failf(found[2], "a second relationship begins at %q: write one a line", Shorten(text[found[2]:]))
			}
			return tuple.Relationship{}, err
		}
	}
	return r, nil
}

// second finds a relationship behind another one and a space.
var second = regexp.MustCompile(`^\S+:\S+#\S+@\S+\s+([a-z][a-z0-9_/]*:\S+#\S+@)`)

// parser reads a text from left to right.
type parser struct {
	text string
	// at is the byte that is read next.
	at int
}

// failf is an error at a byte of the text.
func (p *parser) failf(at int, format string, args ...any) error {
	return &Error{Column: utf8.RuneCountInString(p.text[:at]) + 1, Message: fmt.Sprintf(format, args...)}
}

// until takes what comes before the first of some characters, and whether one of them comes. It leaves the character.
func (p *parser) until(ends string) (part string, found bool) {
	rest := p.text[p.at:]
	n := strings.IndexAny(rest, ends)
	if n < 0 {
		p.at = len(p.text)
		return rest, false
	}
	p.at += n
	return rest[:n], true
}

// named takes a name that ends before one of some characters, or with the text if it may.
func (p *parser) named(what, ends string, mayEnd bool, name *regexp.Regexp, example string) (string, error) {
	from := p.at
	text, found := p.until(ends)
	switch {
	case !found && !mayEnd:
		return "", p.failf(from, "%q is not followed by %q: a relationship is %s, such as %s",
			Shorten(text), ends[:1], shape, "document:plan#viewer@user:alice")
	case !name.MatchString(text):
		return "", p.failf(from, "%q is not the name of a %s: %s", Shorten(text), what, example)
	}
	return text, nil
}

// id takes an id as it is stored.
func (p *parser) id(ends string, mayEnd, wildcard bool) (string, error) {
	from := p.at
	text, found := p.until(ends)
	switch {
	case !found && !mayEnd:
		return "", p.failf(from, "the id %q is not followed by %q: a relationship is %s, such as %s",
			Shorten(text), ends[:1], shape, "document:plan#viewer@user:alice")
	case text == "*" && wildcard, authz.IsStoredID(text):
		return text, nil
	case text == "*":
		return "", p.failf(from, "the resource's id is *, which stands for all subjects of a type: name one resource")
	}
	stored, err := authz.EncodeID(text)
	if err != nil {
		return "", p.failf(from, "the id %q %v", Shorten(text), err)
	}
	return "", p.failf(from, "the id %q has characters that SpiceDB does not store: Deputy stores it as %s", Shorten(text), Shorten(stored))
}

func (p *parser) resource(r *tuple.Relationship) (err error) {
	if r.Resource.ObjectType, err = p.named("type", ":", false, typeName, nameHint); err != nil {
		return err
	}
	p.at++
	if r.Resource.ObjectID, err = p.id("#", false, false); err != nil {
		return err
	}
	p.at++
	if r.Resource.Relation, err = p.named("relation", "@", false, relationName, nameHint); err != nil {
		return err
	}
	p.at++
	return nil
}

func (p *parser) subject(r *tuple.Relationship) (err error) {
	if r.Subject.ObjectType, err = p.named("type", ":", false, typeName, nameHint); err != nil {
		return err
	}
	p.at++
	if r.Subject.ObjectID, err = p.id("#[", true, true); err != nil {
		return err
	}
	r.Subject.Relation = tuple.Ellipsis
	if !strings.HasPrefix(p.text[p.at:], "#") {
		return nil
	}
	p.at++
	if rest := p.text[p.at:]; rest == tuple.Ellipsis || strings.HasPrefix(rest, tuple.Ellipsis+"[") {
		p.at += len(tuple.Ellipsis)
		return nil
	}
	r.Subject.Relation, err = p.named("relation", "[", true, relationName, nameHint)
	return err
}

// expires is how the brackets with an expiration begin. A caveat may have that name too: its context begins with a brace.
const expires = "[expiration:"

func (p *parser) caveat(r *tuple.Relationship) error {
	rest := p.text[p.at:]
	if !strings.HasPrefix(rest, "[") || strings.HasPrefix(rest, expires) && !strings.HasPrefix(rest, expires+"{") {
		return nil
	}
	p.at++
	name, err := p.named("caveat", ":]", true, caveatName, "a name has up to 128 letters, digits and characters of _/|-")
	if err != nil {
		return err
	}
	c := &core.ContextualizedCaveat{CaveatName: name}
	if strings.HasPrefix(p.text[p.at:], ":") {
		p.at++
		fields, n, err := decode(p.text[p.at:])
		if err == nil && len(fields) > 0 { // an empty context is none
			c.Context, err = asStruct(fields)
		}
		if err != nil {
			return p.failf(p.at, "the context of the caveat %s: %v", name, err)
		}
		p.at += n
	}
	if !strings.HasPrefix(p.text[p.at:], "]") {
		return p.failf(p.at, `the caveat %s is not closed by "]": it is [%s] or [%s:{"parameter": value}]`, name, name, name)
	}
	p.at++
	r.OptionalCaveat = c
	return nil
}

func (p *parser) expiration(r *tuple.Relationship) error {
	if !strings.HasPrefix(p.text[p.at:], expires) {
		return nil
	}
	from := p.at + len(expires)
	p.at = from
	text, found := p.until("]")
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || !found || timestamppb.New(at).CheckValid() != nil {
		return p.failf(from, "%q is not a time: an expiration is such as [expiration:2027-01-31T18:00:00Z]", Shorten(text))
	}
	p.at++
	at = at.UTC()
	r.OptionalExpiration = &at
	return nil
}

func (p *parser) end(*tuple.Relationship) error {
	if rest := p.text[p.at:]; rest != "" {
		return p.failf(p.at, "%q is left over: after the subject come a caveat in brackets and an expiration, each at most once", Shorten(rest))
	}
	return nil
}

// Shorten cuts a text that is quoted in a message.
func Shorten(text string) string {
	const most = 120
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// ColumnOf is the column of an error of Parse; 1 for any other.
func ColumnOf(err error) int {
	if at, ok := errors.AsType[*Error](err); ok {
		return at.Column
	}
	return 1
}
