package examples

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNames: the pages name only what exists: identifiers, fields of calls, log lines,
// and other pages.
func TestNames(t *testing.T) {
	api := newAPI(t)
	var log strings.Builder
	for _, name := range api.files {
		log.WriteString(read(t, name))
	}
	for _, name := range pages {
		t.Run(name, func(t *testing.T) {
			page := read(t, "..", "docs", name)
			links(t, page)
			prose := fenced.ReplaceAllString(page, "")
			own := spans(prose)
			if name == "migrating.md" { // most names there are others'
				own = nil
				for _, table := range tables(prose) {
					for _, row := range table.rows {
						if last := len(row) - 1; table.header[last] == "here" {
							own = append(own, spans(row[last])...)
						}
					}
				}
			}
			for _, s := range own {
				switch {
				case strings.HasPrefix(s, "{{"), strings.HasPrefix(s, "call."), strings.HasPrefix(s, "event."):
					placeholder, err := json.Marshal("{{" + strings.Trim(s, "{}") + "}}")
					if err != nil {
						t.Fatal(err)
					}
					if err := valid(`"post_call": [{"url": "https://example.com", "payload": {"template": {"value": ` + string(placeholder) + `}}}]`); err != nil {
						t.Errorf("%s: %v", s, err)
					}
				case strings.HasPrefix(s, "callhook: "):
					if !strings.Contains(log.String(), `"`+s+`"`) {
						t.Errorf("nothing logs %q", s)
					}
				case !api.has(s):
					t.Errorf("there is no %s", s)
				}
			}
		})
	}
}

// links follows the links of a page to other files, and to headings.
func links(t *testing.T, page string) {
	for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(page, -1) {
		file, anchor, _ := strings.Cut(m[1], "#")
		if strings.Contains(file, "://") {
			continue
		}
		target := page
		if file != "" {
			if _, err := os.Stat(filepath.Join("..", "docs", file)); err != nil {
				t.Errorf("a link leads nowhere: %v", err)
				continue
			}
			if anchor != "" {
				target = read(t, "..", "docs", file)
			}
		}
		if anchor != "" && !slices.Contains(anchors(target), anchor) {
			t.Errorf("%s has no heading #%s", file, anchor)
		}
	}
}

// anchors are what headings are linked by.
func anchors(page string) (out []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		words := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(words, " ", "-"))
	}
	return out
}

// api is what packages export: types with their fields and methods, functions,
// constants and variables.
type api struct {
	members map[string]map[string]bool // of a type; nil for what is none
	files   []string
}

func newAPI(t *testing.T) *api {
	a := &api{members: map[string]map[string]bool{}}
	for _, dir := range []string{"..", "../callhooktest", "../callhooktest/platforms", "../queue/sqlitequeue"} {
		for _, f := range parse(t, dir) {
			a.files = append(a.files, f.name)
			for _, d := range f.Decls {
				a.add(d)
			}
		}
	}
	return a
}

func (a *api) add(d ast.Decl) {
	if f, ok := d.(*ast.FuncDecl); ok {
		if f.Recv == nil {
			a.put(f.Name.Name, "")
			return
		}
		receiver := f.Recv.List[0].Type
		if star, ok := receiver.(*ast.StarExpr); ok {
			receiver = star.X
		}
		if id, ok := receiver.(*ast.Ident); ok {
			a.put(id.Name, f.Name.Name)
		}
		return
	}
	for _, s := range d.(*ast.GenDecl).Specs {
		switch s := s.(type) {
		case *ast.ValueSpec:
			for _, name := range s.Names {
				a.put(name.Name, "")
			}
		case *ast.TypeSpec:
			a.put(s.Name.Name, "")
			var fields *ast.FieldList
			switch typ := s.Type.(type) {
			case *ast.StructType:
				fields = typ.Fields
			case *ast.InterfaceType:
				fields = typ.Methods
			}
			if fields == nil {
				continue
			}
			for _, f := range fields.List {
				for _, name := range f.Names {
					a.put(s.Name.Name, name.Name)
				}
			}
		}
	}
}

func (a *api) put(name, member string) {
	if a.members[name] == nil {
		a.members[name] = map[string]bool{}
	}
	if member != "" {
		a.members[name][member] = true
	}
}

var identifier = regexp.MustCompile(`^\*?(?:(?:callhook|callhooktest|sqlitequeue)\.)?([A-Z]\w*)(?:\.([A-Z]\w*))?(?:\(.*\))?$`)

// has reports whether what looks like an identifier is one of ours: a name, a type and
// its member, or a member of any type.
func (a *api) has(s string) bool {
	m := identifier.FindStringSubmatch(s)
	if m == nil || s == strings.ToUpper(s) {
		return true // it is something else
	}
	members, ok := a.members[m[1]]
	if m[2] != "" {
		return members[m[2]]
	}
	for _, of := range a.members {
		ok = ok || of[m[1]]
	}
	return ok || m[1] == "Accepted" // what Make says
}

type file struct {
	*ast.File
	name string
}

func parse(t *testing.T, dir string) (out []file) {
	t.Helper()
	names, err := fs.Glob(os.DirFS(dir), "*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %v, %v", dir, names, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		name = path.Join(dir, name)
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, file{f, name})
	}
	return out
}
