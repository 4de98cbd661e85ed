// Package turns shares out, between callers, what a server can do only a few of at a time: one caller cannot hold all of it, however many calls or
// streams it opens.
//
// A Set has so many turns. While nobody else asks, one caller may have all of them but those that are set apart: these go only to callers that have
// none. So there is a turn for a caller that comes while another one has as many as it can get, and it need not wait for the calls of that one to
// end, which may take long. Where turns are wanted by more callers than there are, a turn that is given back goes to the caller that has the fewest,
// and among those that have as few to the one that was served, or began to wait, the longest time ago. What a caller has waiting gets it nothing.
//
// Turns need not be alike: a Set may hand out bytes of memory, and a call takes as many as its message has.
//
// What callers ask for at the same time is taken once for all of them; see Shared.
//
// The caller is the one that the context says (authz.CallerOf). All work without a caller is one caller's: the server's own.
package turns
