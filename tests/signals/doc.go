// Package signals tests security events as a transmitter sends them: over HTTP, to a real server, with tokens that it signs itself. What they come
// to is read from the answers of checks. The transmitter is the test's own, in the package events.
package signals
