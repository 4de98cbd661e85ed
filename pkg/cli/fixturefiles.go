package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/deputyauth/deputy/pkg/fixture"
)

// project is a folder that nothing outside of is read with, not through a symbolic link either. It remembers what
// was read, or was not there.
type project struct {
	folder fs.FS
	// note is called with the path of each file that is asked for.
	note func(name string)
}

// errOutside is what os.Root calls "path escapes from parent".
var errOutside = errors.New("it is outside of the project's folder; --root names a larger one")

// Open implements fs.FS. What is neither a file nor a folder is not even opened: that can block for ever.
func (p project) Open(name string) (fs.File, error) {
	info, err := p.Stat(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: bare(err)}
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("it is no regular file")}
	}
	file, err := p.folder.Open(name)
	return file, outside(err)
}

// Stat implements fs.StatFS.
func (p project) Stat(name string) (fs.FileInfo, error) {
	p.note(name)
	info, err := fs.Stat(p.folder, name)
	return info, outside(err)
}

// outside says in a person's words that os.Root would not leave its folder. It has no value for that.
func outside(err error) error {
	if of, ok := errors.AsType[*fs.PathError](err); ok && of.Err.Error() == "path escapes from parent" {
		return &fs.PathError{Op: of.Op, Path: of.Path, Err: errOutside}
	}
	return err
}

// search finds the fixtures that the arguments of a command name. It has to be closed once they were read.
type search struct {
	// root is the folder that nothing outside of is read for; with it empty it is the current one, and a file that
	// is named but lies elsewhere has its own folder as its project.
	root  string
	files []fixture.Located
	// folders are those in which another fixture would be found, as the user would name them.
	folders []string

	opened map[string]*os.Root
	seen   map[string]bool

	mu sync.Mutex
	// read are the files that were asked for, as the user would name them.
	read map[string]bool
}

// find looks for fixtures; without an argument, below the current folder.
func find(root string, args []string) (*search, error) {
	if len(args) == 0 {
		args = []string{"./..."}
	}
	s := &search{root: root, opened: map[string]*os.Root{}, seen: map[string]bool{}, read: map[string]bool{}}
	for _, arg := range args {
		if err := s.argument(arg); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", arg, bare(err)), s.Close())
		}
	}
	if len(s.files) == 0 {
		return nil, errors.Join(fmt.Errorf("no fixtures in %s: they are YAML files with schema or schemaFile, and assertions, validation, "+
			"decisions or rejects", strings.Join(args, ", ")), s.Close())
	}
	return s, nil
}

// Close closes the projects' folders.
func (s *search) Close() error {
	var all []error
	for _, folder := range s.opened {
		all = append(all, folder.Close())
	}
	return errors.Join(all...)
}

// argument finds what one argument names: a file, a folder, or all below a folder.
func (s *search) argument(arg string) error {
	name, deep := strings.CutSuffix(filepath.ToSlash(arg), "/...")
	switch {
	case arg == "...":
		name, deep = ".", true
	case deep && name == "":
		name = "/"
	}
	info, err := os.Stat(filepath.FromSlash(name))
	if err != nil {
		return err
	}
	if path.Ext(name) == ".zed" && !info.IsDir() {
		return errors.New("it is a schema, and deputy test runs fixtures, the YAML files that name it with schemaFile; " +
			"for the schema itself run: deputy schema lint " + arg)
	}
	if deep && !info.IsDir() {
		return errors.New("it is no folder")
	}
	folder := name
	if !info.IsDir() {
		folder = path.Dir(name)
	}
	prefix, within, err := s.project(folder)
	if err != nil {
		return err
	}
	if s.opened[prefix] == nil {
		if s.opened[prefix], err = os.OpenRoot(filepath.FromSlash(orHere(prefix))); err != nil {
			return err
		}
	}
	from := project{s.opened[prefix].FS(), func(name string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.read[path.Join(prefix, name)] = true
	}}
	if !info.IsDir() {
		s.add(fixture.Located{Project: from, Name: path.Join(within, path.Base(name)), Prefix: prefix})
		return nil
	}
	return s.walk(from, prefix, within, deep)
}

// concerns reports whether a run may come to something else because a file has changed.
func (s *search) concerns(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read[name] {
		return true
	}
	if !slices.Contains(s.folders, path.Dir(name)) {
		return false
	}
	if extension := path.Ext(name); extension == ".yaml" || extension == ".yml" {
		return true
	}
	info, err := os.Stat(filepath.FromSlash(name))
	return err == nil && info.IsDir()
}

// around are the folders with all that a run depends on.
func (s *search) around() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.folders)
	for name := range s.read {
		all = append(all, path.Dir(name))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// walk finds the fixtures in a folder. What cannot be read is one of them: it may be.
func (s *search) walk(from project, prefix, within string, deep bool) error {
	return fs.WalkDir(from.folder, within, func(at string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && at == within:
			return err
		case err != nil:
			return fmt.Errorf("%s: %w", at, bare(err))
		case entry.IsDir() && at != within && (!deep || strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules"):
			return fs.SkipDir
		case entry.IsDir():
			s.folders = append(s.folders, path.Join(prefix, at))
			return nil
		case path.Ext(at) != ".yaml" && path.Ext(at) != ".yml":
			return nil
		}
		info, err := from.Stat(at)
		if errors.Is(err, fs.ErrNotExist) || (err == nil && !info.Mode().IsRegular()) {
			return nil // a link to nothing, a pipe
		}
		if err == nil {
			var contents []byte
			if contents, err = beginning(from, at); err == nil && !fixture.IsFixture(contents) {
				return nil
			}
		}
		s.add(fixture.Located{Project: from, Name: at, Prefix: prefix})
		return nil
	})
}

// beginning reads a file, but no more of it than the largest fixture may have.
func beginning(from project, name string) ([]byte, error) {
	file, err := from.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, fixture.MaxBytes))
}

// add adds a file, unless it is there under another name.
func (s *search) add(f fixture.Located) {
	at := filepath.FromSlash(path.Join(f.Prefix, f.Name))
	identity, err := filepath.EvalSymlinks(at)
	if err == nil {
		identity, err = filepath.Abs(identity)
	}
	if err != nil {
		identity = at // reading it will say what is wrong
	}
	if !s.seen[identity] {
		s.seen[identity] = true
		s.files = append(s.files, f)
	}
}

// project returns the folder that a folder's files may be read with, as the user would name it, and the latter
// within it.
func (s *search) project(folder string) (prefix, within string, err error) {
	absoluteRoot, err := filepath.Abs(s.root)
	if err != nil {
		return "", "", err
	}
	absolute, err := filepath.Abs(filepath.FromSlash(folder))
	if err != nil {
		return "", "", err
	}
	relative, err := filepath.Rel(absoluteRoot, absolute)
	switch {
	case err == nil && filepath.IsLocal(relative) && s.root == "":
		return "", filepath.ToSlash(relative), nil
	case err == nil && filepath.IsLocal(relative):
		return path.Clean(filepath.ToSlash(s.root)), filepath.ToSlash(relative), nil
	case s.root != "":
		return "", "", fmt.Errorf("it is outside of --root %s", s.root)
	}
	return path.Clean(folder), ".", nil
}

// orHere is the current folder if there is no other.
func orHere(folder string) string {
	if folder == "" {
		return "."
	}
	return folder
}

// bare is an error without the path that it is about, for a caller that names it already.
func bare(err error) error {
	if of, ok := errors.AsType[*fs.PathError](err); ok {
		return of.Err
	}
	return err
}
