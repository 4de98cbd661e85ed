package tree_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/deputyauth/deputy/pkg/journal/tree"
)

// FuzzBundle: bytes are no bundle, or one whose records make the same entries again; and records come out of a bundle as they went in.
func FuzzBundle(f *testing.F) {
	records := make([][]byte, tree.Width)
	for i := range records {
		records[i] = record(uint64(i))
	}
	whole, err := tree.EncodeBundle(records)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-12])
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := tree.DecodeBundle(b); err == nil {
			again, err := tree.EncodeBundle(got)
			if err != nil {
				t.Fatal(err)
			}
			once, err := tree.DecodeBundle(again)
			if err != nil || len(once) != len(got) {
				t.Fatalf("%d records are %d the second time (%v)", len(got), len(once), err)
			}
		}
		_ = new(tree.Bundles).Salvage(b)
		drawn := make([][]byte, tree.Width)
		for i := range drawn {
			from := min(i, len(b))
			drawn[i] = b[from:min(from+i*i%97, len(b))]
		}
		encoded, err := tree.EncodeBundle(drawn)
		if err != nil {
			t.Fatal(err)
		}
		back, err := tree.DecodeBundle(encoded)
		if err != nil {
			t.Fatal(err)
		}
		for i := range drawn {
			if !bytes.Equal(back[i], drawn[i]) {
				t.Fatalf("record %d is another one", i)
			}
		}
	})
}

// FuzzTile: paths are of no tile, or are the path of the tile that is read.
func FuzzTile(f *testing.F) {
	f.Add("tile/0/x001/000", []byte{})
	f.Add("tile/entries/000.zst", make([]byte, 8192))
	f.Fuzz(func(t *testing.T, path string, b []byte) {
		if level, n, ok := tree.ParsePath(path); ok {
			want := tree.BundlePath(n)
			if level >= 0 {
				want = tree.TilePath(level, n)
			}
			if path != want {
				t.Fatalf("%q is read as %q", path, want)
			}
		}
		if hashes, err := tree.DecodeTile(b); (err == nil) != (len(b) == 8192) || err == nil && !bytes.Equal(hashes[255][:], b[8160:]) {
			t.Fatalf("%d bytes are read as a tile of %d hashes (%v)", len(b), len(hashes), err)
		}
	})
}

// FuzzCheckpoint: bytes are no checkpoint, or the one text that says what is read; and one of another size is not what was signed.
func FuzzCheckpoint(f *testing.F) {
	private, public, err := note.GenerateKey(rand.Reader, "deputy/store/journal/node")
	if err != nil {
		f.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		f.Fatal(err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("\n"), uint64(7))
	f.Fuzz(func(t *testing.T, b []byte, size uint64) {
		want := tree.Checkpoint{Origin: verifier.Name(), Size: size >> 1}
		text, err := want.Sign(signer)
		if err != nil {
			t.Fatal(err)
		}
		if got, others, err := tree.ParseCheckpoint(text, verifier); err != nil || got != want || others != 0 {
			t.Fatalf("%+v is read as %+v with %d others (%v)", want, got, others, err)
		}
		for _, bent := range [][]byte{b, append(bytes.Clone(text), b...), append(bytes.Clone(b), text...)} {
			if got, others, err := tree.ParseCheckpoint(bent, verifier); err == nil && (got != want || others == 0 && !bytes.Equal(bent, text)) {
				t.Fatalf("%q is read as %+v", bent, got)
			}
		}
	})
}
