package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/deputyauth/deputy/pkg/client"
	deputyv1 "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

// A session asks before each act. Alice lets the bot act for her, Bob does not: what Alice may see the bot
// may not see for Bob, even where Bob himself may.
func Example() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()

	// In a service of one's own: client.Dial("deputy.internal:50051", client.WithPresharedKey(key)).
	c, err := client.Dial(desk.Addr, client.WithPresharedKey(desk.Key), client.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	entrusted, err := c.Delegations.CreateDelegation(ctx, &deputyv1.CreateDelegationRequest{
		AgentId:   "bot",
		Principal: &deputyv1.SubjectReference{Object: &deputyv1.ObjectReference{ObjectType: "user", ObjectId: "alice"}},
		TenantId:  "acme",
		Unscoped:  true,
		Ttl:       durationpb.New(8 * time.Hour),
	})
	if err != nil {
		log.Fatal(err)
	}
	session, err := c.StartSession(ctx, &deputyv1.StartSessionRequest{
		AgentId: "bot",
		Targets: []*deputyv1.SessionTarget{{DelegationId: entrusted.GetDelegation().GetDelegationId()}},
	})
	if err != nil {
		log.Fatal(err)
	}

	for _, user := range []string{"alice", "bob"} {
		decision, err := session.Check(ctx, client.User(user), "acme", client.Object("document", "plan"), "view")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("for", user, decision.Allowed(), decision)
	}
	// Output:
	// for alice true HAS_PERMISSION
	// for bob false NO_PERMISSION (actor)
}

// Guard stands before the act: it returns nil only for an answer that allows.
func ExampleGuard() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	session := desk.Session(ctx, "alice")

	open := func(document string) error {
		err := client.Guard(session.Check(ctx, client.User("alice"), "acme", client.Object("document", document), "view"))
		if err != nil {
			return err // Refused, or nobody could tell: either way it is not opened.
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
		d, err := session.Check(ctx, client.User("alice"), "acme", client.Object("document", "plan"), "view")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d)
	}

	ask()
	if _, err := desk.Admin.Agents.SuspendAgent(ctx, &deputyv1.SuspendAgentRequest{AgentId: "bot"}); err != nil {
		log.Fatal(err)
	}
	ask()
	// Output:
	// HAS_PERMISSION
	// NO_PERMISSION (actor)
}

// Several questions at one revision. One that is wrong fails by itself.
func ExampleSession_CheckAll() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	session := desk.Session(ctx, "alice")

	plan, payroll := client.Object("document", "plan"), client.Object("document", "payroll")
	answers, err := session.CheckAll(ctx,
		client.Question{Principal: client.User("alice"), Tenant: "acme", Resource: plan, Permission: "view"},
		client.Question{Principal: client.User("alice"), Tenant: "acme", Resource: payroll, Permission: "view"},
		client.Question{Principal: client.User("alice"), Tenant: "acme", Resource: plan, Permission: "launch"},
	)
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range answers {
		fmt.Printf("%v %q\n", a.Allowed(), client.Reason(a.Err))
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

	first, err := session.Check(ctx, client.User("alice"), "acme", client.Object("document", "payroll"), "view")
	if err != nil {
		log.Fatal(err)
	}
	desk.Grant(ctx, "document:payroll#reader@user:alice", "document:payroll#reader@agent:bot")

	then := session.Snapshot(first.CheckedAt())
	for _, asker := range []interface {
		Check(ctx context.Context, on client.Principal, in string, what client.Resource, may string, with ...client.Context) (client.Decision, error)
	}{then, session} {
		d, err := asker.Check(ctx, client.User("alice"), "acme", client.Object("document", "payroll"), "view")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(d)
	}
	// Output:
	// NO_PERMISSION (object)
	// HAS_PERMISSION
}

// Without a session, an agent acts by a delegation that allows it. Caveat context comes with the
// question; what is missing is named.
func ExampleClient_Check() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()
	desk.Entrust(ctx, "alice")

	for _, with := range []client.Context{nil, {"amount": 200}, {"amount": 900}} {
		d, err := desk.Service.Check(ctx, client.Actor{Agent: "bot"}, client.User("alice"), "acme",
			client.Object("document", "refunds"), "approve", with)
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
func ExampleReason() {
	ctx := context.Background()
	desk := openDesk(ctx)
	defer desk.Close()

	session := desk.Service.Session("bot", "0123456789abcdef0123456789abcdef", nil)
	_, err := session.Check(ctx, client.User("alice"), "acme", client.Object("document", "plan"), "view")
	fmt.Println(client.Reason(err))
	// Output: SESSION_NOT_FOUND
}
