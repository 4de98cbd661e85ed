package caller

import (
	"fmt"
	"math"
)

// Limits say how much of a server a caller may take. 0 of a field leaves it to the server's default. They are compared with ==.
type Limits struct {
	// Rate is how many calls, and items of calls that have more than one, the caller makes in a second, and Burst how many at once. Without a
	// rate there is no such bound. Calls that only take access away do not count.
	Rate, Burst int
	// Concurrent is how many calls with one answer are under way at once, those included that wait for their turn.
	Concurrent int
	// Streams is how many other calls are open at once.
	Streams int
	// Message is how long a message may be, in bytes, where its method takes longer ones.
	Message int
	// Weight is the caller's part of the server where callers ask for more than it can do, beside other callers' weights; 0 means 1.
	Weight int
}

// The bounds of limits themselves.
const (
	// MaxRate is the highest rate.
	MaxRate = 10_000_000
	// MaxBurst is the highest burst.
	MaxBurst = 10_000_000
	// MaxConcurrent is the highest number of calls, and of streams.
	MaxConcurrent = 1_000_000
	// MinMessage is the least that a message can be limited to, in bytes.
	MinMessage = 1 << 10
	// MaxMessage is the most, which no method takes more than.
	MaxMessage = 4 << 20
	// MaxWeight is the highest weight.
	MaxWeight = 100
)

// Check refuses limits that are none. key names the field that is wrong, as the file of callers does.
func (l Limits) Check() (key string, err error) {
	for _, one := range []struct {
		key         string
		value       int
		least, most int
	}{
		{"rate", l.Rate, 1, MaxRate},
		{"burst", l.Burst, 1, MaxBurst},
		{"concurrent", l.Concurrent, 1, MaxConcurrent},
		{"streams", l.Streams, 1, MaxConcurrent},
		{"weight", l.Weight, 1, MaxWeight},
	} {
		if one.value != 0 && (one.value < one.least || one.value > one.most) {
			return one.key, fmt.Errorf("%s has to be %d to %d, not %d", one.key, one.least, one.most, one.value)
		}
	}
	if l.Message != 0 && (l.Message < MinMessage || l.Message > MaxMessage) {
		return "message", fmt.Errorf("message has to be 1KiB to 4MiB, not %s", SizeText(l.Message))
	}
	if l.Burst != 0 && l.Rate == 0 {
		return "burst", fmt.Errorf("burst is how much of a rate may come at once, and there is no rate: set rate too, or leave burst out")
	}
	return "", nil
}

// Or returns the limits with the defaults of a server where they say nothing. A rate without a burst has a burst of one second.
func (l Limits) Or(defaults Limits) Limits {
	if l.Rate == 0 {
		l.Rate, l.Burst = defaults.Rate, defaults.Burst
	}
	if l.Burst == 0 {
		l.Burst = l.Rate
	}
	for _, one := range []struct {
		to        *int
		otherwise int
	}{
		{&l.Concurrent, defaults.Concurrent}, {&l.Streams, defaults.Streams}, {&l.Message, defaults.Message}, {&l.Weight, defaults.Weight}, {&l.Weight, 1},
	} {
		if *one.to == 0 {
			*one.to = one.otherwise
		}
	}
	if l.Concurrent == 0 {
		l.Concurrent = math.MaxInt32
	}
	if l.Streams == 0 {
		l.Streams = math.MaxInt32
	}
	return l
}

// SizeText writes a number of bytes as the file of callers has it, such as 1MiB.
func SizeText(bytes int) string {
	switch {
	case bytes%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", bytes>>20)
	case bytes%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", bytes>>10)
	default:
		return fmt.Sprintf("%d bytes", bytes)
	}
}
