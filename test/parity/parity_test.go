package parity

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	"orrery/test/peers"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"
)

var (
	differences = flag.String("differences", "", "file for the answers that differ; without it nothing is asked")
	kinds       = flag.String("kinds", "", "regular expression of the kinds; all when empty")
)

// clients is how many requests are under way at once.
const clients = 4

func TestEveryFieldOfEveryKind(t *testing.T) {
	if *differences == "" {
		t.Skip("a measurement, not a test: run `make compare-apiserver`")
	}
	peers.Need(t)
	file, err := os.Create(*differences)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r := newRun(t, file)
	fmt.Printf("%-34s %9s %13s %11s\n", "", "requests", "same verdict", "same words")
	wanted, total := regexp.MustCompile(*kinds), &tally{name: "all"}
	for _, obj := range objects(t) {
		if n := r.object(obj, wanted.MatchString(obj.GetKind())); n != nil {
			n.print()
			total.requests, total.verdicts, total.words = total.requests+n.requests, total.verdicts+n.verdicts, total.words+n.words
		}
	}
	total.print()
}

func objects(t *testing.T) (all []*unstructured.Unstructured) {
	data, err := os.ReadFile("../swap/testdata/objects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range bytes.Split(data, []byte("\n---\n")) {
		var obj unstructured.Unstructured
		if err := yaml.Unmarshal(doc, &obj.Object); err != nil {
			t.Fatal(err)
		}
		all = append(all, &obj)
	}
	return all
}

type tally struct {
	name                      string
	requests, verdicts, words int
}

func (n *tally) print() {
	share := func(part int) float64 { return 100 * float64(part) / float64(max(n.requests, 1)) }
	fmt.Printf("%-34s %9d %12.1f%% %10.1f%%\n", n.name, n.requests, share(n.verdicts), share(n.words))
}

// run has both servers, ours first.
type run struct {
	t      *testing.T
	urls   [2]string
	client [2]*http.Client
	mapper meta.RESTMapper
	mu     sync.Mutex
	out    io.Writer
}

func newRun(t *testing.T, out io.Writer) *run {
	r := &run{t: t, out: out}
	for i, view := range peers.New(t).StartAPIServers(peers.Ours, peers.Upstream) {
		config := view.Config("admin", "system:masters")
		transport, err := rest.TransportFor(config)
		if err != nil {
			t.Fatal(err)
		}
		r.urls[i], r.client[i] = view.URL(), &http.Client{Transport: transport}
		groups, err := restmapper.GetAPIGroupResources(discovery.NewDiscoveryClientForConfigOrDie(config))
		if err != nil {
			t.Fatal(err)
		}
		r.mapper = restmapper.NewDiscoveryRESTMapper(groups)
	}
	return r
}

func (r *run) ask(side int, method, path string, body any) (int, []byte, http.Header) {
	var sent io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			r.t.Fatal(err)
		}
		sent = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.urls[side]+path, sent)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client[side].Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, b, resp.Header
}

// paths are where objects of an object's kind are listed, and where it is itself.
func (r *run) paths(obj *unstructured.Unstructured) (list, one string) {
	gvk := obj.GroupVersionKind()
	resource, _ := meta.UnsafeGuessKindToResource(gvk) // of a kind that was not there at the start
	if mapping, err := r.mapper.RESTMapping(gvk.GroupKind(), gvk.Version); err == nil {
		resource = mapping.Resource
	}
	list = "/apis/" + gvk.Group + "/" + gvk.Version
	if gvk.Group == "" {
		list = "/api/" + gvk.Version
	}
	if ns := obj.GetNamespace(); ns != "" {
		list += "/namespaces/" + ns
	}
	list += "/" + resource.Resource
	return list, list + "/" + obj.GetName()
}

// object makes an object, and unless that is all that is wanted asks both servers about its changes: as a new one, as an update, in its status.
func (r *run) object(obj *unstructured.Unstructured, wanted bool) *tally {
	gvk := obj.GroupVersionKind()
	list, one := r.paths(obj)
	typed, err := scheme.Scheme.New(gvk)
	wanted = wanted && err == nil // a custom resource's definition has no Go type there
	n := &tally{name: gvk.Kind + " " + obj.GetName()}
	var goType reflect.Type
	inStatus := func(c change) bool { return c.path[0] == "status" }
	if wanted {
		goType = reflect.TypeOf(typed).Elem()
		fresh := change{[]any{"metadata", "name"}, obj.GetName() + "-x", false}.in(obj.Object)
		r.changes(n, "POST", list, goType, fresh, func(c change) bool { return !inStatus(c) })
	}
	if code, body, _ := r.ask(1, "POST", list, obj.Object); code != http.StatusCreated && code != http.StatusConflict {
		r.t.Fatalf("%s: %d %s", n.name, code, body)
	}
	if !wanted {
		return nil
	}
	_, body, _ := r.ask(1, "GET", one, nil)
	var now map[string]any
	if err := json.Unmarshal(body, &now); err != nil {
		r.t.Fatal(err)
	}
	r.ask(0, "GET", one, nil) // so that ours has seen it
	delete(now["metadata"].(map[string]any), "managedFields")
	r.changes(n, "PUT", one, goType, now, func(c change) bool { return !inStatus(c) })
	if code, _, _ := r.ask(1, "GET", one+"/status", nil); code == http.StatusOK {
		r.changes(n, "PUT", one+"/status", goType, now, inStatus)
	}
	return n
}

func (r *run) changes(n *tally, method, path string, goType reflect.Type, obj any, wanted func(change) bool) {
	todo := make(chan change)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for c := range todo {
				r.compare(n, method, path, obj, c)
			}
		})
	}
	mutations(goType, obj.(map[string]any), func(c change) {
		if wanted(c) {
			todo <- c
		}
	})
	close(todo)
	wg.Wait()
}

func (r *run) compare(n *tally, method, path string, obj any, c change) {
	var code [2]int
	var words [2]string
	for side := range r.urls {
		var body []byte
		var header http.Header
		code[side], body, header = r.ask(side, method, path+"?dryRun=All&fieldManager=m", c.in(obj))
		words[side] = strings.Join(append(header.Values("Warning"), essence(body)), "\n")
	}
	r.note(n, fmt.Sprintf("%s %s %s", n.name, method, c), code, words)
}

// note counts two answers, ours first, and writes down what differs.
func (r *run) note(n *tally, title string, code [2]int, words [2]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n.requests++
	if code[0] == code[1] {
		n.verdicts++
		if words[0] == words[1] {
			n.words++
			return
		}
	}
	fmt.Fprintf(r.out, "### %s\n--- upstream: %d\n%s\n+++ ours: %d\n%s\n", title, code[1], without(words[1], words[0]), code[0], without(words[0], words[1]))
}

// random is what differs between any two answers.
var random = regexp.MustCompile(`kube-api-access-[a-z0-9]{5}|\bg-[a-z0-9]{5}\b|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+|20\d\d-\d\d-\d\dT[0-9:.]+Z|10\.\d+\.\d+\.\d+|127\.0\.0\.1:\d+|current: \d+|\b3[0-2]\d\d\d\b`)

// essence is what two answers are compared by: causes of a refusal, or the object.
func essence(body []byte) string {
	var status metav1.Status
	if json.Unmarshal(body, &status) == nil && status.Kind == "Status" {
		if status.Details == nil || len(status.Details.Causes) == 0 {
			return random.ReplaceAllString(fmt.Sprintln(status.Reason, status.Message), "*")
		}
		var s strings.Builder
		for _, c := range status.Details.Causes {
			fmt.Fprintln(&s, c.Type, c.Field, c.Message)
		}
		return random.ReplaceAllString(s.String(), "*")
	}
	var obj unstructured.Unstructured
	if err := json.Unmarshal(body, &obj.Object); err != nil {
		return string(body)
	}
	obj.SetManagedFields(nil)
	if obj.GetGenerateName() != "" {
		obj.SetName("")
	}
	text, err := json.MarshalIndent(obj.Object, "", " ")
	if err != nil {
		return err.Error()
	}
	return random.ReplaceAllString(string(text), "*")
}

// without are the lines of a text that another has not.
func without(text, other string) string {
	has := map[string]int{}
	for _, line := range strings.Split(other, "\n") {
		has[line]++
	}
	var out []string
	for _, line := range strings.Split(text, "\n") {
		if has[line]--; has[line] < 0 {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}
