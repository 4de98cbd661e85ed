// Package encodings sends a server what no client sends: encodings that decoders disagree about, messages that take far more than their
// length, forged cursors, texts that overflow a parser's stack. The server has to refuse each with a status that says why,
// and to go on answering.
package encodings
