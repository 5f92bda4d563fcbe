package swap

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"orrery/test/peers"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
)

// An etcd that dies alone takes the writes and the newest reads with it. What the API server has in its caches it goes on
// to serve, and its watches stay open. Both sides answer in the same words.
func TestAPIServerWithoutEtcd(t *testing.T) {
	peers.Need(t)
	if diff := cmp.Diff(withoutEtcd(t, peers.Upstream), withoutEtcd(t, peers.Ours)); diff != "" {
		t.Errorf("upstream's (-) and ours (+):\n%s", diff)
	}
}

// withoutEtcd is what an API server answers while its etcd is away and when it is back.
func withoutEtcd(t *testing.T, side peers.Side) (answers []string) {
	c := peers.New(t)
	etcd := c.StartEtcd()
	server := newRaw(t, c.StartAPIServers(side)[0])
	const configMaps = "/api/v1/namespaces/default/configmaps"
	note := func(method, path, body string) {
		code, text := server.ask(method, path, body)
		answers = append(answers, fmt.Sprintf("%s %s: %d %s", method, path, code, text))
	}
	note("POST", configMaps, `{"metadata":{"name":"before"}}`)
	watch := server.watch(configMaps + "?allowWatchBookmarks=true")
	answers = append(answers, "the watch says "+watch())

	etcd.Kill()
	c.Wait("readyz to fail", func(context.Context) error {
		code, text := server.ask("GET", "/readyz", "")
		if code == http.StatusOK {
			return fmt.Errorf("it says %s", text)
		}
		return nil
	})
	note("GET", "/livez/etcd", "")
	for _, path := range []string{"/livez", "/readyz"} {
		_, text := server.ask("GET", path, "")
		for _, line := range strings.Split(text, "\n") {
			if !strings.HasPrefix(line, "[+]") { // of the other checks each side has some of its own
				answers = append(answers, path+": "+line)
			}
		}
	}
	note("GET", configMaps+"?resourceVersion=0", "")
	note("GET", configMaps+"/before?resourceVersion=0", "")
	note("POST", configMaps+"?timeout=1s", `{"metadata":{"name":"lost"}}`)
	note("PUT", configMaps+"/before?timeout=1s", `{"metadata":{"name":"before"},"data":{"k":"v"}}`)
	note("DELETE", configMaps+"/before?timeout=1s", "")
	note("POST", "/api/v1/namespaces/default/events?timeout=1s", `{"metadata":{"name":"e"},"involvedObject":{"namespace":"default","kind":"Pod","name":"p"}}`)
	note("GET", configMaps+"?watch=1&resourceVersion=0&timeoutSeconds=1", "")
	note("GET", configMaps+"?watch=1&timeoutSeconds=1", "")

	c.StartEtcd()
	c.Wait("writes to work", func(context.Context) error {
		if code, text := server.ask("POST", configMaps+"?timeout=1s", `{"metadata":{"name":"after"}}`); code != http.StatusCreated && code != http.StatusConflict {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	answers = append(answers, "the watch says "+watch())
	note("GET", configMaps+"/before", "")
	c.Wait("readyz", func(context.Context) error {
		if code, text := server.ask("GET", "/readyz", ""); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	return answers
}

// An API server whose etcd is not there ends after 20 s, on both sides, and leaves it to the kubelet to try again.
func TestAPIServerDoesNotStartWithoutEtcd(t *testing.T) {
	peers.Need(t)
	for _, side := range []peers.Side{peers.Upstream, peers.Ours} {
		t.Run(string(side), func(t *testing.T) {
			t.Parallel()
			c := peers.New(t)
			c.StartEtcd().Stop()
			code, took := c.TryAPIServer(side)
			t.Logf("exit code %d after %v", code, took.Round(100*time.Millisecond))
			if code != 1 || took < 19*time.Second || took > 30*time.Second {
				t.Errorf("exit code %d after %v, want 1 after 20 s", code, took)
			}
		})
	}
}

// raw asks an API server and shows its answers as they come.
type raw struct {
	t      *testing.T
	url    string
	client *http.Client
}

func newRaw(t *testing.T, c *peers.Cluster) *raw {
	t.Helper()
	transport, err := rest.TransportFor(c.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	return &raw{t, c.URL(), &http.Client{Transport: transport, Timeout: time.Minute}}
}

// ask returns the code, and the content type and the body without what differs from run to run.
func (r *raw) ask(method, path, body string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type") + " " + bare(string(text))
}

// watch begins one; each call of what it returns is the next event that is no bookmark.
func (r *raw) watch(path string) func() string {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url+path+"&watch=1", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: r.client.Transport}).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func() string {
		for lines.Scan() {
			if !strings.Contains(lines.Text(), `"BOOKMARK"`) && !strings.Contains(lines.Text(), "kube-root-ca.crt") {
				return bare(lines.Text())
			}
		}
		return fmt.Sprint("the end: ", lines.Err())
	}
}

// bare is JSON without the fields that are new each time; other text is as it is.
func bare(text string) string {
	var v any
	if json.Unmarshal([]byte(text), &v) != nil {
		return text
	}
	var strip func(any)
	strip = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				strip(e)
			}
		case map[string]any:
			for _, k := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields"} {
				delete(v, k)
			}
			for _, e := range v {
				strip(e)
			}
		}
	}
	strip(v)
	out, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(out)
}
