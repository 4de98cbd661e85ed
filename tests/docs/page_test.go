package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A page is a document whose console blocks are run as a reader would run them: in order, in one shell that begins in a fresh clone,
// with `deputy` on its path. A comment above a fenced block says what else is to be done with it:
//
//	<!-- file NAME -->      the block is a file that the reader is told to write
//	<!-- not run: WHY -->   the block needs something that no test has; TestNotRun lists all of them
//	<!-- needs PROGRAM … --> the block runs where the programs are installed, or the servers of "make mcp-servers"
//	<!-- picture FILE -->   the block draws the file anew, which the page shows
//
// What a server makes up, such as an id, is another one in each run. So an id on the page stands for the one that the
// run has in its place, there and in the commands that follow: a reader copies their own too.
type page struct {
	path  string
	parts []part
}

// part is a fenced block with the comment above it, or the text between two of them.
type part struct {
	// line is where it begins, from 1.
	line int
	// text is all of it, with the fences.
	text string
	// language is what the opening fence says; empty for text between blocks.
	language string
	// mark is the comment above: "file budget.yaml".
	mark string
}

var marks = regexp.MustCompile(`^<!-- ((?:file|not run:|needs|picture) .*) -->$`)

// read cuts a page into its parts.
func read(t *testing.T, path string) *page {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := &page{path: path}
	now, last := part{line: 1}, ""
	for i, line := range strings.SplitAfter(string(content), "\n") {
		fence, opens := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "```")
		switch {
		case opens && now.language == "":
			p.parts = append(p.parts, now)
			now = part{line: i + 1, text: line, language: fence}
			if m := marks.FindStringSubmatch(last); m != nil {
				now.mark = m[1]
			}
			if fence == "" {
				now.language = "text"
			}
		case opens:
			now.text += line
			p.parts = append(p.parts, now)
			now = part{line: i + 2}
		default:
			now.text += line
		}
		last = strings.TrimSuffix(line, "\n")
	}
	if now.language != "" {
		t.Fatalf("%s:%d: the block has no end", path, now.line)
	}
	p.parts = append(p.parts, now)
	return p
}

// inner is what stands between the fences.
func (b *part) inner() string {
	lines := strings.SplitAfter(b.text, "\n")
	return strings.Join(lines[1:len(lines)-2], "")
}

// step is one command of a console block, with the output that the page shows.
type step struct {
	line            int
	command, output string
}

// steps cuts a console block into its commands. A command goes on for as many lines as the shell needs.
func (b *part) steps() (steps []step, err error) {
	open := false
	for i, line := range strings.SplitAfter(b.inner(), "\n") {
		command, begins := strings.CutPrefix(line, "$ ")
		switch {
		case line == "":
			continue
		case open:
			steps[len(steps)-1].command += line
		case begins:
			steps = append(steps, step{line: b.line + 1 + i, command: command})
		case len(steps) == 0:
			return nil, fmt.Errorf("line %d: the block begins with no command", b.line+1+i)
		default:
			steps[len(steps)-1].output += line
		}
		open = (open || begins) && unfinished(steps[len(steps)-1].command)
	}
	return steps, nil
}

// made are the values that differ from run to run. Those with a name are told apart: equal ones on the page are equal ones in the run.
var made = []struct {
	pattern string
	named   bool
}{
	{`127\.0\.0\.1:\d{4,5}`, true},
	{`\b[0-9a-f]{64}\b`, true},
	{`\b[0-9a-f]{32}\b`, true},
	{`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`, true},
	{`\b[A-Z2-7]{26}\b`, true},
	{`\bAQ[\w-]{30,}`, true},
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z`, false},
	{`/tmp/deputy-dev-\d+`, false},
	{`\d+(?:\.\d+)? [KMG]?i?B\b`, false},
	{`\(\d+\.\d+ s\)`, false},
	{`about \d+`, false},
}

var anyMade = func() *regexp.Regexp {
	var all []string
	for _, m := range made {
		all = append(all, "("+m.pattern+")")
	}
	return regexp.MustCompile(strings.Join(all, "|"))
}()

// values are those of the page, with the ones that the run has in their place.
type values map[string]string

// address is one that a server listens on.
var address = regexp.MustCompile(`^127\.0\.0\.1:\d+$`)

// in puts the run's values in the place of the page's. An address that a server's command names before anything listens there becomes one
// whose port the system picks: any port of a page may be in use on the machine that runs it. What the server prints tells which it is.
func (v values) in(command string) string {
	return anyMade.ReplaceAllStringFunc(command, func(s string) string {
		if is, ok := v[s]; ok {
			return is
		}
		if serves.MatchString(command) && address.MatchString(s) {
			return "127.0.0.1:0"
		}
		return s
	})
}

// match compares what a command printed with what the page shows, and learns values. A line "…" on the page stands for any lines, and
// "…" within a line for any text.
func (v values) match(shown, printed string) bool {
	var pattern strings.Builder
	var names []string
	for line := range strings.SplitAfterSeq(shown, "\n") {
		if line == "…\n" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		for i, text := range strings.Split(line, "…") {
			if i > 0 {
				pattern.WriteString(`.*`)
			}
			end := 0
			for _, at := range anyMade.FindAllStringSubmatchIndex(text, -1) {
				pattern.WriteString(regexp.QuoteMeta(text[end:at[0]]))
				for kind := range made {
					if at[2+2*kind] < 0 {
						continue
					}
					if name := text[at[0]:at[1]]; made[kind].named {
						names = append(names, name)
						pattern.WriteString("(" + made[kind].pattern + ")")
					} else {
						pattern.WriteString(made[kind].pattern)
					}
				}
				end = at[1]
			}
			pattern.WriteString(regexp.QuoteMeta(text[end:]))
		}
	}
	found := regexp.MustCompile(`^` + pattern.String() + `$`).FindStringSubmatch(printed)
	if found == nil {
		return false
	}
	for i, name := range names {
		is := found[i+1]
		if was, known := v[name]; known && was != is && !strings.HasPrefix(name, "127.") {
			return false
		}
		v[name] = is
	}
	return true
}

// shown is what a command printed as the page would show it, in place of what it shows now: with the page's names for values that it
// has, as far as there are as many of a kind.
func (v values) shown(now, printed string) string {
	for _, m := range made {
		kind := regexp.MustCompile(m.pattern)
		names, is := kind.FindAllString(now, -1), kind.FindAllString(printed, -1)
		if !m.named || len(names) != len(is) {
			continue
		}
		for i, name := range names {
			v[name] = is[i]
		}
	}
	for name, is := range v {
		printed = strings.ReplaceAll(printed, is, name)
	}
	return printed
}

// clone copies the repository's files, without what a clone does not have.
func clone(t *testing.T) string {
	t.Helper()
	from, to := filepath.Join("..", ".."), t.TempDir()
	err := filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case name == ".git" || name == ".bin":
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}
