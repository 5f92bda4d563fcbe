// Command gen makes apiserver/openapi/schemas.json.gz from the published Go types.
//
// It builds a throw-away module beside the checkout's versions, lets openapi-gen
// read the doc comments and struct tags of k8s.io/api, links the result together
// with dump.go.txt, and stores what that prints. It needs the module proxy and
// about half a minute; run it (go generate ./apiserver/openapi) when the
// Kubernetes version in go.mod changes.
package main

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed dump.go.txt
var dumper []byte

// generatorVersion is the openapi-gen that Kubernetes 1.36 was made with; a newer one writes fewer defaults.
const generatorVersion = "v0.0.0-20260317180543-43fb72c5454a"

// typePackages are all packages whose types appear in a document that we serve.
var typePackages = strings.Fields(`
k8s.io/api/admissionregistration/v1 k8s.io/api/apps/v1 k8s.io/api/authentication/v1
k8s.io/api/authorization/v1 k8s.io/api/autoscaling/v1 k8s.io/api/autoscaling/v2
k8s.io/api/batch/v1 k8s.io/api/certificates/v1 k8s.io/api/coordination/v1
k8s.io/api/core/v1 k8s.io/api/discovery/v1 k8s.io/api/events/v1 k8s.io/api/flowcontrol/v1
k8s.io/api/networking/v1 k8s.io/api/node/v1 k8s.io/api/policy/v1 k8s.io/api/rbac/v1
k8s.io/api/resource/v1 k8s.io/api/scheduling/v1 k8s.io/api/storage/v1
k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1
k8s.io/kube-aggregator/pkg/apis/apiregistration/v1
k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version
k8s.io/apimachinery/pkg/api/resource k8s.io/apimachinery/pkg/util/intstr`)

func main() {
	if err := generate("schemas.json.gz"); err != nil {
		log.Fatal(err)
	}
}

// generate writes the compressed schemas to out.
func generate(out string) error {
	dir, err := os.MkdirTemp("", "openapi-gen-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := prepareModule(dir); err != nil {
		return err
	}
	generator := append([]string{"run", "k8s.io/kube-openapi/cmd/openapi-gen", "--go-header-file", "header.txt", "--output-dir", "defs",
		"--output-pkg", "gen/defs", "--output-file", "defs.go", "-r", os.DevNull}, typePackages...)
	if _, err := run(dir, generator...); err != nil {
		return err
	}
	schemas, err := run(dir, "run", ".")
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(schemas); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, packed.Bytes(), 0o644)
}

// prepareModule makes dir a module with the versions of this checkout and the two that only the generator needs.
func prepareModule(dir string) error {
	root, err := run(".", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	files := map[string][]byte{"main.go": dumper, "header.txt": nil}
	for _, name := range []string{"go.mod", "go.sum"} {
		if files[name], err = os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), name)); err != nil {
			return err
		}
	}
	files["go.mod"] = bytes.Replace(files["go.mod"], []byte("module orrery"), []byte("module gen"), 1)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	version, err := run(dir, "list", "-m", "-f", "{{.Version}}", "k8s.io/apimachinery")
	if err != nil {
		return err
	}
	_, err = run(dir, "get", "k8s.io/kube-openapi/cmd/openapi-gen@"+generatorVersion,
		"k8s.io/kube-aggregator@"+strings.TrimSpace(string(version)))
	return err
}

// run executes the go command in dir and returns what it printed.
func run(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}
