package cluster

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"orrery/client"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func clientFor(t *testing.T, c *Cluster) *client.Client {
	t.Helper()
	cl, err := client.New(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"a": "b"}}
}

func TestAnInformerFollowsTheServerInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clientFor(t, Start(t))
		ctx, cancel := context.WithCancel(t.Context())
		set := client.NewInformers(c)
		inf := client.InformerFor[*corev1.ConfigMap](set)
		done := make(chan struct{})
		go func() { defer close(done); _ = set.Run(ctx) }()
		if err := set.WaitForSync(ctx); err != nil {
			t.Fatal(err)
		}
		maps := client.For[*corev1.ConfigMap](c)
		if _, err := maps.Create(ctx, configMap("one")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if obj, ok := inf.Get("default", "one"); !ok || obj.Data["a"] != "b" {
			t.Errorf("the informer has %v, %v", obj, ok)
		}
		// An hour of bookmarks, watch timeouts and compactions later it still follows.
		time.Sleep(time.Hour)
		if err := maps.Delete(ctx, "default", "one", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := inf.Get("default", "one"); ok {
			t.Error("the informer still has what was deleted an hour later")
		}
		cancel()
		<-done
	})
}

func TestEventsAreForgottenAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clientFor(t, Start(t))
		ctx := t.Context()
		events := client.For[*corev1.Event](c)
		ev := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e"},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}, Reason: "Testing", Type: "Normal"}
		if _, err := events.Create(ctx, ev); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour - time.Second)
		if _, err := events.Get(ctx, "default", "e"); err != nil {
			t.Errorf("a second before the hour: %v", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := events.Get(ctx, "default", "e"); !apierrors.IsNotFound(err) {
			t.Errorf("after the hour: %v, want NotFound", err)
		}
	})
}
