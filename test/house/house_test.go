// Package house holds the rules of the house as tests: who may know whom, and
// the habits that keep the rooms readable. Each rule carries its reason, which is
// what a failure prints.
package house

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// rule forbids the packages below some folders to import others.
type rule struct {
	in     []string // folders of this module; "" is everywhere
	except []string // folders below them that may
	ban    []string // import path prefixes
	allow  []string // exceptions from ban
	reason string
}

var rules = []rule{
	{in: []string{"scheduler"}, ban: []string{"orrery/controllers", "orrery/kubelet", "orrery/proxy", "orrery/cni", "orrery/apiserver", "orrery/lab"},
		reason: "parts talk only through the API server, so that each can be replaced by its upstream namesake"},
	{in: []string{"controllers"}, ban: []string{"orrery/scheduler", "orrery/kubelet", "orrery/proxy", "orrery/cni", "orrery/apiserver", "orrery/lab"},
		reason: "parts talk only through the API server, so that each can be replaced by its upstream namesake"},
	{in: []string{"kubelet"}, ban: []string{"orrery/scheduler", "orrery/controllers", "orrery/proxy", "orrery/cni", "orrery/apiserver", "orrery/lab"},
		reason: "parts talk only through the API server, so that each can be replaced by its upstream namesake"},
	{in: []string{"proxy"}, ban: []string{"orrery/scheduler", "orrery/controllers", "orrery/kubelet", "orrery/cni", "orrery/apiserver", "orrery/lab"},
		reason: "parts talk only through the API server, so that each can be replaced by its upstream namesake"},
	{in: []string{"apiserver"}, ban: []string{"orrery/client", "orrery/cmd"},
		reason: "the server does not know its clients"},
	{in: []string{"kubelet/runtime"}, ban: []string{"orrery/client"},
		reason: "a CRI service knows containers, not Kubernetes"},
	{in: []string{"kubelet"}, except: []string{"kubelet/runtime"}, ban: []string{"orrery/kubelet/runtime"},
		reason: "the kubelet speaks CRI, so that any runtime serves it; cmd/kubelet puts ours beside it"},
	{in: []string{"cni/plugin", "cni/ipam", "cmd/orrery-cni"}, ban: []string{"orrery/client", "orrery/apiserver"},
		reason: "a CNI plugin sees its input, its environment and the kernel, nothing else"},
	{in: []string{"client"}, ban: []string{"orrery/"}, allow: []string{"orrery/client"},
		reason: "everything stands on the client, so it stands on nothing of ours"},
	{in: []string{""}, except: []string{"apiserver/store"}, ban: []string{"go.etcd.io/"},
		reason: "only the store knows that there is an etcd"},
	{in: []string{""}, except: []string{"kubelet/runtime", "cmd/cri-logger"}, ban: []string{"github.com/containerd/"},
		reason: "containerd is behind CRI"},
	{in: []string{""}, except: []string{"cni", "proxy"}, ban: []string{"github.com/vishvananda/"},
		reason: "the kernel's network belongs to the CNI and the service proxy"},
	{in: []string{""}, except: []string{"apiserver"}, ban: []string{"github.com/gorilla/mux"},
		reason: "routes are the API server's"},
	{in: []string{""}, except: []string{"apiserver"}, ban: []string{"github.com/google/cel-go"},
		reason: "expressions are the API server's"},
	{in: []string{""}, ban: []string{"k8s.io/client-go"}, allow: []string{"k8s.io/client-go/kubernetes/scheme", "k8s.io/client-go/applyconfigurations"},
		reason: "informers, work queues and REST clients are the lesson, and ours are in client"},
	{in: []string{""}, ban: []string{"k8s.io/apiserver", "k8s.io/kubernetes"},
		reason: "the API server is the lesson; upstream's runs only as a peer, in test/upstream"},
}

// pkg is what `go list -json` says of a package, as far as the rules ask.
type pkg struct {
	ImportPath string
	Name       string
	Doc        string
	Dir        string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Dir,GoFiles,Imports", "orrery/...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			pkgs = append(pkgs, p)
		}
	}
	if len(pkgs) < 20 {
		t.Fatalf("go list found only %d packages: the rules would hold of nothing", len(pkgs))
	}
	return pkgs
}

// below says whether an import path is one of the prefixes or below it.
func below(path string, prefixes []string) bool {
	for _, p := range prefixes {
		if p == "" || path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/") {
			return true
		}
	}
	return false
}

func TestWhoMayKnowWhom(t *testing.T) {
	for _, p := range packages(t) {
		folder := strings.TrimPrefix(p.ImportPath, "orrery/")
		if below(folder, []string{"test"}) {
			continue // tests may look at everything
		}
		for _, r := range rules {
			if !below(folder, r.in) || len(r.except) > 0 && below(folder, r.except) {
				continue
			}
			for _, imp := range p.Imports {
				if below(imp, r.ban) && !below(imp, r.allow) {
					t.Errorf("%s imports %s: %s", p.ImportPath, imp, r.reason)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// Habits that would break the tests in fake time, or hide who owns what.
func TestHabits(t *testing.T) {
	for _, p := range packages(t) {
		if below(strings.TrimPrefix(p.ImportPath, "orrery/"), []string{"test"}) {
			continue
		}
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Name.Name == "init" && n.Recv == nil {
						t.Errorf("%s: func init: what runs before main is hard to find", fset.Position(n.Pos()))
					}
				case *ast.SelectorExpr:
					x, ok := n.X.(*ast.Ident)
					if !ok || p.Name == "main" {
						return true
					}
					switch x.Name + "." + n.Sel.Name {
					case "time.Sleep":
						t.Errorf("%s: time.Sleep: wait for what you wait for, or for the context", fset.Position(n.Pos()))
					case "context.Background", "context.TODO":
						t.Errorf("%s: a context out of nowhere: nobody can end it", fset.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
}
