package daemon

import (
	"context"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// On returns the configuration of a server whose store has its files on another file system.
func (c Config) On(files vfs.FS) Config {
	c.files = files
	return c
}

// LookingEvery returns the configuration of a server that looks for new certificates as often.
func (c Config) LookingEvery(every time.Duration) Config {
	c.certificatesEvery = every
	return c
}

// RenewingAfter returns the configuration of a server whose connections serve new calls for as long, where clients are asked for certificates.
func (c Config) RenewingAfter(age time.Duration) Config {
	c.certifiedTime = age
	return c
}

// HealthOf returns what a server would say of its health, also once it takes no calls.
func HealthOf(d *Daemon) healthv1.HealthCheckResponse_ServingStatus {
	is, err := d.health.Check(context.Background(), &healthv1.HealthCheckRequest{})
	if err != nil {
		return healthv1.HealthCheckResponse_UNKNOWN
	}
	return is.GetStatus()
}

// JournalOn returns the configuration of a server whose journal has its files on another file system.
func (c Config) JournalOn(files vfs.FS) Config {
	c.journalFiles = files
	return c
}
