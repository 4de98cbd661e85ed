// Package reach makes of ReadReach's messages what people read: one stream of those that cursors join, sums, a comparison of two reaches, CSV for
// spreadsheets, and a picture. It asks nobody: messages come in, and data or text come out. Whatever it keeps is bounded, however large a reach
// is; what it has no room for is counted together.
//
//	join.go     one stream of several
//	sum.go      everything added up
//	diff.go     what two reaches do not have in common
//	words.go    flags, grants and answers in words
//	csv.go      one row an object
//	picture.go  who acts, for whom, through which grants, how many objects
//	describe.go the same in sentences, for readers who do not see it
//	draw.go     boxes, lines and text of the picture
package reach
