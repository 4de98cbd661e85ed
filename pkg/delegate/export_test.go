package delegate

// SetListReads sets how many objects one call of a list reads.
func (d *Delegate) SetListReads(n int) { d.listReads = n }

// SetReviewBounds sets how many objects a review of the whole graph keeps, and how much a digest covers.
func (d *Delegate) SetReviewBounds(named, held int) { d.maxNamed, d.maxHeld = named, held }

// SetSweepReads sets how many objects one call of a brake reads.
func (d *Delegate) SetSweepReads(n int) { d.sweepReads = n }
