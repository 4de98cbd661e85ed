package engine

// SpiceDBVersion is the version of SpiceDB that this module requires. What the Go toolchain records is missing in tests, and where
// Deputy is built without modules.
const SpiceDBVersion = "v1.56.2"
