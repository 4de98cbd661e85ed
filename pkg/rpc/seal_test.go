package rpc

import (
	"bytes"
	"encoding/base64"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

func sealer(t testing.TB, fill byte) *Sealer {
	t.Helper()
	s, err := NewSealer(bytes.Repeat([]byte{fill}, 32), "a datastore")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealedTokens(t *testing.T) {
	s, at := sealer(t, 1), time.Unix(1_700_000_000, 42)
	token := s.token(authz.Revision{Token: "GgYKBENFTFM="}, at)
	rev, when, err := s.revision("f", token)
	if err != nil || rev.Token != "GgYKBENFTFM=" || !when.Equal(at) {
		t.Fatalf("opened %+v %s %v", rev, when, err)
	}
	cursor, err := s.cursor([16]byte{1}, at, map[string]string{"r": "x"})
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(token.GetToken())
	for name, forged := range map[string]string{
		"empty":            "",
		"the engine's own": "GgYKBENFTFM=",
		"another key's":    sealer(t, 2).token(rev, at).GetToken(),
		"a cursor":         cursor.GetToken(),
		"padded":           token.GetToken() + "=",
		"cut":              token.GetToken()[:len(token.GetToken())-1],
		"huge":             string(bytes.Repeat([]byte("A"), maxSealed+1)),
	} {
		if _, _, err := s.revision("f", &deputyv1.ZedToken{Token: forged}); authz.KindOf(err) != authz.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range raw {
		bent := bytes.Clone(raw)
		bent[i] ^= 1
		if _, _, err := s.revision("f", &deputyv1.ZedToken{Token: base64.RawURLEncoding.EncodeToString(bent)}); err == nil {
			t.Fatalf("a flipped bit in byte %d is believed", i)
		}
	}
	if _, err := NewSealer(make([]byte, 31), ""); err == nil {
		t.Error("a key of 31 bytes is accepted")
	}
}

func TestSealedCursorsBelongToTheirRequest(t *testing.T) {
	s, at := sealer(t, 1), time.Unix(1_700_000_000, 0)
	cursor, err := s.cursor([16]byte{1}, at, map[string]string{"r": "x"})
	if err != nil {
		t.Fatal(err)
	}
	var place map[string]string
	later := at.Add(time.Hour)
	if when, err := s.place([16]byte{1}, cursor, &place, later); err != nil || place["r"] != "x" || !when.Equal(at) {
		t.Errorf("opened %v at %s, %v", place, when, err)
	}
	if _, err := s.place([16]byte{2}, cursor, &place, later); authz.KindOf(err) != authz.Invalid {
		t.Errorf("of another request: %v", err)
	}
	again, err := s.cursor([16]byte{1}, at, map[string]string{"r": "x"})
	if err != nil || again.GetToken() == cursor.GetToken() {
		t.Errorf("two cursors are one: %v", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor.GetToken())
	if err != nil || bytes.Contains(raw, []byte(`"r":"x"`)) {
		t.Errorf("the cursor can be read: %q, %v", raw, err)
	}
	for i := range raw {
		bent := bytes.Clone(raw)
		bent[i] ^= 1
		forged := &deputyv1.Cursor{Token: base64.RawURLEncoding.EncodeToString(bent)}
		if _, err := s.place([16]byte{1}, forged, &place, later); authz.KindOf(err) != authz.Invalid {
			t.Fatalf("a flipped bit in byte %d is believed: %v", i, err)
		}
	}
	elsewhere, err := NewSealer(bytes.Repeat([]byte{1}, 32), "another datastore")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		by    *Sealer
		token string
	}{
		"of another datastore": {elsewhere, cursor.GetToken()},
		"of another key":       {sealer(t, 2), cursor.GetToken()},
		"cut":                  {s, cursor.GetToken()[:40]},
		"a token":              {s, s.token(authz.Revision{Token: "r"}, at).GetToken()},
		"huge":                 {s, string(bytes.Repeat([]byte("A"), maxSealed+1))},
	} {
		if _, err := c.by.place([16]byte{1}, &deputyv1.Cursor{Token: c.token}, &place, later); authz.KindOf(err) != authz.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if when, err := s.place([16]byte{1}, nil, &place, later); err != nil || !when.Equal(later) {
		t.Errorf("none: %s, %v", when, err)
	}
}

// FuzzOpen: no text but what was sealed opens, and none panics.
func FuzzOpen(f *testing.F) {
	s := sealer(f, 1)
	other := sealer(f, 2)
	f.Add(other.token(authz.Revision{Token: "r"}, time.Unix(1, 0)).GetToken())
	f.Add("")
	f.Add("AQEAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if _, _, ok := s.open(sealToken, text); ok {
			t.Fatalf("%q opens", text)
		}
		if _, err := s.place([16]byte{}, &deputyv1.Cursor{Token: text}, nil, time.Unix(1, 0)); err == nil && text != "" {
			t.Fatalf("%q opens as a cursor", text)
		}
	})
}

// TestRequestsAreTheirCallers: the same request of two callers, or of one whose tenants have changed, has two digests, and so no cursor in common.
func TestRequestsAreTheirCallers(t *testing.T) {
	t.Parallel()
	seen := map[[16]byte]string{}
	for name, c := range map[string]*caller.Caller{
		"nobody": nil, "service": {Name: "service", Bounds: authz.Unbounded()}, "other": {Name: "other", Bounds: authz.Unbounded()},
		"bound to acme":            {Name: "bound", Bounds: &authz.Bounds{Tenants: authz.NamesOf("acme")}},
		"bound to acme and globex": {Name: "bound", Bounds: &authz.Bounds{Tenants: authz.NamesOf("acme", "globex")}},
	} {
		ctx := caller.With(t.Context(), c)
		page, err := openPage(ctx, border{Config{Sealer: sealer(t, 1), Now: time.Now}}, &deputyv1.ListAgentsRequest{}, &deputyv1.ListAgentsRequest{},
			boundTenants(ctx)...)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[page.sum]; taken {
			t.Errorf("the request of %s is that of %s", name, other)
		}
		seen[page.sum] = name
	}
}
