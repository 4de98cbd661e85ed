package events

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// Run is the command line of the transmitter: see tests/signals/transmit.
func Run(args []string) error {
	if len(args) == 2 && args[0] == "keys" {
		s, err := NewSigner()
		if err != nil {
			return err
		}
		keys, err := s.Keys()
		if err != nil {
			return err
		}
		if err := os.WriteFile(args[1]+".json", keys, 0o600); err != nil {
			return err
		}
		return s.Save(args[1] + ".pem")
	}
	if len(args) == 0 || args[0] != "send" {
		return errors.New("say keys NAME, or send")
	}
	flags := flag.NewFlagSet("send", flag.ContinueOnError)
	name := flags.String("keys", "idp", "name of the keys")
	to := flags.String("to", "", "URL of the receiver")
	keyFile := flags.String("key-file", "", "file with the transmitter's key at the receiver")
	issuer := flags.String("issuer", "https://idp.example.com", `"iss"`)
	audience := flags.String("audience", "https://deputy.example.com/signals", `"aud"`)
	jti := flags.String("jti", rand.Text(), `"jti"`)
	event := flags.String("event", "session-revoked", "name of the event")
	user := flags.String("user", "", "the user that it is about")
	tenant := flags.String("tenant", "", "the tenant that it is about")
	with := flags.String("with", "{}", "what the event says, as JSON")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	subject := map[string]any{}
	if *user != "" {
		subject["user"] = Subject(*issuer, *user)
	}
	if *tenant != "" {
		subject["tenant"] = Opaque(*tenant)
	}
	var payload map[string]any
	if err := json.Unmarshal([]byte(*with), &payload); err != nil {
		return err
	}
	s, err := ReadSigner(*name + ".pem")
	if err != nil {
		return err
	}
	token, err := s.Token(Event(*issuer, *audience, *jti, *event, Complex(subject), payload))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(*keyFile)
	if err != nil {
		return err
	}
	got, err := Push(&http.Client{Timeout: 30 * time.Second}, *to, strings.TrimSpace(string(key)), token)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, got.Status, http.StatusText(got.Status))
	if got.Description != "" {
		fmt.Fprintln(os.Stdout, got.Err+":", got.Description)
	}
	return nil
}
