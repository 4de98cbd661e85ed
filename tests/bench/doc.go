// Package bench measures Deputy, beside what it is compared with, in one run on one machine: only ratios
// travel from one machine, or day, to another. `make bench` runs it; README.md says what each line means.
package bench
