// Package crash kills `deputy serve` while it is written to, again and again over the same directory, and
// looks each time at what the next one finds there.
package crash
