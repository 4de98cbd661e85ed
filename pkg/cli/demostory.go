package cli

// demoStory is the demo: what follows from the graph in schema/supportdesk, and from who lets whom do
// what. It is told from top to bottom; a name that one step gives is used by later ones.
var demoStory = []demoChapter{
	{
		"Alice lets triage-bot act for her, in a session. It may what both of them may.",
		[]demoStep{
			demoDelegate{name: "alice-triage", agent: "triage-bot", principal: "user:alice", tenant: "acme", unscoped: true},
			demoStart{name: "alice-run", agent: "triage-bot", delegation: "alice-triage"},
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "reply ticket:acme-1042", "", "allowed"},
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "view document:acme-handbook", "", "allowed"},
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "edit document:acme-handbook", "", "refused by agent"},
		},
	}, {
		"The bleed: Bob did not. For Bob it may neither what Alice may, nor what Bob himself may.",
		[]demoStep{
			demoAlone{"user:bob", "view ticket:acme-1041", "allowed"},
			demoCheck{"triage-bot", "session alice-run", "user:bob", "acme", "view ticket:acme-1042", "", "refused by delegation"},
			demoCheck{"triage-bot", "session alice-run", "user:bob", "acme", "view ticket:acme-1041", "", "refused by delegation"},
			demoCheck{"triage-bot", "no session", "user:bob", "acme", "view ticket:acme-1041", "", "refused by delegation"},
		},
	}, {
		"Carol, an admin of acme, consents for all members: report-bot may what each of them may.",
		[]demoStep{
			demoDelegate{name: "acme-reports", agent: "report-bot", principal: "tenant:acme#member", tenant: "acme",
				grantedBy: "user:carol", unscoped: true, allowDirect: true},
			demoCheck{"report-bot", "no session", "user:bob", "acme", "view document:acme-forecast", "", "allowed"},
			demoCheck{"report-bot", "no session", "user:alice", "acme", "view document:acme-forecast", "", "refused by principal"},
		},
	}, {
		"A sub-agent: in Alice's session triage-bot passes one ticket on to reply-bot, and nothing else.",
		[]demoStep{
			demoDelegate{name: "alice-reply", agent: "reply-bot", parent: "alice-run",
				scope: []string{"ticket:acme-1042#assignee"}, allowDirect: true},
			demoCheck{"reply-bot", "delegation alice-reply", "user:alice", "acme", "reply ticket:acme-1042", "", "allowed"},
			demoCheck{"reply-bot", "delegation alice-reply", "user:alice", "acme", "view document:acme-handbook", "", "refused by scope"},
		},
	}, {
		"Across tenants: Dave reads both tenants' forecasts. A session in globex does not reach acme.",
		[]demoStep{
			demoDelegate{name: "dave-globex", agent: "report-bot", principal: "user:dave", tenant: "globex", unscoped: true},
			demoStart{name: "dave-run", agent: "report-bot", delegation: "dave-globex"},
			demoCheck{"report-bot", "session dave-run", "user:dave", "globex", "view document:globex-forecast", "", "allowed"},
			demoCheck{"report-bot", "session dave-run", "user:dave", "globex", "view document:acme-forecast", "", "refused by tenant"},
			demoCheck{"report-bot", "session dave-run", "user:dave", "acme", "view document:acme-forecast", "", "refused by delegation"},
		},
	}, {
		"A limit: Alice may refund up to 500, triage-bot up to 200. The lower one counts.",
		[]demoStep{
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "invoke tool:acme-refund", "amount=150", "allowed"},
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "invoke tool:acme-refund", "amount=300", "refused by agent"},
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "invoke tool:acme-refund", "", "conditional"},
		},
	}, {
		"A frozen session: payroll is opened to Alice and the bot after it started, and does not count.",
		[]demoStep{
			demoStart{name: "alice-frozen", agent: "triage-bot", delegation: "alice-triage", frozen: true},
			demoWrite{"document:acme-payroll#reader@user:alice", "document:acme-payroll#reader@agent:triage-bot"},
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "view document:acme-payroll", "", "allowed"},
			demoCheck{"triage-bot", "frozen alice-frozen", "user:alice", "acme", "view document:acme-payroll", "", "refused by baseline"},
		},
	}, {
		"Suspension: triage-bot is stopped, and with it what it passed on. Then it is let go again.",
		[]demoStep{
			demoSuspend("triage-bot"),
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "reply ticket:acme-1042", "", "refused by agent"},
			demoCheck{"reply-bot", "delegation alice-reply", "user:alice", "acme", "reply ticket:acme-1042", "", "refused by agent"},
			demoResume("triage-bot"),
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "reply ticket:acme-1042", "", "allowed"},
		},
	}, {
		"Revocation: Alice takes it back. The very next check is refused, and the sub-agent's too.",
		[]demoStep{
			demoRevoke("alice-triage"),
			demoCheck{"triage-bot", "session alice-run", "user:alice", "acme", "reply ticket:acme-1042", "", "refused by delegation"},
			demoCheck{"reply-bot", "delegation alice-reply", "user:alice", "acme", "reply ticket:acme-1042", "", "refused by delegation"},
		},
	},
}
