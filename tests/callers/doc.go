// Package callers tests what each caller gets from a running server: the whole table of methods, roles, bounds and credentials, and what
// operators see of it.
package callers
