package token

import (
	"testing"
)

// BenchmarkVerify: what it costs to accept a token that was verified before, to verify one, and to refuse one.
func BenchmarkVerify(b *testing.B) {
	v := open(b, atNoon(), fromFile(b, login, jwks(rs256, es256)))
	claims := claimsAt(noon)
	good := rs256.token(nil, claims)
	if _, err := v.Verify(b.Context(), good); err != nil {
		b.Fatal(err)
	}
	b.Run("known", func(b *testing.B) {
		for b.Loop() {
			if _, err := v.Verify(b.Context(), good); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, s := range []signer{rs256, es256} {
		raw := s.token(nil, claims)
		b.Run("new/"+s.alg, func(b *testing.B) {
			for b.Loop() {
				v.before.young = nil
				if _, err := v.Verify(b.Context(), raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for name, raw := range map[string]string{
		"issuer": rs256.token(nil, with(claims, "iss", "https://evil.example.com")), "kid": rs256.token(map[string]any{"kid": "gone"}, claims),
		"signature": good[:len(good)-10] + "AAAAAAAAAA",
	} {
		b.Run("refused/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := v.Verify(b.Context(), raw); err == nil {
					b.Fatal("it is accepted")
				}
			}
		})
	}
}
