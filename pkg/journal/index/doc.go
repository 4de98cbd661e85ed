// Package index finds the records that a query asks for without reading the others. It is derived from the bundles of a journal: it can be
// deleted at any time, is built again from them, and is no part of any proof. It never says that a bundle has no matching record where it
// has one. That a bundle may have one is sometimes wrong, which costs reading the bundle.
//
// 256 bundles of 256 records are a group, and a group is a file, named by its number:
//
//	index/00000000000000000000        the group, once all of its bundles are there
//	index/00000000000000000001.part   the terms of those bundles of the next group that are there
//
// What records can be found by is a term: a 64-bit hash of a field and its value. A group has two filters over them, one behind the other.
// The first is a blocked Bloom filter (Putze, Sanders, Singler: "Cache-, Hash- and Space-Efficient Bloom Filters", 2007) over the terms of the
// whole group, so that a group without a term is passed over after one read. The second has a Bloom filter for each bundle. They are of one length and are
// written across: a row has one bit of each bundle's, so that reading as many rows as the filter has hashes answers for all 256 bundles.
//
// All files consist of blocks of 512 bytes: 508 that say something, and the CRC-32C of the group's number, the block's number (8 bytes each) and
// those. All numbers are little-endian.
//
//	block 0      "deputy index   1" (16)
//	             number of the group (8)
//	             time of its earliest and of its latest record, in nanoseconds since 1970 (8 each)
//	             blocks of the first filter (4), and how many bits a term sets in it (4)
//	             rows of the second filter (4), and how many bits a term sets in it (4)
//	9 blocks     time of the earliest and of the latest record of each bundle (8 each), 31 bundles a block
//	…            the first filter: a term's bits are all in one block
//	…            the second filter: rows of 32 bytes, 15 a block; bundle i has bit i%8 of byte i/8
//
// A part is a file of entries, one a bundle, in order; a file that ends in half an entry ends before it:
//
//	entry        number of the bundle (8)
//	             time of its earliest and of its latest record (8 each)
//	             how many terms it has (4); 2^32-1: more than are kept, so that it may have any record
//	             the terms (8 each)
//	             CRC-32C of all before (4)
package index
