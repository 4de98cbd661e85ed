// Package schema holds the SpiceDB schemas that Deputy ships: the core that every deployment has, and
// an example domain beside it.
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
//	decisions.yaml      stories with the decisions that are expected; the format stands in the file
//
//go:embed supportdesk
var SupportDesk embed.FS
