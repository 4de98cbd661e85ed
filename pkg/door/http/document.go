package http

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	nethttp "net/http"
	"strconv"
	"strings"
)

// document is a text that does not change, ready to be sent.
type document struct {
	plain, packed []byte
	tag           string
}

func newDocument(text []byte) document {
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression) // the level is one
	_, _ = z.Write(text)                                       // memory takes everything
	_ = z.Close()
	sum := sha256.Sum256(text)
	return document{plain: text, packed: packed.Bytes(), tag: `"` + hex.EncodeToString(sum[:8]) + `"`}
}

// serve answers with the document, or that a client has it already.
func (d document) serve(w *answer, r *nethttp.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Vary", "Accept-Encoding")
	w.Header().Set("ETag", d.tag)
	if r.Header.Get("If-None-Match") == d.tag {
		w.WriteHeader(nethttp.StatusNotModified)
		return
	}
	text := d.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		text = d.packed
		w.Header().Set("Content-Encoding", "gzip")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(nethttp.StatusOK)
	if r.Method == nethttp.MethodGet {
		_, _ = w.Write(text) // a client that is gone does not read it
	}
}
