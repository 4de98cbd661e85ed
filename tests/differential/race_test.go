//go:build race

package differential

// raceDetector tells that everything takes ten times as long.
const raceDetector = true
