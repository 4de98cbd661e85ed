package admission

import "time"

// Shed is how many calls of one caller were refused because of how much it, or all, ask.
type Shed struct {
	// Caller is its name, and Method and Reason are those of the last one.
	Caller, Method, Reason string
	// Calls is how many there were, and From when the first of them came.
	Calls uint64
	From  time.Time
}

// shedEvery is how often refusals of one caller are recorded: those in between are counted, so that a storm of refusals does not become a storm
// of records.
const shedEvery = time.Second

// Shed counts a refused call. It reports whether the calls that were counted so far are to be recorded now, this one included.
func (t *Ticket) Shed(caller, method, reason string) (Shed, bool) {
	one := t.account
	if one == nil {
		return Shed{}, false
	}
	now := t.admission.now()
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.shed.Calls == 0 {
		one.shed.From = now
	}
	one.shed.Caller, one.shed.Method, one.shed.Reason = caller, method, reason
	one.shed.Calls++
	if now.Sub(one.told) < shedEvery {
		return Shed{}, false
	}
	return one.takeLocked(now), true
}

func (a *account) takeLocked(now time.Time) Shed {
	shed := a.shed
	a.shed, a.told = Shed{}, now
	return shed
}

// Unrecorded returns the refused calls that are counted and were not recorded for longer than calls are counted together. They count as recorded
// then.
func (a *Admission) Unrecorded() (all []Shed) {
	now := a.now()
	a.accounts.Range(func(_, known any) bool {
		one, _ := known.(*account)
		one.mu.Lock()
		defer one.mu.Unlock()
		if one.shed.Calls > 0 && now.Sub(one.told) >= shedEvery {
			all = append(all, one.takeLocked(now))
		}
		return true
	})
	return all
}
