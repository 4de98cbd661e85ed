package journal

import "testing"

// TestKeysAreReadAgain: a key is read as it was made, whatever its base64 looks like.
func TestKeysAreReadAgain(t *testing.T) {
	for range 100 {
		dir := t.TempDir()
		made, err := OpenKeys(dir, true)
		if err != nil {
			t.Fatal(err)
		}
		read, err := OpenKeys(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		if string(made.seed) != string(read.seed) || string(made.secret) != string(read.secret) {
			t.Fatal("other keys are read than were made")
		}
	}
}
