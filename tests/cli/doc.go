// Package cli runs the command line of Deputy as its users do: each script in testdata/scripts is one
// behaviour, told in commands and in what they print. script_test.go says which commands there are
// beside testscript's own.
package cli
