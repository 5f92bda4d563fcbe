package registry

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestValuesAreShownAsUpstreamShowsThem(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{"text", `"text"`},
		{int32(3), `3`},
		{new(true), `true`},
		{&metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}, `{"matchLabels":{"a":"b"}}`},
		{intstr.FromString("5%"), `"5%"`},
		{corev1.ObjectReference{Kind: "Pod", Name: "p"}, `{"Kind":"Pod","Namespace":"","Name":"p","UID":"","APIVersion":"","ResourceVersion":"","FieldPath":""}`},
		{&corev1.SecretReference{Name: "s"}, `{"Name":"s","Namespace":""}`},
		{[]corev1.LocalObjectReference{{Name: "a"}, {}}, `[{"Name":"a"},{"Name":""}]`},
		{[]corev1.LocalObjectReference(nil), `null`},
		{corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi"), "cpu": resource.MustParse("100m")}},
			`{"Limits":null,"Requests":{"cpu":"100m","storage":"1Gi"}}`},
		{corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}, TopologyKey: "k"},
			`{"LabelSelector":{"matchLabels":{"a":"b"}},"Namespaces":null,"TopologyKey":"k","NamespaceSelector":null,"MatchLabelKeys":null,"MismatchLabelKeys":null}`},
		{corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"<a>"}}}},
			`{"Exec":{"Command":["\u003ca\u003e"]},"HTTPGet":null,"TCPSocket":null,"GRPC":null,"InitialDelaySeconds":0,"TimeoutSeconds":0,"PeriodSeconds":0,"SuccessThreshold":0,"FailureThreshold":0,"TerminationGracePeriodSeconds":null}`},
	} {
		e := field.Invalid(field.NewPath("f"), shown(c.value), "wrong")
		if got, want := e.ErrorBody(), "Invalid value: "+c.want+": wrong"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
