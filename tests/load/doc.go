// Package load asks a server for more than it can do, and looks at what becomes of its callers: that the server does as much as it can, that
// each gets its share, that nobody waits for long, that memory stays flat, and that what takes access away goes through.
//
// The overloaded server is a whole one, on the engine embedded. A gate in front of its graph lets so many decisions through in a second: so its
// capacity is known, and is the same on a slow machine and on a fast one. TestOverload prints its table with -v. By itself it offers little, so that it
// runs anywhere; the figures of docs/load.md are those of
//
//	go test -v -run TestOverload ./tests/load -capacity 1000 -lasts 30s -rewrite
package load
