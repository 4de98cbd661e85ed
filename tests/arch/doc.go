// Package arch asserts how the repository is built: which room may import which, what a source file may
// not hold, that links in the documentation lead somewhere. A failure says what to write instead.
package arch
