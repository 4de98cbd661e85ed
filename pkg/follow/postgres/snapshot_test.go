package postgres

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestSnapshot reads PostgreSQL's texts of snapshots, and refuses others.
func TestSnapshot(t *testing.T) {
	for _, c := range []struct {
		text           string
		shows, doesNot []uint64
	}{
		{"10:10:", []uint64{1, 9}, []uint64{10, 11}},
		{"10:14:10,12", []uint64{9, 11, 13}, []uint64{10, 12, 14, 9223372036854775807}},
	} {
		s, err := parseSnapshot(c.text)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range c.shows {
			if !s.shows(id) {
				t.Errorf("%s does not show %d", c.text, id)
			}
		}
		for _, id := range c.doesNot {
			if s.shows(id) {
				t.Errorf("%s shows %d", c.text, id)
			}
		}
	}
	for _, text := range []string{"", "10", "10:12", "10:12:a", "10:9:", "0:3:", "10:12:12", "10:14:12,11", "10:14:9", "10:12::", "-1:2:", "10:12:11,11"} {
		if _, err := parseSnapshot(text); err == nil {
			t.Errorf("%q is taken for a snapshot", text)
		}
	}
}

// TestCovers compares covers with its meaning, transaction by transaction.
func TestCovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) snapshot {
			const highest = 12
			xmax := rapid.Uint64Range(1, highest).Draw(t, name+" xmax")
			text, xmin := "", xmax
			for id := xmax - 1; id >= 1; id-- {
				if rapid.Bool().Draw(t, fmt.Sprint(name, " ", id, " runs")) {
					text, xmin = fmt.Sprint(id, ",", text), id
				}
			}
			if text != "" {
				text = text[:len(text)-1]
			}
			s, err := parseSnapshot(fmt.Sprintf("%d:%d:%s", xmin, xmax, text))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		a, b := draw("a"), draw("b")
		want := true
		for id := range uint64(20) {
			want = want && (a.shows(id) || !b.shows(id))
		}
		if got := a.covers(b); got != want {
			t.Errorf("%v covers %v: %v, want %v", a, b, got, want)
		}
	})
}
