// Package process runs `deputy serve` in a process of its own, for tests that kill it, send it signals, or measure what it
// takes. The program is the test binary itself, which is the command line when it is called by that name (Main).
package process
