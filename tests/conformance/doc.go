// Package conformance runs SpiceDB's public suites against pkg/store.
package conformance
