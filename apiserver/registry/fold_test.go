package registry

import (
	"testing"
	"time"
	"unsafe"

	"orrery/apiserver/kinds"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

func folded() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"app": "web"}, CreationTimestamp: metav1.Unix(1700000000, 0),
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:spec":{}}`)}}}},
		Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64(30)), Tolerations: []corev1.Toleration{}, Containers: []corev1.Container{
			{Name: "a", Image: "image:1", Env: []corev1.EnvVar{{Name: "LEVEL", Value: "info"}},
				Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}}},
			{Name: "b", Image: "image:2"}}},
	}
}

// Each change makes the pod another one in one place; folding must keep it.
func TestFoldingKeepsEveryDifference(t *testing.T) {
	for name, change := range map[string]func(p *corev1.Pod){
		"nothing":          func(*corev1.Pod) {},
		"a string":         func(p *corev1.Pod) { p.Name = "other" },
		"an empty string":  func(p *corev1.Pod) { p.Name = "" },
		"a map's value":    func(p *corev1.Pod) { p.Labels["app"] = "other" },
		"a map's key":      func(p *corev1.Pod) { p.Labels = map[string]string{"other": "web"} },
		"a map with more":  func(p *corev1.Pod) { p.Labels["tier"] = "front" },
		"no map":           func(p *corev1.Pod) { p.Labels = nil },
		"an empty map":     func(p *corev1.Pod) { p.Labels = map[string]string{} },
		"a time":           func(p *corev1.Pod) { p.CreationTimestamp = metav1.Unix(1700000001, 0) },
		"bytes":            func(p *corev1.Pod) { p.ManagedFields[0].FieldsV1.Raw = []byte(`{"f:status":{}}`) },
		"a pointed number": func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(31)) },
		"no pointer":       func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = nil },
		"a new pointer":    func(p *corev1.Pod) { p.DeletionGracePeriodSeconds = new(int64(0)) },
		"nil for empty":    func(p *corev1.Pod) { p.Spec.Tolerations = nil },
		"a quantity": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits[corev1.ResourceCPU] = resource.MustParse("1")
		},
		"deep in a list":     func(p *corev1.Pod) { p.Spec.Containers[0].Env[0].Value = "debug" },
		"a longer list":      func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "c"}) },
		"a shorter list":     func(p *corev1.Pod) { p.Spec.Containers = p.Spec.Containers[:1] },
		"another order":      func(p *corev1.Pod) { c := p.Spec.Containers; c[0], c[1] = c[1], c[0] },
		"another first item": func(p *corev1.Pod) { p.Spec.Containers = p.Spec.Containers[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			like, obj := folded(), folded()
			change(obj)
			want := obj.DeepCopy()
			fold(obj, like)
			if diff := cmp.Diff(want, obj); diff != "" {
				t.Errorf("it became\n%s", diff)
			}
			if diff := cmp.Diff(folded(), like); diff != "" {
				t.Errorf("the other became\n%s", diff)
			}
		})
	}
}

func TestFoldedObjectsShareWhatTheyHaveInCommon(t *testing.T) {
	like, obj := folded(), folded()
	obj.Name, obj.Spec.Containers[1].Image = "other", "image:3"
	fold(obj, like)
	a, b := obj.Spec.Containers, like.Spec.Containers
	if unsafe.StringData(a[0].Image) != unsafe.StringData(b[0].Image) || &a[0].Env[0] != &b[0].Env[0] ||
		obj.Spec.TerminationGracePeriodSeconds != like.Spec.TerminationGracePeriodSeconds ||
		obj.ManagedFields[0].FieldsV1 != like.ManagedFields[0].FieldsV1 {
		t.Error("the same is there twice")
	}
	if &a[0] == &b[0] {
		t.Error("two lists that differ are one")
	}
}

func TestFoldingCustomResources(t *testing.T) {
	object := func(size string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"kind": "Widget", "spec": map[string]any{
			"size": size, "replicas": int64(3), "parts": []any{map[string]any{"name": "a"}, "b", nil}}}}
	}
	like, obj := object("L"), object("M")
	fold(obj, like)
	if diff := cmp.Diff(object("M"), obj); diff != "" {
		t.Errorf("it became\n%s", diff)
	}
	parts := func(u *unstructured.Unstructured) []any { return u.Object["spec"].(map[string]any)["parts"].([]any) }
	if &parts(obj)[0] != &parts(like)[0] {
		t.Error("the same list is there twice")
	}
	fold(obj, &corev1.Pod{}) // nothing in common, nothing done
}

func TestEncodingsAreForgottenWhenNobodyAsks(t *testing.T) {
	calls := 0
	s := &Shared{Object: &corev1.ConfigMap{}}
	ask := func() {
		_, _ = s.Once("json", func(runtime.Object) ([]byte, error) { calls++; return []byte("{}"), nil })
	}
	c := &cache{items: []*item{{key: "a", Shared: s}}, ring: []*Event{{Shared: s}}}
	ask()
	c.forget()
	ask()
	if calls != 1 {
		t.Errorf("an encoding just asked for was forgotten")
	}
	s.asked = s.asked.Add(-2 * forgetAfter)
	c.forget()
	ask()
	if calls != 2 {
		t.Errorf("an encoding that nobody had asked for was kept: encoded %d times", calls)
	}
}

// BenchmarkFold is what it costs to bring a pod into the cache, and what the pod costs there.
func BenchmarkFold(b *testing.B) {
	k := kinds.NewTable().Lookup("", "v1", "pods")
	like := folded()
	k.Default(like)
	value, err := Encode(k, like)
	if err != nil {
		b.Fatal(err)
	}
	for name, like := range map[string]runtime.Object{"alone": nil, "beside another": like} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				obj, err := Decode(k, value, time.Now().Unix())
				if err != nil {
					b.Fatal(err)
				}
				fold(obj, like)
			}
		})
	}
}
