package daemon_test

import (
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/deputyauth/deputy/pkg/daemon"
	"github.com/deputyauth/deputy/pkg/engine"
)

// TestKeysRefused: no server starts with a key that can be guessed, that nobody could send, or that makes a service an admin. No error shows it.
func TestKeysRefused(t *testing.T) {
	const key = "key-of-the-service"
	for name, test := range map[string]struct {
		services, admins []string
		want             string
	}{
		"none":              {nil, nil, "deputy serve --dev"},
		"empty":             {[]string{""}, nil, "has 0 bytes and needs at least 16"},
		"short":             {[]string{key}, []string{key[:15]}, "has 15 bytes and needs at least 16"},
		"a blank":           {[]string{key + " "}, nil, "byte 19"},
		"a line":            {nil, []string{key + "\n"}, "byte 19"},
		"no ASCII":          {[]string{"\ufeff" + key}, nil, "byte 1"},
		"one in both roles": {[]string{key, key + "2"}, []string{key + "3", key + "2"}, "for services and for admins"},
		"8 characters":      {[]string{strings.Repeat("ü", 8)}, nil, "byte 1"},
	} {
		cfg := daemon.Config{PresharedKeys: test.services, AdminPresharedKeys: test.admins, Engine: engine.Config{Kind: engine.Memory}}
		d, err := daemon.Open(t.Context(), cfg, zaptest.NewLogger(t))
		if err == nil {
			_ = d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "key-of") {
			t.Errorf("%s: %v, want %q and no key", name, err, test.want)
		}
	}
	for _, key := range []string{strings.Repeat("k", 16), "!#$%&'()*+,-./09:;<=>?@AZ[]^_`az{|}~\"\\"} {
		d, err := daemon.Open(t.Context(), daemon.Config{PresharedKeys: []string{key}, Engine: engine.Config{Kind: engine.Memory}}, zaptest.NewLogger(t))
		if err != nil {
			t.Errorf("%q: %v", key, err)
			continue
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
