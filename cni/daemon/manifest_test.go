package daemon

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

// The manifest that a student applies must be one that a strict server takes,
// and its configuration one that the daemon understands.
func TestTheManifestIsSound(t *testing.T) {
	data, err := os.ReadFile("../../deploy/cni.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	var config *corev1.ConfigMap
	var set *appsv1.DaemonSet
	for {
		doc, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		obj, _, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%v:\n%s", err, doc)
		}
		switch obj := obj.(type) {
		case *corev1.ConfigMap:
			config = obj
		case *appsv1.DaemonSet:
			set = obj
		}
	}
	if _, err := ParseNetConf([]byte(config.Data["net-conf.json"])); err != nil {
		t.Error(err)
	}
	if _, err := render([]byte(config.Data["cni-conf.json"]), netip.MustParsePrefix("10.244.0.0/24")); err != nil {
		t.Error(err)
	}
	pod := set.Spec.Template.Spec
	if !pod.HostNetwork || pod.Containers[0].Image != "docker.io/orrery/cni:v1.36.3" {
		t.Errorf("hostNetwork %v, image %s", pod.HostNetwork, pod.Containers[0].Image)
	}
	// A node without a network is tainted; so is a control-plane node.
	for _, effect := range []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute} {
		tolerated := false
		for _, toleration := range pod.Tolerations {
			tolerated = tolerated || toleration.Operator == corev1.TolerationOpExists && toleration.Key == "" && toleration.Effect == effect
		}
		if !tolerated {
			t.Errorf("a taint %s keeps the daemon away", effect)
		}
	}
}
