package delegate

// SetListReads sets how many objects one call of a list reads.
func (d *Delegate) SetListReads(n int) { d.listReads = n }
