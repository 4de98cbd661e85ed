package authz

// Identities from outside become ids of the graph here, and nowhere else: each function encodes one (see EncodeID), and refuses what is none.
// Errors are of kind Invalid.

// NewAgentID returns the agent that a program knows by an id.
func NewAgentID(outside string) (AgentID, error) {
	id, err := fromOutside("the agent's id", outside)
	return AgentID(id), err
}

// NewTenantID returns the tenant that a program knows by an id.
func NewTenantID(outside string) (TenantID, error) {
	id, err := fromOutside("the tenant's id", outside)
	return TenantID(id), err
}

// NewUser returns the user that a program knows by an id, as a principal.
func NewUser(outside string) (Principal, error) { return newPrincipal(TypeUser, outside) }

// NewService returns the service that a program knows by an id, as a principal.
func NewService(outside string) (Principal, error) { return newPrincipal(TypeService, outside) }

func newPrincipal(objectType, outside string) (Principal, error) {
	o, err := NewObject(objectType, outside)
	if err != nil {
		return Principal{}, err
	}
	return Principal{o}, nil
}

// NewObject returns the object of a type that a program knows by an id.
func NewObject(objectType, outside string) (Object, error) {
	if objectType == "" {
		return Object{}, Errorf(Invalid, ReasonInvalidField, "the object's type is empty")
	}
	id, err := fromOutside("the object's id", outside)
	if err != nil {
		return Object{}, err
	}
	return Object{objectType, id}, nil
}

// NewSessionID returns the session with an id that Deputy made, as it is shown.
func NewSessionID(shown string) (SessionID, error) {
	id, err := minted("the session's id", shown)
	return SessionID(id), err
}

// NewDelegationID returns the delegation with an id that Deputy made, as it is shown.
func NewDelegationID(shown string) (DelegationID, error) {
	id, err := minted("the delegation's id", shown)
	return DelegationID(id), err
}

func fromOutside(what, outside string) (string, error) {
	id, err := EncodeID(outside)
	if err != nil {
		return "", Errorf(Invalid, ReasonInvalidField, "%s %v", what, err)
	}
	return id, nil
}

// minted returns an id that Deputy made. Those are stored as they are.
func minted(what, shown string) (string, error) {
	if !IsStoredID(shown) {
		return "", Errorf(Invalid, ReasonInvalidField, "%s is malformed", what)
	}
	return shown, nil
}
