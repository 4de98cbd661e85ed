package token

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
)

// What a token can be at most.
const (
	maxToken = 8 << 10
	// maxDepth is how deep objects and arrays lie in one another.
	maxDepth = 16
)

// unverified is what is read of a token before its signature has been verified: what finds the issuer and the key, and nothing else.
type unverified struct {
	raw                 string
	issuer              string
	algorithm, typ, kid string
	// members are the payload's. Nobody but parse looks at them before the signature has been verified.
	members map[string]json.RawMessage
}

// forbidden are the header parameters that a token must not have: those that bring a key or say where one is, which would not be the issuer's
// (RFC 8725, section 3.10), and those that change what the signature is of. Parameters that are not known are not looked at.
var forbidden = []string{"jwk", "jku", "x5c", "x5u", "crit", "b64", "zip", "enc"}

// parse reads a token in JWS Compact Serialization (RFC 7515, section 7.1), of so many bytes at most.
func parse(raw string, most int) (unverified, error) {
	t := unverified{raw: raw}
	if len(raw) > most {
		return t, refuse("has %d bytes; it can have %d", len(raw), most)
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return t, refuse("is not a signed JSON Web Token: that has three parts, with points between them")
	}
	header, err := part(parts[0])
	if err != nil {
		return t, refuse("cannot be read: its header %w", err)
	}
	if t.members, err = part(parts[1]); err != nil {
		return t, refuse("cannot be read: its payload %w", err)
	}
	if _, err := decode(parts[2]); err != nil {
		return t, refuse("cannot be read: its signature %w", err)
	}
	for _, name := range forbidden {
		if _, has := header[name]; has {
			return t, refuse("has %q in its header, which is not accepted", name)
		}
	}
	var typed bool
	if t.algorithm, err = text(header, "alg"); err != nil {
		return t, refuse(`has no usable "alg" in its header: it %w`, err)
	}
	if t.kid, err = text(header, "kid"); err != nil {
		return t, refuse(`has no usable "kid" in its header, which says with which key it is signed: it %w`, err)
	}
	if _, typed = header["typ"]; typed {
		if t.typ, err = text(header, "typ"); err != nil {
			return t, refuse(`has no usable "typ" in its header: it %w`, err)
		}
	} else {
		t.typ = PlainType
	}
	if t.issuer, err = text(t.members, "iss"); err != nil {
		return t, refuse(`has no usable "iss": it %w`, err)
	}
	return t, nil
}

// admits refuses what tokens of the issuer do not look like that may have these types.
func (i Issuer) admits(t unverified, types []string) error {
	if !slices.Contains(i.Algorithms, t.algorithm) {
		return refuse("is signed with the algorithm %.20q, and %s's may be signed with %s", t.algorithm, i.Issuer, strings.Join(i.Algorithms, ", "))
	}
	if !slices.ContainsFunc(types, func(typ string) bool { return mediaType(typ) == mediaType(t.typ) }) {
		return refuse("is of the type %.100q, and %s's may be %s", t.typ, i.Issuer, strings.Join(types, ", "))
	}
	return nil
}

// signedBy verifies the signature.
func (t unverified) signedBy(k *key) error {
	// go-jose decodes the parts once more. They are what parse has read: base64 that reads in one way only, and JSON without duplicates.
	jws, err := jose.ParseSignedCompact(t.raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(t.algorithm)})
	if err != nil {
		return refuse("cannot be read as a signed one")
	}
	if _, err = jws.Verify(k.public); err != nil {
		return refuse("is not signed with the key %q of its issuer, or was changed afterwards", k.id)
	}
	return nil
}

// strict decodes base64url without padding, whose last bits are zero. It skips ends of lines, which decode does not.
var strict = base64.RawURLEncoding.Strict()

// decode decodes what has one encoding only, so that a token cannot be written in two ways. The error goes on after the words that name what is
// encoded.
func decode(encoded string) ([]byte, error) {
	decoded, err := strict.DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return nil, errors.New("is not base64url without padding")
	}
	return decoded, nil
}

// part decodes a part that is a JSON object. The error goes on after the words that name the part.
func part(encoded string) (map[string]json.RawMessage, error) {
	decoded, err := decode(encoded)
	if err != nil {
		return nil, err
	}
	return object(decoded)
}

// object reads a JSON object (RFC 8259) of which every reader makes the same: whose names are unique at every depth, also where case is not
// told apart, as by readers in Go. The error goes on after the words that name the object.
func object(of []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(of) || !json.Valid(of) { // which leaves nothing after it but blanks
		return nil, errors.New("is not JSON")
	}
	if err := unique(json.NewDecoder(bytes.NewReader(of)), 0); err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(of, &members); err != nil || members == nil {
		return nil, errors.New("is not a JSON object")
	}
	return members, nil
}

// unique reads one valid value, and refuses names that come twice in an object, and what lies too deep.
func unique(from *json.Decoder, depth int) error {
	from.UseNumber() // a number that no float64 holds is nobody's business here
	first, err := from.Token()
	if err != nil {
		return errors.New("is not JSON")
	}
	opened, nested := first.(json.Delim)
	if !nested {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("has objects or arrays that lie more than %d deep", maxDepth)
	}
	names := map[string]bool{}
	for from.More() {
		if opened == '{' {
			name, err := from.Token()
			if err != nil {
				return errors.New("is not JSON")
			}
			folded := strings.ToLower(strings.ToUpper(fmt.Sprint(name)))
			if names[folded] {
				return fmt.Errorf("has the name %.40q twice", fmt.Sprint(name))
			}
			names[folded] = true
		}
		if err := unique(from, depth+1); err != nil {
			return err
		}
	}
	if _, err = from.Token(); err != nil { // what closes it
		return errors.New("is not JSON")
	}
	return nil
}

// text reads a member that is a string and not empty. The error goes on after "it".
func text(members map[string]json.RawMessage, name string) (string, error) {
	raw, has := members[name]
	var s string
	switch {
	case !has:
		return "", errors.New("is missing")
	case raw[0] != '"' || json.Unmarshal(raw, &s) != nil:
		return "", errors.New("is not a string")
	case s == "":
		return "", errors.New("is empty")
	case strings.ContainsRune(s, utf8.RuneError):
		// It is also what half a surrogate pair is read as, whichever half: two texts would be one.
		return "", errors.New("has U+FFFD, which stands for what is no character")
	case len(s) > maxText:
		return "", fmt.Errorf("has %d bytes; it can have %d", len(s), maxText)
	}
	return s, nil
}
