// Package admission keeps a server fair to its callers when they ask more of it than it can do.
//
// A call passes three bounds, in this order:
//
//  1. Enter, once its caller is known and before anything is received: the places of the whole server, the caller's own calls and streams, and
//     the caller's rate. A call that is refused here has cost almost nothing.
//  2. Take, once its message has come, for calls that have one answer: a turn. So many calls are worked on at once; the others wait, each
//     behind its own caller's, and turns go to the callers in proportion to their weights, whatever each of them has waiting. A call that
//     would wait for longer than its time, or than the server lets calls wait, is refused at once. What a call costs is the number of its
//     items, so that nobody hides 10,000 decisions in one call.
//  3. Leave, at its end, gives everything back.
//
// Calls that only take access away have a lane of their own: places that no other call can have, turns of their own, and no rate. So a brake
// waits for other brakes at most.
//
// A refusal says how long to wait before it makes sense to try again. It says nothing about other callers.
package admission
