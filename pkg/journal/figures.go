package journal

// Figures are what a journal has done since it was opened, and where it stands.
type Figures struct {
	// Records is how many records the journal has, those that were removed included, and Durable how many of them are known to survive a power cut.
	Records, Durable uint64
	// Batches is how many times records were written since it was opened, and Bytes how long they were together.
	Batches, Bytes uint64
	// Refused is how many records were refused since then, Unrecorded how many answers left without one because the operator wants that, Late how
	// many records had to wait in memory, and Lost how many that narrow had no room there either.
	Refused, Unrecorded, Late, Lost uint64
	// OverShare is how many records were refused to callers that had used up their share.
	OverShare uint64
	// Used is how many bytes the directory has, and QuotaBytes how many it may have; both are 0 without a quota.
	Used, QuotaBytes int64
	// Sealing is how far it is sealed.
	Sealing Sealing
}

// Figures returns the journal's figures.
func (j *Journal) Figures() Figures {
	j.mu.Lock()
	total, over, used := j.totals, j.overShare, j.used
	j.mu.Unlock()
	return Figures{
		Records: j.written.Load(), Durable: j.durable.Load(), Batches: j.batches.Load(), Bytes: j.writtenBytes.Load(),
		Refused: total.refused, Unrecorded: total.unrecorded, Late: total.late, Lost: total.lost,
		OverShare: over, Used: used, QuotaBytes: j.cfg.QuotaBytes, Sealing: j.Sealing(),
	}
}
