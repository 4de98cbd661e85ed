//go:build unix

package docs

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/deputyauth/deputy/tests/pgtest"
	"github.com/deputyauth/deputy/tests/process"
)

func TestMain(m *testing.M) { process.Main(func() int { return pgtest.Run(m) }) }

// pages are all documents for readers, relative to this folder.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../charts/*/*.md", "../../schema/*.md", "../../schema/*/*.md", "../../examples/*/*.md", "../*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// TestPages runs every console block of every page.
func TestPages(t *testing.T) {
	t.Parallel()
	for _, path := range pages(t) {
		p := read(t, path)
		if !slices.ContainsFunc(p.parts, func(b part) bool { return b.language == "console" || b.language == "sh" }) {
			continue
		}
		t.Run(strings.TrimPrefix(path, "../../"), func(t *testing.T) {
			t.Parallel()
			p.run(t)
		})
	}
}

// mcpServers is what a block needs that starts the servers of `make mcp-servers`.
const mcpServers = "make mcp-servers"

// missing is the first of some programs that is not installed here; "" if all are. grpcurl is one that the tests bring.
func missing(programs []string) string {
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil && name != "grpcurl" {
			return name
		}
	}
	return ""
}

// linkServers gives a clone the servers that are installed here, as though the reader had installed them there.
func linkServers(folder string) error {
	installed, err := filepath.Abs("../../.bin/mcp")
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("node"); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(installed, "node_modules/@modelcontextprotocol/server-filesystem/dist/index.js")); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(folder, ".bin"), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(installed, filepath.Join(folder, ".bin/mcp")); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}

// run runs a page from its beginning to its end; what comes after a command that goes wrong would fail for its sake.
func (p *page) run(t *testing.T) {
	folder := clone(t)
	s, v := start(t, folder), values{}
	changed := false
	defer func() {
		if !changed {
			return
		}
		var all strings.Builder
		for _, b := range p.parts {
			all.WriteString(b.text)
		}
		if err := os.WriteFile(p.path, []byte(all.String()), 0o644); err != nil {
			t.Error(err)
		}
	}()
	for i := range p.parts {
		b := &p.parts[i]
		kind, what, _ := strings.Cut(b.mark, " ")
		if kind == "needs" && what == mcpServers {
			if err := linkServers(folder); err != nil {
				t.Run(what, func(t *testing.T) { pgtest.Skip(t, "the MCP file server is missing: run make mcp-servers") })
				continue
			}
		} else if kind == "needs" {
			if name := missing(strings.Fields(what)); name != "" {
				t.Run(name, func(t *testing.T) { pgtest.Skip(t, "needs "+name) })
				continue
			}
		}
		switch {
		case kind == "file":
			if err := os.WriteFile(filepath.Join(folder, what), []byte(b.inner()), 0o644); err != nil {
				t.Fatal(err)
			}
		case kind == "not":
		case b.language == "sh":
			t.Errorf("%s:%d: a block of commands is a console block, with a $ before each command", p.path, b.line)
		case b.language == "console":
			if !p.block(t, s, v, b, &changed) {
				return
			}
			if kind == "picture" {
				picture(t, v, folder, what)
			}
		}
	}
}

// picture asserts that a file of the clone, which a block has drawn anew in a folder, is the one that the block draws, times aside.
func picture(t *testing.T, v values, folder, name string) {
	t.Helper()
	drawn, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", name)
	was, err := os.ReadFile(file)
	switch {
	case err == nil && v.match(string(was), string(drawn)):
	case *rewrite:
		if err := os.WriteFile(file, drawn, 0o644); err != nil {
			t.Fatal(err)
		}
	case err != nil:
		t.Errorf("%v: make readme draws it", err)
	default:
		t.Errorf("%s is not what its block draws now: run make readme, and look at the difference", name)
	}
}

// block runs one console block. A command that the page shows without output has to succeed.
func (p *page) block(t *testing.T, s *shell, v values, b *part, changed *bool) bool {
	t.Helper()
	steps, err := b.steps()
	if err != nil {
		t.Errorf("%s: %v", p.path, err)
		return false
	}
	text := "```console\n"
	for _, one := range steps {
		code, printed, err := s.run(v.in(one.command), strings.Count(one.output, "\n"))
		if err != nil {
			t.Errorf("%s:%d: %s%v", p.path, one.line, one.command, err)
			return false
		}
		output := one.output
		switch blank := strings.TrimSpace(output) == ""; {
		case blank && code != 0:
			t.Errorf("%s:%d: %sends with exit code %d, and prints:\n%s", p.path, one.line, one.command, code, printed)
			return false
		case blank:
		case v.match(strings.TrimRight(output, "\n")+"\n", strings.TrimRight(printed, "\n")+"\n"):
		case *rewrite:
			*changed, output = true, v.shown(output, printed)
		default:
			t.Errorf("%s:%d: %sprints (make readme writes that into the page):\n%s\nand the page shows:\n%s", p.path, one.line, one.command, printed, output)
			return false
		}
		text += "$ " + one.command + output
	}
	if *changed {
		b.text = text + "```\n"
	}
	return true
}

// notRun are the blocks that no test runs, by what they need. A new one is to be added on purpose.
var notRun = map[string]int{
	"hours, and it runs these very tests":                                        1,
	"a Kubernetes cluster":                                                       1,
	"a repository with a remote":                                                 2,
	"three machines; tests/follow starts such servers":                           4,
	"a database server on a host of that name; tests/cli dumps and restores one": 2,
}

// TestNotRun counts the blocks that no test runs, and lists them.
func TestNotRun(t *testing.T) {
	found := map[string]int{}
	for _, path := range pages(t) {
		for _, b := range read(t, path).parts {
			if why, ok := strings.CutPrefix(b.mark, "not run: "); ok {
				found[why]++
				t.Logf("%s:%d: not run: %s", path, b.line, why)
			}
		}
	}
	if !maps.Equal(found, notRun) {
		t.Errorf("blocks that are not run: %v; this test knows of %v", found, notRun)
	}
}
