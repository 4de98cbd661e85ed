// Package persons keeps a random key for each person in each tenant, so that what is recorded of somebody can be erased from a journal that
// nobody may change: it is sealed with that person's key, and destroying the key erases all of it, in every copy of the journal.
//
// The keys lie in one file of the key directory, persons.keys, apart from the data directory, from the journal and from the backups of both. It
// is slots of 128 bytes; all numbers are little-endian.
//
//	slot 0     "deputy persons 1" (16)
//	           which secret the file is for: the first bytes of an HMAC (16)
//	           zeros (92)
//	           CRC-32C of the 124 bytes before (4)
//	slot 1…    the tag of person and tenant: the first bytes of an HMAC (16)
//	           the tag of the person in all tenants, likewise (16)
//	           a random nonce (12)
//	           the person's key, sealed with AES-256-GCM under a key that is derived from the secret; the 32 bytes before are authenticated with it (48)
//	           zeros (32)
//	           CRC-32C of the 124 bytes before (4)
//	           or 128 zeros: nobody's, or somebody's who was erased
//
// A slot is never moved, and 128 divides the size of a disk's sector. So two processes need no common lock: the server, which alone fills slots
// that are zero, and `deputy journal erase`, which alone overwrites slots with zeros. The server keeps in memory which tag is in which slot, and
// reads the slot each time that it uses a key, so that an erasure holds at once. Erasures exclude each other, because the server may fill a slot
// again that one of them has overwritten.
//
// A person takes 128 bytes on disk and about 50 in memory: a million persons take 128 MB and 50 MB.
//
// What this cannot do: a file system that never overwrites (Btrfs, ZFS, most snapshots of volumes) and the spare blocks of an SSD may keep what a
// slot held. And of course a copy of the key directory has the keys that it was made with.
package persons
