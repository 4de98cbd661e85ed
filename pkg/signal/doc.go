// Package signal knows what security events (OpenID Shared Signals, CAEP and RISC) ask for, and keeps which of them were received.
//
// Read is pure: from a verified token and the bounds of its transmitter it makes what the brake is to do, which is nothing, to end what runs, or
// to suspend. Nothing that it returns ever gives access back. A Ledger is the durable part: each token takes effect once, and what waits for a
// person waits across restarts. Applying is the work of pkg/rpc.
package signal
