// Package wire receives what callers send: it looks at each message's encoding before anything is made of it.
//
// gRPC for Go has one limit for all methods of a server, decompresses up to it, and decodes a unary call's message
// before any interceptor runs. A few kilobytes could so become a gigabyte for a caller without a key, and a
// message that the decoder refuses became INTERNAL. So Deputy authenticates first, and then reads a call's
// messages here, in four steps, each of which can refuse:
//
//  1. The message's prefix tells its length: one above the method's limit is refused before it is read.
//  2. It is decompressed up to the same limit. Large messages wait until the server has room for them (see
//     Receiver), so that many at once take no more than a few.
//  3. Inspect reads the encoding once, without making anything: fields that the message's type does not have,
//     known ones of another wire type, groups, and nesting deeper than MaxDepth are refused with the field's number
//     and place, and what the decoded message would take is counted.
//  4. Google's decoder (google.golang.org/protobuf) decodes.
//
// Doors that are no gRPC server bring messages here too, and take room before they read one (Receiver.Room). There a message may be JSON in
// protobuf's mapping: then step 3 reads its words beside the same types, refuses by name what those do not have, and counts what the same message
// would take in protobuf's encoding; and Google's decoder of JSON decodes it.
//
// What the first three let pass and the fourth decodes is what the services, and SpiceDB, get to see.
package wire
