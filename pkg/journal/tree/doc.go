// Package tree keeps the records of a journal as a Merkle tree on disk, in the form of C2SP tlog-tiles: hashes in tiles of 256, records in
// bundles of 256. It knows nothing of what records say.
//
//	tile/entries/000.zst           records 0 to 255: each a length of 16 bits (big-endian) and its bytes, compressed; see bundle.go
//	tile/0/000                     the RFC 6962 hashes of the same records, 32 bytes each
//	tile/1/000                     the hashes of the first 256 tiles of level 0, and so on for the levels above
//	tile/0/x001/x234/067           tile 1234067 of level 0
//
// Only whole tiles and bundles are on disk, and none is ever written anew with other content. What comes after the last whole bundle is kept in
// memory, and the code that opens a tree adds those records again, from where they were written first.
//
// Old bundles can be pruned, as tlog-tiles has it: the tree has a minimum index, records before it are gone, and proofs of the others still
// work.
package tree
