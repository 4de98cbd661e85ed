// Package triples asks every check that SpiceDB's own test files make possible, and compares.
//
// SpiceDB tests its evaluation with some eighty small graphs, each a file with a schema, relationships and
// assertions (internal/services/integrationtesting/testconfigs). The test reads them where they are, in the
// module cache, and copies nothing. For each file it asks every (resource, permission, subject) triple with
// every context that the file knows, singly and in bulk, at one exact snapshot: first SpiceDB's own server over
// the store, then Deputy over the same files on the disk. The answers have to be the same.
package triples
