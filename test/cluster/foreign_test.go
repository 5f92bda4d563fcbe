package cluster

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

func foreign(t *testing.T, c *Cluster, contentType string) *kubernetes.Clientset {
	t.Helper()
	transport := c.Transport()
	t.Cleanup(transport.CloseIdleConnections)
	config := &rest.Config{Host: Host, Transport: transport, QPS: -1}
	config.ContentType, config.AcceptContentTypes = contentType, contentType
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestUpstreamsInformersFollowTheServer(t *testing.T) {
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(contentType, func(t *testing.T) {
			set := foreign(t, Start(t), contentType)
			seen := make(chan string, 10)
			factory := informers.NewSharedInformerFactory(set, 0)
			if _, err := factory.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc:    func(obj any) { seen <- "added " + obj.(*corev1.ConfigMap).Name },
				UpdateFunc: func(_, obj any) { seen <- "updated " + obj.(*corev1.ConfigMap).Data["a"] },
				DeleteFunc: func(any) { seen <- "deleted" },
			}); err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			defer factory.Shutdown()
			defer close(stop)
			factory.Start(stop)
			factory.WaitForCacheSync(stop)
			maps, ctx := set.CoreV1().ConfigMaps("default"), t.Context()
			if _, err := maps.Create(ctx, configMap("one"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := maps.Patch(ctx, "one", types.StrategicMergePatchType, []byte(`{"data":{"a":"c"}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := maps.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"added one", "updated c", "deleted"} {
				for got := ""; got != want; {
					select {
					case got = <-seen:
					case <-time.After(20 * time.Second):
						t.Fatalf("%q was never seen", want)
					}
				}
			}
		})
	}
}

// TestAWatchList reads the raw stream: state, bookmark, then changes, one JSON object a line.
func TestAWatchList(t *testing.T) {
	c := Start(t)
	set := foreign(t, c, "application/json")
	maps, ctx := set.CoreV1().ConfigMaps("default"), t.Context()
	if _, err := maps.Create(ctx, configMap("before"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, Host+"/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=5"+
		"&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := c.Transport()
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	expect := func(parts ...string) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the stream ended before %v: %v", parts, lines.Err())
		}
		for _, p := range parts {
			if !strings.Contains(lines.Text(), p) {
				t.Fatalf("got %s, want %s in it", lines.Text(), p)
			}
		}
	}
	expect(`{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1"`, `"name":"before"`)
	expect(`{"type":"BOOKMARK"`, `"kind":"ConfigMap"`, `"k8s.io/initial-events-end":"true"`)
	if err := maps.Delete(ctx, "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(`{"type":"DELETED"`, `"name":"before"`)
	if lines.Scan() {
		t.Errorf("after the timeout came %s", lines.Text())
	}
}
