// Command transmit is an identity provider's transmitter of security events, as small as it can be. `transmit keys NAME` makes NAME.pem and
// NAME.json, its keys; `transmit send` pushes an event, and prints what the receiver says.
package main

import (
	"fmt"
	"os"

	"github.com/deputyauth/deputy/tests/signals/events"
)

func main() {
	if err := events.Run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "transmit:", err)
		os.Exit(1)
	}
}
