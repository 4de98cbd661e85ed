package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/deputyauth/deputy/pkg/client"
)

// A session asks before each act. Alice lets the bot act for her, Bob does not: acting for Bob, the bot cannot view what it views for
// Alice, even where Bob himself can.
func Example() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()

	// In a service of one's own: client.Dial("deputy.internal:50051", client.WithKeyFile("/run/secrets/deputy")).
	c, err := client.Dial(desk.Addr, client.WithPresharedKey(desk.Key))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	created, err := c.CreateDelegation(ctx, client.DelegationSpec{
		Agent: "bot", Principal: client.User("alice"), Tenant: "acme", Unscoped: true, TTL: 8 * time.Hour,
	})
	if err != nil {
		log.Fatal(err)
	}
	session, err := c.StartSession(ctx, client.SessionSpec{
		Agent: "bot", Targets: []client.Target{{Delegation: created.GetDelegation().GetDelegationId()}},
	})
	if err != nil {
		log.Fatal(err)
	}

	for _, user := range []string{"alice", "bob"} {
		decision, err := session.Check(ctx, client.Question{
			Principal: client.User(user), Tenant: "acme", Resource: client.Object("document", "plan"), Permission: "view",
		})
		if err != nil {
			log.Fatal(err) // There is no answer: do not act.
		}
		fmt.Println("for", user, decision.Allowed(), decision)
	}
	// Output:
	// for alice true HAS_PERMISSION
	// for bob false NO_PERMISSION (actor)
}

// view asks whether the bot may view a document for Alice.
func view(document string) client.Question {
	return client.Question{
		Principal: client.User("alice"), Tenant: "acme", Resource: client.Object("document", document), Permission: "view",
	}
}

// Guard stands before the act: it returns nil only for an answer that allows.
func ExampleGuard() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	session := desk.Session(ctx, "alice")

	open := func(document string) error {
		if err := client.Guard(session.Check(ctx, view(document))); err != nil {
			return err // Refused, or no answer: either way it is not opened.
		}
		fmt.Println("opened", document)
		return nil
	}
	for _, document := range []string{"plan", "payroll"} {
		err := open(document)
		if refused, ok := errors.AsType[*client.Refused](err); ok {
			fmt.Println(document, "is refused:", refused.Decision)
		} else if err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// opened plan
	// payroll is refused: NO_PERMISSION (object)
}

// A revocation that was acknowledged is seen by the next check.
func ExampleSession_Check() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	session := desk.Session(ctx, "alice")
	ask := func() {
		d, err := session.Check(ctx, view("plan"))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d)
	}

	ask()
	if _, err := desk.Admin.SuspendAgent(ctx, "bot"); err != nil {
		log.Fatal(err)
	}
	ask()
	// Output:
	// HAS_PERMISSION
	// NO_PERMISSION (actor)
}

// Several questions at one revision. One that is wrong fails by itself.
func ExampleSession_CheckBulk() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	session := desk.Session(ctx, "alice")

	launch := view("plan")
	launch.Permission = "launch"
	answers, err := session.CheckBulk(ctx, view("plan"), view("payroll"), launch)
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range answers {
		fmt.Printf("%v %q\n", a.Allowed(), client.ReasonOf(a.Err))
	}
	// Output:
	// true ""
	// false ""
	// false "UNKNOWN_PERMISSION"
}

// Questions about one picture: what is granted in between does not show in it.
func ExampleSession_Snapshot() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	session := desk.Session(ctx, "alice")

	first, err := session.Check(ctx, view("payroll"))
	if err != nil {
		log.Fatal(err)
	}
	desk.Grant(ctx, "document:payroll#reader@user:alice", "document:payroll#reader@agent:bot")

	for _, asker := range []client.Checker{session.Snapshot(first.CheckedAt()), session} {
		d, err := asker.Check(ctx, view("payroll"))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d)
	}
	// Output:
	// NO_PERMISSION (object)
	// HAS_PERMISSION
}

// A lookup is read to its end: what a server did not end is an error, and never a shorter list.
func ExampleSession_LookupResources() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	session := desk.Session(ctx, "alice")

	documents := session.LookupResources(client.ResourceQuery{Type: "document", Permission: "view"})
	for reached, err := range documents.All(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(reached.Resource, "for", reached.Principal)
	}
	fmt.Println("complete:", documents.Complete())
	// Output:
	// document:plan for user:alice
	// complete: true
}

// Without a session, an agent acts by a delegation that allows it. Caveat context comes with the
// question; what is missing is named.
func ExampleClient_Check() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	desk.Entrust(ctx, "alice")

	for _, with := range []client.Context{nil, {"amount": 200}, {"amount": 900}} {
		d, err := desk.Service.Check(ctx, client.Question{
			Agent: "bot", Principal: client.User("alice"), Tenant: "acme",
			Resource: client.Object("document", "refunds"), Permission: "approve", Context: with,
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d)
	}
	// Output:
	// CONDITIONAL_PERMISSION (missing amount)
	// HAS_PERMISSION
	// NO_PERMISSION (object)
}

// A failed call carries a word for programs.
func ExampleReasonOf() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()

	session := desk.Service.Session("bot", "0123456789abcdef0123456789abcdef", nil)
	_, err := session.Check(ctx, view("plan"))
	fmt.Println(client.ReasonOf(err) == client.ReasonSessionNotFound)
	// Output: true
}

// archive is code of a program that acts: it takes a Checker, so that its tests need no server.
func archive(ctx context.Context, may client.Checker, document string) error {
	if err := client.Guard(may.Check(ctx, view(document))); err != nil {
		return err
	}
	return nil // here the program would archive it
}

// A fake allows what the test means to allow, and refuses everything else.
func ExampleChecker() {
	ctx := context.Background()
	fake := client.CheckerFunc(func(_ context.Context, q client.Question) (client.Decision, error) {
		switch q.Resource {
		case client.Object("document", "plan"):
			return client.Allow(), nil
		case client.Object("document", "broken"):
			return client.Decision{}, errors.New("the server is down")
		}
		return client.Decision{}, nil // the zero Decision refuses
	})
	for _, document := range []string{"plan", "payroll", "broken"} {
		if err := archive(ctx, fake, document); err != nil {
			fmt.Println(document, "stays:", err)
			continue
		}
		fmt.Println("archived", document)
	}
	// Output:
	// archived plan
	// payroll stays: refused: UNSPECIFIED
	// broken stays: the server is down
}
