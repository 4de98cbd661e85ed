package daemon

import "testing"

// TestReadable: what a message of a comparison says can be carried, and does nothing to a terminal.
func TestReadable(t *testing.T) {
	for text, want := range map[string]string{
		"document:plan#viewer@user:zoë": "document:plan#viewer@user:zoë", "a\x1b[2Jb": "a\ufffd[2Jb", "a\nb": "a\ufffdb", "a\xffb": "a\ufffdb", "a\u202eb": "a\ufffdb",
	} {
		if got := readable(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}
