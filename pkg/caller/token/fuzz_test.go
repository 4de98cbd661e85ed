package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/deputyauth/deputy/pkg/authz"
)

// FuzzVerify: whatever a token is, also one that its issuer signed, nothing panics, and nothing is accepted that a second reading of the
// standards refuses, or that says something else there. header and payload are signed by one of the issuer's keys, or by a stranger's under
// its name; without, header is the token. Then one byte is changed.
func FuzzVerify(f *testing.F) {
	all := []signer{rs256, ps256, es256, eddsa}
	v := open(f, atNoon(), fromFile(f, login, jwks(all...)))
	claims := claimsAt(noon)
	for i, s := range all {
		header := jsonOf(map[string]any{"alg": s.alg, "kid": s.kid, "typ": "at+jwt"})
		f.Add(header, jsonOf(claims), uint8(i+1), uint16(0), uint8(0))
		f.Add(header, jsonOf(with(claims, "aud", []string{"a", "deputy"}, "exp", 2e9, "nbf", nil)), uint8(i+1), uint16(0), uint8(0))
		f.Add(header, jsonOf(with(claims, "cnf", map[string]any{"jkt": "a"})), uint8(i+1), uint16(0), uint8(0))
		f.Add(header, jsonOf(with(claims, "act", map[string]any{"sub": "bot"})), uint8(i+1), uint16(0), uint8(0))
		f.Add(s.token(nil, claims), "", uint8(0), uint16(20), uint8(1))
		f.Add(header, jsonOf(claims), uint8(5), uint16(0), uint8(0))
	}
	f.Add(`{"alg":"ES256","kid":"es","typ":"at+jwt"}`, `{"iss":"https://login.example.com","sub":"a","sub":"b","aud":"deputy","exp":2e9}`,
		uint8(3), uint16(0), uint8(0))
	f.Fuzz(func(t *testing.T, header, payload string, by uint8, at uint16, xor uint8) {
		raw := header
		switch by %= 6; by {
		case 0:
		case 5:
			raw = signer{"es", "ES256", other.key}.sign(header, payload)
		default:
			raw = all[by-1].sign(header, payload)
		}
		if b := []byte(raw); len(b) > 0 {
			b[int(at)%len(b)] ^= xor
			raw = string(b)
		}
		said, err := v.Verify(t.Context(), raw)
		again, errAgain := v.Verify(t.Context(), raw)
		if said != again || (err == nil) != (errAgain == nil) {
			t.Errorf("%q: first %+v, %v, then %+v, %v", raw, said, err, again, errAgain)
		}
		subject, ends, wrong := second(raw, all)
		switch e, _ := errors.AsType[*authz.Error](err); {
		case err == nil && wrong != nil:
			t.Errorf("%q is accepted: %v", raw, wrong)
		case err == nil && (said.Subject != subject || said.Issuer != login.Issuer || said.Expires.Sub(ends.Add(DefaultLeeway)).Abs() > 2*time.Millisecond):
			t.Errorf("%q says %+v, and in the second reading %q until %v", raw, said, subject, ends)
		case err != nil && (e == nil || e.Kind != authz.Unauthenticated && e.Kind != authz.Unavailable):
			t.Errorf("%q: %v, which says nothing to the caller", raw, err)
		}
	})
}

// second reads a token with go-jose's decoder of JSON, which refuses duplicates, and the signatures of the standard library. It shares nothing
// with Verify but the configuration.
func second(raw string, keys []signer) (subject string, ends time.Time, wrong error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || len(raw) > 8192 {
		return "", ends, errors.New("not three parts")
	}
	var decoded [3][]byte
	for i, p := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(p); err != nil || base64.RawURLEncoding.EncodeToString(decoded[i]) != p {
			return "", ends, errors.New("not base64url")
		}
	}
	var header, claims map[string]any
	if json.Unmarshal(decoded[0], &header) != nil || json.Unmarshal(decoded[1], &claims) != nil || alike(header) || alike(claims) {
		return "", ends, errors.New("not JSON of one meaning")
	}
	typ, _ := header["typ"].(string)
	if typ = strings.ToLower(typ); typ != "at+jwt" && typ != "application/at+jwt" {
		return "", ends, errors.New("typ")
	}
	for _, name := range []string{"crit", "jwk", "jku", "x5c", "x5u", "b64"} {
		if _, has := header[name]; has {
			return "", ends, errors.New(name)
		}
	}
	at := slices.IndexFunc(keys, func(s signer) bool { return header["kid"] == s.kid && header["alg"] == s.alg })
	if at < 0 || !signedWith(keys[at], []byte(parts[0]+"."+parts[1]), decoded[2]) {
		return "", ends, errors.New("signature")
	}
	for _, name := range []string{"act", "cnf"} {
		if _, has := claims[name]; has {
			return "", ends, errors.New(name)
		}
	}
	subject, _ = claims["sub"].(string)
	exp, _ := claims["exp"].(float64)
	aud, several := claims["aud"].([]any)
	if !several {
		aud = []any{claims["aud"]}
	}
	now := float64(noon.Unix())
	switch {
	case claims["iss"] != login.Issuer || subject == "":
		return "", ends, errors.New("iss or sub")
	case !slices.Contains(aud, any("deputy")) && !slices.Contains(aud, any("deputy-old")):
		return "", ends, errors.New("aud")
	case !(exp > now-30) || exp > 253402300799:
		return "", ends, errors.New("exp")
	}
	for _, name := range []string{"nbf", "iat"} {
		if begin, has := claims[name]; has {
			if number, ok := begin.(float64); !ok || number > now+30 {
				return "", ends, errors.New(name)
			}
		}
	}
	return subject, time.UnixMilli(int64(exp * 1000)), nil
}

// alike reports whether two names differ in case alone.
func alike(members map[string]any) bool {
	for a := range members {
		for b := range members {
			if a != b && strings.EqualFold(a, b) {
				return true
			}
		}
	}
	return false
}

func signedWith(s signer, input, signature []byte) bool {
	digest := sha256.Sum256(input)
	switch k := s.key.Public().(type) {
	case *rsa.PublicKey:
		if s.alg == "PS256" {
			return rsa.VerifyPSS(k, crypto.SHA256, digest[:], signature, nil) == nil
		}
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], signature) == nil
	case *ecdsa.PublicKey:
		return len(signature) == 64 && ecdsa.Verify(k, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	case ed25519.PublicKey:
		return ed25519.Verify(k, input, signature)
	default:
		return false
	}
}
