//go:build race

package judge

// raceDetector tells that much is allocated that is not the code's.
const raceDetector = true
