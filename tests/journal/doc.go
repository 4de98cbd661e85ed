// Package journal tests the evidence that real servers keep: that every answer has its record, and that nobody can change one unseen.
package journal
