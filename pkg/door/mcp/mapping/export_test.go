package mapping

// LimitLooks has calls and answers of the tools look up less than they may, so that a test reaches the bound soon.
func (m *Map) LimitLooks(most int) {
	for _, a := range m.tools {
		a.looks = most
	}
}
