package reliability

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	"orrery/test/peers"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

var seed = flag.Uint64("seed", 0, "seed of all choices that clients make; 0 takes a new one")

// random has a source for each client, all of one seed, which a failure prints.
func random(t *testing.T) func(client int) *rand.Rand {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("try again with -seed %d", s)
		}
	})
	return func(client int) *rand.Rand { return rand.New(rand.NewPCG(s, uint64(client))) }
}

// answersWithin bounds a request: what takes longer has an unknown end.
const answersWithin = 5 * time.Second

// client is a plain HTTP client: nothing is tried again behind the test's back.
type client struct {
	http *http.Client
	url  string
}

func newClient(t *testing.T, c *peers.Cluster) *client {
	t.Helper()
	h, err := rest.HTTPClientFor(c.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.CloseIdleConnections)
	return &client{http: h, url: c.URL() + "/api/v1/namespaces/default/configmaps"}
}

// notSent is the code when no server listens: then nothing has happened.
const notSent = -1

// do sends one request. code is 0 when it is not known what became of it.
func (c *client) do(method, path string, body any) (code int, obj *corev1.ConfigMap) {
	ctx, cancel := context.WithTimeout(context.Background(), answersWithin)
	defer cancel()
	sent, err := json.Marshal(body)
	if err != nil {
		return 0, nil
	}
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(sent))
	if err != nil {
		return 0, nil
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := c.http.Do(r)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return notSent, nil
	}
	if err != nil {
		return 0, nil
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode >= http.StatusInternalServerError {
		return 0, nil
	}
	obj = &corev1.ConfigMap{}
	if answer.StatusCode < 300 && json.Unmarshal(data, obj) != nil {
		return 0, nil
	}
	return answer.StatusCode, obj
}

func (c *client) read(name string) (int, *corev1.ConfigMap) {
	return c.do(http.MethodGet, "/"+name, nil)
}

func (c *client) create(name, value string) (int, *corev1.ConfigMap) {
	return c.do(http.MethodPost, "", configMap(name, value, 0))
}

func (c *client) swap(name, value string, revision int64) (int, *corev1.ConfigMap) {
	return c.do(http.MethodPut, "/"+name, configMap(name, value, revision))
}

func (c *client) remove(name string, revision int64) int {
	rv := strconv.FormatInt(revision, 10)
	code, _ := c.do(http.MethodDelete, "/"+name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &rv}})
	return code
}

const valueKey = "value"

func configMap(name, value string, revision int64) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{valueKey: value}}
	if revision > 0 {
		m.ResourceVersion = strconv.FormatInt(revision, 10)
	}
	return m
}

// revisionOf reads a resourceVersion as clients must not, and tests may.
func revisionOf(m metav1.Object) int64 {
	n, err := strconv.ParseInt(m.GetResourceVersion(), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("resourceVersion %q: %v", m.GetResourceVersion(), err))
	}
	return n
}

// pause lets a client that got no answer wait a little before it goes on.
func pause(ctx context.Context) {
	timer := time.NewTimer(10 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
