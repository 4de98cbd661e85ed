// Package schema holds the SpiceDB schemas that Deputy ships: the core that every deployment has, a
// library of domains to start from, and a whole example with two tenants.
package schema

import "embed"

// Core is core.zed: the object types of Deputy's own (user, service, agent, tenant, delegation,
// session) with their caveats, as SpiceDB schema text. A schema whose definitions of these differ from
// it, comments aside, is refused.
//
//go:embed core.zed
var Core string

// SupportDesk is the example domain, a support desk with two tenants. All paths in it start with
// "supportdesk/"; fs.Sub(SupportDesk, "supportdesk") is the source folder to compile it from:
//
//	supportdesk.zed     the root of the composable schema
//	core.zed            the core, byte for byte; an import cannot leave its folder
//	sharing.zed         a partial that folders and documents have in common
//	limits.zed          the domain's caveat
//	relationships.txt   one relationship a line in SpiceDB's notation; blank lines and lines that
//	                    start with "//" say nothing
//	decisions.yaml      the example step by step, with the decisions that are expected: the demo is its first part
//	supportdesk.yaml    the fixture that shows every role
//
//go:embed supportdesk
var SupportDesk embed.FS

// Library holds domains to start from. All paths in it start with "library/"; for each domain it has
//
//	NAME.zed     the schema, which imports core.zed
//	NAME.yaml    the fixture that `deputy test` runs
//	NAME.md      what the domain models, and how to adapt it
//
// and beside them core.zed, the core, byte for byte. A domain is copied and changed, so that its names
// are not those of a package: two domains may define the same type.
//
//go:embed library
var Library embed.FS
