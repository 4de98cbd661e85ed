package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory returns the process's resident memory in bytes: now, and at most since its start or the last ResetPeak. Both are 0
// once it has ended.
func (s *Server) Memory() (resident, peak int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		return 0, 0
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "VmRSS:":
			resident = n << 10
		case "VmHWM:":
			peak = n << 10
		}
	}
	return resident, peak
}

// ResetPeak makes the peak what is resident now. Where the system does not allow that, the peak stays.
func (s *Server) ResetPeak() {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.PID()), []byte("5"), 0)
}
