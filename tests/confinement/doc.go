// Package confinement is the proof that what a confined caller gets does not depend on other tenants: random requests to a server that holds
// two tenants, and the same to one that holds the first of them alone, are answered alike.
package confinement
