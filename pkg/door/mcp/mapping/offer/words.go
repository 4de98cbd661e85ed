package offer

import (
	"slices"
	"strings"
	"unicode"
)

// words cuts a name into its words, in lower case: "issueNumber", "issue_number" and "issue-number" are issue and number.
func words(name string) []string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		switch {
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			b.WriteByte(' ')
			lower = false
			continue
		case unicode.IsUpper(r) && lower:
			b.WriteByte(' ')
		}
		lower = !unicode.IsUpper(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.Fields(b.String())
}

var (
	reading = []string{
		"count", "describe", "fetch", "find", "get", "head", "info", "inspect", "list", "lookup", "query", "read", "search", "show", "stat", "tree", "view",
	}
	writing = []string{
		"add", "append", "apply", "archive", "assign", "call", "cancel", "clear", "close", "commit", "copy", "create", "delete", "deploy", "disable", "drop",
		"edit", "enable", "exec", "execute", "fork", "grant", "import", "insert", "install", "invite", "invoke", "kill", "lock", "make", "merge", "modify", "move",
		"open", "patch", "pay", "post", "publish", "purge", "push", "put", "refund", "reject", "remove", "rename", "reopen", "replace", "replay", "reply",
		"reset", "restart", "restore", "resume", "revoke", "run", "save", "send", "set", "start", "stop", "submit", "suspend", "sync", "toggle", "touch",
		"transfer", "trigger", "truncate", "unlock", "update", "upload", "upsert", "write",
	}
	// listing are words of tools whose answers name objects that the arguments do not.
	listing = []string{"all", "browse", "feed", "find", "glob", "grep", "index", "list", "lookup", "query", "recent", "scan", "search", "tree", "walk"}
)

func has(of []string, among []string) bool {
	return slices.ContainsFunc(of, func(word string) bool { return slices.Contains(among, word) })
}

// Lists reports whether the name of a tool says that its answers name objects that its arguments do not, as search_files and directory_tree do.
func Lists(tool string) bool { return has(words(tool), listing) }

// reads reports whether the name of a tool says that it changes nothing: it begins with a word of reading, and has none of writing.
func reads(tool string) bool {
	of := words(tool)
	return len(of) > 0 && slices.Contains(reading, of[0]) && !has(of, writing)
}

var (
	paths = []string{
		"cwd", "dir", "directories", "directory", "file", "filename", "filenames", "filepath", "filepaths", "files", "folder", "folders", "path", "paths",
	}
	uris = []string{"href", "link", "links", "uri", "uris", "url", "urls"}
	// named are words of arguments that name an object by something else than an id.
	named = []string{
		"account", "accounts", "assignee", "bucket", "buckets", "channel", "channels", "collection", "customer", "customers", "database", "databases", "document",
		"documents", "email", "emails", "group", "groups", "issue", "issues", "key", "keys", "org", "organization", "owner", "project", "projects",
		"queue", "recipient", "recipients", "repo", "repos", "repositories", "repository", "role", "schema", "slug", "table", "tables", "team", "teams", "tenant",
		"ticket", "tickets", "to", "user", "username", "users", "workspace", "workspaces",
	}
	// amounts are words of arguments that are numbers, and say how much of an object.
	amounts = []string{
		"columns", "count", "depth", "first", "head", "height", "last", "length", "limit", "lines", "maximum", "minimum", "offset", "page", "precision", "quality",
		"results", "size", "skip", "tail", "timeout", "top", "width",
	}
	// forms are words of arguments that say in which form.
	forms = []string{"encoding", "format", "lang", "language", "timezone"}
	// wider are words of switches that take in more than the object that is named.
	wider = []string{
		"all", "any", "children", "deep", "descendants", "everyone", "force", "include", "private", "public", "recursive", "share", "shared", "subfolders",
		"subtree", "with",
	}
	// contents are words of arguments whose text is put into an object that others name.
	contents = []string{"body", "comment", "content", "contents", "description", "message", "subject", "summary", "text", "title"}
)

// meaning is what the name and the kind of an argument say of it.
type meaning uint8

const (
	// unknown is what the name says nothing of.
	unknown meaning = iota
	// harmless is an amount, a form, a text to be written: it names no object.
	harmless
	// aPath, aURI, anID and aName name objects.
	aPath
	aURI
	anID
	aName
)

// means judges an argument. object is the type of the object that it names, where its name says so.
func means(name, kind string, enum bool) (m meaning, object string) {
	of := words(name)
	if len(of) == 0 {
		return unknown, ""
	}
	last := of[len(of)-1]
	before := strings.Join(of[:len(of)-1], "_")
	whole := kind == "integer" || kind == "number"
	text := kind == "string" || kind == ""
	switch {
	case slices.Contains([]string{"guid", "guids", "id", "ids", "uuid", "uuids"}, last) && (text || whole):
		return anID, before
	case last == "number" && len(of) > 1 && (text || whole):
		return anID, before
	case text && slices.Contains(paths, last):
		return aPath, "file"
	case text && slices.Contains(uris, last):
		return aURI, "resource"
	case (text || whole) && (slices.Contains(named, last) || last == "name" && len(of) > 1 && has(of, named)):
		return aName, strings.Join(slices.DeleteFunc(of, func(word string) bool { return word == "name" }), "_")
	case kind == "boolean" && !has(of, wider):
		return harmless, ""
	case whole && (slices.Contains(amounts, last) || slices.Contains([]string{"max", "min"}, of[0])), kind == "string" && slices.Contains(forms, last):
		return harmless, ""
	case text && slices.Contains(contents, last), text && has(of, []string{"old", "new"}) && last == "text":
		return harmless, ""
	case kind == "string" && enum && has(of, []string{"format", "level", "mode", "order", "sort", "state", "status"}):
		return harmless, ""
	default:
		return unknown, ""
	}
}

// ends are words of arguments that say from where to where a tool moves something, and moving are words of such tools.
var (
	ends   = []string{"dest", "destination", "dst", "from", "source", "src", "target", "to"}
	moving = []string{"copy", "cp", "link", "move", "mv", "rename", "symlink"}
)

// isEnd reports whether an argument of a tool says from where or to where the tool moves files: "source" and "destination" of move_file.
func isEnd(tool, name, kind string) bool {
	of, word := words(tool), words(name)
	return (kind == "string" || kind == "") && len(word) > 0 && has(word[len(word)-1:], ends) && has(of, moving) && has(of, paths)
}

// meansIn is means for an argument of a tool, whose name can say more than that of the argument.
func meansIn(tool, name, kind string, enum bool) (m meaning, object string) {
	if isEnd(tool, name, kind) {
		return aPath, "file"
	}
	return means(name, kind, enum)
}

// NamesObject reports whether the name of an argument of a tool looks as though its values are objects. kind is as in Argument, or "".
func NamesObject(tool, name, kind string) bool {
	m, _ := meansIn(tool, name, kind, false)
	return m >= aPath
}

// singular is a word of a list as the word of one of its elements.
func singular(word string) string {
	switch {
	case strings.HasSuffix(word, "ies") && len(word) > 4:
		return word[:len(word)-3] + "y"
	case strings.HasSuffix(word, "s") && !strings.HasSuffix(word, "ss") && len(word) > 3:
		return word[:len(word)-1]
	default:
		return word
	}
}

// about is the word of a tool's name that says which objects it is about: "ticket" of get_ticket and of list_tickets, or "".
func about(tool string) string {
	of := words(tool)
	rest := slices.DeleteFunc(slices.Clone(of), func(word string) bool {
		return slices.Contains(reading, word) || slices.Contains(writing, word) || slices.Contains(listing, word) ||
			slices.Contains([]string{"a", "an", "by", "for", "from", "in", "many", "multiple", "of", "on", "the", "to", "with"}, word)
	})
	if len(rest) != 1 || len(of) < 2 {
		return ""
	}
	return singular(rest[0])
}
