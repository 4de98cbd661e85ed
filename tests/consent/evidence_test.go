package consent

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/deputyauth/deputy/pkg/caller/token"
	"github.com/deputyauth/deputy/pkg/client"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
	"github.com/deputyauth/deputy/tests/harness"
)

// TestEvidence: the journal says by which token a person consented, as a digest, and which person revoked a delegation. No file of the server has the
// token, or its id.
func TestEvidence(t *testing.T) {
	on := harness.Embedded(t)
	w := newWorld(t, on)
	claims := w.says(nil)
	claims["jti"] = "an-id-that-no-file-has"
	raw := w.issuer.Sign(t, token.DefaultType, claims)
	made, err := w.dial(t, deskKey).CreateDelegation(t.Context(), asks(raw))
	if err != nil {
		t.Fatal(err)
	}
	id := made.GetDelegation().GetDelegationId()
	self := w.dial(t, w.issuer.Sign(t, token.DefaultType, w.issuer.Claims("alice", nil)))
	if _, err := self.RevokeDelegation(t.Context(), &deputyv1.RevokeDelegationRequest{DelegationId: id}); err != nil {
		t.Fatal(err)
	}
	records, err := client.New(harness.Dial(t, w.Addr().String(), auditorKey)).QueryRecords(client.RecordQuery{Delegation: id}).Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// As pkg/facts says: each part with its length before it.
	of := sha256.Sum256(fmt.Appendf(nil, "14:deputy consent%d:%s%d:%s", len(claims["iss"].(string)), claims["iss"], len("an-id-that-no-file-has"), "an-id-that-no-file-has"))
	var created, revoked int
	for _, found := range records {
		r := found.GetRecord()
		switch r.GetStage() {
		case deputyv1.RecordStage_RECORD_STAGE_ENDED:
		default:
			continue
		}
		if r.GetPrincipalType() != "user" || r.GetPrincipalId() != "alice" {
			t.Errorf("%s does not name the person: %v", r.GetMethod(), r)
		}
		switch r.GetMethod() {
		case "deputy.v1.DelegationsService/CreateDelegation":
			created++
			if r.GetConsentIssuer() != claims["iss"] || !bytes.Equal(r.GetConsentDigest(), of[:16]) {
				t.Errorf("the record says %q and %x, want %q and %x", r.GetConsentIssuer(), r.GetConsentDigest(), claims["iss"], of[:16])
			}
		case "deputy.v1.DelegationsService/RevokeDelegation":
			revoked++
		}
	}
	if created != 1 || revoked != 1 {
		t.Errorf("there are %d records of the creation and %d of the revocation, of %v", created, revoked, records)
	}
	var files int
	err = filepath.WalkDir(on.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(raw[len(raw)-40:])) || bytes.Contains(text, []byte("an-id-that-no-file-has")) {
			t.Errorf("%s has the token, or its id", path)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Error(files, err)
	}
}
