package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deputyauth/deputy/pkg/cli"
)

// TestFixtures measures what an admin and a CI wait for: `deputy test` with a thousand cases, in a file of SpiceDB's
// and in one with decisions; a mutation run of the library's largest domain; and what is said about a large schema.
// Each is the whole command, in this process, the files read from the disk.
func TestFixtures(t *testing.T) {
	folder := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	times := scaled(11, 1)
	onlyCases := []string{"test", "--coverage", "off", "--mutation", "off", "--isolation", "off"}

	assertions := file("assertions.yaml", thousandAssertions())
	atMost(t, "deputy test: 1,000 assertions", command(t, times, "1000 cases in 1 file (", append(onlyCases, assertions)...), "ms", 500)
	decisions := file("decisions.yaml", thousandDecisions())
	atMost(t, "deputy test: 1,000 decisions", command(t, times, "1000 cases in 1 file (", append(onlyCases, decisions)...), "ms", 500)
	add(t, "deputy test: 1,000 decisions, with coverage and isolation",
		command(t, times, "1000 cases in 1 file (", "test", "--mutation", "off", decisions), "ms")

	domain := "../../schema/library/" + scaledText("cloud.yaml", "tools.yaml")
	took := command(t, scaled(3, 1), "mutation score ", "test", domain)
	atMost(t, "deputy test: the library's largest domain, with mutants", took/1000, "s", 60)

	large := file("large.zed", largeSchema())
	atMost(t, "deputy schema lint: 300 types", command(t, times, "", "schema", "lint", large), "ms", 200)
	changed := file("changed.zed", strings.Replace(largeSchema(), "view - banned", "view", 1))
	atMost(t, "deputy schema diff: 300 types", command(t, times, "", "schema", "diff", large, changed), "ms", 200)
}

// command returns the median of the milliseconds that a command takes. It has to print a text, and must not fail.
func command(t *testing.T, times int, text string, args ...string) float64 {
	t.Helper()
	return rounds(times, func() float64 {
		var out, errors bytes.Buffer
		begin := time.Now()
		code := cli.Run(t.Context(), args, cli.Streams{Out: &out, Err: &errors}, os.LookupEnv)
		took := time.Since(begin)
		if code == cli.ExitError || !strings.Contains(out.String(), text) {
			t.Fatalf("%v: exit code %d, %s\n%s", args, code, errors.String(), out.String())
		}
		return float64(took.Microseconds()) / 1000
	})
}

// scaledText is one when measuring, and the other otherwise.
func scaledText(measured, small string) string {
	if *measure {
		return measured
	}
	return small
}

// graph is the part of both files that is the same: documents in folders in folders, with groups and exclusions.
const fixtureGraph = `  definition group {
    relation tenant: tenant
    relation member: user | group#member
  }
  definition folder {
    relation tenant: tenant
    relation parent: folder
    relation viewer: user | group#member | agent
    permission view = viewer + parent->view
  }
  definition document {
    relation tenant: tenant
    relation folder: folder
    relation reader: user | agent
    relation banned: user
    permission view = reader + folder->view - banned
  }
relationships: |-
`

// fixtureRelationships are those of 100 documents in 20 folders, 10 users who view them and one who is banned.
func fixtureRelationships() string {
	var b strings.Builder
	for i := range 20 {
		fmt.Fprintf(&b, "  folder:f%d#tenant@tenant:acme\n", i)
		if i > 0 {
			fmt.Fprintf(&b, "  folder:f%d#parent@folder:f%d\n", i, (i-1)/2)
		}
	}
	b.WriteString("  folder:f0#viewer@group:all#member\n  folder:f0#viewer@agent:bot\n  group:all#tenant@tenant:acme\n  tenant:acme#agent@agent:bot\n")
	for i := range 10 {
		fmt.Fprintf(&b, "  group:all#member@user:u%d\n  tenant:acme#member@user:u%d\n", i, i)
	}
	for i := range 100 {
		fmt.Fprintf(&b, "  document:d%d#tenant@tenant:acme\n  document:d%d#folder@folder:f%d\n  document:d%d#banned@user:u9\n", i, i, i%20, i)
	}
	return b.String()
}

func thousandAssertions() string {
	var b strings.Builder
	b.WriteString("schema: |-\n  definition user {}\n  definition agent {}\n  definition tenant {\n    relation member: user\n    relation agent: agent\n  }\n" + fixtureGraph + fixtureRelationships())
	b.WriteString("assertions:\n  assertTrue:\n")
	for i := range 900 {
		fmt.Fprintf(&b, "    - document:d%d#view@user:u%d\n", i%100, i/100)
	}
	b.WriteString("  assertFalse:\n")
	for i := range 100 {
		fmt.Fprintf(&b, "    - document:d%d#view@user:u9\n", i)
	}
	return b.String()
}

func thousandDecisions() string {
	var b strings.Builder
	b.WriteString("schema: |-\n" + fixtureGraph + fixtureRelationships() + "delegations:\n")
	for i := range 10 {
		fmt.Fprintf(&b, "  - {name: d%d, agent: bot, principal: \"user:u%d\", tenant: acme, unscoped: true}\n", i, i)
	}
	b.WriteString("sessions:\n  - {name: run, agent: bot, delegations: [d0, d1, d2, d3, d4, d5, d6, d7, d8, d9]}\ndecisions:\n")
	for i := range 1000 {
		expect := "HAS_PERMISSION"
		if i/100 == 9 {
			expect = "NO_PERMISSION"
		}
		fmt.Fprintf(&b, "  - {agent: bot, session: run, on_behalf_of: \"user:u%d\", tenant: acme, resource: \"document:d%d\", permission: view, expect: %s}\n",
			i/100, i%100, expect)
	}
	return b.String()
}

// largeSchema has 300 types, each with a parent of its own kind, in another, and five permissions.
func largeSchema() string {
	var b strings.Builder
	for i := range 300 {
		fmt.Fprintf(&b, `/** thing%[1]d is one of many. */
definition thing%[1]d {
	relation tenant: tenant
	relation parent: thing%[2]d
	relation owner: user
	relation editor: user | agent
	relation viewer: user | agent
	relation banned: user

	/** own is for owners. */
	permission own = owner - banned
	/** edit is for editors. */
	permission edit = editor + own + parent->edit - banned
	/** view is for viewers. */
	permission view = viewer + edit + parent->view - banned
	/** share is for owners. */
	permission share = own & tenant->access
	/** comment is for viewers. */
	permission comment = view - banned
}

`, i, max(i-1, 0))
	}
	return b.String()
}
