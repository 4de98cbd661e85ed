package reach

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	deputy "github.com/deputyauth/deputy/pkg/gen/deputy/v1"
)

var rewrite = flag.Bool("rewrite", false, "write what the code makes into testdata")

// world is a reach as a test knows it: objects by party, type and permission.
type world []*worldParty

type worldParty struct {
	of       *deputy.ReachParty
	sections []*worldSection
}

type worldSection struct {
	objectType, permission string
	objects                []*deputy.ReachObject
}

func ref(objectType, id string) *deputy.ObjectReference {
	return &deputy.ObjectReference{ObjectType: objectType, ObjectId: id}
}

func set(objectType, id, relation string) *deputy.SubjectReference {
	return &deputy.SubjectReference{Object: ref(objectType, id), OptionalRelation: relation}
}

// drawWorld draws a reach with few names, so that two of them have much in common.
func drawWorld(t *rapid.T, name string) world {
	var w world
	for _, delegation := range []string{"d1", "d2"} {
		for _, principal := range []*deputy.ObjectReference{ref("service", "nightly"), ref("user", "alice"), ref("user", "bob")} {
			if !rapid.Bool().Draw(t, name+" has "+delegation+Object(principal)) {
				continue
			}
			p := &worldParty{of: &deputy.ReachParty{
				AgentId: "bot", AgentChain: []string{"bot"}, DelegationChain: []string{delegation}, Principal: principal, TenantId: "acme",
			}}
			w = append(w, p)
			if rapid.IntRange(0, 4).Draw(t, "refused") == 0 {
				p.of.RefusedBy = deputy.Gate_GATE_AGENT
				continue
			}
			for _, key := range [][2]string{{"document", "edit"}, {"document", "view"}, {"tool", "invoke"}} {
				s := &worldSection{objectType: key[0], permission: key[1]}
				for i := range 6 {
					if o := drawObject(t, key, fmt.Sprint(i)); o != nil {
						s.objects = append(s.objects, o)
					}
				}
				p.sections = append(p.sections, s)
			}
		}
	}
	return w
}

func drawObject(t *rapid.T, key [2]string, id string) *deputy.ReachObject {
	o := &deputy.ReachObject{Resource: ref(key[0], id), Permission: key[1]}
	switch rapid.IntRange(0, 5).Draw(t, "object") {
	case 0:
		o.Permissionship = deputy.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION
		o.MissingContext = []string{rapid.SampledFrom([]string{"amount", "hour"}).Draw(t, "missing")}
	case 1:
		o.Error = &deputy.ErrorStatus{Message: "the caveat fails"}
	case 2, 3:
		o.Permissionship = deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION
	default:
		return nil
	}
	return o
}

// grant is through what an object is reached, by its id.
func grant(o *deputy.ReachObject) *deputy.ReachGrants {
	g := &deputy.ReachGrants{
		Holder: ref("user", "alice"), ResourceObjectType: "folder", Relation: "reader", Subject: set("group", "staff", "member"), Objects: 1,
	}
	if id := o.GetResource().GetObjectId(); id > "2" {
		g.Subject, g.WithoutEnd = set("user", "alice", ""), 1
	}
	return g
}

// streams writes a reach as a server does, that stops after some of the objects and goes on with the same party: a cut of 0 is none.
func (w world) streams(cut func() bool, withObjects bool) [][]*Message {
	var all [][]*Message
	var now []*Message
	for _, p := range w {
		begin := &Message{Result: &deputy.ReadReachResponse_Party{Party: p.of}}
		now = append(now, begin)
		stop := func() {
			now = append(now, &Message{Result: &deputy.ReadReachResponse_End{End: &deputy.ReachEnd{
				LookedUpAt: &deputy.ZedToken{Token: "r1"}, Next: &deputy.Cursor{Token: "c"},
			}}})
			all = append(all, now)
			now = []*Message{begin}
		}
		if cut() {
			stop()
		}
		for _, s := range p.sections {
			count := &deputy.ReachCount{ResourceObjectType: s.objectType, Permission: s.permission}
			tell := func() {
				now = append(now, &Message{Result: &deputy.ReadReachResponse_Count{Count: proto.CloneOf(count)}})
				count.Reset()
				count.ResourceObjectType, count.Permission = s.objectType, s.permission
			}
			for _, o := range s.objects {
				if withObjects {
					now = append(now, &Message{Result: &deputy.ReadReachResponse_Object{Object: o}})
				}
				switch answer(o) {
				case answerHas:
					count.Has++
				case answerConditional:
					count.Conditional++
				default:
					count.Failed++
				}
				if answer(o) != answerFailed {
					addCount(count, &deputy.ReachCount{Grants: []*deputy.ReachGrants{grant(o)}, OnlyThrough: []*deputy.ReachSet{
						{Holder: ref("user", "alice"), Set: set("group", "staff", "member"), Objects: 1},
					}})
				}
				if cut() {
					tell()
					stop()
				}
			}
			tell()
		}
	}
	return append(all, append(now, &Message{Result: &deputy.ReadReachResponse_End{End: &deputy.ReachEnd{
		LookedUpAt: &deputy.ZedToken{Token: "r1"}, Complete: true,
	}}}))
}

func never() bool { return false }

// joined is what a Join makes of streams.
func joined(t interface {
	Helper()
	Fatal(args ...any)
}, streams [][]*Message) (all []*Message) {
	t.Helper()
	j := NewJoin(func(m *Message) error { all = append(all, proto.CloneOf(m)); return nil })
	for _, stream := range streams {
		for _, m := range stream {
			if err := j.Add(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

// TestJoinOfAnyCuts: wherever a server stops and goes on, the joined stream is the one of a server that did not stop.
func TestJoinOfAnyCuts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, withObjects := drawWorld(t, "w"), rapid.Bool().Draw(t, "with objects")
		whole := joined(t, w.streams(never, withObjects))
		cut := joined(t, w.streams(func() bool { return rapid.IntRange(0, 3).Draw(t, "cut") == 0 }, withObjects))
		same := slices.EqualFunc(whole, cut, func(a, b *Message) bool { return proto.Equal(a, b) })
		if !same {
			t.Fatalf("joined:\n%v\nwhole:\n%v", cut, whole)
		}
	})
}

// TestSumCounts: a sum is what counting the objects one by one comes to, wherever the streams were cut.
func TestSumCounts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, "w")
		s := NewSum()
		for _, m := range joined(t, w.streams(func() bool { return rapid.IntRange(0, 5).Draw(t, "cut") == 0 }, true)) {
			s.Add(m)
		}
		want, principals, withoutEnd := map[string][3]uint64{}, map[string]uint64{}, uint64(0)
		refused := 0
		for _, p := range w {
			if p.of.GetRefusedBy() != 0 {
				refused++
			}
			for _, of := range p.sections {
				for _, o := range of.objects {
					n := want[of.objectType+" "+of.permission]
					if o.GetError() != nil {
						n[2]++
					} else {
						if o.GetResource().GetObjectId() > "2" {
							withoutEnd++
						}
						principals[Object(p.of.GetPrincipal())]++
						if o.GetMissingContext() != nil {
							n[1]++
						} else {
							n[0]++
						}
					}
					want[of.objectType+" "+of.permission] = n
				}
			}
		}
		got := map[string][3]uint64{}
		for _, r := range s.Rows() {
			got[r.Type+" "+r.Permission] = [3]uint64{r.Has, r.Conditional, r.Failed}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("counted %v, want %v", got, want)
		}
		if s.Parties != len(w) || s.Refused != refused || s.At != "r1" {
			t.Fatalf("%d parties, %d refused, at %q", s.Parties, s.Refused, s.At)
		}
		all, _ := s.Principals()
		for _, a := range all {
			if a.Rights != principals[a.Name] {
				t.Fatalf("%s has %d rights, want %d", a.Name, a.Rights, principals[a.Name])
			}
		}
		grants, others := s.Grants(RolePrincipal)
		var endless uint64
		for _, g := range grants {
			endless += g.WithoutEnd
		}
		// Each object that is reached is so only while alice is in a set.
		var through uint64
		for _, set := range s.Sets() {
			through += set.Rights
		}
		if through != s.Rights() {
			t.Fatalf("%d rights hang on a set, want %d", through, s.Rights())
		}
		if endless != withoutEnd || others != 0 {
			t.Fatalf("%d grants without an end, want %d; %d others", endless, withoutEnd, others)
		}
	})
}

// TestSumIsBounded: of more principals than it keeps, the others are counted, and nothing that they reach is lost.
func TestSumIsBounded(t *testing.T) {
	t.Parallel()
	s := NewSum()
	const many = 3 * maxKept
	for i := range many {
		s.Add(&Message{Result: &deputy.ReadReachResponse_Party{Party: &deputy.ReachParty{
			AgentId: fmt.Sprint("bot", i), DelegationChain: []string{fmt.Sprint("d", i)}, Principal: ref("user", fmt.Sprint(i)), TenantId: fmt.Sprint(i),
		}}})
		s.Add(&Message{Result: &deputy.ReadReachResponse_Count{Count: &deputy.ReachCount{
			ResourceObjectType: "document", Permission: "view", Has: 1, Others: 1, OnlyThroughCut: i == many/2,
			Grants: []*deputy.ReachGrants{{
				Holder: ref("user", fmt.Sprint(i)), ResourceObjectType: "document", Relation: "reader", Subject: set("group", fmt.Sprint(i), "member"), Objects: 1,
			}},
			OnlyThrough: []*deputy.ReachSet{{Holder: ref("user", fmt.Sprint(i)), Set: set("group", fmt.Sprint(i), "member"), Objects: 1}},
		}}})
	}
	principals, more := s.Principals()
	agents, moreAgents := s.Agents()
	grants, others := s.Grants(RolePrincipal)
	if s.Unnamed != many || !s.SetsCut {
		t.Errorf("%d rights come through grants that are not named, want %d; sets were cut: %v", s.Unnamed, many, s.SetsCut)
	}
	if s.Rights() != many || len(principals) != maxKept || more == 0 || len(agents) != maxKept || moreAgents == 0 {
		t.Errorf("%d rights, %d and %d more principals, %d and %d more agents", s.Rights(), len(principals), more, len(agents), moreAgents)
	}
	if len(grants) != maxKept || others != many-maxKept || len(s.Sets()) != maxKept || len(s.Tenants()) != maxKept {
		t.Errorf("%d kinds of grants and %d others, %d sets, %d tenants", len(grants), others, len(s.Sets()), len(s.Tenants()))
	}
}

// stream is a reach as Compare reads it.
func stream(messages []*Message) Stream {
	return func(yield func(*Message, error) bool) {
		for _, m := range messages {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// state is all that a reach says, in lines that can be compared.
func (w world) state() map[string]string {
	state := map[string]string{}
	for _, p := range w {
		state[PartyKey(p.of)] = "refused by " + p.of.GetRefusedBy().String()
		for _, s := range p.sections {
			for _, o := range s.objects {
				state[PartyKey(p.of)+" "+s.permission+" "+Object(o.GetResource())] = Answer(o)
			}
		}
	}
	return state
}

// TestCompare: what two reaches do not have in common, put into the first, makes the second, and nothing is named that they have in common.
func TestCompare(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawWorld(t, "before"), drawWorld(t, "after")
		if rapid.IntRange(0, 5).Draw(t, "same") == 0 {
			after = before
		}
		// The order of principals and objects is the engine's, and may be another one at another revision.
		after = rapid.Permutation(after).Draw(t, "parties")
		slices.SortStableFunc(after, func(a, b *worldParty) int { return strings.Compare(Delegation(a.of), Delegation(b.of)) })
		for _, p := range after {
			for _, s := range p.sections {
				s.objects = rapid.Permutation(s.objects).Draw(t, "order")
			}
		}
		state, want := before.state(), after.state()
		changes := 0
		err := Compare(stream(joined(t, before.streams(never, true))), stream(joined(t, after.streams(never, true))), func(c *Change) error {
			changes++
			party := PartyKey(c.Party())
			key := func(o *deputy.ReachObject) string {
				return party + " " + o.GetPermission() + " " + Object(o.GetResource())
			}
			if c.Empty() {
				t.Fatalf("%v did not change", c.Party())
			}
			for _, o := range c.Lost {
				if state[key(o)] != Answer(o) || want[key(o)] != "" {
					t.Fatalf("lost %v", o)
				}
				delete(state, key(o))
			}
			for _, o := range c.Changed {
				if state[key(o.Before)] != Answer(o.Before) {
					t.Fatalf("changed %v", o)
				}
				state[key(o.After)] = Answer(o.After)
			}
			for _, o := range c.Gained {
				if state[key(o)] != "" {
					t.Fatalf("gained %v, which it had", o)
				}
				state[key(o)] = Answer(o)
			}
			delete(state, party)
			if c.After != nil {
				state[party] = "refused by " + c.After.GetRefusedBy().String()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(state) != fmt.Sprint(want) {
			t.Fatalf("the reach before with the changes is\n%v\nwant\n%v", state, want)
		}
		if fmt.Sprint(before.state()) == fmt.Sprint(want) && changes > 0 {
			t.Fatalf("%d parties of the same reach changed", changes)
		}
	})
}

// TestCompareTellsOfGates: a gate that refuses now, or no more, is told though no object differs.
func TestCompareTellsOfGates(t *testing.T) {
	t.Parallel()
	party := func(by deputy.Gate) []*Message {
		return []*Message{{Result: &deputy.ReadReachResponse_Party{Party: &deputy.ReachParty{
			DelegationChain: []string{"d"}, Principal: ref("user", "a"), RefusedBy: by,
		}}}}
	}
	for _, gates := range [][2]deputy.Gate{{deputy.Gate_GATE_UNSPECIFIED, deputy.Gate_GATE_AGENT}, {deputy.Gate_GATE_AGENT, deputy.Gate_GATE_UNSPECIFIED}} {
		told := 0
		err := Compare(stream(party(gates[0])), stream(party(gates[1])), func(c *Change) error {
			told++
			if c.Before.GetRefusedBy() != gates[0] || c.After.GetRefusedBy() != gates[1] {
				t.Errorf("from %v: %v", gates, c)
			}
			return nil
		})
		if err != nil || told != 1 {
			t.Errorf("from %v: %d changes, %v", gates, told, err)
		}
	}
}

// TestWhatIsUnknownIsNotReached: an object with an error is not reached, whatever else the server says of it, nor is one with an answer that this
// version does not know.
func TestWhatIsUnknownIsNotReached(t *testing.T) {
	t.Parallel()
	for _, o := range []*deputy.ReachObject{
		{}, {Permissionship: 99}, {Permissionship: deputy.Permissionship_PERMISSIONSHIP_NO_PERMISSION},
		{Permissionship: deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION, Error: &deputy.ErrorStatus{}},
	} {
		if got := Answer(o); got != "unknown" {
			t.Errorf("%v is %q", o, got)
		}
	}
}

// TestCompareFails: parties in no order, and a stream that fails, end a comparison.
func TestCompareFails(t *testing.T) {
	t.Parallel()
	party := func(id string) *Message {
		return &Message{Result: &deputy.ReadReachResponse_Party{Party: &deputy.ReachParty{DelegationChain: []string{id}, Principal: ref("user", "a")}}}
	}
	none := func(*Change) error { return nil }
	err := Compare(stream([]*Message{party("b"), party("a")}), stream(nil), none)
	if err == nil || !strings.Contains(err.Error(), "do not come in order") {
		t.Errorf("parties in no order: %v", err)
	}
	cut := errors.New("cut off")
	err = Compare(stream([]*Message{party("a")}), func(yield func(*Message, error) bool) { _ = yield(party("a"), nil) && yield(nil, cut) }, none)
	if !errors.Is(err, cut) {
		t.Errorf("a stream that fails: %v", err)
	}
	if err := NewJoin(func(*Message) error { return nil }).Add(&Message{Result: &deputy.ReadReachResponse_Count{}}); err != nil {
		t.Errorf("a message that says nothing: %v", err)
	}
	for _, m := range []*Message{
		{Result: &deputy.ReadReachResponse_Count{Count: &deputy.ReachCount{Has: 1}}},
		{Result: &deputy.ReadReachResponse_Object{Object: &deputy.ReachObject{}}},
	} {
		if err := NewJoin(func(*Message) error { return nil }).Add(m); !errors.Is(err, errNoParty) {
			t.Errorf("%v before any party: %v", m, err)
		}
	}
}

// hostile are ids that are more than they seem.
var hostile = []string{
	"=1+1", "+cmd", "-2", "@SUM(A1)", "a;=HYPERLINK(\"http://x\")", "a\t=1", "a,@x", "<script>alert(1)</script>", "]]>&amp;", `"quoted"`, "\"\n=1", "a\rb",
	"\u202egnp.exe", "\x00\x01", strings.Repeat("\u65e5\u672c", 20), strings.Repeat("verylong-", 60), "＝1", "   =1", "a|=cmd",
}

func drawID(t *rapid.T, label string) string {
	if rapid.Bool().Draw(t, label+" is hostile") {
		return rapid.SampledFrom(hostile).Draw(t, label)
	}
	return rapid.String().Draw(t, label)
}

// TestCSVRoundTrip: a reader of CSV gets the ids back, but for a ' in front of a sign that a spreadsheet could take for a formula; and no cell
// begins a formula, whatever a spreadsheet takes for a separator.
func TestCSVRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		agent, user, tenant, id := drawID(t, "agent"), drawID(t, "user"), drawID(t, "tenant"), drawID(t, "object")
		var out bytes.Buffer
		c := NewCSV(&out)
		for _, m := range []*Message{
			{Result: &deputy.ReadReachResponse_Party{Party: &deputy.ReachParty{AgentId: agent, Principal: ref("user", user), TenantId: tenant}}},
			{Result: &deputy.ReadReachResponse_Object{Object: &deputy.ReachObject{
				Resource: ref("document", id), Permission: "view", Error: &deputy.ErrorStatus{Message: id},
				Grants: []*deputy.ReachGrant{{Holder: ref("user", user), Relationship: &deputy.Relationship{
					Resource: ref("document", id), Relation: "reader", Subject: set("group", user, "member"),
				}}},
			}}},
		} {
			if err := c.Add(m); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := csv.NewReader(bytes.NewReader(out.Bytes())).ReadAll()
		if err != nil || len(rows) != 2 || !slices.Equal(rows[0], Columns) {
			t.Fatalf("%v\n%s", err, &out)
		}
		for column, want := range map[string]string{"principal": "user:" + user, "object": "document:" + id, "permission": "view", "answer": "unknown"} {
			// encoding/csv reads \r\n within a cell as \n.
			got := strings.ReplaceAll(rows[1][slices.Index(Columns, column)], "'", "")
			want = strings.ReplaceAll(strings.ReplaceAll(want, "'", ""), "\r\n", "\n")
			if strings.ToValidUTF8(got, "�") != strings.ToValidUTF8(want, "�") {
				t.Fatalf("%s is %q, want %q", column, got, want)
			}
		}
		for _, comma := range []rune{',', ';', '\t', '|'} {
			for _, cell := range cells(out.String(), comma) {
				if strings.ContainsAny(strings.TrimLeft(cell, ` "`), "=+-@＝＋－＠") && strings.ContainsRune("=+-@＝＋－＠", []rune(strings.TrimLeft(cell, ` "`))[0]) {
					t.Fatalf("with the separator %q, %q begins a formula in\n%s", comma, cell, &out)
				}
			}
		}
	})
}

// cells cuts a text as a lenient program may: at every separator and at every end of a line, quoted or not.
func cells(text string, comma rune) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == comma || r == '\n' || r == '\r' })
}

// TestPlainIDsAreUnchanged: ids of SpiceDB's alphabet stand in the CSV as they are.
func TestPlainIDsAreUnchanged(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[a-zA-Z0-9/_=+|-]{1,40}`).Draw(t, "id")
		if strings.Contains(id, "|") { // the one sign of that alphabet that a program may take for a separator
			return
		}
		if got := cell("document:" + id); got != "document:"+id {
			t.Fatalf("%q became %q", id, got)
		}
	})
}

// TestPictureIsXML: whatever ids hold, the picture is well-formed, draws nothing of its own, and its text is within its boxes.
func TestPictureIsXML(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := NewSum()
		s.Add(&Message{Result: &deputy.ReadReachResponse_Party{Party: &deputy.ReachParty{
			AgentChain: []string{drawID(t, "agent"), drawID(t, "sub-agent")}, Principal: ref("user", drawID(t, "user")), TenantId: drawID(t, "tenant"),
		}}})
		s.Add(&Message{Result: &deputy.ReadReachResponse_Count{Count: &deputy.ReachCount{
			ResourceObjectType: "document", Permission: "view", Has: 1, Grants: []*deputy.ReachGrants{{
				Holder: ref("user", "a"), ResourceObjectType: "folder", Relation: "reader", Subject: set("group", drawID(t, "group"), "member"), Objects: 1,
			}},
		}}})
		var out bytes.Buffer
		if err := WritePicture(&out, drawID(t, "of"), s); err != nil {
			t.Fatal(err)
		}
		known := map[string]bool{}
		for name := range strings.FieldsSeq("svg title desc style defs marker pattern path rect text circle") {
			known[name] = true
		}
		for d := xml.NewDecoder(bytes.NewReader(out.Bytes())); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, &out)
			}
			if e, ok := token.(xml.StartElement); ok && !known[e.Name.Local] {
				t.Fatalf("an element %s in\n%s", e.Name.Local, &out)
			}
		}
	})
}

// TestFit: a text that is cut is no wider than its room, and keeps its beginning and its end.
func TestFit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text, room := drawID(t, "text"), rapid.Float64Range(20, 300).Draw(t, "room")
		got := fit(text, 12, room)
		if width(got, 12) > room {
			t.Fatalf("%q is wider than %v", got, room)
		}
		if got == text {
			return
		}
		head, tail, cut := strings.Cut(got, "…")
		if !cut && got != "…" || !strings.HasPrefix(text, head) || !strings.HasSuffix(text, tail) {
			t.Fatalf("%q was cut to %q", text, got)
		}
	})
}

// desk is a reach as a server would tell it of a support desk.
func desk() []*Message {
	until := timestamppb.New(time.Date(2026, 11, 30, 18, 0, 0, 0, time.UTC))
	standing := []deputy.ReachFlag{deputy.ReachFlag_REACH_FLAG_STANDING}
	party := func(p *deputy.ReachParty) *Message {
		return &Message{Result: &deputy.ReadReachResponse_Party{Party: p}}
	}
	count := func(c *deputy.ReachCount) *Message {
		return &Message{Result: &deputy.ReadReachResponse_Count{Count: c}}
	}
	object := func(o *deputy.ReachObject) *Message {
		return &Message{Result: &deputy.ReadReachResponse_Object{Object: o}}
	}
	alice, bot := ref("user", "alice"), ref("agent", "triage-bot")
	own := func(o *deputy.ObjectReference) *deputy.SubjectReference { return &deputy.SubjectReference{Object: o} }
	support := set("group", "acme-support", "member")
	return []*Message{
		party(&deputy.ReachParty{
			AgentId: "triage-bot", AgentChain: []string{"triage-bot"}, DelegationChain: []string{"1f3a"}, Principal: alice, TenantId: "acme",
			ValidUntil: until, Unscoped: true, NeedsSession: true, Flags: []deputy.ReachFlag{deputy.ReachFlag_REACH_FLAG_UNSCOPED},
		}),
		object(&deputy.ReachObject{
			Resource: ref("document", "acme-handbook"), Permission: "view", Permissionship: deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION,
			Grants: []*deputy.ReachGrant{
				{Holder: alice, OnlyThrough: support, Relationship: &deputy.Relationship{
					Resource: ref("folder", "acme-support"), Relation: "writer", Subject: support,
				}},
				{Holder: bot, Relationship: &deputy.Relationship{Resource: ref("folder", "acme-support"), Relation: "reader", Subject: own(bot)}},
			},
		}),
		count(&deputy.ReachCount{
			ResourceObjectType: "document", Permission: "view", Has: 2, Flags: []deputy.ReachFlag{deputy.ReachFlag_REACH_FLAG_STANDING, deputy.ReachFlag_REACH_FLAG_SINGLE_SET},
			Grants: []*deputy.ReachGrants{
				{Holder: alice, ResourceObjectType: "folder", Relation: "writer", Subject: support, Objects: 2, WithoutEnd: 2},
				{Holder: bot, ResourceObjectType: "folder", Relation: "reader", Subject: own(bot), Objects: 2, WithoutEnd: 2},
			},
			OnlyThrough: []*deputy.ReachSet{{Holder: alice, Set: support, Objects: 2}},
		}),
		count(&deputy.ReachCount{
			ResourceObjectType: "ticket", Permission: "view", Has: 1204, Flags: standing,
			Grants: []*deputy.ReachGrants{
				{Holder: alice, ResourceObjectType: "queue", Relation: "staff", Subject: support, Objects: 1204},
				{Holder: bot, ResourceObjectType: "queue", Relation: "staff", Subject: own(bot), Objects: 1204, WithoutEnd: 1204},
			},
		}),
		object(&deputy.ReachObject{
			Resource: ref("tool", "acme-refund"), Permission: "invoke", MissingContext: []string{"amount"},
			Permissionship: deputy.Permissionship_PERMISSIONSHIP_CONDITIONAL_PERMISSION,
		}),
		object(&deputy.ReachObject{Resource: ref("tool", "=broken"), Permission: "invoke", Error: &deputy.ErrorStatus{Message: "the caveat fails"}}),
		count(&deputy.ReachCount{
			ResourceObjectType: "tool", Permission: "invoke", Has: 1, Conditional: 1, Failed: 1,
			Flags: []deputy.ReachFlag{deputy.ReachFlag_REACH_FLAG_WILDCARD},
			Grants: []*deputy.ReachGrants{
				{Holder: alice, ResourceObjectType: "tool", Relation: "capped", Subject: own(alice), Objects: 1},
				{Holder: alice, ResourceObjectType: "tool", Relation: "operator", Subject: set("user", "*", ""), Objects: 1},
				{Holder: bot, ResourceObjectType: "tool", Relation: "operator", Subject: own(bot), Objects: 2, WithoutEnd: 2},
			},
		}),
		party(&deputy.ReachParty{
			AgentId: "triage-bot", AgentChain: []string{"triage-bot"}, DelegationChain: []string{"2b7c"}, Principal: ref("user", "bob"), TenantId: "acme",
			RefusedBy: deputy.Gate_GATE_PRINCIPAL,
		}),
		party(&deputy.ReachParty{
			AgentId: "reply-bot", AgentChain: []string{"triage-bot", "reply-bot"}, DelegationChain: []string{"2b7c", "3c8d"},
			Principal: ref("user", "dave"), TenantId: "acme", ValidUntil: until,
		}),
		object(&deputy.ReachObject{
			Resource: ref("ticket", "acme-1042"), Permission: "view", Permissionship: deputy.Permissionship_PERMISSIONSHIP_HAS_PERMISSION,
		}),
		count(&deputy.ReachCount{
			ResourceObjectType: "ticket", Permission: "view", Has: 1,
			Grants: []*deputy.ReachGrants{
				{Holder: ref("delegation", "3c8d"), ResourceObjectType: "ticket", Relation: "assignee", Subject: own(ref("delegation", "3c8d")), Objects: 1},
			},
		}),
		{Result: &deputy.ReadReachResponse_End{End: &deputy.ReachEnd{LookedUpAt: &deputy.ZedToken{Token: "GhUKEzE3"}, Complete: true}}},
	}
}

// crowd is a reach of more than a picture shows, with ids of all kinds.
func crowd() (all []*Message) {
	for i := range 12 {
		user := ref("user", fmt.Sprintf("%s-%d@subsidiary-with-a-long-name.example.com", strings.Repeat("very", i%3+1), i))
		agent := []string{"https://agents.example.com/orchestrators/" + fmt.Sprint(i%6), "sub-agent", "sub-sub-agent", "\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e", "last"}
		all = append(all, &Message{Result: &deputy.ReadReachResponse_Party{Party: &deputy.ReachParty{
			AgentChain: agent, DelegationChain: []string{fmt.Sprintf("%032d", i)}, Principal: user, TenantId: fmt.Sprint("tenant-", i%3), Frozen: true,
			RefusedBy: map[bool]deputy.Gate{true: deputy.Gate_GATE_DELEGATION}[i == 11],
		}}})
		if i == 11 {
			break
		}
		for n := range 15 {
			all = append(all, &Message{Result: &deputy.ReadReachResponse_Count{Count: &deputy.ReachCount{
				ResourceObjectType: fmt.Sprint("knowledge_base_article_", n), Permission: "view_with_attachments", Has: uint64(n * n * 12345), Conditional: uint64(i * 1000),
				Flags: []deputy.ReachFlag{deputy.ReachFlag_REACH_FLAG_SINGLE_SET, 99},
				Grants: []*deputy.ReachGrants{
					{Holder: user, ResourceObjectType: "space", Relation: "reader", Subject: set("group", fmt.Sprintf("everybody-in-department-%d", n), "member"), Objects: uint64(n)},
					{Holder: ref("agent", "last"), ResourceObjectType: "space", Relation: fmt.Sprint("reader_", n), Subject: set("agent", "*", ""), Objects: 7, WithoutEnd: 1},
				},
				Others:      1,
				OnlyThrough: []*deputy.ReachSet{{Holder: user, Set: set("group", fmt.Sprintf("everybody-in-department-%d", n), "member"), Objects: uint64(n)}},
			}}})
		}
	}
	return append(all, &Message{Result: &deputy.ReadReachResponse_End{End: &deputy.ReachEnd{Complete: true}}})
}

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is made now. See the difference with: go test ./pkg/reach -rewrite && git diff\n%s", path, got)
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	var table, picture bytes.Buffer
	s, c := NewSum(), NewCSV(&table)
	for _, m := range desk() {
		s.Add(m)
		if err := c.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := WritePicture(&picture, "agent:triage-bot", s); err != nil {
		t.Fatal(err)
	}
	lines := strings.Count(table.String(), "\n")
	if lines == 0 || strings.Count(table.String(), "\r\n") != lines {
		t.Errorf("a line of the CSV does not end as RFC 4180 has it:\n%q", &table)
	}
	golden(t, "desk.csv", strings.ReplaceAll(table.String(), "\r\n", "\n")) // as Git keeps texts
	golden(t, "desk.svg", picture.String())
	many := NewSum()
	for _, m := range crowd() {
		many.Add(m)
	}
	picture.Reset()
	if err := WritePicture(&picture, "agent:last", many); err != nil {
		t.Fatal(err)
	}
	golden(t, "crowd.svg", picture.String())
	picture.Reset()
	if err := WritePicture(&picture, "agent:idle", NewSum()); err != nil {
		t.Fatal(err)
	}
	golden(t, "nothing.svg", picture.String())
	golden(t, "desk.txt", strings.ReplaceAll(Describe("agent:triage-bot", s), ". ", ".\n")+"\n")
}
