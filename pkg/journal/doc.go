// Package journal keeps the record of every decision, and of everything else that callers asked of the server, so that nobody can change it
// unseen. It does not know what a decision means: pkg/judge and pkg/rpc say what is recorded, and it says when that is written.
//
// A journal is a directory:
//
//	origin                        the journal's name, a line: "deputy/STORE/journal/NODE"
//	verifier.key                  the key that verifies its checkpoints, a line in the notation of C2SP signed-note
//	segments/00000000000000000000 records as they come, named by the sequence of the first one; see segment.go
//	tile/…                        the Merkle tree over them and the records themselves, as C2SP tlog-tiles; see package tree
//	checkpoint                    the newest signed checkpoint, C2SP tlog-checkpoint
//
// A record is written to a segment before its answer leaves. Many callers' records share one write, and with Config.Sync one sync. Off that
// path the sealer reads the segment, hashes the records into the tree, and signs a checkpoint. A segment is deleted once the tree
// has all of it.
//
// Everything is written through a file system that tests replace, so that they can fail the n-th write and cut at the n-th sync.
package journal
