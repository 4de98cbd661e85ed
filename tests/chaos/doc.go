// Package chaos runs three servers that follow one PostgreSQL with a streaming replica, has clients check, grant and revoke through all of them, and
// meanwhile kills what can be killed: a server, the database, then the database for good, so that the replica takes over; it has the database hang, and
// restarts all servers one after the other. All parts are real, and each is a process of its own.
//
// Beside the servers there is a model that knows what was acknowledged, and nothing else (model_test.go). It is never asked of a server. What it says:
//
//   - An answer is stale if it differs from all states that the question's object may have had between the last write to it that was acknowledged
//     before the question was asked, and the last that had begun when the answer came. There must be none.
//   - A write is lost if it was acknowledged and is not in the database that serves. There must be none but after a failover, because the replica is
//     asynchronous and is kept from receiving the last writes: the table counts them.
//   - A write without an acknowledgement may have been made, or may be made yet. Its object is not looked at any more.
//
// A check has failed if the Go client returns an error. It is connected as the documentation tells clients to be (client.WithBalancing and a name with the addresses
// of all servers), makes a call that was UNAVAILABLE up to three times, and waits 5 s at most. No check may fail while nothing happens, when one server
// is killed, and in a rolling restart. While there is no database that answers, checks of the head fail: that is the promise.
//
// `make chaos` runs the events again and again for CHAOSTIME (2m), prints one table, and ends with an error if an answer was stale or anything else was
// not as it has to be. `make test` runs them once.
package chaos
