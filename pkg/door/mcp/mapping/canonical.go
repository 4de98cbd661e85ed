package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Canonical says that an argument is the path of a file. The object's id is the path below Root, with / between its elements; Root itself is
// ".".
//
// With Shared the guard looks the path up: symbolic links and .. are resolved as the server's system does it, and the server is sent the path
// that they lead to. So what it opens is what was judged, unless an element of that path is replaced by a link between the decision and the
// opening: a race that remains, and that only somebody can win who may write to folders on the way. Hard links are files of their own.
// Without Shared the guard cannot know where links lead. It refuses every path that is not written in its canonical form, and links on the
// server's side are the server's to refuse.
type Canonical struct {
	// Root is the folder that the paths lie in, absolute. Relative paths are relative to it.
	Root string `yaml:"root"`
	// Shared says that the guard sees the same files as the server, under the same paths.
	Shared bool `yaml:"shared"`
	// Depth is how many elements of the path make the id: 1 for the folder below Root that the path lies in. 0 is all of them.
	Depth int `yaml:"depth"`
	// Parent asks about the folder that the path lies in: for files that are still to be made.
	Parent bool `yaml:"parent"`

	// real is Root without links.
	real string
}

// prepare checks what is written.
func (c *Canonical) prepare() error {
	switch {
	case !filepath.IsAbs(c.Root) || filepath.Clean(c.Root) != c.Root:
		return fmt.Errorf("root is %q; it has to be an absolute path, without .. or a / at its end", c.Root)
	case c.Depth < 0:
		return fmt.Errorf("depth is %d; it has to be 1 or more, or left out", c.Depth)
	}
	c.real = c.Root
	if !c.Shared {
		return nil
	}
	var err error
	if c.real, err = filepath.EvalSymlinks(c.Root); err != nil {
		return fmt.Errorf("root %s is not there: with shared the guard has to see the server's files", c.Root)
	}
	if foldsCase(c.real) {
		return fmt.Errorf("root %s lies on a file system that takes upper and lower case for the same, and ids do not", c.Root)
	}
	return nil
}

// foldsCase reports whether a folder is found also in the other case.
func foldsCase(folder string) bool {
	other := strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, filepath.Base(folder))
	if other == filepath.Base(folder) {
		return false
	}
	one, err := os.Stat(folder)
	if err != nil {
		return true
	}
	two, err := os.Stat(filepath.Join(filepath.Dir(folder), other))
	return err == nil && os.SameFile(one, two)
}

const (
	// maxPath is the length of a path, in bytes. Linux opens none that is longer.
	maxPath = 4096
	// maxLooks is how much is looked up for one call, or for one answer, as many folders' entries; and lookUpCost is what one path's look-up counts.
	maxLooks   = 2_000_000
	lookUpCost = 8
)

// errLooks is the error of paths that take more than maxLooks. It says something of the folders: there may be one with very many entries.
var errLooks = errors.New("takes more look-ups of files than one call may")

// looks are what is looked up for one call, or for one answer: at most most, or maxLooks where that is 0.
type looks struct {
	used, most int
	// others are, by the folder, the names in it that are not in Unicode's form NFC, in that form.
	others map[string]map[string]bool
}

// use returns errLooks where nothing is left.
func (l *looks) use(n int) error {
	if l.used += n; l.used > cmp.Or(l.most, maxLooks) {
		return errLooks
	}
	return nil
}

// resolved is where a path leads.
type resolved struct {
	// path is absolute, and id the object's.
	path, id string
}

// resolve returns where a path leads. The error goes on after the words that name the path.
func (c *Canonical) resolve(text string, looks *looks) (resolved, error) {
	switch {
	case text == "":
		return resolved{}, errors.New("is empty")
	case len(text) > maxPath:
		return resolved{}, fmt.Errorf("is longer than the %d bytes of a path", maxPath)
	case strings.HasPrefix(text, "~"):
		return resolved{}, errors.New("begins with ~, which some programs take for a home folder")
	}
	if err := plain(text); err != nil {
		return resolved{}, err
	}
	at := text
	if !filepath.IsAbs(at) {
		at = c.real + "/" + text
	}
	if c.Shared {
		var err error
		if at, err = c.lookUp(at, looks); err == nil {
			err = plain(at)
		}
		if err != nil {
			return resolved{}, &lookedUp{err}
		}
	} else if at != filepath.Clean(at) || strings.Contains("/"+text+"/", "/../") || strings.Contains("/"+text+"/", "/./") {
		return resolved{}, errors.New("is not in its canonical form; write it without .., ., // and a / at its end")
	}
	id, err := c.below(at)
	if err != nil {
		return resolved{}, err
	}
	if c.Parent {
		if id == "." {
			return resolved{}, errors.New("is the server's folder itself")
		}
		id = filepath.Dir(id)
	}
	if parts := strings.Split(id, "/"); c.Depth > 0 && len(parts) > c.Depth {
		id = strings.Join(parts[:c.Depth], "/")
	}
	return resolved{at, id}, nil
}

// plain returns an error unless every program reads a path in the same way. It holds for the path that came, and for the one that it leads to, because
// that is the one that the server is sent.
func plain(path string) error {
	switch {
	case !utf8.ValidString(path):
		return errors.New("is not in UTF-8, so that JSON has another text for it")
	case strings.ContainsAny(path, "\\\x00"):
		return errors.New("has a backslash, which is a separator for some systems")
	case strings.TrimFunc(path, func(r rune) bool { return blank(r) || r == '"' || r == '\'' }) != path:
		return errors.New("begins or ends with a blank or a quotation mark, which some programs leave out")
	case !norm.NFC.IsNormalString(path):
		return errors.New("is not in Unicode's form NFC, and some systems take it for another name")
	}
	return nil
}

// below returns a path relative to the root.
func (c *Canonical) below(at string) (string, error) {
	below, err := filepath.Rel(c.real, at)
	if err != nil || below == ".." || strings.HasPrefix(below, "../") {
		return "", errors.New("lies outside the server's folder")
	}
	return filepath.ToSlash(below), nil
}

// lookedUp is an error that says something of the file system.
type lookedUp struct{ error } //nolint:errname // it wraps any

// Unwrap returns what it says.
func (e *lookedUp) Unwrap() error { return e.error }

// lookUp resolves an absolute path on the file system.
func (c *Canonical) lookUp(at string, looks *looks) (string, error) {
	clean := filepath.Clean(at)
	lexical, err := physical(clean, looks)
	if err != nil {
		return "", err
	}
	if at == clean {
		at = lexical
	} else if at, err = physical(at, looks); err != nil {
		return "", err
	}
	if at != lexical {
		return "", errors.New("goes up with .. behind a symbolic link, which programs read in different ways")
	}
	_, err = c.below(at)
	return at, err
}

// physical resolves an absolute path from its beginning, as a system does that opens it. What is not there yet ends it: behind it nothing
// goes up.
func physical(at string, looks *looks) (string, error) {
	cur, gone := "/", false
	for name := range strings.SplitSeq(at, "/") {
		switch {
		case name == "" || name == ".":
			continue
		case name == ".." && gone:
			return "", errors.New("goes up with .. from a folder that is not there")
		case name == "..":
			cur = filepath.Dir(cur)
			continue
		}
		cur = filepath.Join(cur, name)
		if gone {
			continue
		}
		if err := looks.use(lookUpCost); err != nil {
			return "", err
		}
		about, err := os.Lstat(cur)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := equivalent(filepath.Dir(cur), name, looks); err != nil {
				return "", err
			}
			gone = true
		case err != nil:
			return "", errors.New("cannot be looked up")
		case about.Mode()&fs.ModeSymlink != 0:
			if cur, err = filepath.EvalSymlinks(cur); err != nil {
				return "", errors.New("leads through a symbolic link to nowhere")
			}
		}
	}
	return cur, nil
}

// errEquivalent is the error of a path that is not there under its name.
var errEquivalent = errors.New("is there in another form of Unicode, under which some programs find it")

// equivalent returns an error where a folder has, or may have, a name that is another one and the same text to Unicode. A server that does not find a
// name may open that instead, and it can be a link.
func equivalent(folder, name string, looks *looks) error {
	others, known := looks.others[folder]
	if !known {
		var err error
		if others, err = otherForms(folder, looks); err != nil {
			return err
		}
		if looks.others == nil {
			looks.others = map[string]map[string]bool{}
		}
		looks.others[folder] = others
	}
	if others[name] {
		return errEquivalent
	}
	return nil
}

// otherForms returns the names in a folder that are not in Unicode's form NFC, in that form. A folder that is not there has none.
func otherForms(folder string, looks *looks) (others map[string]bool, err error) {
	dir, err := os.Open(folder) //nolint:gosec // its names are compared, and nothing of it is shown
	if errors.Is(err, fs.ErrNotExist) {
		return others, nil
	}
	if err != nil {
		return nil, errEquivalent
	}
	defer func() { _ = dir.Close() }() // nothing was written
	for {
		entries, err := dir.ReadDir(256)
		if err := looks.use(len(entries)); err != nil {
			return nil, err
		}
		for _, one := range entries {
			if form := norm.NFC.String(one.Name()); form != one.Name() {
				if others == nil {
					others = map[string]bool{}
				}
				others[form] = true
			}
		}
		if errors.Is(err, io.EOF) {
			return others, nil
		}
		if err != nil {
			return nil, errEquivalent
		}
	}
}

// blank reports whether a character is one that programs leave out, or do not show.
func blank(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
}
