package spicedb

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/authzed/authzed-go/proto/authzed/api/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/deputyauth/deputy/pkg/authz"
)

// Cursors are sealed on their way out and opened on their way in, everybody's. SpiceDB's own are unsigned, and are believed: a
// LookupResources cursor holds the index at which SpiceDB goes on in a list, which it does not compare with the list's
// length, in a goroutine that recovers from no panic. So one changed digit of a cursor could end the process. A cursor is good for
// the method that it came from, and for the caller that it was given to.
//
// ZedTokens are sealed for the callers whose rights say so. They hold when they were sealed, because a confined caller may
// read no snapshot that is older than a decision's may be.
//
//	sealed = base64url(HMAC-SHA256(key, what \x00 value)[:16]) "." value
//	what   = the method of a cursor \x00 the caller's name, or "ZedToken"
//	value  = SpiceDB's cursor, or unix nanoseconds in base 36 "." SpiceDB's token; either after its history, where one is known
//
// A token or cursor of another history of the primary is refused; see authz.Revision. Neither SpiceDB's tokens nor its cursors hold an "@".

const (
	// sealBytes is how much of the HMAC a seal carries.
	sealBytes = 16
	// tokenSeal is what is sealed where that is no method's cursor.
	tokenSeal = "ZedToken"
)

// sealer seals and opens under one key. It is safe for concurrent use.
type sealer struct {
	// hashes are keyed already, which is half of the work of a short text's seal.
	hashes sync.Pool
}

func newSealer(key []byte) *sealer {
	return &sealer{hashes: sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}}
}

// mac returns the HMAC of the parts with a zero byte between them.
func (s *sealer) mac(parts ...string) (mac [sealBytes]byte) {
	h, _ := s.hashes.Get().(hash.Hash)
	defer s.hashes.Put(h)
	h.Reset()
	var room [sha256.BlockSize]byte
	b := room[:0]
	for i, part := range parts {
		if i > 0 {
			b = append(b, 0)
		}
		b = append(b, part...)
	}
	h.Write(b)
	copy(mac[:], h.Sum(b[:0]))
	return mac
}

func (s *sealer) seal(what, value string) string {
	mac := s.mac(what, value)
	b := make([]byte, 0, base64.RawURLEncoding.EncodedLen(sealBytes)+1+len(value))
	b = append(base64.RawURLEncoding.AppendEncode(b, mac[:]), '.')
	return string(append(b, value...))
}

// unseal returns the value within a sealed one; ok is false for any other.
func (s *sealer) unseal(what, sealed string) (value string, ok bool) {
	_, value, found := strings.Cut(sealed, ".")
	return value, found && hmac.Equal([]byte(s.seal(what, value)), []byte(sealed))
}

func (s *sealer) sealToken(token string, at time.Time) string {
	return s.seal(tokenSeal, strconv.FormatInt(at.UnixNano(), 36)+"."+token)
}

func (s *sealer) unsealToken(sealed string) (token string, at time.Time, ok bool) {
	value, ok := s.unseal(tokenSeal, sealed)
	when, token, _ := strings.Cut(value, ".")
	nanoseconds, err := strconv.ParseInt(when, 36, 64)
	return token, time.Unix(0, nanoseconds), ok && err == nil
}

// cursors is what the cursors of the call's method and caller are sealed as. No caller's name holds a zero byte.
func (c *call) cursors() string { return c.route.path + "\x00" + c.rights.Name }

// sealed is a field of a request that holds what may be sealed: the fields that lead to it.
type sealed []protoreflect.FieldDescriptor

func (s sealed) name() string {
	names := make([]string, len(s))
	for i, f := range s {
		names[i] = string(f.Name())
	}
	return strings.Join(names, ".")
}

// sealedIn returns the fields of a request that hold cursors or ZedTokens.
func sealedIn(m protoreflect.MessageDescriptor) (found []sealed) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Message() == nil || f.IsList() || f.IsMap() {
			continue
		}
		switch f.Message().FullName() {
		case cursorType, tokenType:
			found = append(found, sealed{f})
		case consistencyType:
			for _, within := range sealedIn(f.Message()) {
				found = append(found, append(sealed{f}, within...))
			}
		}
	}
	return found
}

// beginHistory notes the history that the answers are of, unless the database becomes another one meanwhile.
func (c *call) beginHistory(ctx context.Context) error {
	if c.cfg.Histories == nil || c.history != "" {
		return nil
	}
	var err error
	if c.history, err = c.cfg.Histories.History(ctx); err != nil {
		return err
	}
	c.confirm = sync.OnceValue(func() bool {
		ctx, cancel := context.WithTimeout(ctx, confirmTime)
		defer cancel()
		now, err := c.cfg.Histories.HistoryNow(ctx)
		return err == nil && now == c.history
	})
	return nil
}

// confirmTime is how long an answer waits until the database has said which history it has. A write has taken place by then.
const confirmTime = 2 * time.Second

// inHistory marks a token or a cursor of the answer. All of an answer is read at one revision, or was written at once, so it is asked once.
func (c *call) inHistory(token string) string {
	switch {
	case c.confirm == nil:
		return token
	case !c.confirm():
		return authz.InHistory(authz.NoHistory, token).Token
	default:
		return authz.InHistory(c.history, token).Token
	}
}

// ofHistory refuses a revision of another history.
func (c *call) ofHistory(ctx context.Context, field string, r authz.Revision) error {
	if c.cfg.Histories == nil || r.History() == "" {
		return nil
	}
	// What this server knows may be a second old: the database may have been failed over since, and other servers may know that already.
	now, err := c.cfg.Histories.HistoryNow(ctx)
	switch {
	case err != nil:
		return err
	case now != r.History():
		return failure(codes.OutOfRange, authz.ReasonRevision, field,
			"is of another history of the primary than today's: it was failed over, restored or replaced since. Begin without it")
	}
	c.history = now
	return nil
}

// open opens what is sealed in a request, in its place.
func (c *call) open(ctx context.Context, request proto.Message) error {
	if err := c.beginHistory(ctx); err != nil {
		return err
	}
	for _, path := range c.route.sealed {
		m := request.ProtoReflect()
		for _, f := range path {
			if !m.Has(f) {
				m = nil
				break
			}
			m = m.Get(f).Message()
		}
		if m == nil {
			continue
		}
		if err := c.openOne(ctx, path.name(), m.Interface()); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) openOne(ctx context.Context, field string, m proto.Message) error {
	switch m := m.(type) {
	case *v1.Cursor:
		if m.GetToken() == "" {
			return nil
		}
		opened, ok := c.seals.unseal(c.cursors(), m.GetToken())
		if !ok {
			return failure(codes.InvalidArgument, authz.ReasonInvalidToken, field,
				"the cursor is not one that this server gave to this caller for this method; begin again without one")
		}
		// SpiceDB goes on at the revision that the cursor holds.
		place := authz.Revision{Token: opened}
		if err := c.ofHistory(ctx, field, place); err != nil {
			return err
		}
		m.Token = place.ZedToken()
		if c.rights.Bounds.Confined() {
			c.stamp = time.Unix(0, 0) // the cursor goes on at a revision whose age it does not tell
		}
	case *v1.ZedToken:
		if !c.rights.Seals || m.GetToken() == "" {
			return nil
		}
		opened, at, ok := c.seals.unsealToken(m.GetToken())
		if !ok {
			return failure(codes.InvalidArgument, authz.ReasonInvalidToken, field, "is not a token that this deployment issued to its callers")
		}
		revision := authz.Revision{Token: opened}
		if err := c.ofHistory(ctx, field, revision); err != nil {
			return err
		}
		m.Token = revision.ZedToken()
		if strings.HasSuffix(field, exactField) {
			// What is read at a snapshot is as old as that is, so that nobody keeps one by asking again.
			c.stamp = at
			if age := c.start.Sub(at); c.rights.Bounds.Confined() && c.cfg.SnapshotMaxAge > 0 && age > c.cfg.SnapshotMaxAge {
				return failure(codes.OutOfRange, authz.ReasonSnapshotTooOld, field,
					fmt.Sprintf("is older than the %s that a snapshot lasts", c.cfg.SnapshotMaxAge))
			}
		}
	}
	return nil
}

// exactField is the field by which a request asks for a snapshot.
const exactField = "at_exact_snapshot"
