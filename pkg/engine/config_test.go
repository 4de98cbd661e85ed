package engine

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestUnreadSettings: what an engine does not read is refused, and what it needs is asked for, by the flag's name.
func TestUnreadSettings(t *testing.T) {
	needed := func(kind string) Config {
		c := Config{Kind: kind}
		switch kind {
		case Embedded:
			c.Dir = "data"
		case Postgres, CockroachDB, MySQL, Spanner:
			c.URI = "secret"
		case Remote:
			c.Endpoint, c.PresharedKey = "spicedb:50051", "secret"
		}
		return c
	}
	databases := []string{Postgres, CockroachDB, MySQL, Spanner}
	settings := []struct {
		flag       string
		set, unset func(*Config)
		readBy     []string
	}{
		{"--data-dir", func(c *Config) { c.Dir = "z" }, func(c *Config) { c.Dir = "" }, []string{Embedded}},
		{"--cache-mib", func(c *Config) { c.CacheBytes = 1 }, nil, []string{Embedded}},
		{"--datastore-conn-uri", func(c *Config) { c.URI = "secret" }, func(c *Config) { c.URI = "" }, databases},
		{"--datastore-conn-pool-read-max-open", func(c *Config) { c.ReadConns = 9 }, nil, []string{Postgres, CockroachDB, MySQL}},
		{"--datastore-conn-pool-write-max-open", func(c *Config) { c.WriteConns = 9 }, nil, []string{Postgres, CockroachDB, MySQL}},
		{"--remote-endpoint", func(c *Config) { c.Endpoint = "h:1" }, func(c *Config) { c.Endpoint = "" }, []string{Remote}},
		{"--remote-preshared-key", func(c *Config) { c.PresharedKey = "secret" }, func(c *Config) { c.PresharedKey = "" }, []string{Remote}},
		{"--remote-insecure", func(c *Config) { c.Insecure = true }, nil, []string{Remote}},
		{"--remote-trust-schema", func(c *Config) { c.TrustSchema = true }, nil, []string{Remote}},
		{"--remote-ca", func(c *Config) { c.CAPath = "ca.pem" }, nil, []string{Remote}},
		{"--clock-offset", func(c *Config) { c.ClockOffset = time.Second }, nil, []string{CockroachDB, Remote}},
		{"--retention", func(c *Config) { c.Retention = time.Hour }, nil, Kinds},
	}
	for _, kind := range Kinds {
		complete := needed(kind)
		if err := complete.Check(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		for _, s := range settings {
			reads := slices.Contains(s.readBy, kind)
			with := needed(kind)
			s.set(&with)
			err := with.Check()
			if reads != (err == nil) || err != nil && (!strings.Contains(err.Error(), s.flag+",") || strings.Contains(err.Error(), "secret")) {
				t.Errorf("%s with %s: %v", kind, s.flag, err)
			}
			if !reads || s.unset == nil {
				continue
			}
			without := needed(kind)
			s.unset(&without)
			if err := without.Check(); err == nil || !strings.Contains(err.Error(), "engine "+kind+" needs "+s.flag) {
				t.Errorf("%s without %s: %v", kind, s.flag, err)
			}
		}
	}
	if err := (Config{Kind: "sqlite"}).Check(); err == nil || !strings.Contains(err.Error(), `not "sqlite"`) {
		t.Errorf("an unknown engine: %v", err)
	}
	both := needed(Remote)
	both.Insecure, both.CAPath = true, "ca.pem"
	if err := both.Check(); err == nil || !strings.Contains(err.Error(), "--remote-ca exclude each other") {
		t.Errorf("a CA without TLS: %v", err)
	}
}
