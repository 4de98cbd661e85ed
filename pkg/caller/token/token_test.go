package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/deputyauth/deputy/pkg/authz"
	"github.com/deputyauth/deputy/pkg/caller"
)

// noon is the time of the tests whose clock stands still.
var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func atNoon() Options { return Options{Now: func() time.Time { return noon }} }

// fromFile is an issuer whose keys are in a file.
func fromFile(t testing.TB, issuer Issuer, text []byte) Issuer {
	t.Helper()
	issuer.JWKSURL, issuer.JWKSFile = "", jwksFile(t, text)
	return issuer
}

// TestAccepted: what is a good token is accepted, of every algorithm, and again from the cache.
func TestAccepted(t *testing.T) {
	all := []signer{rs256, ps256, es256, eddsa}
	plain := login
	plain.Types = []string{"JWT", "application/at+jwt"}
	strictly, loosely := open(t, atNoon(), fromFile(t, login, jwks(all...))), open(t, atNoon(), fromFile(t, plain, jwks(all...)))
	claims := claimsAt(noon)
	for _, s := range all {
		t.Run(s.alg, func(t *testing.T) {
			for name, header := range map[string]map[string]any{
				"usual": nil, "media type": {"typ": "application/at+jwt"}, "upper case": {"typ": "AT+JWT"}, "unknown parameter": {"x5t": "abc", "foo": 1},
			} {
				raw := s.token(header, claims)
				t.Run(name, func(t *testing.T) {
					accepted(t, strictly, raw)
					accepted(t, strictly, raw)
				})
			}
			accepted(t, loosely, s.token(map[string]any{"typ": nil}, claims))
			accepted(t, loosely, s.token(map[string]any{"typ": "jwt"}, claims))
			accepted(t, loosely, s.token(nil, claims))
		})
	}
	s := es256
	for name, others := range map[string][]any{
		"audience in an array":        {"aud", []string{"files", "deputy-old"}},
		"neither nbf nor iat":         {"nbf", nil, "iat", nil},
		"expired within the leeway":   {"exp", noon.Add(-29 * time.Second).Unix()},
		"begins within the leeway":    {"nbf", noon.Add(30 * time.Second).Unix(), "iat", noon.Add(30 * time.Second).Unix()},
		"times with fractions":        {"exp", float64(noon.Unix()) + 0.5},
		"claims that are not known":   {"scope", "a b", "realm_access", map[string]any{"roles": []string{"x"}}},
		"a number that is very large": {"big", json.RawMessage("1e999")},
		"ends in 9999":                {"exp", lastMoment},
	} {
		t.Run(name, func(t *testing.T) { accepted(t, strictly, s.token(nil, with(claims, others...))) })
	}
	said, err := strictly.Verify(t.Context(), s.token(nil, claims))
	if want := noon.Add(10*time.Minute + DefaultLeeway); err != nil || !said.Expires.Equal(want) {
		t.Errorf("the token ends at %v, %v; want %v", said.Expires, err, want)
	}
}

// TestRefused: what proves nothing is refused, with what is wrong in words.
func TestRefused(t *testing.T) {
	elsewhere := login
	elsewhere.Issuer, elsewhere.JWKSURL = "https://elsewhere.example.com", "https://elsewhere.example.com/keys"
	weak := signer{"weak", "RS256", must(rsa.GenerateKey(rand.Reader, 1024))}
	p384 := signer{"p384", "ES384", must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))}
	secret := map[string]any{"kty": "oct", "kid": "secret", "k": encode([]byte("0123456789abcdef0123456789abcdef"))}
	forEncryption := with(signer{"enc", "ES256", other.key}.jwk(), "use", "enc")
	pub := must(x509.MarshalPKIXPublicKey(rs256.key.Public()))
	narrow := login
	narrow.Algorithms = []string{"RS256", "ES256"}
	v := open(t, atNoon(),
		fromFile(t, login, keySetOf(rs256.jwk(), ps256.jwk(), es256.jwk(), eddsa.jwk(), weak.jwk(), p384.jwk(), secret, forEncryption,
			with(signer{"no-alg", "", rs256.key}.jwk(), "alg", "RS512"))),
		fromFile(t, elsewhere, jwks(other)))
	onlyTwo := open(t, atNoon(), fromFile(t, narrow, jwks(rs256, ps256, es256, eddsa)))

	claims := claimsAt(noon)
	good := es256.token(nil, claims)
	parts := strings.Split(good, ".")
	usualHeader, usualClaims := jsonOf(map[string]any{"alg": "ES256", "kid": "es", "typ": "at+jwt"}), jsonOf(claims)
	// hs256 signs with a secret: the public key, in the forms in which it is known.
	hs256 := func(alg string, key []byte) string {
		input := encode([]byte(`{"alg":"`+alg+`","kid":"rs","typ":"at+jwt"}`)) + "." + encode([]byte(usualClaims))
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(input))
		return input + "." + encode(mac.Sum(nil))
	}
	claim := func(others ...any) string { return es256.token(nil, with(claims, others...)) }
	header := func(members map[string]any) string { return es256.token(members, claims) }
	own := signer{"es", "ES256", other.key} // a stranger's key under the issuer's id

	for name, test := range map[string]struct{ raw, want string }{
		"expired":                 {claim("exp", noon.Add(-30*time.Second).Unix()), "expired at 2026-11-28T11:59:30Z"},
		"not yet valid":           {claim("nbf", noon.Add(31*time.Second).Unix()), "is valid from 2026-11-28T12:00:31Z on only"},
		"issued in the future":    {claim("iat", noon.Add(time.Minute).Unix()), "is valid from 2026-11-28T12:01:00Z on only"},
		"no end":                  {claim("exp", nil), `no usable "exp": it is missing`},
		"end is a string":         {claim("exp", "1999999999"), `no usable "exp": it is not a number`},
		"end is null":             {claim("exp", json.RawMessage("null")), `no usable "exp": it is not a number`},
		"end is negative":         {claim("exp", -1), `no usable "exp": it is no time`},
		"end is beyond all times": {claim("exp", json.RawMessage("1e300")), `no usable "exp": it is no time`},
		"end is no number":        {claim("exp", json.RawMessage("1e999")), `no usable "exp": it is not a number`},
		"begin is an object":      {claim("nbf", map[string]any{}), `no usable "nbf": it is not a number`},
		"no subject":              {claim("sub", nil), `no usable "sub": it is missing`},
		"empty subject":           {claim("sub", ""), `no usable "sub": it is empty`},
		"subject is a number":     {claim("sub", 7), `no usable "sub": it is not a string`},
		"long subject":            {claim("sub", strings.Repeat("a", 1025)), `no usable "sub": it has 1025 bytes`},
		"another audience":        {claim("aud", "files"), `is not for this server: its "aud" has none of ["deputy" "deputy-old"]`},
		"other audiences":         {claim("aud", []string{"files", "Deputy"}), "is not for this server"},
		"no audience":             {claim("aud", nil), `no usable "aud": it is missing`},
		"empty audiences":         {claim("aud", []string{}), "is not for this server"},
		"audience is a number":    {claim("aud", []any{"deputy", 1}), `no usable "aud": it has an item that is not a string`},
		"an actor":                {claim("act", map[string]any{"sub": "bot"}), `has an "act"`},
		"another issuer":          {claim("iss", "https://evil.example.com"), `has an "iss" that is none of this server's issuers`},
		"issuer with a slash":     {claim("iss", login.Issuer+"/"), "none of this server's issuers"},
		"no issuer":               {claim("iss", nil), `no usable "iss": it is missing`},
		"issuer is an array":      {claim("iss", []string{login.Issuer}), `no usable "iss": it is not a string`},
		"key of another issuer":   {other.token(nil, claims), `is signed with the key "other", which is none of https://login.example.com's`},
		"kid of another issuer":   {other.token(nil, with(claims, "iss", login.Issuer)), `the key "other", which is none of`},
		"issuer of another key":   {es256.token(nil, with(claims, "iss", elsewhere.Issuer)), `the key "es", which is none of https://elsewhere`},
		"unknown kid":             {header(map[string]any{"kid": "gone"}), `the key "gone", which is none of`},
		"no kid":                  {header(map[string]any{"kid": nil}), `no usable "kid"`},
		"kid is a number": {
			header(map[string]any{"kid": 1}),
			`no usable "kid" in its header, which says with which key it is signed: it is not a string`,
		},
		"swapped kid":                 {ps256.token(map[string]any{"kid": "rs", "alg": "RS256"}, claims), `is not signed with the key "rs"`},
		"kid of another kind":         {header(map[string]any{"kid": "rs"}), `algorithm "ES256", which the issuer's key "rs" is not for`},
		"a stranger's key":            {own.token(nil, claims), `is not signed with the key "es"`},
		"embedded key":                {own.token(map[string]any{"jwk": other.jwk()}, claims), `has "jwk" in its header`},
		"address of keys":             {header(map[string]any{"jku": "https://evil.example.com/keys"}), `has "jku" in its header`},
		"embedded certificate":        {header(map[string]any{"x5c": []string{"MIIB"}}), `has "x5c" in its header`},
		"address of certificates":     {header(map[string]any{"x5u": "https://evil.example.com/"}), `has "x5u" in its header`},
		"critical parameter":          {header(map[string]any{"crit": []string{"exp"}, "exp": 1}), `has "crit" in its header`},
		"payload without base64":      {header(map[string]any{"b64": false, "crit": []string{"b64"}}), `in its header, which is not accepted`},
		"alg none":                    {encode([]byte(`{"alg":"none","kid":"es","typ":"at+jwt"}`)) + "." + parts[1] + ".", `the algorithm "none"`},
		"alg nOnE":                    {encode([]byte(`{"alg":"nOnE","kid":"es","typ":"at+jwt"}`)) + "." + parts[1] + ".", `the algorithm "nOnE"`},
		"alg none with a signature":   {header(map[string]any{"alg": "none"}), `the algorithm "none"`},
		"no signature":                {parts[0] + "." + parts[1] + ".", `is not signed with the key "es"`},
		"no alg":                      {header(map[string]any{"alg": nil}), `no usable "alg"`},
		"alg is an array":             {header(map[string]any{"alg": []string{"ES256"}}), `no usable "alg"`},
		"HS256 with the public key":   {hs256("HS256", pub), `the algorithm "HS256"`},
		"HS256 with the PEM":          {hs256("HS256", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub})), `the algorithm "HS256"`},
		"RS256 that is an HMAC":       {hs256("RS256", pub), `is not signed with the key "rs"`},
		"HS256 with a published one":  {header(map[string]any{"alg": "HS256", "kid": "secret"}), `the algorithm "HS256"`},
		"a secret's kid":              {header(map[string]any{"kid": "secret"}), `the key "secret", which is none of`},
		"a key for encryption":        {signer{"enc", "ES256", other.key}.token(nil, claims), `the key "enc", which is none of`},
		"a short RSA key":             {weak.token(nil, claims), `the key "weak", which is none of`},
		"a key for another algorithm": {rs256.token(map[string]any{"kid": "no-alg"}, claims), `algorithm "RS256", which the issuer's key "no-alg" is not for`},
		"PS256 by a key for RS256":    {ps256.token(map[string]any{"kid": "rs"}, claims), `algorithm "PS256", which the issuer's key "rs" is not for`},
		"an algorithm not configured": {
			p384.token(nil, claims),
			`the algorithm "ES384", and https://login.example.com's may be signed with RS256, PS256, ES256, EdDSA`,
		},
		"type JWT":                   {header(map[string]any{"typ": "JWT"}), `is of the type "JWT", and https://login.example.com's may be at+jwt`},
		"no type":                    {header(map[string]any{"typ": nil}), `is of the type "JWT"`},
		"type of an ID-JAG":          {header(map[string]any{"typ": "oauth-id-jag+jwt"}), `is of the type "oauth-id-jag+jwt"`},
		"type is a number":           {header(map[string]any{"typ": 1}), `no usable "typ"`},
		"duplicate claim":            {es256.sign(usualHeader, usualClaims[:len(usualClaims)-1]+`,"sub":"root"}`), `payload has the name "sub" twice`},
		"duplicate claim, escaped":   {es256.sign(usualHeader, usualClaims[:len(usualClaims)-1]+`,"s\u0075b":"root"}`), `payload has the name "sub" twice`},
		"duplicate claim, in a case": {es256.sign(usualHeader, usualClaims[:len(usualClaims)-1]+`,"SUB":"root"}`), `payload has the name "SUB" twice`},
		"duplicate claim, folded":    {es256.sign(usualHeader, usualClaims[:len(usualClaims)-1]+`,"iſs":"root"}`), `payload has the name "iſs" twice`},
		"duplicate issuer":           {es256.sign(usualHeader, `{"iss":"`+elsewhere.Issuer+`",`+usualClaims[1:]), `payload has the name "iss" twice`},
		"duplicate deep down":        {es256.sign(usualHeader, usualClaims[:len(usualClaims)-1]+`,"x":[{"a":1,"a":2}]}`), `payload has the name "a" twice`},
		"duplicate in the header":    {es256.sign(`{"alg":"none",`+usualHeader[1:], usualClaims), `header has the name "alg" twice`},
		"folded in the header":       {es256.sign(`{"ALG":"none",`+usualHeader[1:], usualClaims), `header has the name "alg" twice`},
		"claims in upper case":       {es256.sign(usualHeader, strings.Replace(usualClaims, `"sub"`, `"Sub"`, 1)), `no usable "sub": it is missing`},
		"too deep": {
			es256.sign(usualHeader, usualClaims[:len(usualClaims)-1]+`,"x":`+strings.Repeat("[", 17)+strings.Repeat("]", 17)+`}`), "lie more than 16 deep",
		},
		"payload is an array":         {es256.sign(usualHeader, `[]`), "its payload is not a JSON object"},
		"payload is null":             {es256.sign(usualHeader, `null`), "its payload is not a JSON object"},
		"half a surrogate pair":       {es256.sign(usualHeader, strings.Replace(usualClaims, "billing", `billing\ud800`, 1)), `no usable "sub": it has U+FFFD`},
		"the other half":              {es256.sign(usualHeader, strings.Replace(usualClaims, "billing", `billing\udfff`, 1)), `no usable "sub": it has U+FFFD`},
		"payload is empty":            {es256.sign(usualHeader, ``), "its payload is not JSON"},
		"payload with something else": {es256.sign(usualHeader, usualClaims+`{}`), "its payload is not JSON"},
		"payload is not UTF-8":        {es256.sign(usualHeader, usualClaims[:len(usualClaims)-1]+",\"x\":\"\xff\"}"), "its payload is not JSON"},
		"header is null":              {es256.sign(`null`, usualClaims), "its header is not a JSON object"},
		"header with something else":  {es256.sign(usualHeader+`x`, usualClaims), "its header is not JSON"},
		"changed claims": {
			parts[0] + "." + encode([]byte(strings.Replace(usualClaims, "billing", "payroll", 1))) + "." + parts[2],
			`or was changed afterwards`,
		},
		"changed header":    {encode([]byte(usualHeader+" ")) + "." + parts[1] + "." + parts[2], `or was changed afterwards`},
		"changed signature": {parts[0] + "." + parts[1] + "." + encode(make([]byte, 64)), `or was changed afterwards`},
		"trailing data":     {good + "AAAA", "or was changed afterwards"},
		"trailing point":    {good + ".", "is not a signed JSON Web Token"},
		"two parts":         {parts[0] + "." + parts[1], "is not a signed JSON Web Token"},
		"five parts":        {good + "..", "is not a signed JSON Web Token"},
		"empty":             {"", "is not a signed JSON Web Token"},
		"points":            {"..", "its header is not JSON"},
		"blank before":      {" " + good, "its header is not base64url"},
		"line feed before":  {"\n" + good, "its header is not base64url"},
		"line feed inside":  {parts[0] + "." + parts[1][:4] + "\r\n" + parts[1][4:] + "." + parts[2], "its payload is not base64url"},
		"line feed behind":  {good + "\n", "signature is not base64url"},
		"padded": {
			base64.URLEncoding.EncodeToString([]byte(usualHeader+"  ")) + "=." + parts[1] + "." + parts[2],
			"its header is not base64url",
		},
		"padded signature":         {good + "==", "signature is not base64url"},
		"last bits set":            {good[:len(good)-1] + sibling(good[len(good)-1]), "signature is not base64url"},
		"base64 of the other kind": {parts[0] + "." + parts[1][:4] + "+/" + parts[1][4:] + "." + parts[2], "its payload is not base64url"},
		"1 MB":                     {strings.Repeat("A", 1<<20) + good, "has 1048"},
		"8 KiB and more":           {claim("x", strings.Repeat("a", 8<<10)), "it can have 8192"},
		"a JWS in JSON": {
			`{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`,
			"is not a signed",
		},
		"bound to a DPoP key": {claim("cnf", map[string]any{"jkt": "abc"}), `has a "cnf" that this server cannot verify`},
		"bound to two": {
			claim("cnf", map[string]any{"jkt": "abc", "x5t#S256": encode(make([]byte, 32))}),
			`has a "cnf" that this server cannot verify`,
		},
		"bound to nothing":        {claim("cnf", map[string]any{}), `has a "cnf" that this server cannot verify`},
		"bound to null":           {claim("cnf", json.RawMessage("null")), `no usable "cnf": it is not a JSON object`},
		"bound to a short digest": {claim("cnf", map[string]any{"x5t#S256": "YWJj"}), `it is not a digest of 32 bytes`},
	} {
		t.Run(name, func(t *testing.T) { refused(t, v, test.raw, authz.Unauthenticated, test.want) })
	}
	refused(t, onlyTwo, eddsa.token(nil, claims), authz.Unauthenticated, `the algorithm "EdDSA"`)
	refused(t, onlyTwo, ps256.token(nil, claims), authz.Unauthenticated, `the algorithm "PS256"`)
	accepted(t, v, good)
	if n := len(v.before.young) + len(v.before.old); n != 1 {
		t.Errorf("%d tokens are kept; want the good one alone", n)
	}
}

// sibling returns a character of base64url that differs from another one in its last bit, which is none of the 64 bytes of a signature.
func sibling(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

// A token that was accepted is refused once it has ended, by the clock, whatever is kept.
func TestCachedTokenEnds(t *testing.T) {
	var passed atomic.Int64 // since noon
	v := open(t, Options{Now: func() time.Time { return noon.Add(time.Duration(passed.Load())) }}, fromFile(t, login, jwks(es256)))
	raw := es256.token(nil, with(claimsAt(noon), "exp", noon.Add(time.Minute).Unix()))
	accepted(t, v, raw)
	passed.Store(int64(time.Minute + DefaultLeeway - 1))
	accepted(t, v, raw)
	passed.Add(1)
	refused(t, v, raw, authz.Unauthenticated, "expired at 2026-11-28T12:01:00Z")
}

// connection is one that was made with a client certificate, or with none.
type connection struct {
	credentials.TLSInfo
	certificate caller.Certificate
}

func (c connection) ClientCertificate() caller.Certificate { return c.certificate }

// presented is a certificate, by its bytes.
type presented string

func (presented) Authorities() any { return nil }

func (p presented) Digest() [sha256.Size]byte { return sha256.Sum256([]byte(p)) }

// Verify is caller.Certificate's: a token is bound to a certificate no matter which authority signed it.
func (presented) Verify(time.Time) (caller.Identity, error) {
	return caller.Identity{}, errors.New("nobody signed it")
}

// A token that is bound to a client certificate is good on connections with that certificate alone, also once it is kept.
func TestBoundToCertificate(t *testing.T) {
	v := open(t, atNoon(), fromFile(t, login, jwks(es256)))
	cert, another := presented("a certificate"), presented("another one")
	digest := cert.Digest()
	raw := es256.token(nil, with(claimsAt(noon), "cnf", map[string]any{"x5t#S256": encode(digest[:])}))
	for range 2 {
		for name, test := range map[string]struct {
			certificate caller.Certificate
			want        string
		}{
			"its own": {cert, ""},
			"another": {another, "is bound to another client certificate"},
			"none":    {nil, "the call comes without one"},
		} {
			ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: connection{certificate: test.certificate}})
			said, err := v.Verify(ctx, raw)
			if (err == nil) != (test.want == "") || err != nil && (!strings.Contains(err.Error(), test.want) || said.Subject != "") {
				t.Errorf("with the certificate %s: %+v, %v; want %q", name, said, err, test.want)
			}
		}
		refused(t, v, raw, authz.Unauthenticated, "the call comes without one") // no TLS at all
	}
}

// Without issuers no token proves anything.
func TestNoIssuers(t *testing.T) {
	refused(t, open(t, Options{}), es256.token(nil, claimsAt(noon)), authz.Unauthenticated, "none of this server's issuers")
}

// TestCheck: an issuer that is wrong is refused by the word that is.
func TestCheck(t *testing.T) {
	change := func(by func(*Issuer)) Issuer {
		i := login
		by(&i)
		return i
	}
	for name, test := range map[string]struct {
		issuer    Issuer
		key, want string
	}{
		"nothing":             {Issuer{}, "issuer", "is missing"},
		"no audience":         {change(func(i *Issuer) { i.Audiences = nil }), "audiences", "is missing"},
		"an empty audience":   {change(func(i *Issuer) { i.Audiences = []string{""} }), "audiences", "empty"},
		"many audiences":      {change(func(i *Issuer) { i.Audiences = make([]string, 17) }), "audiences", "17"},
		"no algorithm":        {change(func(i *Issuer) { i.Algorithms = nil }), "algorithms", "is missing"},
		"none":                {change(func(i *Issuer) { i.Algorithms = []string{"RS256", "none"} }), "algorithms", "proves nothing"},
		"a shared secret":     {change(func(i *Issuer) { i.Algorithms = []string{"HS256"} }), "algorithms", "shared secret"},
		"no such algorithm":   {change(func(i *Issuer) { i.Algorithms = []string{"rs256"} }), "algorithms", `has "rs256"; the algorithms are RS256`},
		"an empty type":       {change(func(i *Issuer) { i.Types = []string{"application/"} }), "types", "empty"},
		"events":              {change(func(i *Issuer) { i.Types = []string{"JWT", "application/SecEvent+JWT"} }), "types", "does not prove who calls"},
		"an ID-JAG":           {change(func(i *Issuer) { i.Types = []string{"oauth-id-jag+jwt"} }), "types", "is for an authorization server"},
		"many types":          {change(func(i *Issuer) { i.Types = make([]string, 17) }), "types", "17"},
		"two places":          {change(func(i *Issuer) { i.JWKSFile = "keys.json" }), "jwks_file", "both set"},
		"plain HTTP":          {change(func(i *Issuer) { i.JWKSURL = "http://login.example.com/keys" }), "jwks_url", "https only"},
		"loopback":            {change(func(i *Issuer) { i.JWKSURL = "http://127.0.0.1/keys" }), "jwks_url", "https only"},
		"loopback is not all": {change(func(i *Issuer) { i.JWKSURL, i.LoopbackHTTP = "http://login.example.com/", true }), "jwks_url", "https only"},
		"another scheme":      {change(func(i *Issuer) { i.JWKSURL = "file://localhost/keys" }), "jwks_url", "https only"},
		"a password":          {change(func(i *Issuer) { i.JWKSURL = "https://a:b@login.example.com/keys" }), "jwks_url", "password"},
		"no place":            {change(func(i *Issuer) { i.Issuer, i.JWKSURL = "login", "" }), "jwks_url", "is missing"},
		"much leeway":         {change(func(i *Issuer) { i.Leeway = time.Hour }), "leeway", "up to 1m0s"},
		"negative leeway":     {change(func(i *Issuer) { i.Leeway = -1 }), "leeway", "up to 1m0s"},
		"stale for too long":  {change(func(i *Issuer) { i.Stale = 25 * time.Hour }), "stale", "10m0s to 24h0m0s"},
		"stale at once":       {change(func(i *Issuer) { i.Stale = 1 }), "stale", "10m0s to 24h0m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			e, ok := test.issuer.Check().(*IssuerError) //nolint:errorlint // as it is documented
			if !ok || e.Key != test.key || !strings.Contains(e.Message, test.want) {
				t.Errorf("%+v is refused with %v; want %s %s", test.issuer, e, test.key, test.want)
			}
			if _, err := Open(t.Context(), []Issuer{test.issuer}, Options{}); err == nil {
				t.Error("Open takes it")
			}
		})
	}
	for name, issuer := range map[string]Issuer{
		"as it is": login, "discovery": change(func(i *Issuer) { i.JWKSURL = "" }), "file": change(func(i *Issuer) { i.JWKSURL, i.JWKSFile = "", "x" }),
		"any name": change(func(i *Issuer) { i.Issuer = "login" }),
		"loopback": change(func(i *Issuer) { i.JWKSURL, i.LoopbackHTTP = "http://127.0.0.1:1/keys", true }),
	} {
		if err := issuer.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(t.Context(), []Issuer{login, login}, Options{transport: &provider{}}); err == nil || !strings.Contains(err.Error(), "is there twice") {
		t.Errorf("an issuer that is there twice: %v", err)
	}
}

// TestKeys: what a set of keys has to be.
func TestKeys(t *testing.T) {
	many := make([]map[string]any, 0, maxKeys+1)
	for i := range maxKeys + 1 {
		many = append(many, with(es256.jwk(), "kid", strings.Repeat("k", i+1)))
	}
	private := maps.Clone(es256.jwk())
	private["d"] = encode(must(es256.key.(*ecdsa.PrivateKey).Bytes()))
	for name, test := range map[string]struct {
		text []byte
		want string
	}{
		"no JSON":        {[]byte("<html>"), "not a JWK Set"},
		"nothing":        {[]byte(`{}`), "none of the issuer's 0 keys"},
		"null":           {[]byte(`{"keys":[null]}`), "none of the issuer's 1 keys"},
		"only a secret":  {keySetOf(map[string]any{"kty": "oct", "kid": "s", "k": "AAAA"}), "none of the issuer's 1 keys"},
		"only a private": {keySetOf(private), "none of the issuer's 1 keys"},
		"no id":          {keySetOf(with(es256.jwk(), "kid", "")), "none of the issuer's 1 keys"},
		"too many":       {keySetOf(many...), "101 keys; it can have 100"},
		"one id twice":   {jwks(es256, signer{"es", "ES256", other.key}), `two keys have the id "es"`},
		"a point beside": {keySetOf(with(es256.jwk(), "x", encode(make([]byte, 32)))), "none of the issuer's 1 keys"},
	} {
		if keys, err := readKeys(test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, %v; want %q", name, keys, err, test.want)
		}
	}
	keys, err := readKeys(keySetOf(es256.jwk(), with(other.jwk(), "use", "enc"), map[string]any{"kty": "new"}, with(rs256.jwk(), "alg", nil)))
	if err != nil || len(keys) != 2 || keys["es"] == nil || !keys["rs"].fits("PS256") || keys["es"].fits("RS256") {
		t.Errorf("of four keys, two of which are good: %v, %v", keys, err)
	}
}
