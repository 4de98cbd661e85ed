//go:build unix

package cli

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/deputyauth/deputy/pkg/cli"
)

// The doors of a CI are YAML that names commands and flags of the program. Here they are read, what they
// name is looked for in the program's own help, and the action's scripts are run.

// action is action.yml.
type action struct {
	Inputs map[string]struct {
		Description string
		Default     *string
	}
	Runs struct {
		Using string
		Steps []step
	}
}

// step is a step of the action.
type step struct {
	Name, If, Shell, Run, Uses string
	Env                        map[string]string
}

// readYAML reads a file of the repository.
func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func readAction(t *testing.T) *action {
	t.Helper()
	var a action
	readYAML(t, "../../action.yml", &a)
	return &a
}

// hooks returns the entries of the pre-commit hooks by id.
func hooks(t *testing.T) map[string]string {
	t.Helper()
	var list []struct{ ID, Entry, Language string }
	readYAML(t, "../../.pre-commit-hooks.yaml", &list)
	entries := map[string]string{}
	for _, hook := range list {
		if hook.Language != "golang" {
			t.Errorf("hook %s: its language is %q, so nothing builds the program", hook.ID, hook.Language)
		}
		entries[hook.ID] = hook.Entry
	}
	return entries
}

// help is what the program says about a command.
func help(t *testing.T, words ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	streams := cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errs}
	if code := cli.Run(t.Context(), append(words, "--help"), streams, func(string) (string, bool) { return "", false }); code != cli.ExitOK {
		t.Fatalf("deputy %s --help: exit code %d: %s", strings.Join(words, " "), code, &errs)
	}
	return out.String()
}

// flag matches a flag in a command line, or in a script.
var flag = regexp.MustCompile(`(?:^|[\s(])--([a-z][a-z-]*)`)

// known asserts that the program has a command, given with its program's name, and all flags in it.
func known(t *testing.T, where, command string) {
	t.Helper()
	var words []string
	about := help(t)
	for _, word := range strings.Fields(command)[1:] {
		if strings.HasPrefix(word, "-") {
			break
		}
		next := help(t, append(slices.Clone(words), word)...)
		if !strings.Contains(next, "Usage:\n  deputy "+strings.Join(append(slices.Clone(words), word), " ")+" ") {
			break // an argument
		}
		words, about = append(words, word), next
	}
	if len(words) == 0 || strings.Contains(about, "\nAvailable Commands:\n") {
		t.Errorf("%s: the program has no command %q", where, command)
		return
	}
	for _, match := range flag.FindAllStringSubmatch(command, -1) {
		if !strings.Contains(about, "--"+match[1]+" ") {
			t.Errorf("%s: deputy %s has no flag --%s", where, strings.Join(words, " "), match[1])
		}
	}
}

// deputyLine matches a line of a script that calls the program.
var deputyLine = regexp.MustCompile(`(?m)^\s*(?:\$ )?(deputy .*)$`)

// TestDoorsNameWhatThereIs looks up the commands and flags of the action and of the hooks.
func TestDoorsNameWhatThereIs(t *testing.T) {
	for _, entry := range hooks(t) {
		known(t, ".pre-commit-hooks.yaml", entry)
	}
	called := 0
	for _, step := range readAction(t).Runs.Steps {
		lines := deputyLine.FindAllString(step.Run, -1)
		called += len(lines)
		if len(lines) > 1 {
			t.Errorf("step %s calls the program more than once", step.Name)
		}
		for _, line := range lines {
			// Flags may be collected above the line.
			for _, match := range flag.FindAllStringSubmatch(step.Run, -1) {
				line += " --" + match[1]
			}
			known(t, "action.yml", line)
		}
		if step.Uses == "" && step.Shell != "bash" {
			t.Errorf("step %s has the shell %q: a step of an action has to say bash", step.Name, step.Shell)
		}
		if strings.Contains(step.Run, "${{") {
			t.Errorf("step %s puts an expression into its script: a person who chooses the input runs any command", step.Name)
		}
	}
	if called == 0 {
		t.Error("action.yml never calls the program")
	}
}

// expression matches an input in the environment of a step.
var expression = regexp.MustCompile(`\$\{\{ *inputs\.([a-z-]+) *\}\}`)

// TestActionRuns runs the scripts of the action, but the one that installs, as a CI would.
func TestActionRuns(t *testing.T) {
	bin := installed(t)
	project := t.TempDir()
	deputyIn(t, bin, project, 0, "init", ".", "--domain", "documents")
	broken, err := os.ReadFile(filepath.Join(project, "schema/app.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	broken = bytes.Replace(broken, []byte("  assertFalse:\n"), []byte("  assertFalse:\n    - folder:top#view@user:folder-viewer\n"), 1)
	thin := "schemaFile: app.zed\nrejects: [\"folder:top#owner@agent:bot\"]\n"
	for name, text := range map[string]string{"broken.yaml": string(broken), "thin.yaml": thin} {
		if err := os.WriteFile(filepath.Join(project, "schema", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := readAction(t)
	const lint, test = "Lint the schema", "Run the fixtures"
	for name, c := range map[string]struct {
		inputs map[string]string
		// fails is the step that ends the job; empty if none does.
		fails string
	}{
		"as it comes": {map[string]string{"paths": "schema/thin.yaml"}, ""},
		"with all inputs": {map[string]string{
			"paths": "schema/app.yaml schema/thin.yaml", "schemas": "schema/*.zed", "min-coverage": "0.9", "min-mutation-score": "0.9",
		}, ""},
		"a case fails":            {map[string]string{"paths": "schema/thin.yaml schema/broken.yaml"}, test},
		"coverage is not reached": {map[string]string{"paths": "schema/thin.yaml", "min-coverage": "0.9"}, test},
		"mutants survive":         {map[string]string{"paths": "schema/thin.yaml", "min-mutation-score": "0.9"}, test},
		"the schema has an error": {map[string]string{"paths": "schema/thin.yaml", "schemas": "schema/broken.yaml"}, lint},
		"no such fixture":         {map[string]string{"paths": "schema/nowhere.yaml"}, test},
	} {
		t.Run(name, func(t *testing.T) {
			failed := ""
			for _, s := range a.Runs.Steps {
				if s.Run == "" || strings.Contains(s.Run, "go install") || s.If == "inputs.schemas != ''" && c.inputs["schemas"] == "" {
					continue
				}
				out, ok := s.run(t, bin, project, func(name string) string { return input(t, a, c.inputs, name) })
				if !ok {
					failed = s.Name
					t.Logf("%s", out)
					break
				}
			}
			if failed != c.fails {
				t.Errorf("the step %q failed, want %q", failed, c.fails)
			}
		})
	}
}

// run runs the step's script in a folder, and reports whether it succeeded.
func (s *step) run(t *testing.T, bin, dir string, input func(string) string) (out []byte, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", s.Run)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	for variable, value := range s.Env {
		cmd.Env = append(cmd.Env, variable+"="+expression.ReplaceAllStringFunc(value, func(match string) string {
			return input(expression.FindStringSubmatch(match)[1])
		}))
	}
	out, err := cmd.CombinedOutput()
	if exit, isExit := errors.AsType[*exec.ExitError](err); err != nil && (!isExit || !exit.Exited()) {
		t.Fatal(err)
	}
	return out, err == nil
}

// input returns the value of an input, or its default.
func input(t *testing.T, a *action, given map[string]string, name string) string {
	t.Helper()
	declared, ok := a.Inputs[name]
	switch value, isGiven := given[name]; {
	case !ok:
		t.Errorf("the action uses the input %s, which it does not have", name)
	case isGiven:
		return value
	case declared.Default != nil:
		return *declared.Default
	}
	return ""
}

// deputyIn runs the program in a folder.
func deputyIn(t *testing.T, bin, dir string, want int, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, program), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
		t.Fatalf("deputy %s: %v, want exit code %d\n%s", strings.Join(args, " "), err, want, out)
	}
}

// TestActionInstalls asserts that what the action installs is this module's program.
func TestActionInstalls(t *testing.T) {
	module, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(string(module), "module "), "\n")
	found := false
	for _, step := range readAction(t).Runs.Steps {
		found = found || strings.Contains(step.Run, `go install "`+name+`/cmd/deputy@$VERSION"`) && step.Env["VERSION"] == "${{ inputs.version }}"
	}
	if !found {
		t.Errorf("no step of the action installs %s/cmd/deputy at the version that was asked for", name)
	}
}

// fenced matches a block of code in a page.
var fenced = regexp.MustCompile("(?ms)^```(yaml|console)\n(.*?)^```$")

// TestPagesNameWhatThereIs looks up what docs/testing.md and a new project say: commands and flags in
// consoles, scripts and hooks, inputs of the action.
func TestPagesNameWhatThereIs(t *testing.T) {
	project := t.TempDir()
	deputyIn(t, installed(t), project, 0, "init", ".")
	texts := map[string][]byte{}
	for _, path := range []string{
		"../../docs/testing.md", filepath.Join(project, "README.md"),
		filepath.Join(project, ".github/workflows/deputy.yml"), filepath.Join(project, ".pre-commit-config.yaml"),
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[path] = text
	}
	for _, path := range slices.Sorted(maps.Keys(texts)) {
		d := &doors{action: readAction(t), hooks: hooks(t), where: filepath.Base(path)}
		if filepath.Ext(path) != ".md" {
			d.yaml(t, texts[path])
		}
		for _, block := range fenced.FindAllSubmatch(texts[path], -1) {
			if string(block[1]) == "yaml" {
				d.yaml(t, block[2])
				continue
			}
			for _, line := range deputyLine.FindAllSubmatch(block[2], -1) {
				if bytes.HasPrefix(line[1], []byte("deputy listens on ")) {
					continue // a server says so
				}
				known(t, d.where, string(line[1]))
				d.looked++
			}
		}
		if d.looked == 0 {
			t.Errorf("%s: nothing in it was looked up", d.where)
		}
	}
}

// doors looks up what a page or a configuration names.
type doors struct {
	action *action
	hooks  map[string]string
	where  string
	looked int
}

func (d *doors) yaml(t *testing.T, text []byte) {
	t.Helper()
	var root any
	if err := yaml.Unmarshal(text, &root); err != nil {
		t.Errorf("%s: %v", d.where, err)
	}
	d.walk(t, root)
}

func (d *doors) walk(t *testing.T, node any) {
	t.Helper()
	switch n := node.(type) {
	case []any:
		for _, item := range n {
			d.walk(t, item)
		}
	case string:
		if strings.HasPrefix(n, program+" ") {
			known(t, d.where, n)
			d.looked++
		}
	case map[string]any:
		if uses, _ := n["uses"].(string); strings.HasPrefix(uses, "deputyauth/deputy@") {
			with, _ := n["with"].(map[string]any)
			for name := range with {
				if _, ok := d.action.Inputs[name]; !ok {
					t.Errorf("%s: the action has no input %s", d.where, name)
				}
				d.looked++
			}
		}
		if id, _ := n["id"].(string); strings.HasPrefix(id, program+"-") {
			entry, ok := d.hooks[id]
			if !ok {
				t.Errorf("%s: there is no hook %s", d.where, id)
				return
			}
			args, _ := n["args"].([]any)
			for _, arg := range args {
				word, _ := arg.(string)
				entry += " " + word
			}
			known(t, d.where, entry)
			d.looked++
		}
		for _, value := range n {
			d.walk(t, value)
		}
	}
}
