// Package deputy is the store of another Deputy server, on the engine embedded, as an authority that is followed: Server is the side of the server
// that is followed (FollowService of deputy.v1), Authority that of the one that follows.
//
// A state of a store is a revision, and a revision shows every one before it. So a position is a number, with the store's id: a store that was restored
// from a backup, or promoted, has another id, because revisions may be used again for other writes after that. A store whose directory was put back to
// what it was before has the same id. So the store looks in its changelog whether it has ever made the revision that a position names; revisions are
// nanoseconds of its clock, so two histories do not make the same one by chance.
//
// What has changed since a position is the difference of two revisions, as it is for every authority, and is found through the changelog. That is kept
// for as long as the revision can be read (the store's retention), so a store never has a part of it.
//
// As everywhere, the store deletes relationships that have expired without a change that anybody could see.
package deputy
