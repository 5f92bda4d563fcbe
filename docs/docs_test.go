// Package docs holds the documents to the code: what they name is there, or the test says where they lie.
//
//	README.md, CONTRIBUTING.md, docs/*.md ── `package.Symbol`, `folder/file`, [links](...) ──▶ must exist
//	// Upstream: comments ──▶ upstream.md, whose every row a file must still say
//
// `go test ./docs -update` writes upstream.md anew.
package docs

import (
	"flag"
	"fmt"
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

var update = flag.Bool("update", false, "write upstream.md anew")

const root = ".."

// source is what the documents may name: every symbol by its package, and every upstream path by its file.
type source struct {
	symbols  map[string]bool     // "scheduler.Queue.Pop", "cmd/kubeadm.runPhases"
	packages map[string]bool     // names and folders
	upstream map[string][]string // file -> paths
}

// read parses all Go files of this module.
func read(t *testing.T) source {
	t.Helper()
	s := source{symbols: map[string]bool{}, packages: map[string]bool{}, upstream: map[string][]string{}}
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file := filepath.ToSlash(strings.TrimPrefix(name, root+string(filepath.Separator)))
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && name != root || d.Name() == "testdata" || file == "bin" || file == "deploy/tools" || file == "test/upstream" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, pkg := range []string{parsed.Name.Name, path.Dir(file)} {
			s.packages[pkg] = true
			for _, decl := range parsed.Decls {
				s.declare(pkg, decl)
			}
		}
		if !strings.HasSuffix(name, "_test.go") {
			s.upstream[file] = upstreamPaths(parsed)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.symbols) < 2000 {
		t.Fatalf("only %d symbols were found: the test would prove nothing", len(s.symbols))
	}
	return s
}

// declare notes what a declaration names: functions, types with their fields and methods, variables, constants.
func (s source) declare(pkg string, decl ast.Decl) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		if d.Recv != nil && len(d.Recv.List) > 0 {
			name = receiver(d.Recv.List[0].Type) + "." + name
		}
		s.symbols[pkg+"."+name] = true
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					s.symbols[pkg+"."+n.Name] = true
				}
			case *ast.TypeSpec:
				s.symbols[pkg+"."+spec.Name.Name] = true
				for _, member := range members(spec.Type) {
					s.symbols[pkg+"."+spec.Name.Name+"."+member] = true
				}
			}
		}
	}
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func members(e ast.Expr) (names []string) {
	var list *ast.FieldList
	switch e := e.(type) {
	case *ast.StructType:
		list = e.Fields
	case *ast.InterfaceType:
		list = e.Methods
	default:
		return nil
	}
	for _, f := range list.List {
		for _, n := range f.Names {
			names = append(names, n.Name)
		}
	}
	return names
}

var upstreamPath = regexp.MustCompile(`[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.*-]+)+`)

// upstreamPaths are the paths in a file's "Upstream:" comments, each once, up to "Left out:" or an empty line.
func upstreamPaths(file *ast.File) (paths []string) {
	for _, group := range file.Comments {
		_, text, found := strings.Cut(group.Text(), "Upstream:")
		for found {
			var next string
			next, text, found = strings.Cut(text, "Upstream:")
			next, _, _ = strings.Cut(next, "Left out:")
			next, _, _ = strings.Cut(next, "\n\n")
			for _, p := range upstreamPath.FindAllString(next, -1) {
				p = strings.TrimRight(p, ".")
				if strings.HasPrefix(p, "pkg/") || strings.HasPrefix(p, "cmd/") || strings.HasPrefix(p, "staging/") || strings.Contains(p, ".io/") ||
					strings.HasPrefix(p, "containern") || strings.HasPrefix(p, "containerd/") || strings.HasPrefix(p, "flannel") || strings.HasPrefix(p, "plugin/") || strings.HasPrefix(p, "plugins/") {
					paths = append(paths, p)
				}
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

func documents(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(found) < 4 {
		t.Fatalf("documents: %v, %v", found, err)
	}
	return append(found, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md"))
}

var (
	block  = regexp.MustCompile("(?ms)^```.*?^```$")
	quoted = regexp.MustCompile("`([^`\n]+)`")
	link   = regexp.MustCompile(`\]\(([^)]+)\)`)
	symbol = regexp.MustCompile(`^([a-z][a-z0-9/-]*)\.([A-Za-z]\w*(?:\.[A-Za-z]\w*)?)$`)
	inRepo = regexp.MustCompile(`^(?:apiserver|client|cmd|cni|controllers|deploy|docs|kubelet|lab|proxy|scheduler|test)/[\w./*-]*$`)
	suffix = regexp.MustCompile(`\.(?:go|md|yaml|yml|json|conf|conflist|sock|service|txt|log|crt|key|pem|sh|tar|local|slice)$`)
)

// TestDocumentsNameWhatIsThere finds every path, symbol and link of the documents in the repository.
func TestDocumentsNameWhatIsThere(t *testing.T) {
	code := read(t)
	checked := 0
	for _, name := range documents(t) {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text := block.ReplaceAllStringFunc(string(raw), func(b string) string { return strings.Repeat("\n", strings.Count(b, "\n")) })
		for i, line := range strings.Split(text, "\n") {
			at := fmt.Sprintf("%s:%d", strings.TrimPrefix(filepath.ToSlash(name), "../"), i+1)
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				if why, ok := code.has(m[1]); !ok {
					t.Errorf("%s: `%s`: %s", at, m[1], why)
				} else if why != "" {
					checked++
				}
			}
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				target, _, _ := strings.Cut(m[1], "#")
				if target == "" || strings.Contains(target, "://") {
					continue
				}
				if _, err := os.Stat(filepath.Join(filepath.Dir(name), target)); err != nil {
					t.Errorf("%s: the link to %s leads nowhere", at, target)
				}
				checked++
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d names were checked: the documents or the patterns have changed", checked)
	}
}

// has says whether a quoted word names something of the repository, and whether that is there. Words that name
// nothing of it are passed with an empty reason.
func (s source) has(word string) (why string, ok bool) {
	word = strings.TrimSuffix(word, "()")
	if m := symbol.FindStringSubmatch(word); m != nil && s.packages[m[1]] && !suffix.MatchString(word) {
		return "there is no such symbol in package " + m[1], s.symbols[word]
	}
	if inRepo.MatchString(word) {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(word)))
		return "there is no such file", err == nil && len(found) > 0
	}
	return "", true
}

const upstreamHead = `# Where it is in Kubernetes

Paths are those of the Kubernetes repository at v1.36 unless they name another. The comment ` + "`// Upstream:`" + ` beside each type and
function names the symbol too; this page is made of those comments (` + "`go test ./docs -update`" + `), and a test holds it to them.
`

// TestUpstreamMap checks that every row of upstream.md still stands in the code, and that no room is missing.
func TestUpstreamMap(t *testing.T) {
	code := read(t)
	if *update {
		if err := os.WriteFile("upstream.md", []byte(upstreamHead+code.upstreamRows()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile("upstream.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	folder := ""
	listed := map[string]bool{} // rooms
	for _, line := range strings.Split(string(raw), "\n") {
		if name, ok := strings.CutPrefix(line, "## "); ok {
			folder = name
			listed[room(folder)] = true
		}
		cells := strings.Split(line, "|")
		if len(cells) != 4 || !strings.HasSuffix(strings.Trim(cells[1], " `"), ".go") {
			continue
		}
		file := path.Join(folder, strings.Trim(cells[1], " `"))
		for _, p := range strings.Split(cells[2], ",") {
			rows++
			if p = strings.TrimSpace(p); !slices.Contains(code.upstream[file], p) {
				t.Errorf("upstream.md: %s does not name %s any more; go test ./docs -update", file, p)
			}
		}
	}
	for file, paths := range code.upstream {
		if len(paths) > 0 && !listed[room(file)] {
			t.Errorf("upstream.md: %s is missing; go test ./docs -update", room(file))
			listed[room(file)] = true
		}
	}
	if rows < 200 {
		t.Errorf("upstream.md has only %d rows", rows)
	}
}

func room(file string) string {
	first, _, _ := strings.Cut(file, "/")
	return first
}

func (s source) upstreamRows() string {
	var files []string
	for file, paths := range s.upstream {
		if len(paths) > 0 {
			files = append(files, file)
		}
	}
	slices.SortFunc(files, func(a, b string) int {
		if c := strings.Compare(path.Dir(a), path.Dir(b)); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	var out strings.Builder
	folder := ""
	for _, file := range files {
		if path.Dir(file) != folder {
			folder = path.Dir(file)
			fmt.Fprintf(&out, "\n## %s\n\n| here | upstream |\n|---|---|\n", folder)
		}
		fmt.Fprintf(&out, "| `%s` | %s |\n", path.Base(file), strings.Join(s.upstream[file], ", "))
	}
	return out.String()
}

// absent pairs words of gaps.md with what the code would say if the thing were there.
var absent = []struct{ words, files, code string }{
	{"aggregated API servers", "apiserver/*.go", "orrery/apiserver/aggregation"},
	{"Admission webhooks", "apiserver/*.go", "orrery/apiserver/webhook"},
	{"Swagger UI", "apiserver/*/*.go", "swagger-ui"},
	{"Ingress controller", "deploy/*ingress*.yaml", "kind: "},
	{"modes nftables, ipvs", "proxy/*.go", "knftables"},
	{"extenders", "scheduler/*.go", "type Extender"},
	{"CSI", "kubelet/volumes/*.go", "NodePublishVolume"},
	{"in-place resize", "kubelet/*.go", "UpdateContainerResources("},
	{"removal of unused images", "kubelet/*.go", "RemoveImage("},
	{"rotation of containers' logs", "kubelet/*.go", "ReopenContainerLog("},
	{"device plugins", "kubelet/*.go", "deviceplugin"},
	{"fileKeyRef", "kubelet/*.go", ".FileKeyRef"},
	{"backoffLimitPerIndex", "controllers/*.go", ".BackoffLimitPerIndex"},
	{"successPolicy", "controllers/*.go", ".SuccessPolicy"},
}

// TestGapsAreGaps keeps gaps.md from hiding what is missing, and from denying what is there.
func TestGapsAreGaps(t *testing.T) {
	raw, err := os.ReadFile("gaps.md")
	if err != nil {
		t.Fatal(err)
	}
	gaps := strings.ToLower(strings.Join(strings.Fields(string(raw)), " "))
	for _, a := range absent {
		where := ""
		files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(a.files)))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), a.code) {
				where = strings.TrimPrefix(filepath.ToSlash(name), "../")
			}
		}
		switch listed := strings.Contains(gaps, strings.ToLower(a.words)); {
		case listed && where != "":
			t.Errorf("gaps.md says that %q is not there, but %s has %s", a.words, where, a.code)
		case !listed && where == "":
			t.Errorf("%q is not there, and gaps.md does not say so", a.words)
		}
	}
}
