package admission

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"
	"orrery/apiserver/objects"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// shelf holds a few objects by resource and name.
type shelf map[string]runtime.Object

func (s shelf) Get(_ context.Context, gr schema.GroupResource, _, name string) (runtime.Object, error) {
	if o, ok := s[gr.Resource+"/"+name]; ok {
		return o, nil
	}
	return nil, apierrors.NewNotFound(gr, name)
}

type reader struct {
	objects.Reader
	shelf
}

func (r reader) Get(ctx context.Context, gr schema.GroupResource, ns, name string) (runtime.Object, error) {
	return r.shelf.Get(ctx, gr, ns, name)
}

var table = kinds.NewTable()

// by is a write by the kubelet of node n1.
func by(op Operation, group, version, resource, sub, name string, obj, old runtime.Object) *Attributes {
	ns := "default"
	if resource == "leases" {
		ns = corev1.NamespaceNodeLease
	}
	return &Attributes{Operation: op, Kind: table.Lookup(group, version, resource), Subresource: sub, Namespace: ns, Name: name, Object: obj, Old: old,
		User: &auth.UserInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}}
}

func pod(node string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u"}, Spec: corev1.PodSpec{NodeName: node}}
	for _, c := range change {
		c(p)
	}
	return p
}

func mirror(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }

func node(name string, labels map[string]string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
}

func lease(name string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func tokenFor(kind, name string) *authenticationv1.TokenRequest {
	t := &authenticationv1.TokenRequest{}
	if kind != "" {
		t.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: "u"}
	}
	return t
}

func TestAKubeletIsConfinedToItsNode(t *testing.T) {
	p := nodeRestriction{objects: reader{shelf: shelf{"pods/mine": pod("n1"), "pods/other": pod("n2")}}}
	for name, c := range map[string]struct {
		write *Attributes
		want  string
	}{
		"its mirror pod":         {by(Create, "", "v1", "pods", "", "p", pod("n1", mirror), nil), ""},
		"an ordinary pod":        {by(Create, "", "v1", "pods", "", "p", pod("n1"), nil), `pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		"another's mirror pod":   {by(Create, "", "v1", "pods", "", "p", pod("n2", mirror), nil), `node "n1" can only create pods with spec.nodeName set to itself`},
		"a mirror with identity": {by(Create, "", "v1", "pods", "", "p", pod("n1", mirror, func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }), nil), `node "n1" can not create pods that reference a service account`},
		"deleting its pod":       {by(Delete, "", "v1", "pods", "", "mine", nil, nil), ""},
		"deleting another's pod": {by(Delete, "", "v1", "pods", "", "other", nil, nil), `node "n1" can only delete pods with spec.nodeName set to itself`},
		"status of its pod":      {by(Update, "", "v1", "pods", "status", "p", pod("n1"), pod("n1")), ""},
		"status of another's":    {by(Update, "", "v1", "pods", "status", "p", pod("n2"), pod("n2")), `node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		"another node":           {by(Update, "", "v1", "nodes", "status", "n2", node("n2", nil), node("n2", nil)), `node "n1" is not allowed to modify node "n2"`},
		"its node":               {by(Update, "", "v1", "nodes", "status", "n1", node("n1", nil), node("n1", nil)), ""},
		"its taints":             {by(Update, "", "v1", "nodes", "", "n1", node("n1", nil), node("n1", nil, corev1.Taint{Key: "a"})), `node "n1" is not allowed to modify taints`},
		"its hostname label":     {by(Create, "", "v1", "nodes", "", "n1", node("n1", map[string]string{corev1.LabelHostname: "n1", "mine": "yes"}), nil), ""},
		"a role for itself":      {by(Create, "", "v1", "nodes", "", "n1", node("n1", map[string]string{"node-role.kubernetes.io/control-plane": ""}), nil), `node "n1" is not allowed to set the following labels: node-role.kubernetes.io/control-plane`},
		"a trusted label":        {by(Update, "", "v1", "nodes", "", "n1", node("n1", map[string]string{"node-restriction.kubernetes.io/a": "b"}), node("n1", nil)), `node "n1" is not allowed to modify labels: node-restriction.kubernetes.io/a`},
		"its lease":              {by(Update, "coordination.k8s.io", "v1", "leases", "", "n1", lease("n1"), lease("n1")), ""},
		"another's lease":        {by(Create, "coordination.k8s.io", "v1", "leases", "", "", lease("n2"), nil), `can only access node lease with the same name as the requesting node`},
		"a token for its pod":    {by(Create, "", "v1", "serviceaccounts", "token", "sa", tokenFor("Pod", "mine"), nil), ""},
		"a token for another's":  {by(Create, "", "v1", "serviceaccounts", "token", "sa", tokenFor("Pod", "other"), nil), `node requested token bound to a pod scheduled on a different node`},
		"a token for nothing":    {by(Create, "", "v1", "serviceaccounts", "token", "sa", tokenFor("", ""), nil), `node requested token not bound to a pod`},
	} {
		t.Run(name, func(t *testing.T) { refusedWith(t, p.Admit(t.Context(), c.write), c.want) })
	}
	somebody := by(Update, "", "v1", "nodes", "", "n2", node("n2", nil), node("n2", nil))
	somebody.User = &auth.UserInfo{Name: "admin"}
	refusedWith(t, p.Admit(t.Context(), somebody), "")
}

// refusedWith wants a 403 with the reason, or no error when there is none.
func refusedWith(t *testing.T, err error, reason string) {
	t.Helper()
	if reason == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), " is forbidden: "+reason) {
		t.Errorf("got %v\nwant ... is forbidden: %s", err, reason)
	}
}

// signers allows verbs on named signers.
type signers map[string]bool

func (s signers) Authorize(_ context.Context, a auth.Attributes) (auth.Decision, string, error) {
	if s[a.Verb+" "+a.Name] {
		return auth.Allow, "", nil
	}
	return auth.NoOpinion, "", nil
}

func csr(t *testing.T, signer string, organization ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", Organization: organization}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
}

func TestCertificatesAreGuarded(t *testing.T) {
	row := table.Lookup("certificates.k8s.io", "v1", "certificatesigningrequests")
	write := func(op Operation, sub string, obj, old *certificatesv1.CertificateSigningRequest) *Attributes {
		a := &Attributes{Operation: op, Kind: row, Subresource: sub, Name: "c", Object: obj, User: &auth.UserInfo{Name: "u"}}
		if old != nil {
			a.Old = old
		}
		return a
	}
	mine, theirs := csr(t, "example.com/mine"), csr(t, "example.org/theirs")
	issued := mine.DeepCopy()
	issued.Status.Certificate = []byte("x")
	allowed := signers{"approve example.com/*": true}
	refusedWith(t, certificateApproval{authorizer: allowed}.Validate(t.Context(), write(Update, "approval", mine, mine)), "")
	refusedWith(t, certificateApproval{authorizer: allowed}.Validate(t.Context(), write(Update, "approval", theirs, theirs)),
		`user not permitted to approve requests with signerName "example.org/theirs"`)
	refusedWith(t, certificateSigning{authorizer: allowed}.Validate(t.Context(), write(Update, "status", issued, mine)),
		`user not permitted to sign requests with signerName "example.com/mine"`)
	refusedWith(t, certificateSigning{authorizer: allowed}.Validate(t.Context(), write(Update, "status", mine, mine)), "")
	masters := csr(t, certificatesv1.KubeAPIServerClientSignerName, "system:masters")
	refusedWith(t, certificateSubjectRestriction{}.Validate(t.Context(), write(Create, "", masters, nil)),
		"use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed")
	refusedWith(t, certificateSubjectRestriction{}.Validate(t.Context(), write(Create, "", csr(t, certificatesv1.KubeAPIServerClientSignerName, "people"), nil)), "")
}

func TestPluginsAreInUpstreamsOrder(t *testing.T) {
	chain, err := New(Config{Enable: []string{"NodeRestriction", "MutatingAdmissionWebhook"}, Disable: []string{"LimitRanger"}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range chain {
		names = append(names, p.Name())
	}
	want := "NamespaceLifecycle ServiceAccount NodeRestriction TaintNodesByCondition PodSecurity Priority DefaultTolerationSeconds DefaultStorageClass " +
		"StorageObjectInUseProtection PersistentVolumeClaimResize RuntimeClass CertificateApproval CertificateSigning CertificateSubjectRestriction DefaultIngressClass ResourceQuota"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err := New(Config{Enable: []string{"NoSuch"}}); err == nil {
		t.Error("a plugin that is not there was enabled")
	}
}

func TestAMirrorPodGetsNothingFromTheAPI(t *testing.T) {
	p := pod("n1", mirror)
	sa := serviceAccount{objects: reader{shelf: shelf{}}}
	a := by(Create, "", "v1", "pods", "", "p", p, nil)
	refusedWith(t, sa.Admit(t.Context(), a), "")
	refusedWith(t, sa.Validate(t.Context(), a), "")
	if len(p.Spec.Volumes) != 0 || p.Spec.ServiceAccountName != "" {
		t.Errorf("got %+v", p.Spec)
	}
	p.Spec.ServiceAccountName = "default"
	refusedWith(t, sa.Validate(t.Context(), a), "a mirror pod may not reference service accounts")
}
