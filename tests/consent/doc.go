// Package consent has people consent to delegations with tokens of their own, and see and revoke what agents may do for them: over a real server,
// after it was started again, and on two servers over one database.
package consent
