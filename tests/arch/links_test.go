package arch

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestLinks asserts that every relative link in a page leads to a file, and to a heading of it.
func TestLinks(t *testing.T) {
	pages := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			pages[path] = string(text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages[filepath.Join(root, "README.md")] == "" {
		t.Fatal("there is no README.md")
	}
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }
	for path, text := range pages {
		for _, complaint := range brokenLinks(path, text, pages, exists) {
			t.Error(complaint)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
	noWord  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// brokenLinks returns a complaint for each link of a page that leads nowhere.
func brokenLinks(path, text string, pages map[string]string, exists func(string) bool) []string {
	var found []string
	for _, match := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		target := match[1]
		if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			continue
		}
		file, anchor, _ := strings.Cut(target, "#")
		to := path
		if file != "" {
			to = filepath.Join(filepath.Dir(path), file)
		}
		switch {
		case !exists(to):
			found = append(found, fmt.Sprintf("%s links to %s, and there is no such file.", path, target))
		case anchor != "" && filepath.Ext(to) == ".md" && !slices.Contains(anchors(pages[to]), anchor):
			found = append(found, fmt.Sprintf("%s links to %s, and that page has no such heading; it has %s.",
				path, target, strings.Join(anchors(pages[to]), ", ")))
		}
	}
	return found
}

// anchors returns the names that a page's headings have in links.
func anchors(text string) []string {
	var names []string
	for _, match := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		names = append(names, strings.ReplaceAll(noWord.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-"))
	}
	return names
}

func TestLinksBite(t *testing.T) {
	pages := map[string]string{"docs/a.md": "# One `word`, two\n```\n# not a heading\n```\n"}
	exists := func(path string) bool { return pages[path] != "" }
	for text, broken := range map[string]bool{
		"[x](a.md)":                         false,
		"[x](a.md#one-word-two)":            false,
		"[x](https://example.com/nowhere)":  false,
		"```\n[x](nowhere.md)\n```":         false,
		"[x](nowhere.md)":                   true,
		"[x](../a.md)":                      true,
		"[x](a.md#not-a-heading)":           true,
		"[x](a.md) and [y](a.md#elsewhere)": true,
	} {
		if got := brokenLinks("docs/b.md", text, pages, exists); (len(got) > 0) != broken {
			t.Errorf("%q: %q", text, got)
		}
	}
}
