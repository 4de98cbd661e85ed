// Package authz is Deputy's vocabulary and its ports: who acts, for whom, where, on what; what a
// decision is; what the engine behind it has to offer. It imports only the standard library, so that
// every other room can depend on it and it depends on none.
//
// Types keep look-alikes apart: an AgentID is not a TenantID, although both are text. Ids here are in
// SpiceDB's object-id alphabet; EncodeID and DecodeID stand at the border.
//
// Zero values deny: the zero Outcome is No, the zero Permissionship is NoPermission, the zero Decision
// refuses.
package authz
