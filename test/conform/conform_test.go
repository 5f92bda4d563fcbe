package conform

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orrery/test/cluster"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/client-go/util/retry"
)

const (
	asJSON     = "application/json"
	asProtobuf = "application/vnd.kubernetes.protobuf"
)

var deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}

func start(t *testing.T, contentType string) *rest.Config {
	t.Helper()
	c := cluster.Start(t)
	transport := c.Transport()
	t.Cleanup(transport.CloseIdleConnections)
	cfg := &rest.Config{Host: cluster.Host, Transport: transport, QPS: -1}
	cfg.ContentType, cfg.AcceptContentTypes = contentType, contentType
	return cfg
}

// must(f())(t) is what f returns; an error ends the test.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	app := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: app},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1"}}}}}}
}

func TestOneOfTwoCandidatesLeadsAndTheOtherTakesOver(t *testing.T) {
	cfg := start(t, asProtobuf)
	set := must(kubernetes.NewForConfig(cfg))(t)
	led := make(chan string, 2)
	var leading atomic.Int32
	candidate := func(id string) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		lock := must(resourcelock.New(resourcelock.LeasesResourceLock, "kube-system", "test", set.CoreV1(), set.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: id}))(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{Lock: lock, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 100 * time.Millisecond, ReleaseOnCancel: true,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(ctx context.Context) {
						if n := leading.Add(1); n != 1 {
							t.Errorf("%d candidates lead at once", n)
						}
						led <- id
						<-ctx.Done()
					},
					OnStoppedLeading: func() { leading.Store(0) },
				}})
		}()
		return func() { cancel(); <-done }
	}
	stop := map[string]func(){"one": candidate("one"), "two": candidate("two")}
	next := func() string {
		select {
		case id := <-led:
			return id
		case <-time.After(20 * time.Second):
			t.Fatal("nobody leads")
			return ""
		}
	}
	first := next()
	stop[first]()
	second := next()
	if first == second {
		t.Errorf("%s leads again after it went", first)
	}
	lease := must(set.CoordinationV1().Leases("kube-system").Get(t.Context(), "test", metav1.GetOptions{}))(t)
	if got := *lease.Spec.HolderIdentity; got != second {
		t.Errorf("the lease is held by %s, want %s", got, second)
	}
	if *lease.Spec.LeaseTransitions < 1 {
		t.Errorf("%d transitions, want at least 1", *lease.Spec.LeaseTransitions)
	}
	stop[second]()
}

func TestApplyConfigurationsOwnFields(t *testing.T) {
	for _, contentType := range []string{asJSON, asProtobuf} {
		t.Run(contentType, func(t *testing.T) {
			set, ctx := must(kubernetes.NewForConfig(start(t, contentType)))(t), t.Context()
			api := set.AppsV1().Deployments("default")
			want := func(image string) *appsac.DeploymentApplyConfiguration {
				return appsac.Deployment("web", "default").WithLabels(map[string]string{"tier": "front"}).WithSpec(appsac.DeploymentSpec().WithReplicas(2).
					WithSelector(metaac.LabelSelector().WithMatchLabels(map[string]string{"app": "web"})).
					WithTemplate(coreac.PodTemplateSpec().WithLabels(map[string]string{"app": "web"}).
						WithSpec(coreac.PodSpec().WithContainers(coreac.Container().WithName("c").WithImage(image)))))
			}
			mine := metav1.ApplyOptions{FieldManager: "mine"}
			created := must(api.Apply(ctx, want("i:1"), mine))(t)
			same := must(api.Apply(ctx, want("i:1"), mine))(t)
			if created.ResourceVersion != same.ResourceVersion {
				t.Error("applying the same again made a new version")
			}
			// What one has applied can be read back, and no more than that.
			extracted := must(appsac.ExtractDeployment(same, "mine"))(t)
			if *extracted.Spec.Replicas != 2 || extracted.Spec.Strategy != nil || *extracted.Spec.Template.Spec.Containers[0].Image != "i:1" {
				t.Errorf("extracted: %+v", extracted.Spec)
			}
			// Another manager may not take what is owned, except by force; then the first has lost it.
			yours := metav1.ApplyOptions{FieldManager: "yours"}
			theirs := appsac.Deployment("web", "default").WithSpec(appsac.DeploymentSpec().WithReplicas(5))
			_, err := api.Apply(ctx, theirs, yours)
			if !apierrors.IsConflict(err) || err.Error() != `Apply failed with 1 conflict: conflict with "mine": .spec.replicas` {
				t.Errorf("taking without force: %v", err)
			}
			yours.Force = true
			taken := must(api.Apply(ctx, theirs, yours))(t)
			if *taken.Spec.Replicas != 5 {
				t.Errorf("%d replicas, want 5", *taken.Spec.Replicas)
			}
			if again := must(appsac.ExtractDeployment(taken, "mine"))(t); again.Spec.Replicas != nil {
				t.Error("the first manager still owns what was taken by force")
			}
			// What a manager no longer applies goes, if nobody else owns it.
			less := want("i:1")
			less.Labels, less.Spec.Replicas = nil, nil
			last := must(api.Apply(ctx, less, mine))(t)
			if _, there := last.Labels["tier"]; there || *last.Spec.Replicas != 5 {
				t.Errorf("labels %v and %d replicas, want none and 5", last.Labels, *last.Spec.Replicas)
			}
			// The status has managers of its own.
			status := must(api.ApplyStatus(ctx, appsac.Deployment("web", "default").WithStatus(appsac.DeploymentStatus().WithReplicas(5)), mine))(t)
			if status.Status.Replicas != 5 || status.Generation != last.Generation {
				t.Errorf("status %+v, generation %d, want %d", status.Status, status.Generation, last.Generation)
			}
			if !slices.ContainsFunc(status.ManagedFields, func(e metav1.ManagedFieldsEntry) bool { return e.Manager == "mine" && e.Subresource == "status" }) {
				t.Errorf("no manager of the status in %v", status.ManagedFields)
			}
		})
	}
}

func TestTheDynamicClientDoesEverything(t *testing.T) {
	cfg, ctx := start(t, asJSON), t.Context()
	api := must(dynamic.NewForConfig(cfg))(t).Resource(deployments).Namespace("default")
	fields := must(runtime.DefaultUnstructuredConverter.ToUnstructured(deployment("web", 1)))(t)
	obj := &unstructured.Unstructured{Object: fields}
	obj.SetAPIVersion("apps/v1")
	obj.SetKind("Deployment")
	created := must(api.Create(ctx, obj, metav1.CreateOptions{}))(t)
	if got, _, _ := unstructured.NestedString(created.Object, "spec", "strategy", "type"); got != "RollingUpdate" {
		t.Errorf("strategy is %q: defaults are missing", got)
	}
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		live, err := api.Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := unstructured.SetNestedField(live.Object, int64(3), "spec", "replicas"); err != nil {
			return err
		}
		_, err = api.Update(ctx, live, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	patched := must(api.Patch(ctx, "web", types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}}}`), metav1.PatchOptions{}))(t)
	if got, _, _ := unstructured.NestedInt64(patched.Object, "spec", "replicas"); got != 3 || patched.GetGeneration() != 3 {
		t.Errorf("%d replicas in generation %d, want 3 in 3 (a Deployment's annotations count)", got, patched.GetGeneration())
	}
	dry := must(api.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":9}}`), metav1.PatchOptions{DryRun: []string{"All"}}))(t)
	live := must(api.Get(ctx, "web", metav1.GetOptions{}))(t)
	if got, _, _ := unstructured.NestedInt64(dry.Object, "spec", "replicas"); got != 9 || live.GetResourceVersion() != patched.GetResourceVersion() {
		t.Errorf("dry run says %d replicas and left version %s for %s", got, live.GetResourceVersion(), patched.GetResourceVersion())
	}
	// The last word of the status is its own subresource's.
	if err := unstructured.SetNestedField(live.Object, int64(7), "status", "replicas"); err != nil {
		t.Fatal(err)
	}
	after := must(api.UpdateStatus(ctx, live, metav1.UpdateOptions{}))(t)
	if got, _, _ := unstructured.NestedInt64(after.Object, "status", "replicas"); got != 7 {
		t.Errorf("status is %v", after.Object["status"])
	}
	uid := live.GetUID()
	wrong := types.UID("wrong")
	if err := api.Delete(ctx, "web", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}); !apierrors.IsConflict(err) {
		t.Errorf("deleting another: %v", err)
	}
	if err := api.Delete(ctx, "web", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); err != nil {
		t.Error(err)
	}
	if _, err := api.Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after deleting: %v", err)
	}
}

func TestDynamicInformersOfEverythingThatCanBeWatched(t *testing.T) {
	cfg := start(t, asJSON)
	client := must(dynamic.NewForConfig(cfg))(t)
	lists := must(discovery.NewDiscoveryClientForConfigOrDie(cfg).ServerPreferredResources())(t)
	factory := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	n := 0
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "watch"}}, lists) {
		for _, r := range list.APIResources {
			gv := must(schema.ParseGroupVersion(list.GroupVersion))(t)
			factory.ForResource(gv.WithResource(r.Name)).Informer()
			n++
		}
	}
	if n < 50 {
		t.Errorf("only %d resources can be watched", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	factory.Start(ctx.Done())
	for gvr, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			t.Errorf("%v was never in step", gvr)
		}
	}
	namespaces := must(factory.ForResource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Lister().List(labels.Everything()))(t)
	if len(namespaces) != 4 {
		t.Errorf("%d namespaces, want default, kube-node-lease, kube-public and kube-system", len(namespaces))
	}
	cancel()
	factory.Shutdown()
}

func TestDiscoveryMapsKindsAndShortNames(t *testing.T) {
	cfg := start(t, asJSON)
	disco := discovery.NewDiscoveryClientForConfigOrDie(cfg)
	for _, legacy := range []bool{false, true} {
		disco.UseLegacyDiscovery = legacy
		groups := must(restmapper.GetAPIGroupResources(disco))(t)
		mapper := restmapper.NewDiscoveryRESTMapper(groups)
		mapping := must(mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "Deployment"}))(t)
		if mapping.Resource != deployments || mapping.Scope.Name() != meta.RESTScopeNameNamespace {
			t.Errorf("legacy %v: Deployment is %v, %v", legacy, mapping.Resource, mapping.Scope.Name())
		}
		hpa := must(mapper.RESTMapping(schema.GroupKind{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}))(t)
		if hpa.Resource.Version != "v2" {
			t.Errorf("legacy %v: autoscalers are preferred in %s, want v2", legacy, hpa.Resource.Version)
		}
		short := restmapper.NewShortcutExpander(mapper, disco, nil)
		if gvr := must(short.ResourceFor(schema.GroupVersionResource{Resource: "deploy"}))(t); gvr != deployments {
			t.Errorf("legacy %v: deploy is %v", legacy, gvr)
		}
	}
	if v := must(disco.ServerVersion())(t); v.Major != "1" || v.Minor != "36" || !strings.HasPrefix(v.GitVersion, "v1.36.3") {
		t.Errorf("version is %+v", v)
	}
}

func TestAPagerSeesEveryObjectOnce(t *testing.T) {
	for _, contentType := range []string{asJSON, asProtobuf} {
		t.Run(contentType, func(t *testing.T) {
			set, ctx := must(kubernetes.NewForConfig(start(t, contentType)))(t), t.Context()
			api := set.CoreV1().ConfigMaps("default")
			want := map[string]bool{}
			for i := range 57 {
				name := fmt.Sprintf("m%02d", i)
				want[name] = true
				must(api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"a": "b"}}}, metav1.CreateOptions{}))(t)
			}
			pages := 0
			p := pager.New(pager.SimplePageFunc(func(o metav1.ListOptions) (runtime.Object, error) { pages++; return api.List(ctx, o) }))
			p.PageSize = 10
			err := p.EachListItem(ctx, metav1.ListOptions{LabelSelector: "a=b"}, func(obj runtime.Object) error {
				name := obj.(*corev1.ConfigMap).Name
				if !want[name] {
					t.Errorf("%s came twice, or from nowhere", name)
				}
				delete(want, name)
				return nil
			})
			if err != nil || len(want) > 0 || pages != 6 {
				t.Errorf("%v; %d were not seen, in %d pages", err, len(want), pages)
			}
		})
	}
}

func TestWaitingForACondition(t *testing.T) {
	set, ctx := must(kubernetes.NewForConfig(start(t, asProtobuf)))(t), t.Context()
	api := set.CoreV1().ConfigMaps("default")
	made := must(api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, metav1.CreateOptions{}))(t)
	lw := &cache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return api.Watch(ctx, o) },
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	seen := make(chan error, 1)
	go func() {
		_, err := watchtools.Until(ctx, made.ResourceVersion, lw, func(e watch.Event) (bool, error) {
			return e.Type == watch.Modified && e.Object.(*corev1.ConfigMap).Data["done"] == "yes", nil
		})
		seen <- err
	}()
	for _, v := range []string{"no", "yes"} {
		must(api.Patch(ctx, "m", types.MergePatchType, []byte(`{"data":{"done":"`+v+`"}}`), metav1.PatchOptions{}))(t)
	}
	if err := <-seen; err != nil {
		t.Error(err)
	}
}

func TestMetadataAndScaleClientsSeeAnyKind(t *testing.T) {
	cfg, ctx := start(t, asJSON), t.Context()
	set := must(kubernetes.NewForConfig(cfg))(t)
	must(set.AppsV1().Deployments("default").Create(ctx, deployment("web", 2), metav1.CreateOptions{}))(t)

	partial := must(metadata.NewForConfig(cfg))(t)
	list := must(partial.Resource(deployments).Namespace("default").List(ctx, metav1.ListOptions{}))(t)
	if len(list.Items) != 1 || list.Items[0].Name != "web" {
		t.Errorf("as metadata: %+v", list.Items)
	}
	w := must(partial.Resource(deployments).Namespace("default").Watch(ctx, metav1.ListOptions{ResourceVersion: "0"}))(t)
	defer w.Stop()
	if e := <-w.ResultChan(); e.Type != watch.Added || e.Object.(*metav1.PartialObjectMetadata).Name != "web" {
		t.Errorf("watched as metadata: %+v", e)
	}

	disco := discovery.NewDiscoveryClientForConfigOrDie(cfg)
	mapper := restmapper.NewDiscoveryRESTMapper(must(restmapper.GetAPIGroupResources(disco))(t))
	scales := must(scale.NewForConfig(cfg, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(disco)))(t)
	s := must(scales.Scales("default").Get(ctx, deployments.GroupResource(), "web", metav1.GetOptions{}))(t)
	if s.Spec.Replicas != 2 || s.Status.Selector != "app=web" {
		t.Errorf("scale is %+v", s)
	}
	s.Spec.Replicas = 4
	must(scales.Scales("default").Update(ctx, deployments.GroupResource(), s, metav1.UpdateOptions{}))(t)
	d := must(set.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{}))(t)
	if *d.Spec.Replicas != 4 || d.Generation != 2 {
		t.Errorf("%d replicas, generation %d", *d.Spec.Replicas, d.Generation)
	}
	_, err := set.AppsV1().Deployments("default").UpdateScale(ctx, "web", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", ResourceVersion: "1"}}, metav1.UpdateOptions{})
	if !apierrors.IsConflict(err) {
		t.Errorf("an old scale: %v", err)
	}
}

func TestErrorsAreWhatClientsAskFor(t *testing.T) {
	set, ctx := must(kubernetes.NewForConfig(start(t, asProtobuf)))(t), t.Context()
	api := set.CoreV1().ConfigMaps("default")
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}
	made := must(api.Create(ctx, cm, metav1.CreateOptions{}))(t)
	_, exists := api.Create(ctx, cm, metav1.CreateOptions{})
	_, missing := api.Get(ctx, "nope", metav1.GetOptions{})
	cm.Data = map[string]string{"k": "v"}
	cm.ResourceVersion = "1"
	_, conflict := api.Update(ctx, cm, metav1.UpdateOptions{})
	_, invalid := api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "No_Name"}}, metav1.CreateOptions{})
	// The server waits for three seconds and says "again in one"; the client would, ten times.
	future := set.CoreV1().RESTClient().Get().Namespace("default").Resource("configmaps").Param("resourceVersion", "99999999").MaxRetries(0).Do(ctx).Error()
	for name, ok := range map[string]bool{
		"IsAlreadyExists": apierrors.IsAlreadyExists(exists), "IsNotFound": apierrors.IsNotFound(missing), "IsConflict": apierrors.IsConflict(conflict),
		"IsInvalid": apierrors.IsInvalid(invalid), "IsTimeout": apierrors.IsTimeout(future),
	} {
		if !ok {
			t.Errorf("%s is false", name)
		}
	}
	if made.UID == "" {
		t.Error("no uid")
	}
	if _, ok := apierrors.StatusCause(future, metav1.CauseTypeResourceVersionTooLarge); !ok {
		t.Errorf("no cause ResourceVersionTooLarge in %v", future)
	}
}
