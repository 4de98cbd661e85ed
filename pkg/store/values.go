package store

import (
	"encoding/binary"
	"fmt"
	"time"

	core "github.com/authzed/spicedb/pkg/proto/core/v1"
	"github.com/authzed/spicedb/pkg/tuple"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A row's value begins with a byte of flags that say what follows, in this order:
//
//	flagGone        nothing: from this version on the row is not there
//	flagCaveat      name, context (a google.protobuf.Struct): each a length and its bytes
//	flagExpiration  seconds since 1970 (zigzag), nanoseconds
//	flagIntegrity   key id, hash: each a length and its bytes; seconds (zigzag), nanoseconds
//
// Numbers are varints. The most common value, a row with none of these, is empty.
const (
	flagGone byte = 1 << iota
	flagCaveat
	flagExpiration
	flagIntegrity
)

// gone is the value of a row that is not there. It is never changed.
var gone = []byte{flagGone}

// isGone reports whether a value says that its row, or record, is not there.
func isGone(value []byte) bool { return len(value) > 0 && value[0]&flagGone != 0 }

// appendValue appends the value of a relationship. Equal relationships have equal values.
func appendValue(dst []byte, rel tuple.Relationship) ([]byte, error) {
	var flags byte
	if rel.OptionalCaveat != nil && rel.OptionalCaveat.GetCaveatName() != "" {
		flags |= flagCaveat
	}
	if rel.OptionalExpiration != nil {
		flags |= flagExpiration
	}
	if rel.OptionalIntegrity != nil {
		flags |= flagIntegrity
	}
	if flags == 0 {
		return dst, nil
	}
	dst = append(dst, flags)
	if flags&flagCaveat != 0 {
		dst = appendBytes(dst, []byte(rel.OptionalCaveat.GetCaveatName()))
		given, err := proto.MarshalOptions{Deterministic: true}.Marshal(rel.OptionalCaveat.GetContext())
		if err != nil {
			return nil, fmt.Errorf("store: the context of caveat %s: %w", rel.OptionalCaveat.GetCaveatName(), err)
		}
		dst = appendBytes(dst, given)
	}
	if flags&flagExpiration != 0 {
		dst = appendTime(dst, *rel.OptionalExpiration)
	}
	if flags&flagIntegrity != 0 {
		dst = appendBytes(dst, []byte(rel.OptionalIntegrity.GetKeyId()))
		dst = appendBytes(dst, rel.OptionalIntegrity.GetHash())
		dst = appendTime(dst, rel.OptionalIntegrity.GetHashedAt().AsTime())
	}
	return dst, nil
}

// readValue fills in what a row's value says. Errors: the value is malformed, so the store is damaged.
func readValue(value []byte, rel *tuple.Relationship) error {
	if len(value) == 0 {
		return nil
	}
	flags, d := value[0], decoder{rest: value[1:]}
	if flags&flagGone != 0 || flags&^(flagCaveat|flagExpiration|flagIntegrity) != 0 {
		return damaged("a row with flags %08b", flags)
	}
	if flags&flagCaveat != 0 {
		name, given := string(d.bytes()), &structpb.Struct{}
		if err := proto.Unmarshal(d.bytes(), given); err != nil {
			return damaged("the context of a caveat: %v", err)
		}
		rel.OptionalCaveat = &core.ContextualizedCaveat{CaveatName: name, Context: given}
	}
	if flags&flagExpiration != 0 {
		at := d.time()
		rel.OptionalExpiration = &at
	}
	if flags&flagIntegrity != 0 {
		rel.OptionalIntegrity = &core.RelationshipIntegrity{
			KeyId: string(d.bytes()), Hash: append([]byte{}, d.bytes()...), HashedAt: timestamppb.New(d.time()),
		}
	}
	return d.done()
}

// expirationOf reads when a row expires; ok is false if it does not.
func expirationOf(value []byte) (at time.Time, ok bool, err error) {
	if len(value) == 0 || value[0]&flagExpiration == 0 {
		return time.Time{}, false, nil
	}
	d := decoder{rest: value[1:]}
	if value[0]&flagCaveat != 0 {
		d.bytes()
		d.bytes()
	}
	at = d.time()
	if d.failed {
		return time.Time{}, false, damaged("a row's expiration")
	}
	return at, true, nil
}

// isOver reports whether a value is that of a row that does not live as of a moment: it is gone, or has expired, at a time that
// is returned. At the zero moment none has.
func isOver(value []byte, moment time.Time) (over bool, expired time.Time, err error) {
	if isGone(value) {
		return true, time.Time{}, nil
	}
	at, expires, err := expirationOf(value)
	if err != nil || !expires || at.After(moment) {
		return false, time.Time{}, err
	}
	return true, at, nil
}

// appendBytes appends a length and that many bytes.
func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// appendTime appends a time, to the nanosecond. Its location is lost.
func appendTime(dst []byte, t time.Time) []byte {
	dst = binary.AppendVarint(dst, t.Unix())
	return binary.AppendUvarint(dst, uint64(t.Nanosecond())) //nolint:gosec // 0 to 999,999,999
}

// decoder reads what the append functions wrote. After a failure everything it returns is zero.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) fail() {
	d.failed, d.rest = true, nil
}

// bytes returns the next length-prefixed bytes. They are valid as long as what is decoded.
func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) time() time.Time {
	seconds, nanos := d.int(), d.uint()
	if nanos >= uint64(time.Second) {
		d.fail()
		return time.Time{}
	}
	return time.Unix(seconds, int64(nanos)).UTC()
}

// done returns an error unless everything was read, and nothing else.
func (d *decoder) done() error {
	if d.failed || len(d.rest) > 0 {
		return damaged("a malformed value")
	}
	return nil
}
